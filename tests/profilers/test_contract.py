"""What every runtime must do, on every target that this machine has.

`ToyRuntime` below passes as well: it is all that a newcomer has to write. With a line in
`profilers/runtimes/catalog.py` a runtime takes part; nothing else in here knows which it tests.
"""

import time

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from profilers.devices import this_device
from profilers.errors import ModelError, TargetError
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelNode, NetworkMeasurement
from profilers.onnx_models import make_model
from profilers.profiler import Profiler
from profilers.reference import conv_stack
from profilers.runtimes import catalog
from profilers.runtimes.base import KernelTrace
from profilers.runtimes.catalog import RuntimeSpec
from profilers.targets import available_precisions, available_targets, make_target

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


class ToyRuntime:
    """Computes node by node with the reference implementation that comes with ONNX."""

    def __init__(self, target):
        self.target = target

    def session(self, model, feed):
        return ToySession(model, feed)

    def profiled_session(self, model, feed):
        return ToySession(model, feed)

    def outputs(self, model, feeds):
        names = [output.name for output in model.proto.graph.output]
        return [tuple(ToySession(model, feed).tensors[name] for name in names) for feed in feeds]


class ToySession:
    """Loads and runs once in the making: what fails fails there, as `ModelError`."""

    def __init__(self, model, feed):
        graph = model.proto.graph
        weights = {w.name: onnx.numpy_helper.to_array(w) for w in graph.initializer}
        self.tensors = weights | dict(feed)
        self._duration_us = []
        try:
            self._nodes = [(n, ReferenceEvaluator(n, opsets={"": 17})) for n in graph.node]
            self.run()
        except (NotImplementedError, ValueError) as error:
            raise ModelError(f"the toy cannot run {model.name}: {error}") from None

    def run(self):
        times_us = []
        for node, evaluator in self._nodes:
            start = time.perf_counter()
            outputs = evaluator.run(None, {name: self.tensors[name] for name in node.input})
            times_us.append((time.perf_counter() - start) * 1e6)
            self.tensors |= dict(zip(node.output, outputs, strict=True))
        self._duration_us.append(times_us)

    def trace(self):
        def tensors(names):
            return tuple(Tensor("float", self.tensors[name].shape) for name in names)

        nodes = [
            KernelNode(
                node.name,
                Kernel(node.op_type, (), tensors(node.input), tensors(node.output)),
                tuple(node.input),
                tuple(node.output),
            )
            for node, _ in self._nodes
        ]
        return KernelTrace(tuple(nodes), np.array(self._duration_us))

    def close(self):
        self.tensors = {}


# Compilers take seconds a model.
def marked(name):
    return pytest.param(name, marks=pytest.mark.slow) if "-compile" in name else name


HERE = available_targets()
TARGETS = ["toy", *map(marked, HERE)]
CASES = ["toy/fp32", *(marked(f"{t}/{p}") for t in HERE for p in available_precisions(t))]


@pytest.fixture(autouse=True)
def _toy_in_the_catalog(monkeypatch):
    # The version is that of an installed package.
    monkeypatch.setitem(catalog.RUNTIMES, "toy", RuntimeSpec("nowhere:Toy", ("numpy",)))


def make_profiler(name, **options):
    runtime, _, precision = name.partition("/")
    target = make_target(runtime, precision=precision or "fp32", **options)
    return Profiler(target, runtime=ToyRuntime(target) if runtime == "toy" else None)


@pytest.fixture(params=CASES, scope="module")
def case(request):
    return request.param


@pytest.fixture
def profiler(case):
    return make_profiler(case)


@pytest.fixture(scope="module")
def model():
    return make_stack(1)


def make_stack(batch):
    """Convolutions, pooling and a classifier."""
    proto = conv_stack(np.random.default_rng(0), batch, n_layers=4, channels=8, size=8)
    return make_model(proto, name="stack")


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


@pytest.mark.parametrize("batch", [1, 2])
def test_kernels_have_the_static_shapes_of_the_batch(profiler, batch):
    nodes = profiler.kernels(make_stack(batch))
    assert nodes[0].kernel.inputs[0].shape == (batch, 3, 8, 8)
    assert nodes[-1].kernel.outputs[0].shape == (batch, 10)
    for node in nodes:
        for tensor in (*node.kernel.inputs, *node.kernel.outputs):
            assert all(isinstance(size, int) and size >= 0 for size in tensor.shape)


def test_kernels_can_be_stored_and_read_again(profiler, model):
    for node in profiler.kernels(model):
        assert Kernel.from_key(node.kernel.key) == node.kernel


def test_a_measurement_is_complete_and_of_the_kernels_that_are_listed(profiler, model):
    measurement = profiler.profile(model, seconds=0.05, tags={"family": "toy"})
    assert isinstance(measurement, NetworkMeasurement)
    assert (measurement.name, measurement.digest) == ("stack", model.digest)
    assert measurement.target == profiler.target
    assert measurement.tags == {"family": "toy"}
    assert measurement.latency_ms > 0
    assert measurement.kernel_sum_ms > 0
    assert measurement.peak_memory_bytes is None or measurement.peak_memory_bytes > 0
    assert all(kernel.latency_ms > 0 and kernel.n_samples > 0 for kernel in measurement.kernels)
    assert len(np.unique(measurement.samples.chunk)) > 1  # spread over the time, not in one go
    # Listed twice, since the same model has the same kernels; made-up names may be others.
    for nodes in (profiler.kernels(model), profiler.kernels(model)):
        assert [m.kernel for m in measurement.kernels] == [n.kernel for n in nodes]


def test_what_it_computes_is_what_the_model_says(case, profiler):
    model, rng = make_stack(2), np.random.default_rng(1)
    inputs = rng.standard_normal((5, 3, 8, 8), dtype=np.float32)  # the last batch is filled up
    found = profiler.outputs(model, inputs)
    session = onnxruntime.InferenceSession(
        model.proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    name = model.inputs[0].name
    parts = (inputs[:2], inputs[2:4], inputs[[4, 4]])
    expected = np.concatenate([session.run(None, {name: part})[0] for part in parts])[:5]
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert found.shape == (5, 10)
    assert (
        error < {"fp32": 1e-4, "bf16": 0.05, "fp16": 0.01, "int8": 0.3}[profiler.target.precision]
    )
    assert profiler.target.precision == "fp32" or error > 1e-5


@pytest.mark.parametrize("name", TARGETS)
def test_every_run_is_in_the_trace(name, model):
    profiler = make_profiler(name)
    feed = model.random_inputs(np.random.default_rng(0))
    session = profiler._runtime.profiled_session(model, feed)
    for _ in range(30):
        session.run()
    trace = session.trace()
    session.close()
    assert trace.duration_us.shape == (31, len(trace.nodes))  # making it is a run
    assert (trace.duration_us >= 0).all()
    assert trace.start_us is None or trace.start_us.shape == trace.duration_us.shape


@pytest.mark.skipif(this_device().cores < 2, reason="one core has no second thread to measure")
@pytest.mark.parametrize("name", TARGETS)
def test_two_threads_run_the_model(name, model):
    profiler = make_profiler(name, threads=2)
    assert profiler.target.threads == 2
    assert profiler.kernels(model)


@pytest.mark.parametrize("name", TARGETS)
def test_a_model_that_cannot_be_loaded_is_one_clear_error(name, make_proto):
    """Valid ONNX, but of an operator that no runtime has."""
    proto = make_proto(
        [helper.make_node("NoSuchOperator", ["x"], ["y"])],
        {"x": (FLOAT, (1, 4))},
        {"y": (FLOAT, (1, 4))},
    )
    assert_refused(make_profiler(name), make_model(proto, name="bad"))


@pytest.mark.parametrize("name", TARGETS)
def test_a_model_whose_run_fails_is_one_clear_error(name, make_proto):
    """Shapes fit as far as they are known; the values of the second input do not."""
    proto = make_proto(
        [
            helper.make_node("Add", ["s", "s"], ["t"]),  # no random value is as large
            helper.make_node("Add", ["t", "seven"], ["shape"]),
            helper.make_node("Reshape", ["x", "shape"], ["y"]),
        ],
        {"x": (FLOAT, (4,)), "s": (INT64, (2,))},
        {"y": (FLOAT, ("a", "b"))},
        {"seven": np.array([7, 7])},
    )
    assert_refused(make_profiler(name), make_model(proto, name="bad"))


def assert_refused(profiler, model):
    for refused in (profiler.kernels, lambda m: profiler.profile(m, seconds=0.1)):
        with pytest.raises(ModelError, match="bad") as caught:
            refused(model)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(catalog.RUNTIMES) - set(HERE)))
def test_a_runtime_that_is_not_here_says_what_it_needs(name):
    with pytest.raises(TargetError, match=rf"^target '{name}' needs ") as caught:
        make_target(name)
    assert "\n" not in str(caught.value)


def test_a_runtime_of_the_catalog_has_fp32_first_and_a_package():
    for name, spec in catalog.RUNTIMES.items():
        assert spec.precisions[0] == "fp32", name
        assert spec.distributions, name
