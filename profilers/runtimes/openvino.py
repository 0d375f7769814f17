"""OpenVINO on the CPU: kernels from its runtime graph, times from its own per-layer counters."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profilers.errors import ModelError
from profilers.kernels import AttributeValue, Kernel, Tensor
from profilers.measurement import KernelNode
from profilers.onnx_models import OnnxModel
from profilers.precision import Converter
from profilers.runtimes.base import Feed, FloatArray, KernelTrace, Outputs
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
# Nodes without code, or with a copy that is left out where input and output can share memory.
_MAYBE_FREE = ("unknown", "reorder")
_TYPES = {"f32": "float", "f16": "float16", "bf16": "bfloat16", "f64": "double", "i8": "int8",
          "u8": "uint8", "i16": "int16", "u16": "uint16", "i32": "int32", "u32": "uint32",
          "i64": "int64", "u64": "uint64", "boolean": "bool"}  # fmt: skip
# Attributes of operators by the names that they have in ONNX.
_ATTRIBUTES = {"strides": "strides", "dilations": "dilations", "kernel": "kernel_shape",
               "transpose_a": "transA", "transpose_b": "transB", "axis": "axis"}  # fmt: skip
_ACTIVATIONS = {"Relu": "Relu", "Clamp": "Clip", "Sigmoid": "Sigmoid", "Tanh": "Tanh",
                "HSwish": "HardSwish", "HSigmoid": "HardSigmoid", "Swish": "Swish", "Gelu": "Gelu",
                "PRelu": "LeakyRelu", "Elu": "Elu"}  # fmt: skip


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
        return OpenVinoSession(self._compile(model)[1], self._running(model), feed)

    def profiled_session(self, model: OnnxModel, feed: Feed) -> ProfiledOpenVinoSession:
        """Compile `model` with per-layer counters."""
        source, compiled = self._compile(model, PERF_COUNT=True)
        return ProfiledOpenVinoSession(
            self._core, self._config(PERF_COUNT=True), source, compiled, self._running(model), feed
        )

    def outputs(self, model: OnnxModel, feeds: Iterable[Feed]) -> list[Outputs]:
        """What `model` computes of each of the inputs."""
        compiled = self._compile(model)[1]
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

    def _compile(self, model: OnnxModel, **options: Any) -> tuple[Any, Any]:
        """The model as OpenVINO read it, and compiled."""
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
        return source, compiled

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
        source: Any,
        compiled: Any,
        failure: str,
        feed: Feed,
    ) -> None:
        self._core = core
        self._config = config
        self._source = source
        # A model that is loaded from the blob has lost the names of what was fused.
        self._fused = {
            op.get_friendly_name(): _info(op, "originalLayersNames")
            for op in compiled.get_runtime_model().get_ops()
        }
        self._blob: io.BytesIO = compiled.export_model()
        self._readings: list[tuple[int, FloatArray]] = []  # runs, mean time of every layer
        self._sums_before_us: FloatArray = np.zeros(0)
        self._is_free: BoolArray | None = None
        self._n_loaded = self._n_read = 0  # runs since the model was loaded, and until read last
        self._runs_per_reading = self._runs_per_loading = 0
        super().__init__(compiled, failure, feed)

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
        return KernelTrace(nodes, np.array(rows, dtype=np.float64).reshape(len(rows), len(nodes)))

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


def read_nodes(
    graph: Any, source: Any, free: Iterable[str], fused: Mapping[str, str]
) -> tuple[KernelNode, ...]:
    """The kernels of OpenVINO's runtime graph, in running order.

    What is done once, when the model is loaded (on constants only), and what only looks at memory
    in another way is no kernel: who reads it reads what it is made from.

    Args:
        graph: The runtime graph.
        source: The model that was compiled: it knows the attributes of the operators.
        free: Nodes that took no time at all.
        fused: By node, the names of the operators that were fused into it, with commas between.
    """
    free = set(free)
    operators = {op.get_friendly_name(): op for op in source.get_ops()}
    outputs = {
        output.get_node().get_friendly_name(): output.get_any_name() for output in source.outputs
    }
    ops = sorted(graph.get_ops(), key=lambda op: int(_info(op, "execOrder")))
    written_as: dict[str, str] = {}  # node of which a model's output comes, to the output's name
    for op in ops:
        name = outputs.get(op.get_friendly_name())  # None: the stub of an output that is not used
        if _info(op, "layerType") == "Output" and name is not None:
            written_as[_name(op.input(0).get_source_output())] = name
    constants: set[str] = set()
    origins: dict[str, tuple[str, ...]] = {}  # tensor to the tensors of kernels it is made from
    nodes = []
    for op in ops:
        layer, name = _info(op, "layerType"), op.get_friendly_name()
        sources = [port.get_source_output() for port in op.inputs()]
        reads = tuple(n for s in sources for n in origins.get(_name(s), (_name(s),)))
        writes = [_name(output) for output in op.outputs()]
        if layer == "Output":
            continue
        if layer == "Input":
            origins |= dict.fromkeys(writes, (name,))
            continue
        if layer == "Const" or (sources and constants.issuperset(map(_name, sources))):
            constants.update(writes)
            continue
        is_view = name in free and _info(op, "primitiveType").startswith(_MAYBE_FREE)
        is_output = any(tensor in written_as for tensor in writes)
        if is_view and not is_output:
            of = tuple(n for s in sources if _name(s) not in constants
                       for n in origins.get(_name(s), (_name(s),)))  # fmt: skip
            origins |= dict.fromkeys(writes, of)
            continue
        names = tuple(written_as.get(tensor, tensor) for tensor in writes)
        origins |= {tensor: (name,) for tensor, name in zip(writes, names, strict=True)}
        kernel = Kernel(
            layer,
            _attributes(
                op, [operators[n] for n in fused.get(name, "").split(",") if n in operators]
            ),
            tuple(_tensor(s) for s in sources),
            tuple(_tensor(output) for output in op.outputs()),
        )
        nodes.append(KernelNode(name, kernel, reads, names))
    return tuple(nodes)


def _attributes(op: Any, fused: Sequence[Any]) -> tuple[tuple[str, AttributeValue], ...]:
    """How it is computed, in which layouts, and what the operators fused into it say."""
    layouts = [
        _info(port.get_source_output().get_node(), "outputLayouts") for port in op.inputs()[:1]
    ]
    found: dict[str, AttributeValue] = {
        "implementation": _info(op, "primitiveType"),
        "layouts": (*layouts, _info(op, "outputLayouts")),
        "operators": tuple(operator.get_type_name() for operator in fused),
    }
    for operator in fused:
        known = operator.get_attributes()
        values = {onnx: known[name] for name, onnx in _ATTRIBUTES.items() if name in known}
        if "pads_begin" in known:
            values["pads"] = (*known["pads_begin"], *known["pads_end"])
        for name, value in values.items():
            found.setdefault(name, tuple(value) if isinstance(value, list) else value)
        activation = _ACTIVATIONS.get(operator.get_type_name())
        if activation is not None and operator is not fused[0]:
            found.setdefault("activation", activation)
        if operator.get_type_name() == "MatMul":
            shape = operator.input(0).get_partial_shape()
            inner = shape[-2] if known["transpose_a"] else shape[-1]
            if inner.is_static:
                found.setdefault("inner", inner.get_length())
    weight = op.inputs()[1:2]
    if _info(op, "layerType") == "Convolution" and weight:
        shape = _tensor(weight[0].get_source_output()).shape
        n_spatial = len(_tensor(op.output(0)).shape) - 2
        found["kernel_shape"] = shape[-n_spatial:]
        # Weights of a grouped convolution have one more dimension, in front.
        found["group"] = shape[0] if len(shape) > n_spatial + 2 else 1
    return tuple(sorted(found.items()))


def _info(op: Any, name: str) -> str:
    return str(op.get_rt_info()[name].astype(str))


def _name(output: Any) -> str:
    """Of a tensor: its node's name, with a number where the node has several outputs."""
    node = output.get_node()
    name = str(node.get_friendly_name())
    return name if node.get_output_size() == 1 else f"{name}:{output.get_index()}"


def _tensor(output: Any) -> Tensor:
    kind = output.get_element_type().get_type_name()
    return Tensor(_TYPES.get(kind, kind), tuple(output.get_shape()))


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
