"""The block of each kernel, from the names that exporters and runtimes give."""

import onnx
import pytest
from onnx import TensorProto, helper

from hwnas.block_names import MAX_BLOCKS, REST, blocks_of
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelNode
from profilers.onnx_models import make_model


def model(names, properties=()):
    """A chain of Relu with these names; node i writes `t{i}`."""
    nodes = [
        helper.make_node("Relu", ["x" if i == 0 else f"t{i - 1}"], [f"t{i}"], name=name)
        for i, name in enumerate(names)
    ]
    for node, text in zip(nodes, properties, strict=False):
        node.metadata_props.append(
            onnx.StringStringEntryProto(key="pkg.torch.onnx.name_scopes", value=text)
        )
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 4))
        for n in ("x", f"t{len(names) - 1}")
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    return make_model(helper.make_model(graph), name="chain")


def kernel(*shape):
    tensor = Tensor("float", shape)
    return Kernel("Relu", (), (tensor,), (tensor,))


def kernels(*names, size=4):
    """Kernels of these names; one that is called `t…` is known by what it writes alone."""
    return [KernelNode(n, kernel(1, 3, size, size), (), (n,)) for n in names]


NAMES = ["/stem/conv/Relu", "/layer1/layer1.0/Relu", "/layer1/layer1.1/Relu", "/layer2/a/Relu",
         "/head/Relu"]  # fmt: skip


def test_a_block_is_an_outer_module_where_those_are_enough():
    found = blocks_of(model(NAMES), kernels("t0", "t1", "t2", "t3", "t4"))
    assert found == ("stem", "layer1", "layer1", "layer2", "head")


def test_a_block_is_an_inner_module_where_the_outer_ones_are_too_few():
    names = ["/net/stem/Relu", *(f"/net/layers/layers.{i}/act/Relu" for i in range(4))]
    found = blocks_of(model(names), kernels("t0", "t1", "t2", "t3", "t4"))
    assert found == ("net/stem", *(f"net/layers.{i}" for i in range(4)))


def test_what_the_runtime_adds_goes_with_what_runs_before_it():
    found = blocks_of(
        model(NAMES), kernels("ReorderInput", "/stem/conv/Relu", "ReorderOutput", "t1_nchwc", "t3",
                              "t4"),
    )  # fmt: skip
    assert found == (REST, "stem", "stem", "layer1", "layer2", "head")


def test_the_scopes_that_pytorch_notes_are_read_and_nothing_in_them_is_run():
    scopes = [f"['', 'layers', 'layers.{i}', 'relu']" for i in range(4)]
    found = blocks_of(model(["a", "b", "c", "d"], scopes), kernels("t0", "t1", "t2", "t3"))
    assert found == ("layers.0", "layers.1", "layers.2", "layers.3")
    evil = ["__import__('os').abort()", "not python", "7", "{}"]
    found = blocks_of(model(["a", "b", "c", "d"], evil), kernels("t0", "t1"))
    assert len(set(found)) == 1


def test_without_names_images_tell_blocks_apart():
    nodes = [*kernels("t0", "t1", size=8), *kernels("t2", size=4)]
    nodes.append(KernelNode("t3", kernel(1, 10), (), ("t3",)))
    assert blocks_of(model(["a", "b", "c", "d"]), nodes) == ("at 8×8", "at 8×8", "at 4×4", "at 4×4")


@pytest.mark.parametrize("n", [1, MAX_BLOCKS + 20])
def test_there_are_never_too_many_blocks(n):
    names = [f"/m{i}/Relu" for i in range(n)]
    found = blocks_of(model(names), kernels(*(f"t{i}" for i in range(n))))
    assert len(found) == n and len(set(found)) <= MAX_BLOCKS
