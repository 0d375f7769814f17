import itertools

import numpy as np
import pytest
from onnx import TensorProto, helper

from profilers.errors import ModelError
from profilers.kernels import macs
from profilers.onnx_models import make_model
from profilers.onnx_runtime import (
    MIN_KERNEL_US,
    MIN_ROUNDS,
    N_ROUNDS,
    N_WARMUP,
    PATIENCE,
    OnnxRuntimeProfiler,
    _kernel_latencies,
)
from profilers.reference import conv_stack
from profilers.targets import make_target

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@pytest.fixture(scope="module")
def profiler():
    return OnnxRuntimeProfiler(make_target())


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


def test_latencies_of_several_models_in_turns(profiler, relu_proto):
    models = [make_model(relu_proto((1, size)), name=str(size)) for size in (4, 8)]
    found = profiler.latency(models, seconds=0.02)
    one, other = (len(np.unique(samples.chunk)) for samples in found)
    assert one == other >= MIN_ROUNDS
    assert all(samples.latency_ms > 0 for samples in found)
    assert profiler.latency([], seconds=0.02) == []


class TestWhenToStop:
    def test_enough_quiet_rounds(self, profiler):
        assert not profiler._is_enough([1.0] * (N_ROUNDS - 1), 0.1, 1.0)
        assert profiler._is_enough([1.0] * N_ROUNDS, 0.1, 1.0)

    def test_the_time_is_over_after_a_few_quiet_rounds(self, profiler):
        assert profiler._is_enough([1.0] * MIN_ROUNDS, 1.01, 1.0)
        assert not profiler._is_enough([1.0] * (MIN_ROUNDS - 1), 1.01, 1.0)

    def test_slow_rounds_are_waited_out_but_not_for_ever(self, profiler):
        slow = [2.0] * 500
        assert not profiler._is_enough(slow, 1.01, 1.0)
        assert profiler._is_enough(slow, PATIENCE + 0.01, 1.0)


class TestKernelLatencies:
    """On events as ONNX Runtime writes them: starts and durations cut to whole microseconds."""

    @staticmethod
    def events(true_us, *, n_runs, step_us=1.3, slow_runs=(), factor=5.0):
        """`(durations, intervals)` of runs of the kernels `true_us`, one after the other."""
        rng = np.random.default_rng(0)
        now = 1000.0
        starts = []
        durations = {f"k{i}": [] for i in range(len(true_us))}
        for run in range(n_runs):
            now += rng.uniform(20, 40)
            for i, us in enumerate(true_us):
                us = us * (factor if run in slow_runs else 1.0)
                starts.append(int(now))
                durations[f"k{i}"].append(int(us))
                now += us + step_us
        intervals = {name: [] for name in durations}
        for i in range(len(starts) - 1):
            intervals[f"k{i % len(true_us)}"].append(starts[i + 1] - starts[i])
        return durations, intervals

    def test_microseconds_that_were_cut_off_are_recovered(self):
        true_us = np.array([2.9, 5.0, 10.5, 2.1, 30.9, 4.0])
        durations, intervals = self.events(true_us, n_runs=3000)
        assert set(durations["k0"]) == {2}  # however often it is run
        found_us = 1e3 * np.array([ms for ms, _ in _kernel_latencies(durations, intervals, None)])
        # One offset, the step between nodes, is common to all but the last; differences are exact.
        offset = (found_us - true_us)[:-1]
        assert np.ptp(offset) < 0.15
        assert abs(offset.mean()) < 1
        assert found_us[-1] == 4.0

    def test_runs_in_which_the_machine_was_slow_are_dropped(self):
        true_us = np.array([20.0, 40.0, 60.0])
        slow = set(range(0, 400, 2)) | {0, 1, 2}
        durations, intervals = self.events(true_us, n_runs=400, slow_runs=slow)
        latencies = _kernel_latencies(durations, intervals, None)
        assert [ms for ms, _ in latencies] == pytest.approx(true_us / 1e3, rel=0.05)
        assert {n for _, n in latencies} == {400 - len(slow)}

    def test_runs_beside_a_slow_reference_are_dropped_even_if_they_look_fast(self):
        # The steady half takes twice the time of the other; the reference is believed.
        durations, intervals = self.events(
            [20.0, 40.0], n_runs=N_WARMUP + 200, slow_runs=range(N_WARMUP + 100, 999), factor=2
        )
        is_steady = np.arange(200) >= 100
        latencies = _kernel_latencies(durations, intervals, is_steady)
        assert [ms for ms, _ in latencies] == pytest.approx([0.04, 0.08], rel=0.05)
        assert {n for _, n in latencies} == {100}

    def test_the_warm_up_is_left_out_and_no_steady_run_means_all_runs(self):
        durations, intervals = self.events([20.0, 40.0], n_runs=N_WARMUP + 50)
        latencies = _kernel_latencies(durations, intervals, np.zeros(50, dtype=bool))
        assert {n for _, n in latencies} == {50}

    def test_single_disturbed_kernels_do_not_count(self):
        durations, intervals = self.events([20.0, 40.0, 10.0], n_runs=200)
        for run in range(0, 200, 20):
            durations["k1"][run] += 2
            intervals["k1"][run] += 2
        latencies = _kernel_latencies(durations, intervals, None)
        assert latencies[1][0] == pytest.approx(0.04, rel=0.02)

    def test_one_run_one_kernel_and_none(self):
        assert _kernel_latencies({"a": [7]}, {"a": []}, None) == [(0.007, 1)]
        assert _kernel_latencies({"a": [7], "b": [9]}, {"a": [8], "b": []}, None) == [
            (0.007, 1),
            (0.009, 1),
        ]
        assert _kernel_latencies({}, {}, None) == []

    def test_no_kernel_takes_no_time(self):
        latencies = _kernel_latencies(*self.events([0.1, 50.0, 0.2], n_runs=100), None)
        assert min(ms for ms, _ in latencies) == MIN_KERNEL_US / 1e3
