import numpy as np
import pytest

from hwnas.spaces.base import Choice
from hwnas.strategies.cells import Cell

OPERATORS = ("none", "skip_connect", "conv", "pool")
EDGES = ("0to1", "0to2", "1to2", "0to3", "1to3", "2to3")
CELL = Cell.of(tuple(Choice(f"op_{edge}", OPERATORS) for edge in EDGES))
NONE, SKIP, CONV, POOL = range(4)


def test_the_ways_from_the_first_node_to_the_last_are_found():
    ways = {tuple(EDGES[choice] for choice in path) for path in CELL.paths}
    assert ways == {("0to3",), ("0to1", "1to3"), ("0to2", "2to3"), ("0to1", "1to2", "2to3")}


@pytest.mark.parametrize(
    "choices",
    [
        [Choice(f"op_{i}", OPERATORS) for i in range(6)],  # no edges
        [Choice(f"op_{edge}", OPERATORS) for edge in EDGES[:5]],  # 2to3 is missing
        [Choice("op_0to1", OPERATORS), Choice("op_0to2", (1, 2)), Choice("op_1to2", OPERATORS)],
        [Choice(f"op_{edge}", tuple(f"o{i}" for i in range(17))) for edge in EDGES],  # vast
        [Choice("depth_0", (1, 2)), Choice("kernel_size_0_1", (1, 2)), Choice("b", (1, 2))],
    ],
)
def test_other_choices_are_no_cell(choices):
    assert Cell.of(tuple(choices)) is None


def test_an_edge_that_no_way_uses_is_cut():
    # Node 1 leads nowhere, so what feeds it does not count.
    genotype = np.array([[CONV, SKIP, NONE, POOL, NONE, CONV]])
    assert CELL.live(genotype).tolist() == [[NONE, SKIP, NONE, POOL, NONE, CONV]]


def test_cells_with_the_same_ways_look_the_same():
    # conv then skip through node 1, or skip then conv through node 2.
    one = np.array([[CONV, NONE, NONE, POOL, SKIP, NONE]])
    other = np.array([[NONE, SKIP, NONE, POOL, NONE, CONV]])
    for a, b in zip(CELL.descriptors(one), CELL.descriptors(other), strict=True):
        assert a.tolist() == b.tolist()


def test_ways_are_counted_by_what_they_pass():
    # Four ways: pool; conv and conv; skip and conv; conv, skip and conv.
    genotype = np.array([[CONV, SKIP, SKIP, POOL, CONV, CONV]])
    counts, *by_length = CELL.descriptors(genotype)
    assert counts.tolist() == [[2, 3, 1]]  # skip, conv, pool
    assert [group.shape[1] for group in by_length] == [1, 2, 4, 8]
    assert by_length[0].tolist() == [[0]]
    assert by_length[1].tolist() == [[1, 1]]  # conv; pool
    assert by_length[2].tolist() == [[pytest.approx(2**0.5), 0, 0, 0]]  # conv, conv: twice
    assert not by_length[3].any()
