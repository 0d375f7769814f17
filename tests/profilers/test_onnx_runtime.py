import itertools
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from profilers.errors import ModelError
from profilers.kernels import macs
from profilers.onnx_models import make_model
from profilers.profiler import MIN_ROUNDS, Profiler
from profilers.reference import conv_stack
from profilers.runtimes.onnx_profile import as_one_kernel, read_trace
from profilers.runtimes.onnx_runtime import OnnxSession
from profilers.targets import make_target

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@pytest.fixture(scope="module")
def profiler():
    return Profiler(make_target())


@pytest.fixture
def conv_relu(make_proto):
    """Conv 3×3 and ReLU, 5 channels to 6: no multiple of a SIMD width."""
    weight = np.ones((6, 5, 3, 3), dtype=np.float32)
    return make_proto(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        {"x": (FLOAT, (1, 5, 8, 8))},
        {"y": (FLOAT, (1, 6, 8, 8))},
        {"w": weight},
    )


def test_conv_and_relu_are_one_kernel(profiler, conv_relu):
    nodes = profiler.kernels(make_model(conv_relu, name="net"))
    (conv,) = [node for node in nodes if node.kernel.kind.endswith("Conv")]
    assert conv.kernel.activation == "Relu"
    assert not any(node.kernel.kind.endswith("Relu") for node in nodes)
    assert conv.kernel.attribute("pads") == (1, 1, 1, 1)
    assert macs(conv.kernel) >= 64 * 6 * 5 * 9  # the runtime may pad channels, never drop any


def test_the_chain_from_input_to_output_is_connected(profiler):
    proto = conv_stack(np.random.default_rng(0), 2, n_layers=4, channels=16, size=8)
    nodes = profiler.kernels(make_model(proto, name="net"))
    assert nodes[0].reads[0] == "x"
    assert nodes[-1].writes == (proto.graph.output[0].name,)
    for before, after in itertools.pairwise(nodes):
        assert before.writes[0] in after.reads  # a stack has no branches
    assert nodes[0].kernel.inputs[0].shape == (2, 3, 8, 8)
    assert nodes[-1].kernel.outputs[0].shape == (2, 10)


def test_nodes_that_the_runtime_leaves_unnamed_keep_attributes_and_connections(
    profiler, make_proto
):
    # ONNX Runtime inlines HardSwish as two nodes without a name; here it does so twice.
    proto = make_proto(
        [
            helper.make_node("HardSwish", ["x"], ["a"], name="first"),
            helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("HardSwish", ["b"], ["y"], name="second"),
        ],
        {"x": (FLOAT, (1, 3, 8, 8))},
        {"y": (FLOAT, (1, 3, 4, 4))},
    )
    written, sizes = {"x"}, {"x": (1, 3, 8, 8)}
    nodes = profiler.kernels(make_model(proto, name="net"))
    for node in nodes:
        assert written.intersection(node.reads), node
        assert node.kernel.inputs[0].shape == sizes[node.reads[0]]
        written.update(node.writes)
        sizes |= dict(zip(node.writes, (t.shape for t in node.kernel.outputs), strict=True))
    assert "y" in written


def test_a_profile_is_positive_and_tagged(profiler, conv_relu):
    model = make_model(conv_relu, name="net")
    measurement = profiler.profile(model, seconds=0.05, tags={"space": "toy"})
    assert measurement.latency_ms > 0
    assert all(kernel.latency_ms > 0 for kernel in measurement.kernels)
    assert measurement.peak_memory_bytes >= 4 * 6 * 64  # the output of the convolution at least
    assert measurement.tags == {"space": "toy"}
    assert len(np.unique(measurement.samples.chunk)) >= MIN_ROUNDS


def test_integer_inputs(profiler, make_proto):
    proto = make_proto(
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        {"ids": (INT64, (1, 7))},
        {"y": (FLOAT, (1, 7, 4))},
        {"table": np.ones((2, 4), dtype=np.float32)},
    )
    (node,) = profiler.kernels(make_model(proto, name="net"))
    assert [t.dtype for t in node.kernel.inputs] == ["float", "int64"]
    assert node.kernel.outputs[0].shape == (1, 7, 4)


def test_a_dynamic_batch_runs_with_the_batch_that_is_given(profiler, relu_proto):
    model = make_model(relu_proto(("N", 4)), name="net", batch=3)
    (node,) = profiler.kernels(model)
    assert node.kernel.inputs[0].shape == (3, 4)


def test_a_graph_that_folds_into_a_constant_has_no_kernels(profiler, make_proto):
    ones = np.ones(4, dtype=np.float32)
    proto = make_proto(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        {},
        {"y": (FLOAT, (4,))},
        {"a": ones, "b": ones},
    )
    model = make_model(proto, name="net")
    assert profiler.kernels(model) == ()
    measurement = profiler.profile(model, seconds=0.02)
    assert measurement.kernels == ()
    assert measurement.latency_ms > 0


def test_what_runs_inside_an_if_is_counted_once(profiler, make_proto):
    def branch(op):
        value = helper.make_tensor_value_info("out", FLOAT, (4, 4))
        return helper.make_graph([helper.make_node(op, ["x"], ["out"])], op, [], [value])

    proto = make_proto(
        [
            helper.make_node("ReduceMax", ["x"], ["max"], keepdims=0),
            helper.make_node("Greater", ["max", "zero"], ["is_positive"]),
            helper.make_node(
                "If", ["is_positive"], ["z"], then_branch=branch("Relu"), else_branch=branch("Exp")
            ),
            helper.make_node("Sigmoid", ["z"], ["y"]),
        ],
        {"x": (FLOAT, (4, 4))},
        {"y": (FLOAT, (4, 4))},
        {"zero": np.float32(0)},
    )
    nodes = profiler.kernels(make_model(proto, name="net"))
    assert [node.kernel.kind for node in nodes] == ["ReduceMax", "Greater", "If", "Sigmoid"]


def test_sequences_are_kernels_without_tensors(profiler, make_proto):
    proto = make_proto(
        [
            helper.make_node("SequenceEmpty", [], ["s"]),
            helper.make_node("SequenceInsert", ["s", "x"], ["t"]),
            helper.make_node("ConcatFromSequence", ["t"], ["y"], axis=0),
        ],
        {"x": (FLOAT, (2,))},
        {"y": (FLOAT, (2,))},
    )
    nodes = profiler.kernels(make_model(proto, name="net"))
    assert nodes[0].kernel.inputs == nodes[0].kernel.outputs == ()


class TestRefusedModels:
    def test_wrong_types_are_refused_when_loading(self, profiler, make_proto):
        proto = make_proto(
            [helper.make_node("Add", ["x", "i"], ["y"])],
            {"x": (FLOAT, (1, 4)), "i": (INT64, (1, 4))},
            {"y": (FLOAT, (1, 4))},
        )
        with pytest.raises(ModelError, match=r"^ONNX Runtime \S+ cannot load net: "):
            profiler.kernels(make_model(proto, name="net"))

    def test_shapes_that_do_not_go_together_are_refused_when_running(self, profiler, make_proto):
        proto = make_proto(
            [helper.make_node("MatMul", ["a", "b"], ["y"])],
            {"a": (FLOAT, ("n", "k")), "b": (FLOAT, ("m", "l"))},
            {"y": (FLOAT, ("n", "l"))},
        )
        model = make_model(proto, name="net", shapes={"a": (2, 3), "b": (4, 5)})
        with pytest.raises(ModelError, match=r"^ONNX Runtime \S+ cannot (run|load) net: "):
            profiler.profile(model, seconds=0.05)

    def test_the_error_of_latency_names_the_model(self, profiler, relu_proto, make_proto):
        bad = make_proto(
            [helper.make_node("NoSuchOperator", ["x"], ["y"])],
            {"x": (FLOAT, (1, 4))},
            {"y": (FLOAT, (1, 4))},
        )
        good = make_model(relu_proto(), name="good")
        with pytest.raises(ModelError, match="cannot load bad"):
            profiler.latency([good, make_model(bad, name="bad")], seconds=0.02)


def test_weights_that_the_runtime_has_packed_are_among_the_inputs(profiler, make_proto):
    rng = np.random.default_rng(0)
    proto = make_proto(
        [
            helper.make_node("LSTM", ["x", "w", "r"], ["h"], hidden_size=4),
            helper.make_node("Reshape", ["h", "shape"], ["flat"]),
            helper.make_node("Gemm", ["flat", "g", "b"], ["y"]),
        ],
        {"x": (FLOAT, (6, 2, 3))},
        {"y": (FLOAT, (12, 5))},
        {
            "w": rng.standard_normal((1, 16, 3)).astype(np.float32),
            "r": rng.standard_normal((1, 16, 4)).astype(np.float32),
            "shape": np.array([12, 4]),
            "g": rng.standard_normal((4, 5)).astype(np.float32),
            "b": rng.standard_normal(5).astype(np.float32),
        },
    )
    kernels = {n.kernel.kind: n.kernel for n in profiler.kernels(make_model(proto, name="net"))}
    lstm, gemm = kernels["LSTM"], kernels["Gemm"]
    assert [t.shape for t in lstm.inputs] == [(6, 2, 3), (1, 16, 3), (1, 16, 4)]
    assert macs(lstm) == 6 * 2 * 4 * (3 + 4) * 4
    assert [t.shape for t in gemm.inputs] == [(12, 4), (4, 5), (5,)]
    assert gemm.n_bytes == 4 * (12 * 4 + 4 * 5 + 5 + 12 * 5)


class TestExecutionProviders:
    """On events as other providers leave them."""

    @staticmethod
    def event(name, op_name, inputs, outputs, **args):
        def shapes(tensors):
            return [{"float": list(shape)} for shape in tensors]

        return {
            "cat": "Node",
            "name": f"{name}_kernel_time",
            "ts": 0,
            "dur": 7,
            "args": {
                "op_name": op_name,
                "input_type_shape": shapes(inputs),
                "output_type_shape": shapes(outputs),
                **args,
            },
        }

    @pytest.fixture
    def chain(self, make_proto):
        """a and b, then one that only the CPU has, then c."""
        return make_proto(
            [
                helper.make_node("Relu", ["x"], ["t"], name="a"),
                helper.make_node("Add", ["t", "w"], ["u"], name="b"),
                helper.make_node("Det", ["u"], ["v"], name="only"),
                helper.make_node("Relu", ["v"], ["y"], name="c"),
            ],
            {"x": (FLOAT, (4, 4))},
            {"y": (FLOAT, ())},
            {"w": np.ones((4, 4), dtype=np.float32)},
        )

    def test_parts_that_were_compiled_are_kernels_of_this_model_only(self, chain):
        events = [
            self.event("EP_graph_7_0", "EP-graph_7", [(4, 4)], [(4, 4)], provider="EP"),
            self.event("only", "Det", [(4, 4)], [()], provider="CPU"),
            self.event("EP_graph_8_0", "EP-graph_8", [()], [()], provider="EP"),
        ]
        trace = read_trace(events, chain.graph, provider="EP", digest="0123456789abcdef")
        first, only, last = trace.nodes
        assert (first.reads, first.writes) == (("x",), ("u",))
        assert (last.reads, last.writes) == (("v",), ("y",))
        # Numbers that the provider counts up in a process are not in the kind.
        assert first.kernel.kind == last.kernel.kind == "EP-graph"
        assert first.kernel.attributes == (("model", "0123456789ab"), ("nodes", 2))
        assert only.kernel.attribute("provider") == "CPU"
        assert trace.duration_us.tolist() == [[7, 7, 7]]

    def test_a_model_that_was_compiled_as_a_whole_is_one_kernel(self, chain):
        events = [self.event("EP_graph_1_0", "EP-graph_1", [(4, 4)], [()])] * 3
        trace = read_trace(events, chain.graph, digest="f" * 64)
        (node,) = trace.nodes
        assert (node.reads, node.writes) == (("x",), ("y",))
        assert node.kernel.attribute("nodes") == 4
        assert trace.duration_us.shape == (3, 1)

    def test_on_a_device_that_runs_behind_the_cpu_only_whole_runs_are_timed(self, chain):
        model = make_model(chain, name="net")
        nodes = [("a", "Relu"), ("b", "Add"), ("only", "Det"), ("c", "Relu")]
        shapes = [[(4, 4)], [(4, 4), (4, 4)], [(4, 4)], [()]]
        outputs = [[(4, 4)], [(4, 4)], [()], [()]]
        events = []
        for run_us in (900, 800):
            events += [
                self.event(*node, *ends) for node, *ends in zip(nodes, shapes, outputs, strict=True)
            ]
            events.append({"cat": "Session", "name": "model_run", "dur": run_us})
        trace = as_one_kernel(read_trace(events, chain.graph), events, model)
        (node,) = trace.nodes
        assert (node.reads, node.writes) == (("x",), ("y",))
        assert [t.shape for t in (*node.kernel.inputs, *node.kernel.outputs)] == [(4, 4), ()]
        assert trace.duration_us.tolist() == [[900], [800]]
        assert trace.start_us is None

    def test_inputs_and_outputs_stay_in_the_memory_of_the_device(self):
        calls = []

        class Binding:
            def __getattr__(self, name):
                return lambda *arguments: calls.append((name, *arguments))

        class Session:
            def get_outputs(self):
                return [SimpleNamespace(name="y")]

            def io_binding(self):
                return Binding()

            def run_with_iobinding(self, binding):
                calls.append(("run",))

        session = OnnxSession(Session(), "cannot run", {"x": 1}, "cuda")
        assert calls == [
            ("bind_cpu_input", "x", 1),
            ("bind_output", "y", "cuda"),
            ("synchronize_inputs",),
            ("run",),
            ("synchronize_outputs",),
        ]
        del calls[:]
        session.run()
        assert calls == [("run",), ("synchronize_outputs",)]

    def test_a_bound_session_gives_the_same_result(self, chain):
        """In the CPU's memory, the only one that is always there."""
        plain = ort.InferenceSession(chain.SerializeToString())
        feed = {"x": np.eye(4, dtype=np.float32)}
        bound = OnnxSession(plain, "cannot run", feed, "cpu")
        (found,) = bound._binding.copy_outputs_to_cpu()
        assert found == plain.run(None, feed)[0] == 5.0  # the determinant of 1 + identity

    def test_a_failing_bound_session_is_a_model_error(self):
        class Session:
            def get_outputs(self):
                return []

            def io_binding(self):
                raise RuntimeError("out of memory\nwith details")

        with pytest.raises(ModelError, match="^cannot run net: out of memory$"):
            OnnxSession(Session(), "cannot run net", {}, "cuda")
