from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from profilers.errors import ModelError
from profilers.excerpts import MAX_BALLAST_BYTES, _values, excerpt_digest, excerpt_nodes
from profilers.isolation import IsolatedProfiler
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelNode
from profilers.onnx_models import make_model
from profilers.profiler import Profiler
from profilers.reference import conv_stack
from profilers.targets import make_target


@pytest.fixture(scope="module")
def profiler():
    return Profiler(make_target("onnxruntime-cpu", threads=1))


@pytest.fixture
def make_kernel():
    return lambda kind: Kernel(kind, (), (Tensor("float", (1, 4)),), (Tensor("float", (1, 4)),))


@pytest.fixture(scope="module")
def stack():
    proto = conv_stack(np.random.default_rng(0), 1, n_layers=6, channels=32, size=8)
    return make_model(proto, name="stack")


def made_by_hand(nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(
        nodes,
        "by hand",
        [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(weights).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return make_model(proto, name="by hand")


def test_the_same_kernels_run_as_in_the_whole_network(profiler, stack):
    kernels = [node.kernel for node in profiler.kernels(stack)]
    for wanted in ([kernels[0]], kernels[2:4], kernels[-1:], kernels):
        found = [node.kernel for node in profiler.kernels(profiler.excerpt(stack, wanted))]
        assert set(wanted) <= set(found)
    assert len(profiler.kernels(profiler.excerpt(stack, kernels[3:4]))) < len(kernels)


def test_an_excerpt_computes_what_the_network_computes_there(profiler):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((6, n)).astype(np.float32) for n in (6, 5))
    model = made_by_hand(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
            helper.make_node("Softmax", ["h"], ["s"], "second"),
            helper.make_node("MatMul", ["s", "b"], ["y"], "third"),
        ],
        {"x": (TensorProto.FLOAT, [2, 6])},
        ["y"],
        {"a": a, "b": b},
    )
    nodes = {node.name: node for node in profiler.kernels(model)}
    excerpt = profiler.excerpt(model, [nodes["third"].kernel])
    assert {node.name for node in excerpt.proto.graph.node} >= {"second", "third"}
    given = rng.standard_normal((2, 6)).astype(np.float32)
    session = ort.InferenceSession(excerpt.proto.SerializeToString())
    (y,) = session.run(["y"], {"h": given})
    soft = np.exp(given) / np.exp(given).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(y, soft @ b, rtol=1e-5)


def test_sizes_and_positions_keep_the_values_that_they_have_in_the_network(profiler):
    model = made_by_hand(
        [
            helper.make_node("Shape", ["x"], ["shape"], "shape"),
            helper.make_node("Gather", ["table", "ids"], ["rows"], "gather"),
            helper.make_node("Mul", ["shape", "two"], ["twice"], "twice"),
            helper.make_node("Expand", ["rows", "twice"], ["y"], "expand"),
        ],
        {"x": (TensorProto.FLOAT, [1, 3]), "ids": (TensorProto.INT64, [1])},
        ["y"],
        {"table": np.ones((4, 6), np.float32), "two": np.array([5, 2])},
    )
    expand = next(n.kernel for n in profiler.kernels(model) if n.kernel.kind == "Expand")
    kernels = [node.kernel for node in profiler.kernels(profiler.excerpt(model, [expand]))]
    assert expand in kernels
    assert expand.outputs[0].shape == (5, 6)


def test_what_was_left_out_is_read_all_the_same(profiler):
    rng = np.random.default_rng(0)
    layers = {f"w{i}": rng.standard_normal((256, 256)).astype(np.float32) for i in range(4)}
    nodes = [
        helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"h{i + 1}"], f"layer{i}") for i in range(4)
    ]
    nodes.append(helper.make_node("Softmax", ["h4"], ["y"], "soft"))
    model = made_by_hand(nodes, {"h0": (TensorProto.FLOAT, [1, 256])}, ["y"], layers)
    soft = profiler.kernels(model)[-1].kernel
    excerpt = profiler.excerpt(model, [soft])
    # The last layer feeds it and comes along; the other three are made up for.
    n_bytes = sum(t.n_bytes for n in profiler.kernels(excerpt) for t in n.kernel.inputs[1:])
    assert n_bytes == 4 * 256 * 256 * 4 < MAX_BALLAST_BYTES
    small = profiler.excerpt(model, [node.kernel for node in profiler.kernels(model)])
    assert len(small.proto.graph.node) == 5  # nothing was left out


def test_the_first_and_the_last_of_equal_kernels_are_taken_with_what_feeds_them(make_kernel):
    conv, relu = make_kernel("Conv"), make_kernel("Relu")
    nodes = [
        KernelNode(f"n{i}", relu if i % 2 else conv, (f"t{i}",), (f"t{i + 1}",)) for i in range(8)
    ]
    assert [node.name for node in excerpt_nodes(nodes, {relu})] == ["n0", "n1", "n6", "n7"]
    assert excerpt_nodes(nodes, set()) == []


def test_context_reaches_to_where_layouts_come_from_and_to_what_reads(make_kernel):
    shapes = (Tensor("float", (1, 4)), Tensor("float", (4, 4)))
    product = Kernel("MatMul", (), shapes, shapes[:1])
    relu, pool, add = make_kernel("Relu"), make_kernel("AveragePool"), make_kernel("Add")
    nodes = [
        KernelNode("n0", relu, ("x",), ("t0",)),
        KernelNode("n1", product, ("t0", "w"), ("t1",)),
        KernelNode("n2", relu, ("t1",), ("t2",)),
        KernelNode("n3", pool, ("t2",), ("t3",)),
        KernelNode("n4", add, ("t3", ""), ("t4",)),
        KernelNode("n5", add, ("t4",), ("t5",)),
    ]
    assert [node.name for node in excerpt_nodes(nodes, {pool})] == ["n2", "n3"]
    found = excerpt_nodes(nodes, {pool}, context=True)
    assert [node.name for node in found] == ["n1", "n2", "n3", "n4"]


def test_loops_take_along_what_their_bodies_read(profiler):
    body = helper.make_graph(
        [helper.make_node("Mul", ["state", "scale"], ["next"]),
         helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("state", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []),
         helper.make_tensor_value_info("next", TensorProto.FLOAT, [3])],
    )  # fmt: skip
    model = made_by_hand(
        [
            helper.make_node("Exp", ["x"], ["scale"], "exp"),
            helper.make_node("Loop", ["n", "yes", "x"], ["y"], "loop", body=body),
        ],
        {"x": (TensorProto.FLOAT, [3])},
        ["y"],
        {"n": np.array(4), "yes": np.array(True)},
    )
    loop = next(n.kernel for n in profiler.kernels(model) if n.kernel.kind == "Loop")
    assert loop.attribute("body")  # loops around other bodies are other kernels
    assert loop in [n.kernel for n in profiler.kernels(profiler.excerpt(model, [loop]))]


def test_a_model_without_those_kernels_is_told(profiler, stack, make_kernel):
    with pytest.raises(ModelError, match="none of the 1 kernels"):
        profiler.excerpt(stack, [make_kernel("LSTM")])


def test_a_process_of_its_own_cuts_the_same(profiler, stack):
    wanted = [profiler.kernels(stack)[2].kernel]
    with IsolatedProfiler(profiler.target) as isolated:
        found = isolated.excerpt(stack, wanted)
    assert found.digest == excerpt_digest(stack.digest, wanted)
    ours = profiler.excerpt(stack, wanted)
    names = [[node.name for node in m.proto.graph.node] for m in (found, ours)]
    assert names[0] == names[1]


def test_pytorch_runs_parts_of_a_model_too(stack):
    profiler = Profiler(make_target("torch-cpu", threads=1))
    wanted = [profiler.kernels(stack)[2].kernel]
    assert wanted[0] in [n.kernel for n in profiler.kernels(profiler.excerpt(stack, wanted))]


def test_constants_stay_constants_for_pytorch(stack):
    """Bounds of a Clip that are nodes, as some exporters write them: torch must know them."""
    model = made_by_hand(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
            helper.make_node("Constant", [], ["low"], "low", value_float=0.0),
            helper.make_node("Constant", [], ["high"], "high", value_float=6.0),
            helper.make_node("Clip", ["h", "low", "high"], ["y"], "clip"),
        ],
        {"x": (TensorProto.FLOAT, [2, 6])},
        ["y"],
        {"w": np.ones((6, 4), np.float32)},
    )
    profiler = Profiler(make_target("torch-cpu", threads=1))
    clip = profiler.kernels(model)[-1].kernel
    excerpt = profiler.excerpt(model, [clip])
    assert profiler.kernels(excerpt)[-1].kernel == clip
    assert [spec.name for spec in excerpt.inputs] == ["x"]


def test_parts_of_a_quantized_model_are_run_as_they_are(stack):
    profiler = Profiler(make_target("onnxruntime-cpu", threads=1, precision="int8"))
    kernels = [node.kernel for node in profiler.kernels(stack)]
    wanted = next(kernel for kernel in kernels if kernel.kind.endswith("QLinearConv"))
    assert wanted in [n.kernel for n in profiler.kernels(profiler.excerpt(stack, [wanted]))]


def test_a_runtime_that_shows_no_graph_is_told_by_name(stack, monkeypatch):
    profiler = Profiler(make_target("onnxruntime-cpu", threads=1))
    session = profiler._runtime.profiled_session
    monkeypatch.setattr(profiler._runtime, "profiled_session", lambda *a: WithoutGraph(session(*a)))
    with pytest.raises(ModelError, match="onnxruntime-cpu does not show"):
        profiler.excerpt(stack, [profiler.kernels(stack)[0].kernel])


class WithoutGraph:
    def __init__(self, session):
        self._session = session

    def trace(self):
        return replace(self._session.trace(), graph=None)

    def close(self):
        self._session.close()


def test_digests_tell_models_and_kernels_apart_and_not_their_order(make_kernel):
    a, b = make_kernel("Conv"), make_kernel("Relu")
    assert excerpt_digest("m", [a, b]) == excerpt_digest("m", [b, a])
    assert len({excerpt_digest("m", [a]), excerpt_digest("m", [b]), excerpt_digest("n", [a])}) == 3


def test_models_of_old_versions_may_hold_weights_that_nothing_reads():
    sizes = {"a": (6, 5), "b": (5, 7), "queue": (1, 1)}
    model = made_by_hand(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
            helper.make_node("MatMul", ["h", "b"], ["y"], "second"),
        ],
        {name: (TensorProto.FLOAT, shape) for name, shape in {"x": (2, 6), **sizes}.items()},
        ["y"],
        {name: np.ones(shape, np.float32) for name, shape in sizes.items()},
    )
    model.proto.ir_version = 3  # weights are inputs
    found = _values(model.proto, ["h", "x"], {"x": np.ones((2, 6), np.float32)}, "old")
    np.testing.assert_array_equal(found["h"], np.full((2, 5), 6.0))
