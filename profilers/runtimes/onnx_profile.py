"""What ONNX Runtime's profile says: every kernel's time and tensors, joined with its graph.

The profile gives the times, the shapes of tensors and who ran it; the saved optimized graph gives
attributes, the fused activation and what a node is connected to. Both know a node by its name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from profilers.kernels import HIDES_WORK, AttributeValue, Kernel, Tensor
from profilers.measurement import KernelNode
from profilers.onnx_models import OnnxModel, node_attributes
from profilers.runtimes.base import FloatArray, KernelTrace

_SUFFIX = "_kernel_time"
_TYPES = {
    getattr(onnx.TensorProto, name.upper()): name
    for name in ("float", "float16", "bfloat16", "double", "int8", "uint8", "int16", "uint16",
                 "int32", "uint32", "int64", "uint64", "bool")
}  # fmt: skip


def read_trace(
    events: Sequence[dict[str, Any]],
    graph: onnx.GraphProto,
    *,
    provider: str = "CPUExecutionProvider",
    digest: str = "",
) -> KernelTrace:
    """Join the events of a profile with the nodes of the graph.

    Args:
        events: The profile.
        graph: The optimized graph; the model's own where the provider compiles parts of it: an
            event without a node stands for all nodes without an event that can run by then.
        provider: Execution provider that was asked for; kernels of others have an attribute.
        digest: Of the model, tells its compiled parts from those of other models.
    """
    kernel_events = _top_level(
        [event for event in events if event.get("cat") == "Node" and _is_kernel(event)]
    )
    first: dict[str, dict[str, Any]] = {}
    for event in kernel_events:
        if event["name"] in first:
            break  # the second run begins
        first[event["name"]] = event["args"]
    found = _nodes_of(first, graph)
    weights = {tensor.name: _weight(tensor) for tensor in graph.initializer}
    taken = {id(node) for node in found.values()}
    rest = [node for node in graph.node if id(node) not in taken]
    ready = {value.name for value in graph.input} | set(weights) | {""}
    nodes = []
    for event_name, args in first.items():
        node = found.get(event_name)
        inputs, outputs = (_tensors(args[f"{end}_type_shape"]) for end in ("input", "output"))
        attributes: tuple[tuple[str, AttributeValue], ...]
        if node is not None:
            kind, attributes = _kind(node), node_attributes(node)
            inputs = _with_packed_weights(inputs, node.input, weights)
            reads, writes = tuple(node.input), tuple(node.output)
        else:
            part, rest = _computable(rest, ready)
            kind = re.sub(r"[_\d]+$", "", args["op_name"])  # numbered, and not always the same
            attributes = (("model", digest[:12]), ("nodes", len(part)))
            reads, writes = _ends(part, graph, set(weights))
        if args.get("provider", provider) != provider:
            attributes = tuple(sorted((*attributes, ("provider", args["provider"]))))
        ready.update(writes)
        kernel = Kernel(kind, attributes, inputs, outputs)
        nodes.append(KernelNode(event_name.removesuffix(_SUFFIX), kernel, reads, writes))
    durations, starts = _by_run(kernel_events, list(first))
    return KernelTrace(tuple(nodes), durations, starts, _peak_bytes(list(first.values())))


def as_one_kernel(
    trace: KernelTrace, events: Sequence[Mapping[str, Any]], model: OnnxModel
) -> KernelTrace:
    """The trace of a device that runs behind the CPU: the whole model is its only kernel.

    An event of such a node ends when the node has been started, so its duration is none; a run ends
    when the device is done.
    """
    tensors: dict[str, Tensor] = {}
    for node in trace.nodes:
        # Inputs that are left out have a name, but no tensor.
        tensors |= zip((n for n in node.reads if n), node.kernel.inputs, strict=False)
        tensors |= zip((n for n in node.writes if n), node.kernel.outputs, strict=False)
    reads = tuple(spec.name for spec in model.inputs)
    writes = tuple(value.name for value in model.proto.graph.output)
    kernel = Kernel(
        "Model",
        (("model", model.digest[:12]), ("nodes", len(trace.nodes))),
        tuple(tensors[name] for name in reads if name in tensors),
        tuple(tensors[name] for name in writes if name in tensors),
    )
    durations = [[event["dur"]] for event in events if event["name"] == "model_run"]
    return KernelTrace(
        (KernelNode(model.name, kernel, reads, writes),),
        np.array(durations, dtype=np.float64),
        peak_memory_bytes=trace.peak_memory_bytes,
    )


def _nodes_of(
    first: Mapping[str, Mapping[str, Any]], graph: onnx.GraphProto
) -> dict[str, onnx.NodeProto]:
    """The node of every event, by the event's name; events of compiled parts have none."""
    by_name = {node.name: node for node in graph.node if node.name}
    unnamed: dict[str, list[onnx.NodeProto]] = defaultdict(list)  # by operator, in running order
    for node in graph.node:
        if not node.name:
            unnamed[node.op_type].append(node)
    found = {}
    for event_name, args in first.items():
        named = by_name.get(event_name.removesuffix(_SUFFIX))
        if named is not None:
            found[event_name] = named
        elif unnamed[args["op_name"]]:
            found[event_name] = unnamed[args["op_name"]].pop(0)
    return found


def _computable(
    nodes: Iterable[onnx.NodeProto], ready: set[str]
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Those of `nodes`, in running order, that need nothing but `ready` tensors; and the others."""
    ready = set(ready)
    part, others = [], []
    for node in nodes:
        if ready.issuperset(node.input):
            part.append(node)
            ready.update(node.output)
        else:
            others.append(node)
    return part, others


def _ends(
    part: Sequence[onnx.NodeProto], graph: onnx.GraphProto, weights: set[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tensors that a part of the graph takes from outside, and those that it gives."""
    inside = {id(node) for node in part}
    made = {name for node in part for name in node.output if name}
    taken = dict.fromkeys(name for node in part for name in node.input if name)
    used = {name for node in graph.node if id(node) not in inside for name in node.input}
    used |= {value.name for value in graph.output}
    reads = tuple(name for name in taken if name not in made and name not in weights)
    return reads, tuple(name for node in part for name in node.output if name in used)


def _weight(tensor: onnx.TensorProto) -> Tensor:
    return Tensor(_TYPES.get(tensor.data_type, "unknown"), tuple(tensor.dims))


def _with_packed_weights(
    shown: Sequence[Tensor], names: Iterable[str], weights: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    """The inputs that an event shows, and between them the weights that it does not.

    Weights that the runtime has packed in its own way are no inputs any more to it, but they are
    still read: those of Gemm, LSTM and QLinearConv.
    """
    waiting = list(shown)
    inputs = []
    for name in names:
        if not name:
            continue
        weight = weights.get(name)
        if weight is not None and (not waiting or waiting[0] != weight):
            inputs.append(weight)
        elif waiting:
            inputs.append(waiting.pop(0))
    return (*inputs, *waiting)


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
        parent_start = event["ts"] if event["args"]["op_name"] in HIDES_WORK else float("inf")
        kept.append(event)
    return kept[::-1]


def _kind(node: onnx.NodeProto) -> str:
    return f"{node.domain}:{node.op_type}" if node.domain else str(node.op_type)


def _tensors(typed_shapes: Sequence[Mapping[str, Sequence[int]]]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(dtype, tuple(shape)) for item in typed_shapes for dtype, shape in item.items()
    )


def _peak_bytes(first_run: Sequence[Mapping[str, Any]]) -> int | None:
    """Most bytes of the arena in use in the first run, packed weights already there left out."""
    if not first_run or "mem_in_use_peak" not in first_run[0]:  # older runtimes do not say
        return None
    before = int(first_run[0]["mem_bytes_in_use"]) - int(first_run[0]["mem_in_use_delta"])
    return max(int(args["mem_in_use_peak"]) for args in first_run) - before
