import numpy as np
import pytest
import torch

from hwnas.networks import counts
from hwnas.spaces.darts import darts_space
from hwnas.spaces.fbnet import fbnet_space, proxylessnas_space
from hwnas.spaces.images import MeanHead, fixed, image_side, kept_strides, small_width
from hwnas.spaces.nasbench201 import nasbench201_space
from hwnas.spaces.once_for_all import ofa_mobilenet_v3_space
from hwnas.spaces.regnet import regnet_space
from hwnas.spaces.resnet import resnet_space

FACTORIES = (
    ofa_mobilenet_v3_space, proxylessnas_space, fbnet_space, resnet_space, regnet_space,
    nasbench201_space, darts_space,
)  # fmt: skip


@pytest.mark.parametrize("side", [8, 9, 15, 16, 28, 32, 33, 64, 127, 128, 224, 512])
def test_the_last_map_has_four_pixels_unless_all_strides_are_kept(side):
    strides = (2, 1, 2, 2, 2, 2)
    kept = kept_strides(strides, side)
    n_kept = kept.count(2)
    assert side // 2**n_kept >= 4
    assert n_kept == 5 or side // 2 ** (n_kept + 1) < 4
    # Those that are left out are the first.
    assert kept[len(kept) - 1 - n_kept if n_kept < 5 else 0 :] in (strides, (1, *(2,) * n_kept))


def test_large_images_keep_all_strides_and_channels():
    assert kept_strides((2, 2, 1, 2, 2, 2), 128) == (2, 2, 1, 2, 2, 2)
    assert [small_width(side) for side in (8, 28, 32, 127, 128, 224)] == [
        0.25, 0.25, 0.5, 0.5, 1.0, 1.0
    ]  # fmt: skip


def test_the_side_of_images_is_the_shorter_one():
    assert image_side("some", (3, 40, 32)) == 32


@pytest.mark.parametrize(
    ("shape", "options", "told"),
    [
        ((3, 7, 9), {}, "images .* of at least 8×8; got shape .3, 7, 9."),
        ((64,), {}, "got shape .64,."),
        ((2, 100), {}, "got shape .2, 100."),
        ((3, 28, 32), {"is_square": True}, "square images"),
        ((3, 30, 32), {"multiple": 4}, "their sides multiples of 4; got shape .3, 30, 32."),
    ],
)
def test_data_that_do_not_fit_are_told_what_would(shape, options, told):
    with pytest.raises(ValueError, match=rf"the some space needs .*{told}"):
        image_side("some", shape, **options)


def test_a_head_is_the_mean_of_the_map_and_a_linear_layer():
    head = MeanHead(7).build((4, 3, 5))
    x = torch.randn(2, 4, 3, 5)
    assert torch.allclose(head(x), head.classify(x.mean(dim=(2, 3))), atol=1e-6)


def test_a_fixed_slot_reads_nothing():
    assert fixed(MeanHead(7))({}) == MeanHead(7)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 64, 64), (3, 224, 224)])
def test_networks_fit_images_of_all_usual_sizes(factory, shape):
    space = factory(shape, 7)
    drawn = space.sample(np.random.default_rng(0), 3).tolist()
    with torch.device("meta"):
        found = [counts(space.architecture(tuple(row))) for row in drawn]
    assert {one.out_shape for one in found} == {(7,)}
    assert len({one.params for one in found}) > 1


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("shape", [(3, 6, 6), (16,), (2, 128)])
def test_spaces_of_image_networks_refuse_other_data(factory, shape):
    with pytest.raises(ValueError, match="needs .*images"):
        factory(shape, 10)
