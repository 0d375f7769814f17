import numpy as np
import pytest
import torch

from hwnas.networks import Network, counts
from hwnas.spaces.images import MeanHead
from hwnas.spaces.vgg import MapHead, PlainConv, vgg_space
from hwnas.supernet import Supernet


def network(space, chosen):
    options = (chosen.get(choice.name, choice.options[0]) for choice in space.choices)
    genotype = tuple(c.options.index(o) for c, o in zip(space.choices, options, strict=True))
    return space.architecture(genotype)


# Parameters of torchvision's vgg13_bn, vgg16_bn and vgg19_bn less the biases of convolutions, which
# batch norm makes void; MACs of torchvision's documentation.
@pytest.mark.parametrize(
    ("depths", "params", "macs"),
    [
        ((2, 2, 2, 2, 2), 133_053_736 - 2_944, 11.31e9),
        ((2, 2, 3, 3, 3), 138_365_992 - 4_224, 15.47e9),
        ((2, 2, 4, 4, 4), 143_678_248 - 5_504, 19.63e9),
    ],
)
def test_reference_networks_have_the_published_counts(depths, params, macs):
    chosen = {"resolution": 224, "head": "map", "hidden": 4096}
    chosen |= {f"depth_{s}": depth for s, depth in enumerate(depths, 1)}
    chosen |= {f"width_{s}": 1.0 for s in range(1, 6)}
    with torch.device("meta"):
        found = counts(network(vgg_space((3, 224, 224), 1000), chosen))
    assert found.params == params
    assert found.macs == pytest.approx(macs, rel=1e-3)


def test_a_head_on_the_map_is_a_linear_layer_on_all_of_it():
    head = MapHead(5, (7,)).build((3, 4, 4))
    x = torch.randn(2, 3, 4, 4)
    by_hand = x.flatten(1) @ head.map_4x4.weight.flatten(1).T + head.map_4x4.bias
    assert torch.allclose(head(x), head.dense_1(by_hand.relu()), atol=1e-5)


def test_hidden_units_count_only_where_there_are_any():
    space = vgg_space((1, 28, 28), 10)
    heads = [
        network(space, {"head": head, "hidden": hidden}).blocks[-1]
        for head in ("mean", "map")
        for hidden in (0, 64)
    ]
    assert heads == [MeanHead(10), MeanHead(10), MapHead(10), MapHead(10, (64,))]


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


def test_in_a_supernet_logits_hidden_units_and_maps_of_each_size_have_weights_of_their_own():
    supernet = Supernet(vgg_space((1, 8, 8), 10))
    names = [name for name, _ in supernet.named_parameters() if "weight" in name]
    # Of 8×8 inputs, halved once or twice; and the head on the mean.
    for role in ("classify", "map"):
        assert sorted(n.split("/")[1] for n in names if f"/{role}_" in n) == [
            f"{role}_2x2", f"{role}_4x4",
        ]  # fmt: skip
    assert sum("/classify/" in name for name in names) == 1


def test_images_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match=r"vgg space needs square images .* got shape \(1, 8, 9\)"):
        vgg_space((1, 8, 9), 10)
