"""OpenVINO on the CPU: kernels from its runtime graph, times from its own per-layer counters."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from profilers.errors import ModelError
from profilers.onnx_models import OnnxModel
from profilers.precision import Converter
from profilers.runtimes.base import Feed, FloatArray, KernelTrace, Outputs, ShownGraph
from profilers.runtimes.openvino_graph import computed_tensors, fused_operators, read_nodes
from profilers.targets import Target

BoolArray = NDArray[np.bool_]

# int8 is in the model itself; what stays in floating point there is not to become bf16.
_PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
# The counters are sums since the model was loaded, told as an average in whole microseconds: what a
# run adds is known to as many microseconds as there were runs. So counters are read after several
# runs of a short model, and any model is loaded anew after a few; its first runs are slow.
_LEAD_IN_RUNS = 3
_READ_MS = 2.0  # of runs between two readings, for each disturbance to spoil little
_MAX_RUNS_PER_READING = 24
_MIN_RUNS_PER_LOADING = 5


class Compiled(NamedTuple):
    """A model at its three stages.

    Attributes:
        proto: In the target's precision.
        source: As OpenVINO read it (`openvino.Model`).
        compiled: `openvino.CompiledModel`.
    """

    proto: onnx.ModelProto
    source: Any
    compiled: Any


class OpenVino:
    """Runs ONNX models with OpenVINO's CPU plugin: one stream, so one inference at a time."""

    def __init__(self, target: Target) -> None:
        import openvino  # an extra: this module can be imported without it

        self.target = target
        self._core = openvino.Core()
        # bf16 is a hint to OpenVINO, not another model.
        self._convert = Converter("int8" if target.precision == "int8" else "fp32")

    def session(self, model: OnnxModel, feed: Feed) -> OpenVinoSession:
        """Compile `model` for latency."""
        return OpenVinoSession(self._compile(model).compiled, self._running(model), feed)

    def profiled_session(self, model: OnnxModel, feed: Feed) -> ProfiledOpenVinoSession:
        """Compile `model` with per-layer counters."""
        compiled = self._compile(model, PERF_COUNT=True)
        return ProfiledOpenVinoSession(
            self._core, self._config(PERF_COUNT=True), compiled, self._running(model), feed
        )

    def outputs(self, model: OnnxModel, feeds: Iterable[Feed]) -> list[Outputs]:
        """What `model` computes of each of the inputs."""
        compiled = self._compile(model).compiled
        found = []
        for feed in feeds:
            session = OpenVinoSession(compiled, self._running(model), feed)
            found.append(session.outputs(len(compiled.outputs)))
        return found

    def _config(self, **options: Any) -> dict[str, Any]:
        return {
            "INFERENCE_NUM_THREADS": self.target.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _PRECISION_HINTS[self.target.precision],
            **options,
        }

    def _compile(self, model: OnnxModel, **options: Any) -> Compiled:
        converted = self._convert(model)
        try:
            source = self._core.read_model(converted.proto.SerializeToString())
            source.reshape({spec.name: list(spec.shape) for spec in converted.inputs})
            compiled = self._core.compile_model(source, "CPU", self._config(**options))
        except Exception as error:  # the runtime's exceptions share no other base
            raise ModelError(
                f"OpenVINO {self.target.version} cannot load {model.name}: {_reason(error)}"
            ) from None
        # With one thread OpenVINO hides that such a node has failed, and goes on with no data.
        for op in compiled.get_runtime_model().get_ops():
            if any(output.get_partial_shape().is_dynamic for output in op.outputs()):
                raise ModelError(
                    f"{self._running(model)}: the shape of {op.get_friendly_name()!r} depends on "
                    f"the values of the inputs, and a latency needs static shapes"
                )
        return Compiled(converted.proto, source, compiled)

    def _running(self, model: OnnxModel) -> str:
        return f"OpenVINO {self.target.version} cannot run {model.name}"


class OpenVinoSession:
    """A request of a compiled model, its inputs set."""

    def __init__(self, compiled: Any, failure: str, feed: Feed) -> None:
        self._failure = failure
        self._feed = feed
        self._request = self._prepare(compiled)
        self._guarded_run()

    def run(self) -> None:
        """One inference, in the calling thread if there is only one."""
        self._request.infer()

    def outputs(self, n: int) -> Outputs:
        """The `n` outputs of the last inference."""
        return tuple(np.array(self._request.get_output_tensor(i).data) for i in range(n))

    def close(self) -> None:
        """Let the compiled model go."""
        self._request = None

    def _prepare(self, compiled: Any) -> Any:
        import openvino

        request = compiled.create_infer_request()
        for name, array in self._feed.items():
            request.set_tensor(name, openvino.Tensor(np.ascontiguousarray(array)))
        return request

    def _guarded_run(self) -> None:
        try:
            self.run()
        except Exception as error:  # the runtime's exceptions share no other base
            raise ModelError(f"{self._failure}: {_reason(error)}") from None


class ProfiledOpenVinoSession(OpenVinoSession):
    """A session that loads its model anew every few runs, and reads the counters of each block."""

    def __init__(
        self,
        core: Any,
        config: Mapping[str, Any],
        compiled: Compiled,
        failure: str,
        feed: Feed,
    ) -> None:
        self._core = core
        self._config = config
        self._proto, self._source = compiled.proto, compiled.source
        # A model that is loaded from the blob has lost the names of what was fused.
        self._fused = fused_operators(compiled.compiled)
        self._blob: io.BytesIO = compiled.compiled.export_model()
        self._readings: list[tuple[int, FloatArray]] = []  # runs, mean time of every layer
        self._sums_before_us: FloatArray = np.zeros(0)
        self._is_free: BoolArray | None = None
        self._n_loaded = self._n_read = 0  # runs since the model was loaded, and until read last
        self._runs_per_reading = self._runs_per_loading = 0
        super().__init__(compiled.compiled, failure, feed)

    def run(self) -> None:
        """One inference; every few runs the model is loaded anew before it."""
        if self._n_loaded >= self._runs_per_loading:
            self._load()
        self._request.infer()
        self._n_loaded += 1
        if self._n_loaded - self._n_read >= self._runs_per_reading:
            self._read()

    def trace(self) -> KernelTrace:
        """The nodes that were executed; a run has the mean times of those it was read with."""
        if self._n_loaded > self._n_read:
            self._read()
        assert self._is_free is not None  # there was a run
        # Names that OpenVINO makes up change with every loading; the order stays.
        layer_of = {info.node_name: i for i, info in enumerate(self._request.profiling_info)}
        free = {name for name, i in layer_of.items() if self._is_free[i]}
        graph = self._request.get_compiled_model().get_runtime_model()
        nodes = read_nodes(graph, self._source, free, self._fused)
        columns = [layer_of.get(node.name) for node in nodes]
        rows = [
            [0.0 if i is None else mean_us[i] for i in columns]
            for n_runs, mean_us in self._readings
            for _ in range(n_runs)
        ]
        return KernelTrace(
            nodes,
            np.array(rows, dtype=np.float64).reshape(len(rows), len(nodes)),
            graph=lambda: ShownGraph(
                self._proto, computed_tensors(nodes, self._proto, self._source, self._fused)
            ),
        )

    def _load(self) -> None:
        if self._n_loaded > self._n_read:
            self._read()
        blob = io.BytesIO(self._blob.getvalue())
        self._request = self._prepare(self._core.import_model(blob, "CPU", self._config))
        for _ in range(_LEAD_IN_RUNS):
            start = time.perf_counter()
            self._request.infer()
            once_ms = (time.perf_counter() - start) * 1e3
        self._sums_before_us = self._sums_us(_LEAD_IN_RUNS)
        if self._is_free is None:
            self._is_free = self._sums_before_us == 0
        wanted = round(_READ_MS / once_ms)
        self._runs_per_reading = min(max(wanted, 1), _MAX_RUNS_PER_READING)
        n_readings = -(-_MIN_RUNS_PER_LOADING // self._runs_per_reading)
        self._runs_per_loading = n_readings * self._runs_per_reading
        self._n_loaded = self._n_read = 0

    def _read(self) -> None:
        n_runs = self._n_loaded - self._n_read
        sums_us = self._sums_us(_LEAD_IN_RUNS + self._n_loaded)
        mean_us = np.maximum(sums_us - self._sums_before_us, 0.0) / n_runs
        self._readings.append((n_runs, mean_us))
        self._sums_before_us = sums_us
        self._n_read = self._n_loaded

    def _sums_us(self, n_runs: int) -> FloatArray:
        """Time of every layer over all runs since the model was loaded.

        Every time is rounded down to whole microseconds, and so is their average: half a
        microsecond is lost in each on average.
        """
        mean_us = np.array(
            [info.real_time.total_seconds() for info in self._request.profiling_info]
        )
        mean_us = np.rint(mean_us * 1e6)
        return np.where(mean_us > 0, n_runs * (mean_us + 1) - 0.5, 0.0)


def _reason(error: Exception) -> str:
    """What OpenVINO's message says about the model, without the places in its own code."""
    lines = [line.strip() for line in str(error).splitlines()]
    noise = (
        "Exception from",
        "Check '",
        "FrontEnd API",
        "Model wasn't",
        "Summary",
        "To facilitate",
    )
    said = [line for line in lines if line and not line.startswith(noise)]
    return " ".join(said or [line for line in lines if line] or [type(error).__name__])[:300]
