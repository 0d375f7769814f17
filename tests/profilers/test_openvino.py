import itertools
import time
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from profilers.errors import ModelError
from profilers.kernels import macs
from profilers.onnx_models import make_model
from profilers.profiler import Profiler
from profilers.reference import conv_stack
from profilers.targets import available_precisions, make_target

openvino = pytest.importorskip("openvino")

from profilers.runtimes.openvino import (  # noqa: E402
    Compiled,
    OpenVino,
    ProfiledOpenVinoSession,
    _reason,
)
from profilers.runtimes.openvino_graph import (  # noqa: E402
    computed_tensors,
    fused_operators,
    read_nodes,
)

FLOAT = TensorProto.FLOAT


def nodes_of(proto, precision="fp32"):
    profiler = Profiler(make_target("openvino-cpu", precision=precision))
    return profiler.kernels(make_model(proto, name="net"))


def test_a_fused_convolution_is_one_kernel_with_the_attributes_of_onnx(make_proto):
    proto = make_proto(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2], group=2),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        {"x": (FLOAT, (1, 16, 8, 8))},
        {"y": (FLOAT, (1, 32, 4, 4))},
        {"w": np.random.default_rng(0).standard_normal((32, 8, 3, 3)).astype(np.float32)},
    )
    (conv,) = [n.kernel for n in nodes_of(proto) if n.kernel.kind == "Convolution"]
    assert conv.activation == "Relu"
    assert (conv.attribute("group"), conv.attribute("kernel_shape")) == (2, (3, 3))
    assert (conv.attribute("pads"), conv.attribute("strides")) == ((1, 1, 1, 1), (2, 2))
    assert conv.outputs[0].shape == (1, 32, 4, 4)
    assert macs(conv) == 32 * 16 * 8 * 9


def test_every_product_of_matrices_is_counted():
    proto = conv_stack(np.random.default_rng(0), 2, n_layers=4, channels=16, size=8)
    by_hand = 64 * (16 * 3 + 16 * 9 + 16 * 16 + 16 * 9) + 16 * 10
    for precision in available_precisions("openvino-cpu"):
        found = sum(macs(node.kernel) for node in nodes_of(proto, precision))
        assert found == 2 * by_hand, precision


def test_recurrent_layers_count_the_weights_of_every_step(make_proto):
    rng = np.random.default_rng(0)
    proto = make_proto(
        [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)],
        {"x": (FLOAT, (6, 2, 3))},
        {"y": (FLOAT, (6, 1, 2, 4))},
        {
            "w": rng.standard_normal((1, 16, 3)).astype(np.float32),
            "r": rng.standard_normal((1, 16, 4)).astype(np.float32),
        },
    )
    nodes = nodes_of(proto)  # whose unused outputs are no outputs of the model
    assert sum(macs(node.kernel) for node in nodes) == 6 * 2 * 4 * (3 + 4) * 4


def test_views_are_no_kernels_and_who_reads_them_reads_what_they_show(make_proto):
    proto = make_proto(
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("Reshape", ["a", "shape"], ["view"]),
            helper.make_node("Softmax", ["view"], ["y"], axis=1),
        ],
        {"x": (FLOAT, (4, 6, 5))},
        {"y": (FLOAT, (8, 15))},
        {"shape": np.array([8, 15])},
    )
    nodes = nodes_of(proto)
    assert not any(node.kernel.kind == "Reshape" for node in nodes)
    assert nodes[0].reads == ("x",)
    assert nodes[-1].reads[0] == nodes[0].writes[0]
    assert nodes[-1].kernel.inputs[0].shape == (8, 15)
    assert nodes[-1].writes == ("y",)


def test_bf16_is_computed_in_bf16_and_fp32_is_not():
    proto = conv_stack(np.random.default_rng(0), 1, n_layers=2, channels=16, size=8)

    def kinds(precision):
        nodes = nodes_of(proto, precision)
        return {node.kernel.outputs[0].dtype for node in nodes if macs(node.kernel)}

    assert kinds("fp32") == {"float"}
    if "bf16" in available_precisions("openvino-cpu"):
        assert "bfloat16" in kinds("bf16")


def test_shapes_that_depend_on_values_are_refused(make_proto):
    proto = make_proto(
        [helper.make_node("NonZero", ["x"], ["y"])],
        {"x": (FLOAT, (4,))},
        {"y": (TensorProto.INT64, (1, "n"))},
    )
    with pytest.raises(ModelError, match=r"^OpenVINO \S+ cannot run net: .* needs static shapes$"):
        nodes_of(proto)


def test_one_thread_is_the_calling_thread():
    proto = conv_stack(np.random.default_rng(0), 1, n_layers=8, channels=64, size=48)
    model = make_model(proto, name="net")
    feed = model.random_inputs(np.random.default_rng(0))
    session = OpenVino(make_target("openvino-cpu")).session(model, feed)
    for _ in range(3):
        session.run()
    start_ns, start_thread_ns = time.process_time_ns(), time.thread_time_ns()
    for _ in range(20):
        session.run()
    n_process, n_thread = time.process_time_ns() - start_ns, time.thread_time_ns() - start_thread_ns
    assert n_thread >= 0.8 * n_process


def test_the_message_of_an_error_is_what_it_says_about_the_model():
    text = (
        "Exception from src/inference/src/cpp/infer_request.cpp:224:\n"
        "Check 'false' failed at src/frontends/report.cpp:151:\n"
        "FrontEnd API failed with OpConversionFailure:\nModel wasn't fully converted.\nSummary:\n"
        "-- No conversion rule found for operations: NoSuch-17\n"
        "To facilitate the conversion, refer to the documentation\n\n"
    )
    assert _reason(RuntimeError(text)) == "-- No conversion rule found for operations: NoSuch-17"
    assert _reason(RuntimeError("Exception from a.cpp:1:")) == "Exception from a.cpp:1:"
    assert _reason(RuntimeError()) == "RuntimeError"


class FakeCompiled:
    """A model of three layers in a runtime that keeps only rounded averages, as OpenVINO does.

    `durations_us` yields the true times of every run, `(3,)`; slow first runs are added to them.
    """

    def __init__(self, durations_us, real):
        self._durations_us = durations_us
        self._real = real
        self._rng = np.random.default_rng(0)
        self.n_loaded = 0

    def import_model(self, blob, device, config):
        self.n_loaded += 1
        self._sums_us, self._n_runs = np.zeros(3, dtype=np.int64), 0
        return self

    def export_model(self):
        return SimpleNamespace(getvalue=lambda: b"")

    def create_infer_request(self):
        return self

    def get_runtime_model(self):
        return self._real.get_runtime_model()

    def get_compiled_model(self):
        return self

    def set_tensor(self, name, tensor):
        pass

    def infer(self):
        cold_us = self._rng.uniform(900, 1100) if self._n_runs == 0 else 0.0
        self._sums_us += np.floor(next(self._durations_us) + cold_us).astype(np.int64)
        self._n_runs += 1

    @property
    def profiling_info(self):
        return [
            SimpleNamespace(
                node_name=name,
                real_time=SimpleNamespace(total_seconds=lambda us=us: us / 1e6),
            )
            for name, us in zip(KERNELS, self._sums_us // self._n_runs, strict=True)
        ]


KERNELS = ("a", "b", "y")


@pytest.fixture
def three_layers(make_proto):
    """Softmax along three axes: nothing that is fused."""
    proto = make_proto(
        [
            helper.make_node("Softmax", ["x"], ["a"], axis=1),
            helper.make_node("Softmax", ["a"], ["b"], axis=2),
            helper.make_node("Softmax", ["b"], ["y"], axis=1),
        ],
        {"x": (FLOAT, (2, 3, 4))},
        {"y": (FLOAT, (2, 3, 4))},
    )
    core = openvino.Core()
    source = core.read_model(proto.SerializeToString())
    return source, core.compile_model(source, "CPU")


def profile(source, real, durations_us, n_runs):
    compiled = FakeCompiled(durations_us, real)
    feed = {"x": np.zeros((2, 3, 4), dtype=np.float32)}
    stages = Compiled(onnx.ModelProto(), source, compiled)
    session = ProfiledOpenVinoSession(compiled, {}, stages, "cannot run", feed)
    for _ in range(n_runs):
        session.run()
    return session.trace(), compiled


def test_times_that_are_told_as_rounded_averages_are_recovered(three_layers):
    rng = np.random.default_rng(0)
    true_us = np.array([3.3, 40.7, 200.2])

    def durations_us():
        while True:
            yield true_us + rng.uniform(-0.5, 0.5, 3)

    trace, compiled = profile(*three_layers, durations_us(), n_runs=960)
    assert [node.name for node in trace.nodes] == list(KERNELS)
    assert trace.duration_us.shape == (961, 3)
    assert compiled.n_loaded > 10
    assert trace.duration_us.mean(axis=0) == pytest.approx(true_us, abs=0.3)


def test_a_slow_run_spoils_only_those_it_was_read_with(three_layers):
    rng = np.random.default_rng(0)

    def durations_us():
        for i in itertools.count():
            yield np.array([30.0, 40.0, 50.0]) * (20 if i == 100 else 1) + rng.uniform(-1, 1, 3)

    trace, _ = profile(*three_layers, durations_us(), n_runs=240)
    is_slow = trace.duration_us.sum(axis=1) > 130
    assert 1 <= is_slow.sum() <= 24
    assert trace.duration_us[~is_slow].mean(axis=0) == pytest.approx([30, 40, 50], abs=1)


def test_nodes_know_what_the_model_says_about_the_operators_fused_into_them(three_layers):
    source, compiled = three_layers
    graph = compiled.get_runtime_model()
    nodes = read_nodes(graph, source, (), {"a": ("a",), "b": ("b", "no such operator")})
    assert [node.writes for node in nodes] == [("a",), ("b",), ("y",)]
    assert [node.reads[0] for node in nodes] == ["x", "a", "b"]
    assert [node.kernel.attribute("axis") for node in nodes] == [1, 2, None]
    assert [node.kernel.attribute("operators") for node in nodes] == [("Softmax",)] * 2 + [()]


@pytest.fixture
def residual(make_proto):
    """Three convolutions with a shortcut around the last, a pooling and a product."""
    rng = np.random.default_rng(0)
    return make_proto(
        [
            helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], "stem", pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["c0", "w1", "b1"], ["c1"], "first", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
            helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "second", pads=[1, 1, 1, 1]),
            helper.make_node("Add", ["c2", "r1"], ["sum"], "add"),
            helper.make_node("Relu", ["sum"], ["r2"], "relu2"),
            helper.make_node("GlobalAveragePool", ["r2"], ["mean"], "pool"),
            helper.make_node("Flatten", ["mean"], ["flat"], "flatten"),
            helper.make_node("Gemm", ["flat", "w3", "b3"], ["y"], "head"),
        ],
        {"x": (FLOAT, (1, 16, 8, 8))},
        {"y": (FLOAT, (1, 10))},
        {
            name: rng.standard_normal(shape).astype(np.float32)
            for name, shape in {
                "w0": (16, 16, 3, 3), "w1": (32, 16, 3, 3), "w2": (32, 32, 3, 3),
                "w3": (32, 10), "b0": (16,), "b1": (32,), "b2": (32,), "b3": (10,),
            }.items()
        },
    )  # fmt: skip


def test_kernels_know_which_tensors_of_the_onnx_model_they_compute(residual):
    runtime = OpenVino(make_target("openvino-cpu"))
    _, source, compiled = runtime._compile(make_model(residual, name="residual"))
    fused = fused_operators(compiled)
    nodes = read_nodes(compiled.get_runtime_model(), source, (), fused)
    computed = computed_tensors(nodes, residual, source, fused)
    of = {name: node.kernel for node, names in zip(nodes, computed, strict=True) for name in names}
    assert of.keys() == {name for node in residual.graph.node for name in node.output}
    assert sum(map(len, computed)) == len(of)  # none by two of them
    assert [of[name].kind for name in ("c1", "mean", "y")] == [
        "Convolution", "Reduce", "FullyConnected",
    ]  # fmt: skip
    assert of["r1"] == of["c1"] != of["c2"]
    copies = [names for node, names in zip(nodes, computed, strict=True)
              if node.kernel.kind == "Reorder"]  # fmt: skip
    assert copies and not any(copies)  # they stand for no operator of the model


def test_a_norm_that_becomes_several_operators_is_computed_by_the_one_that_runs(make_proto):
    rng = np.random.default_rng(0)
    proto = make_proto(
        [
            helper.make_node("LayerNormalization", ["x", "scale", "bias"], ["norm"], "norm"),
            helper.make_node("MatMul", ["norm", "w"], ["product"], "product"),
            helper.make_node("Softmax", ["product"], ["y"], "soft"),
        ],
        {"x": (FLOAT, (1, 16, 64))},
        {"y": (FLOAT, (1, 16, 32))},
        {
            "scale": np.ones(64, np.float32),
            "bias": np.zeros(64, np.float32),
            "w": rng.standard_normal((64, 32)).astype(np.float32),
        },
    )
    model = make_model(proto, name="norm")
    profiler = Profiler(make_target("openvino-cpu"))
    for kernel in [node.kernel for node in profiler.kernels(model)]:
        excerpt = profiler.excerpt(model, [kernel])
        assert kernel in [node.kernel for node in profiler.kernels(excerpt)], kernel.kind


def test_parts_of_a_network_run_the_kernels_of_the_whole(residual):
    """Fused sums and layouts too, which OpenVINO chooses by what lies around a kernel."""
    model = make_model(residual, name="residual")
    profiler = Profiler(make_target("openvino-cpu"))
    kernels = [node.kernel for node in profiler.kernels(model)]
    assert len(kernels) >= 4
    for kernel in kernels:
        excerpt = profiler.excerpt(model, [kernel])
        assert kernel in [node.kernel for node in profiler.kernels(excerpt)], kernel.describe()
    head = profiler.excerpt(model, kernels[-1:])
    assert "head" in [node.name for node in head.proto.graph.node]
    assert "stem" not in [node.name for node in head.proto.graph.node]
