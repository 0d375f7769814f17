import pytest
import torch

from hwnas.blocks import (
    ClassifierHead,
    ConvBlock,
    InvertedResidual,
    Residual,
    SqueezeExcite,
    round_channels,
)


@pytest.mark.parametrize("channels", [1, 3.5, 8, 11, 12, 19.9, 20, 100, 333.3])
def test_rounded_channels_are_a_multiple_of_8_and_never_far_below(channels):
    rounded = round_channels(channels)
    assert rounded % 8 == 0 and rounded >= max(8, 0.9 * channels) and rounded < channels + 8


@pytest.mark.parametrize("stride", [1, 2])
def test_a_conv_block_keeps_the_map_or_halves_it_rounding_up(stride):
    module = ConvBlock(16, 5, stride, "hard_swish").build((3, 9, 9)).eval()
    assert module(torch.zeros(2, 3, 9, 9)).shape == (2, 16, 9 // stride + stride - 1, 9 // stride
                                                      + stride - 1)  # fmt: skip


@pytest.mark.parametrize(
    ("stride", "out_channels", "is_residual"), [(1, 8, True), (2, 8, False), (1, 16, False)]
)
def test_a_bottleneck_adds_its_input_where_the_shape_stays(stride, out_channels, is_residual):
    block = InvertedResidual(out_channels, 3, stride, 2, False, "relu")
    assert isinstance(block.build((8, 8, 8)), Residual) is is_residual


def test_a_residual_adds_its_input():
    x = torch.randn(1, 2, 3, 3)
    assert torch.equal(Residual(torch.nn.ReLU())(x), x + x.relu())


def test_without_expansion_there_is_no_first_convolution():
    convolutions = [
        m for m in InvertedResidual(8, 3, 1, 1, False, "relu").build((8, 4, 4)).modules()
        if isinstance(m, torch.nn.Conv2d)
    ]  # fmt: skip
    assert [(c.in_channels, c.groups) for c in convolutions] == [(8, 8), (8, 1)]


def test_squeeze_excite_scales_whole_channels_between_0_and_1():
    x = torch.rand(2, 8, 4, 4) + 0.5
    scale = SqueezeExcite(8, 4)(x) / x
    assert ((scale >= 0) & (scale <= 1)).all()
    assert torch.allclose(scale, scale.mean(dim=(2, 3), keepdim=True).expand_as(scale), atol=1e-5)


def test_a_head_takes_maps_of_any_size_to_the_classes():
    head = ClassifierHead(32, 7, "relu")
    for size in (1, 2, 5):
        assert head.build((8, size, size)).eval()(torch.zeros(3, 8, size, size)).shape == (3, 7)


def test_equal_descriptions_are_one_block():
    assert ConvBlock(8, 3, 1, "relu") == ConvBlock(8, 3, 1, "relu")
    assert len({ConvBlock(8, 3, 1, "relu"), ConvBlock(8, 3, 1, "relu")}) == 1
    with pytest.raises(KeyError):
        ConvBlock(8, 3, 1, "swish").build((3, 8, 8))


@pytest.mark.parametrize("block", [ConvBlock(16, 3, 1, "relu"), ClassifierHead(16, 10, "relu")])
def test_layers_are_named_by_role_and_not_by_position(block):
    names = [name for name, _ in block.build((8, 8, 8)).named_parameters()]
    assert names and not any(part.isdigit() for name in names for part in name.split("."))


def test_layers_with_the_same_role_have_the_same_name_in_all_bottlenecks():
    def names(stride=1, out_channels=8, expand_ratio=4, squeeze_excite=False):
        block = InvertedResidual(out_channels, 3, stride, expand_ratio, squeeze_excite, "relu")
        return {name for name, _ in block.build((8, 8, 8)).named_parameters()}

    residual = names()
    assert {name.split(".")[0] for name in residual} == {"expand", "filter", "project"}
    assert names(stride=2) == names(out_channels=16) == residual
    assert names(squeeze_excite=True) > residual
    added = names(squeeze_excite=True) - residual
    assert {name.split(".")[0] for name in added} == {"gate"}
    assert residual - names(expand_ratio=1) == {n for n in residual if n.startswith("expand.")}
