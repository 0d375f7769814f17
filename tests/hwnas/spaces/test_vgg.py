import numpy as np
import pytest
import torch

from hwnas.networks import Network, counts
from hwnas.spaces.vgg import PlainConv, vgg_space

N_CLASSES = 1000


def network(space, chosen):
    options = (chosen.get(choice.name, choice.options[0]) for choice in space.choices)
    genotype = tuple(c.options.index(o) for c, o in zip(space.choices, options, strict=True))
    return space.architecture(genotype)


# Parameters of the convolutions and batch norms of torchvision's vgg13_bn, vgg16_bn and vgg19_bn,
# less the biases that batch norm makes void; MACs are 11.31, 15.47 and 19.63 · 10^9 in the
# literature with the dense layers, of 0.124 · 10^9.
@pytest.mark.parametrize(
    ("depths", "params", "macs"),
    [
        ((2, 2, 2, 2, 2), 9_404_992 + 2_944, 11.185e9),
        ((2, 2, 3, 3, 3), 14_714_688 + 4_224, 15.347e9),
        ((2, 2, 4, 4, 4), 20_024_384 + 5_504, 19.508e9),
    ],
)
def test_reference_networks_have_the_published_counts(depths, params, macs):
    space = vgg_space((3, 224, 224), N_CLASSES)
    chosen = {"resolution": 224} | {f"depth_{s}": depth for s, depth in enumerate(depths, 1)}
    chosen |= {f"width_{s}": 1.0 for s in range(1, 6)}
    with torch.device("meta"):
        found = counts(network(space, chosen))
    head = 512 * N_CLASSES + N_CLASSES
    assert found.params - head == params
    assert found.macs - 512 * N_CLASSES == pytest.approx(macs, rel=1e-3)


def test_a_map_is_halved_by_pooling_before_the_convolution_or_by_its_stride():
    pooled, strided = PlainConv(8, 3, pools=True), PlainConv(8, 3, stride=2)
    x = torch.randn(1, 4, 8, 8)
    for block in (pooled, strided):
        assert block.build((4, 8, 8))(x).shape == (1, 8, 4, 4)
    module = pooled.build((4, 8, 8)).eval()
    assert torch.equal(module(x), module.filter(torch.nn.functional.max_pool2d(x, 2)))


@pytest.mark.parametrize(("side", "n_stages"), [(8, 2), (16, 3), (28, 3), (32, 4), (64, 5)])
def test_small_images_have_fewer_stages_and_keep_a_map(side, n_stages):
    space = vgg_space((1, side, side), 10)
    assert sum(choice.name.startswith("depth_") for choice in space.choices) == n_stages
    for genotype in space.sample(np.random.default_rng(0), 20).tolist():
        architecture = space.architecture(tuple(genotype))
        last = Network(architecture).eval().blocks[:-1](torch.zeros(1, *architecture.input_shape))
        assert last.shape[2] == last.shape[3] >= 1


def test_a_stage_may_be_left_out_with_its_halving():
    space = vgg_space((1, 28, 28), 10)
    whole, without = (network(space, {"depth_3": depth}) for depth in (1, 0))
    assert len(without.blocks) == len(whole.blocks) - 1


def test_images_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match=r"vgg space needs square images .* got shape \(1, 8, 9\)"):
        vgg_space((1, 8, 9), 10)
