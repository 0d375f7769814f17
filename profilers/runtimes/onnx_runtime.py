"""ONNX Runtime, any of its execution providers: kernels in situ from its profile and its graph.

The profile gives every kernel's time and tensor shapes, the saved optimized graph its attributes,
its fused activation and what it is connected to; both know a node by its name.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from profilers.errors import ModelError
from profilers.kernels import AttributeValue, Kernel, Tensor
from profilers.measurement import KernelNode
from profilers.onnx_models import OnnxModel
from profilers.runtimes.base import Feed, FloatArray, KernelTrace
from profilers.runtimes.catalog import RUNTIMES
from profilers.targets import Target

_SUFFIX = "_kernel_time"
_CONTROL_FLOW = ("If", "Loop", "Scan")


class OnnxRuntime:
    """Runs ONNX models with the execution provider that the target names.

    Nodes that the provider does not take run on the CPU, as they would for a user; their names in
    the profile say so.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._provider = RUNTIMES[target.runtime].provider or "CPUExecutionProvider"

    def session(self, model: OnnxModel, feed: Feed) -> OnnxSession:
        """Load `model` with the runtime's defaults."""
        return OnnxSession(self._load(model, ort.SessionOptions()), self._running(model), feed)

    def profiled_session(self, model: OnnxModel, feed: Feed) -> ProfiledOnnxSession:
        """Load `model` with profiling on and memory patterns off.

        A memory pattern is one block for all tensors, planned after the first run; without it the
        arena is asked for every tensor, and its peak is that of the tensors in use.
        """
        folder = tempfile.TemporaryDirectory(prefix="hwnas-")
        try:
            path = Path(folder.name)
            options = ort.SessionOptions()
            options.enable_profiling = True
            options.profile_file_prefix = str(path / "profile")
            options.enable_mem_pattern = False
            options.optimized_model_filepath = str(path / "optimized.onnx")
            # Only the graph is read: keep the weights, often hundreds of megabytes, out of it.
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", "weights.bin"
            )
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_min_size_in_bytes", "1024"
            )
            session = self._load(model, options)
            return ProfiledOnnxSession(session, self._running(model), feed, folder)
        except BaseException:
            folder.cleanup()
            raise

    def _load(self, model: OnnxModel, options: ort.SessionOptions) -> ort.InferenceSession:
        options.intra_op_num_threads = self.target.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what matters is raised
        for name, size in model.dimensions.items():
            options.add_free_dimension_override_by_name(name, size)
        providers = list(dict.fromkeys([self._provider, "CPUExecutionProvider"]))
        try:
            return ort.InferenceSession(
                model.proto.SerializeToString(), options, providers=providers
            )
        except Exception as error:  # the runtime's exceptions share no other base
            raise ModelError(
                f"ONNX Runtime {self.target.version} cannot load {model.name}: {_first_line(error)}"
            ) from None

    def _running(self, model: OnnxModel) -> str:
        return f"ONNX Runtime {self.target.version} cannot run {model.name}"


class OnnxSession:
    """A session of ONNX Runtime and its inputs, which stay on the CPU."""

    def __init__(self, session: ort.InferenceSession, failure: str, feed: Feed) -> None:
        self._session = session
        self._names = [output.name for output in session.get_outputs()]
        self._feed = dict(feed)
        try:
            self.run()
        except Exception as error:  # the runtime's exceptions share no other base
            raise ModelError(f"{failure}: {_first_line(error)}") from None

    def run(self) -> None:
        """One inference."""
        self._session.run(self._names, self._feed)

    def close(self) -> None:
        """Nothing to free: the session goes with its last reference."""


class ProfiledOnnxSession(OnnxSession):
    """A session whose profile and optimized graph are written to a folder of its own."""

    def __init__(
        self,
        session: ort.InferenceSession,
        failure: str,
        feed: Feed,
        folder: tempfile.TemporaryDirectory[str],
    ) -> None:
        super().__init__(session, failure, feed)
        self._folder = folder

    def trace(self) -> KernelTrace:
        """Read the profile of all runs; there is none after it."""
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        path = str(Path(self._folder.name) / "optimized.onnx")
        return read_trace(events, onnx.load_model(path, load_external_data=False).graph)

    def close(self) -> None:
        """Remove the profile and the graph."""
        self._folder.cleanup()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def read_trace(events: Sequence[dict[str, Any]], graph: onnx.GraphProto) -> KernelTrace:
    """Join the events of a profile with the nodes of the optimized graph."""
    kernel_events = _top_level(
        [event for event in events if event.get("cat") == "Node" and _is_kernel(event)]
    )
    first: dict[str, dict[str, Any]] = {}
    for event in kernel_events:
        if event["name"] in first:
            break  # the second run begins
        first[event["name"]] = event["args"]
    by_name = {node.name: node for node in graph.node if node.name}
    unnamed: dict[str, list[onnx.NodeProto]] = defaultdict(list)  # by operator, in running order
    for node in graph.node:
        if not node.name:
            unnamed[node.op_type].append(node)
    nodes = []
    for event_name, args in first.items():
        name = event_name.removesuffix(_SUFFIX)
        node = by_name.get(name)
        if node is None and unnamed[args["op_name"]]:
            node = unnamed[args["op_name"]].pop(0)
        nodes.append(KernelNode(
            name,
            Kernel(
                kind=_kind(node) if node is not None else args["op_name"],
                attributes=_attributes(node) if node is not None else (),
                inputs=_tensors(args["input_type_shape"]),
                outputs=_tensors(args["output_type_shape"]),
            ),
            tuple(node.input) if node is not None else (),
            tuple(node.output) if node is not None else (),
        ))  # fmt: skip
    durations, starts = _by_run(kernel_events, list(first))
    peak = max((int(args.get("mem_in_use_peak", 0)) for args in first.values()), default=0)
    return KernelTrace(tuple(nodes), durations, starts, peak or None)


def _is_kernel(event: Mapping[str, Any]) -> bool:
    return str(event["name"]).endswith(_SUFFIX)


def _by_run(
    events: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> tuple[FloatArray, FloatArray]:
    """Durations and starts in µs, each `(runs, k)`; runs that were cut off are left out."""
    durations: dict[str, list[int]] = defaultdict(list)
    starts: dict[str, list[int]] = defaultdict(list)
    for event in events:
        durations[event["name"]].append(event["dur"])
        starts[event["name"]].append(event["ts"])
    n_runs = min((len(durations[name]) for name in names), default=0)

    def table(columns: Mapping[str, Sequence[int]]) -> FloatArray:
        rows = [columns[name][:n_runs] for name in names]
        return np.array(rows, dtype=np.float64).reshape(len(names), n_runs).T

    return table(durations), table(starts)


def _top_level(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what runs inside an If, Loop or Scan: its time is in that node's own event."""
    kept: list[dict[str, Any]] = []
    parent_start = float("inf")
    for event in reversed(events):  # an event is written at its end: the parent's comes last
        if event["ts"] >= parent_start:
            continue
        parent_start = event["ts"] if event["args"]["op_name"] in _CONTROL_FLOW else float("inf")
        kept.append(event)
    return kept[::-1]


def _kind(node: onnx.NodeProto) -> str:
    return f"{node.domain}:{node.op_type}" if node.domain else str(node.op_type)


def _attributes(node: onnx.NodeProto) -> tuple[tuple[str, AttributeValue], ...]:
    found: list[tuple[str, AttributeValue]] = []
    for attribute in sorted(node.attribute, key=lambda a: a.name):
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif isinstance(value, list | tuple):
            if not all(isinstance(item, int | float) for item in value):
                continue
            value = tuple(value)
        elif not isinstance(value, int | float):
            continue  # tensors and graphs: their size shows in the shapes
        found.append((str(attribute.name), value))
    return tuple(found)


def _tensors(typed_shapes: Sequence[Mapping[str, Sequence[int]]]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(dtype, tuple(shape)) for item in typed_shapes for dtype, shape in item.items()
    )
