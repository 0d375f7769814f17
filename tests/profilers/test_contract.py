"""What every profiler must do.

A new runtime joins with its name in `profilers.targets.RUNTIMES` and one line in `PROFILERS` below;
nothing else in here may know which runtime it tests.
"""

import numpy as np
import pytest
from onnx import TensorProto, helper

from profilers.errors import ModelError
from profilers.measurement import NetworkMeasurement
from profilers.onnx_models import make_model
from profilers.onnx_runtime import OnnxRuntimeProfiler
from profilers.reference import conv_stack
from profilers.targets import RUNTIMES, make_target

PROFILERS = {"onnxruntime-cpu": OnnxRuntimeProfiler}


@pytest.fixture(params=PROFILERS)
def profiler(request):
    return PROFILERS[request.param](make_target(request.param))


@pytest.fixture
def model():
    proto = conv_stack(np.random.default_rng(0), 1, n_layers=4, channels=8, size=8)
    return make_model(proto, name="stack")


@pytest.fixture
def bad_model(make_proto):
    """Valid ONNX, but of an operator that no runtime has."""
    proto = make_proto(
        [helper.make_node("NoSuchOperator", ["x"], ["y"])],
        {"x": (TensorProto.FLOAT, (1, 4))},
        {"y": (TensorProto.FLOAT, (1, 4))},
    )
    return make_model(proto, name="bad")


def test_every_runtime_takes_part():
    assert set(PROFILERS) == set(RUNTIMES)


def test_kernels_read_what_the_input_or_an_earlier_kernel_wrote(profiler, model):
    weights = {tensor.name for tensor in model.proto.graph.initializer}
    written = {spec.name for spec in model.inputs}
    nodes = profiler.kernels(model)
    for node in nodes:
        # A runtime may repack weights under names of its own; something must come from before.
        assert written.intersection(node.reads) - weights
        written.update(node.writes)
    assert {output.name for output in model.proto.graph.output} <= written
    assert len({node.name for node in nodes}) == len(nodes)


def test_kernels_have_static_shapes_and_batch(profiler, model):
    nodes = profiler.kernels(model)
    assert nodes[0].kernel.inputs[0].shape == (1, 3, 8, 8)
    assert nodes[-1].kernel.outputs[0].shape == (1, 10)
    for node in nodes:
        for tensor in (*node.kernel.inputs, *node.kernel.outputs):
            assert all(isinstance(size, int) and size >= 0 for size in tensor.shape)


def test_the_same_model_gives_the_same_kernels(profiler, model):
    # Names that the runtime makes up need not be the same ones.
    first, second = profiler.kernels(model), profiler.kernels(model)
    assert [node.kernel for node in first] == [node.kernel for node in second]


def test_a_measurement_is_complete(profiler, model):
    measurement = profiler.profile(model, seconds=0.1, tags={"family": "toy"})
    assert isinstance(measurement, NetworkMeasurement)
    assert (measurement.name, measurement.digest) == ("stack", model.digest)
    assert measurement.target == profiler.target
    assert measurement.tags == {"family": "toy"}
    assert measurement.latency_ms > 0
    assert measurement.kernel_sum_ms > 0
    assert measurement.peak_memory_bytes is None or measurement.peak_memory_bytes > 0
    assert all(kernel.latency_ms > 0 and kernel.n_samples > 0 for kernel in measurement.kernels)
    assert len(np.unique(measurement.samples.chunk)) > 1  # spread over the time, not in one go


def test_a_measurement_has_the_same_kernels_in_the_same_order(profiler, model):
    measured = profiler.profile(model, seconds=0.05, tags={}).kernels
    nodes = profiler.kernels(model)
    assert [m.kernel for m in measured] == [n.kernel for n in nodes]


def test_a_model_that_cannot_run_is_one_clear_error(profiler, bad_model):
    for refused in (
        lambda: profiler.kernels(bad_model),
        lambda: profiler.profile(bad_model, seconds=0.1, tags={}),
    ):
        with pytest.raises(ModelError, match="bad") as caught:
            refused()
        assert "\n" not in str(caught.value)
