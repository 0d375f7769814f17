import pytest
import torch

from hwnas.networks import counts
from hwnas.spaces.resnet import BasicBlock, Bottleneck, resnet_space


def network(block, depths):
    """The reference network: full width, inner channels a quarter of the outer ones."""
    space = resnet_space((3, 224, 224), 1000)
    chosen = {"block": block, "width": 1.0}
    chosen |= {f"depth_{s}": depth for s, depth in enumerate(depths, 1)}
    options = (chosen.get(choice.name, 0.25) for choice in space.choices)
    genotype = tuple(c.options.index(o) for c, o in zip(space.choices, options, strict=True))
    return space.architecture(genotype)


# Parameters are torchvision's resnet18, 34 and 50; MACs are 1.8, 3.6 and 3.8 · 10^9 in the paper,
# 1.81, 3.66 and 4.09 where the bottleneck's stride is that of its 3×3 convolution, as here.
@pytest.mark.parametrize(
    ("block", "depths", "params", "macs"),
    [
        ("basic", (2, 2, 2, 2), 11_689_512, 1.814e9),
        ("basic", (3, 4, 6, 3), 21_797_672, 3.664e9),
        ("bottleneck", (3, 4, 6, 3), 25_557_032, 4.089e9),
    ],
)
def test_reference_networks_have_the_published_counts(block, depths, params, macs):
    with torch.device("meta"):
        found = counts(network(block, depths))
    assert found.params == params
    assert found.macs == pytest.approx(macs, rel=1e-3)


def test_resnet_50_has_the_counts_of_transformers():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        theirs = transformers.ResNetForImageClassification(
            transformers.ResNetConfig(num_labels=1000)
        )
        found = counts(network("bottleneck", (3, 4, 6, 3)))
    assert found.params == sum(p.numel() for p in theirs.parameters())


def test_a_basic_block_ends_with_the_sum_of_both_ways():
    block = BasicBlock(8, 1).build((8, 4, 4)).eval()
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(block(x), torch.relu(x + block.body(x)))


def test_where_the_shape_changes_the_shortcut_is_a_convolution():
    block = Bottleneck(16, 4, 2).build((8, 5, 5)).eval()
    x = torch.randn(2, 8, 5, 5)
    assert block(x).shape == (2, 16, 3, 3)
    assert block.shortcut.conv.weight.shape == (16, 8, 1, 1)
    assert block.body.filter.conv.stride == (2, 2) and block.body.reduce.conv.stride == (1, 1)


def test_ratios_count_in_bottlenecks_only():
    space = resnet_space((3, 32, 32), 10)
    ratios = [c.name.startswith("ratio_1_1") for c in space.choices].index(True)
    for block, n_networks in ((0, 1), (1, 3)):
        rows = [(block, 1, *(0,) * (len(space.choices) - 2)) for _ in range(3)]
        rows = [(*row[:ratios], i, *row[ratios + 1 :]) for i, row in enumerate(rows)]
        assert len({space.architecture(row) for row in rows}) == n_networks


@pytest.mark.parametrize(
    ("side", "stride", "pools"), [(224, 2, True), (64, 1, True), (32, 1, False), (8, 1, False)]
)
def test_small_images_have_a_small_stem(side, stride, pools):
    space = resnet_space((3, side, side), 10)
    stem = space.architecture((0,) * len(space.choices)).blocks[0]
    assert (stem.stride, stem.pools) == (stride, pools)
    kernel_size = stem.build((3, side, side)).filter.conv.kernel_size
    assert kernel_size == ((7, 7) if stride == 2 else (3, 3))
