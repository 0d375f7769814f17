import pytest
import torch

from hwnas.blocks import ClassifierHead, ConvBlock, InvertedResidual, Residual
from hwnas.networks import counts
from hwnas.spaces.base import Architecture
from hwnas.spaces.fbnet import ChannelShuffle, FBNetBlock, fbnet_space, proxylessnas_space

SKIP = "skip"
# As found for phones, as its reference code publishes it, stage by stage.
PROXYLESS_MOBILE = (
    ("k5_e3", "k3_e3", SKIP, SKIP),
    ("k7_e3", "k3_e3", "k5_e3", "k5_e3"),
    ("k7_e6", "k5_e3", "k5_e3", "k5_e3"),
    ("k5_e6", "k5_e3", "k5_e3", "k5_e3"),
    ("k7_e6", "k7_e6", "k7_e3", "k7_e3"),
    ("k7_e6",),
)
# As in the paper and in timm's fbnetc_100.
FBNET_C = (
    ("k3_e1",),
    ("k3_e6", SKIP, "k3_e1", "k3_e1"),
    ("k5_e6", "k5_e3", "k5_e6", "k3_e6"),
    ("k5_e6", "k5_e3", "k5_e6", "k5_e6"),
    ("k5_e6", "k5_e6", "k5_e6", "k5_e3"),
    ("k5_e6", "k5_e6", "k5_e6", "k5_e6"),
    ("k3_e6",),
)


def counted(space, layers):
    options = [option for stage in layers for option in stage]
    genotype = tuple(
        choice.options.index(option) for choice, option in zip(space.choices, options, strict=True)
    )
    with torch.device("meta"):
        return counts(space.architecture(genotype))


def test_proxylessnas_mobile_has_the_published_counts():
    found = counted(proxylessnas_space((3, 224, 224), 1000), PROXYLESS_MOBILE)
    assert found.params == 4_080_512  # of its published weights
    assert found.macs == pytest.approx(320e6, rel=0.01)  # its README


def test_fbnet_c_has_the_published_counts():
    found = counted(fbnet_space((3, 224, 224), 1000), FBNET_C)
    assert found.params == 5_572_200  # timm's fbnetc_100; the paper says 5.5M
    assert found.macs == pytest.approx(375e6, rel=0.03)  # the paper


def test_the_fixed_blocks_make_mobilenet_v2():
    stages = ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
    bottlenecks = [
        InvertedResidual(channels, 3, stride if i == 0 else 1, 6, False, "relu")
        for channels, n, stride in stages
        for i in range(n)
    ]
    first = (ConvBlock(32, 3, 2, "relu"), InvertedResidual(16, 3, 1, 1, False, "relu"))
    blocks = (*first, *bottlenecks, ClassifierHead(1280, 1000, "relu"))
    with torch.device("meta"):
        found = counts(Architecture((3, 224, 224), blocks))
    assert found.params == 3_504_872  # torchvision's mobilenet_v2; the paper says 3.4M
    assert found.macs == pytest.approx(300e6, rel=0.01)  # the paper


def test_fbnet_has_nine_candidates_for_each_of_22_layers():
    space = fbnet_space((3, 224, 224), 1000)
    assert space.size == 9**22  # "about 10^21" in the paper


def test_layers_that_change_the_shape_cannot_be_skipped_in_proxylessnas():
    space = proxylessnas_space((3, 224, 224), 1000)
    assert space.size == 6**6 * 7**15
    assert {c.name for c in space.choices if SKIP not in c.options} == {
        f"layer_{s}_1" for s in range(1, 7)
    }


def test_a_skipped_layer_of_fbnet_is_nothing_or_a_convolution():
    space = fbnet_space((3, 224, 224), 1000)
    skipped = space.architecture((0,) * len(space.choices)).blocks
    # The stem, a 1×1 convolution for each stage but the first, which keeps the shape; the head.
    assert skipped[1:-1] == tuple(
        ConvBlock(channels, 1, stride, "relu")
        for channels, stride in ((24, 2), (32, 2), (64, 2), (112, 1), (184, 2), (352, 1))
    )


def test_groups_share_no_weights_but_their_channels_are_dealt_out():
    grouped = FBNetBlock(8, 3, 1, 1, 2).build((8, 4, 4))
    assert isinstance(grouped, Residual)
    assert grouped.expand.conv.weight.shape == grouped.project.conv.weight.shape == (8, 4, 1, 1)
    x = torch.arange(8.0).reshape(1, 8, 1, 1)
    assert ChannelShuffle(2)(x).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_a_block_of_expansion_1_has_its_first_convolution_too():
    block = FBNetBlock(8, 5, 2, 1, 1).build((8, 4, 4))
    assert [name for name, _ in block.named_children()] == ["expand", "filter", "project"]
    assert not isinstance(block, Residual)
