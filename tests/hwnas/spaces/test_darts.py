import numpy as np
import pytest
import torch

from hwnas.errors import HwnasError
from hwnas.export import network_to_onnx
from hwnas.networks import Network, count, counts
from hwnas.spaces.darts import CellNode, darts_space, genotype_text, parse_genotype

# As in the paper's code: `cnn/genotypes.py`.
DARTS_V2 = """Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0),
    ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0),
    ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0),
    ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0),
    ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"""


@pytest.fixture(scope="module")
def space():
    return darts_space((1, 8, 8), 10)


def counted(shape, n_classes):
    with torch.device("meta"):
        return counts(darts_space(shape, n_classes).architecture(parse_genotype(DARTS_V2)))


def test_darts_v2_has_the_published_counts_on_cifar_10():
    found = counted((3, 32, 32), 10)
    assert found.params == 3_349_342  # its code prints "param size = 3.349342MB"; the paper, 3.3M
    assert found.macs == pytest.approx(528e6, rel=1e-2)


def test_darts_v2_has_the_published_size_on_imagenet():
    assert counted((3, 224, 224), 1000).params == pytest.approx(4.7e6, rel=1e-2)  # the paper


def test_there_are_as_many_cells_as_the_paper_counts(space):
    # "∏ (k + 1) k / 2 × 7² ≈ 10^9 possible DAGs" for each of the two.
    assert space.size == (1 * 3 * 6 * 10 * 7**8) ** 2


def test_genotypes_are_read_and_written_as_in_the_paper(space):
    genotype = parse_genotype(DARTS_V2)
    assert space.check(genotype) == genotype
    text = genotype_text(genotype)
    assert text.startswith("Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ")
    assert text.endswith("('skip_connect', 2)], reduce_concat=range(2, 6))")
    for row in (genotype, *map(tuple, space.sample(np.random.default_rng(0), 200).tolist())):
        assert parse_genotype(genotype_text(row)) == row


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("Genotype(", "[", "cells must be written like Genotype"),
        ("reduce_concat", "concat", "cells must be written like Genotype"),
        ("reduce_concat=[2, 3, 4, 5]", "reduce_concat=[3, 4, 5]", "must join its nodes"),
        ("('dil_conv_3x3', 2)", "('none', 2)", "node 5 must have two operations of skip_connect"),
        ("('dil_conv_3x3', 2)", "('dil_conv_3x3', 5)", "different inputs below 5"),
        ("('dil_conv_3x3', 2)", "('dil_conv_3x3', 0)", "different inputs below 5"),
    ],
)
def test_what_is_no_cell_of_the_space_is_refused(old, new, told):
    with pytest.raises(HwnasError, match=told):
        parse_genotype(DARTS_V2.replace(old, new, 1))


def test_an_input_can_be_named_in_either_order():
    swapped = DARTS_V2.replace(
        "('sep_conv_3x3', 0), ('sep_conv_3x3', 1)", "('sep_conv_3x3', 1), ('sep_conv_3x3', 0)", 1
    )
    assert parse_genotype(swapped) == parse_genotype(DARTS_V2)


def test_a_network_computes_the_same_whether_its_states_are_packed_or_not(space):
    network = Network(space.architecture(parse_genotype(DARTS_V2))).eval()
    x = torch.randn(3, 1, 8, 8)
    shape, y = (1, 8, 8), x
    with torch.inference_mode():
        for block, module in zip(network.architecture.blocks, network.blocks, strict=True):
            y = module(y.clone())  # a copy does not remember its parts
            shape = count(block, shape).out_shape
            assert y.shape == (3, *shape)
        assert torch.equal(y, network(x))


def test_an_exported_network_has_the_operators_of_the_paper_and_no_packing(space):
    network = Network(space.architecture(parse_genotype(DARTS_V2)))
    graph = network_to_onnx(network, (1, 8, 8)).graph
    kinds = [node.op_type for node in graph.node]
    assert "Split" not in kinds
    # One to join the nodes of each of the 8 cells, and one in the factorised reduction of what
    # stands before each of the two reduction cells, where the cell after it takes it in.
    assert kinds.count("Concat") == 8 + 2
    # In the reduction cells nodes 3 and 5 are the same sum, and three poolings are of input 1; the
    # exporter runs what is equal once.
    assert kinds.count("Add") == 8 * 4 - 2
    assert kinds.count("MaxPool") == 2 * 2


def test_a_node_is_the_sum_of_its_two_operations():
    shapes = ((4, 6, 6), (2, 6, 6), (2, 6, 6))
    block = CellNode(shapes, (0, 1), ("skip_connect", "max_pool_3x3"), False)
    carried, first, second = (torch.randn(1, *shape) for shape in shapes)
    state = torch.cat([part.flatten(1) for part in (carried, first, second)], dim=1)
    after = block.build(state.shape[1:])(state)
    assert torch.equal(after[:, : state.shape[1]], state)
    pooled = torch.nn.functional.max_pool2d(second, 3, 1, padding=1)
    assert torch.equal(after[:, state.shape[1] :], (first + pooled).flatten(1))
    assert block.edges() == (("0", "2", "skip_connect"), ("1", "2", "max_pool_3x3"))


def test_reduction_cells_halve_the_map_and_double_the_channels(space):
    blocks = space.architecture((0,) * len(space.choices)).blocks
    nodes = [block for block in blocks if isinstance(block, CellNode)]
    cells = [nodes[i : i + 4] for i in range(0, len(nodes), 4)]
    assert [cell[0].reduces for cell in cells] == [i in (2, 5) for i in range(8)]
    assert [cell[0].state[1][0] for cell in cells] == [16, 16, 32, 32, 32, 64, 64, 64]
    assert [cell[3].state[-1][1] for cell in cells] == [8, 8, 4, 4, 4, 2, 2, 2]


def test_sides_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="multiples of 4; got shape .1, 30, 30."):
        darts_space((1, 30, 30), 10)
    with pytest.raises(ValueError, match="multiples of 32; got shape .3, 200, 200."):
        darts_space((3, 200, 200), 10)


def test_cells_that_are_no_pairs_are_refused():
    text = (
        "Genotype(normal=[1, 2], reduce=[1, 2], normal_concat=range(2, 6), "
        "reduce_concat=range(2, 6))"
    )
    with pytest.raises(HwnasError, match="a cell is a list of"):
        parse_genotype(text)
