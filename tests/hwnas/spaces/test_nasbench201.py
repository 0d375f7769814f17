from itertools import product

import numpy as np
import pytest
import torch

from hwnas.errors import HwnasError
from hwnas.networks import Network, counts
from hwnas.spaces.nasbench201 import Cell, cell_text, nasbench201_space, parse_cell
from hwnas.strategies.cells import Cell as CellGraph

# Cells whose edges all lie on a way from input to output, with the benchmark's parameters and
# "flops" (which are MACs) on CIFAR-10.
PUBLISHED = {
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+"
    "|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|": (1_531_546, 220_119_690),
    # The best on CIFAR-10, and the best on CIFAR-100.
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+"
    "|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|": (1_073_466, 153_272_970),
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+"
    "|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|": (1_288_506, 184_730_250),
    "|nor_conv_1x1~0|+|nor_conv_1x1~0|nor_conv_1x1~1|+"
    "|nor_conv_1x1~0|nor_conv_1x1~1|nor_conv_1x1~2|": (241_306, 31_376_010),
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+"
    "|nor_conv_1x1~0|skip_connect~1|skip_connect~2|": (129_306, 15_647_370),
    "|avg_pool_3x3~0|+|avg_pool_3x3~0|avg_pool_3x3~1|+"
    "|avg_pool_3x3~0|avg_pool_3x3~1|avg_pool_3x3~2|": (73_306, 7_783_050),
}
LINEAR_BIAS = 10  # which the benchmark counts as a MAC each


@pytest.fixture(scope="module")
def space():
    return nasbench201_space((3, 32, 32), 10)


@pytest.fixture(scope="module")
def all_cells(space):
    return np.array(list(product(*map(range, space.n_options))))


@pytest.mark.parametrize("text", PUBLISHED)
def test_cells_have_the_published_counts(space, text):
    with torch.device("meta"):
        found = counts(space.architecture(parse_cell(text)))
    assert (found.params, found.macs + LINEAR_BIAS) == PUBLISHED[text]


def test_all_15625_cells_are_valid_and_have_names_of_their_own(space, all_cells):
    assert space.size == len(all_cells) == 15_625
    assert space.is_valid(all_cells).all()
    names = [cell_text(tuple(row)) for row in all_cells.tolist()]
    assert len(set(names)) == 15_625
    assert [parse_cell(name) for name in names] == list(map(tuple, all_cells.tolist()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|nor_conv_3x3~0|",
        "|nor_conv_5x5~0|+|none~0|none~1|+|none~0|none~1|none~2|",
        "|none~1|+|none~0|none~1|+|none~0|none~1|none~2|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|none~3|",
    ],
)
def test_what_names_no_cell_is_refused_with_an_example(text):
    with pytest.raises(HwnasError, match=r"named like \|nor_conv_3x3~0\|.*skip_connect.*got '"):
        parse_cell(text)


def test_equal_canonical_cells_are_equal_networks_and_the_reverse(space, all_cells):
    canonical = space.canonical(all_cells)
    pairs = {
        (tuple(row), space.slots[1](space.options(tuple(own))))
        for row, own in zip(canonical.tolist(), all_cells.tolist(), strict=True)
    }
    rows = {row for row, _ in pairs}
    assert len(pairs) == len(rows) == len({cell for _, cell in pairs}) == len(space.all_genotypes())
    # The same edges are cut as a strategy cuts that knows a cell by the names of its choices.
    assert (canonical == CellGraph.of(space.choices).live(all_cells)).all()


def test_edges_on_no_way_to_the_output_are_not_built(space):
    # Node 1 leads nowhere; node 2 is reached from the input alone.
    genotype = parse_cell("|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|none~0|none~1|skip_connect~2|")
    cell = space.architecture(genotype).blocks[1]
    assert cell.edges() == (("0", "2", "nor_conv_1x1"), ("2", "3", "skip_connect"))


def test_a_cell_computes_the_sum_over_its_ways():
    skip = "skip_connect"
    module = Cell((skip, "avg_pool_3x3", "none", skip, skip, skip)).build((4, 6, 6))
    x = torch.randn(2, 4, 6, 6)
    pooled = torch.nn.functional.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False)
    assert torch.allclose(module(x), 2 * x + pooled, atol=1e-6)


def test_a_cell_without_a_way_gives_zeros_that_still_have_a_gradient(space):
    network = Network(space.architecture((0,) * 6))
    logits = network(torch.randn(2, 3, 32, 32))
    assert torch.equal(logits[0], logits[1])
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_networks_are_as_published_at_32_pixels(space):
    blocks = [type(block).__name__ for block in space.architecture((3,) * 6).blocks]
    stage = ["Cell"] * 5
    assert blocks == [
        "CellStem", *stage, "Reduction", *stage, "Reduction", *stage, "CellHead"
    ]  # fmt: skip


def test_sides_that_cannot_be_halved_twice_are_refused():
    with pytest.raises(ValueError, match="multiples of 4; got shape .3, 30, 30."):
        nasbench201_space((3, 30, 30), 10)
    with pytest.raises(ValueError, match="multiples of 8; got shape .3, 68, 68."):
        nasbench201_space((3, 68, 68), 10)
