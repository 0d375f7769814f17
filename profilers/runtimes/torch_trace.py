"""What PyTorch's own profiler (Kineto) recorded of one run: times by scope, kernels, memory.

Read from the Chrome trace that it exports, the one form that is documented and the same over
versions: complete events (`ph` X, `ts` and `dur` in µs) of a category (`cat`). A GPU kernel and the
call that launched it have the same `args.correlation`.
Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.profiler import ProfilerActivity, profile

from profilers.kernels import AttributeValue, Tensor
from profilers.runtimes.base import FloatArray

Event = dict[str, Any]

SCOPE = "hwnas node "  # and the node's number: names of nodes need not be unique in a trace
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCHES = ("cuda_runtime", "cuda_driver")
# From the profiler's names to those of ONNX Runtime.
_DTYPES = {
    "float": "float", "double": "double", "c10::Half": "float16", "c10::BFloat16": "bfloat16",
    "long": "int64", "long int": "int64", "int": "int32", "bool": "bool",
    "unsigned char": "uint8", "signed char": "int8",
}  # fmt: skip
_NO_TENSORS = ("", "Scalar", "ScalarList")


@dataclass(frozen=True)
class CompiledKernel:
    """One call in a compiled graph: a generated kernel, or one of PyTorch's own.

    Attributes:
        name: Without the numbers that Inductor gives: `cpp_fused_relu`, `convolution`.
        inputs: Tensors that it was called with. None, where not all are told: of generated C++
            kernels, and of operators that take lists of tensors.
        attributes: Its other arguments, as text.
        duration_us: On the CPU, or of all that it launched on the GPU.
    """

    name: str
    inputs: tuple[Tensor, ...]
    attributes: tuple[tuple[str, AttributeValue], ...]
    duration_us: float


def record(
    run: Callable[[], object], *, cuda: bool = False, shapes: bool = False, memory: bool = False
) -> list[Event]:
    """Run once under the profiler; the events of its trace.

    The profiler sees the whole process, so it is on for this one call only.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    profiler = profile(activities=activities, record_shapes=shapes, profile_memory=memory)
    with ExitStack() as stack:
        with _no_messages():
            stack.enter_context(profiler)
        run()
        with _no_messages():
            stack.close()
    with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events: list[Event] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return events


@contextmanager
def _no_messages() -> Iterator[None]:
    """Drop what Kineto writes to the standard error at every start and stop.

    Its level can only be set by an environment variable that is read when torch is loaded.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def peak_bytes(events: Sequence[Event]) -> int | None:
    """Most bytes allocated on the CPU beyond those at the start; None: nothing was recorded."""
    changes = [
        event["args"]["Bytes"]
        for event in sorted(events, key=lambda e: float(e.get("ts", 0)))
        if event.get("name") == "[memory]" and event["args"].get("Device Type") == 0
    ]
    return int(np.cumsum(changes).max()) if changes else None


def scope_durations_us(events: Sequence[Event], n_scopes: int) -> FloatArray | None:
    """Time on the GPU of all that each scope launched, `(n_scopes,)`; None: the trace has no GPU.

    Scopes are those named `SCOPE` and their number; a kernel belongs to the one in which, on the
    same thread, the call was made that launched it.
    """
    scopes = [
        event
        for event in events
        if event.get("cat") == "user_annotation" and event["name"].startswith(SCOPE)
    ]
    numbers = [int(event["name"].removeprefix(SCOPE)) for event in scopes]
    durations_us = np.zeros(n_scopes)
    kernels = _device_events(events)
    if not kernels:
        return None
    for position, kernel in _joined(events, scopes, kernels):
        if position is not None:
            durations_us[numbers[position]] += float(kernel["dur"])
    return durations_us


def compiled_kernels(events: Sequence[Event], *, cuda: bool) -> tuple[CompiledKernel, ...]:
    """What a run of a compiled model called, in running order; empty: the trace does not tell.

    A kernel is what Python, generated or not, calls: in the compiled graphs, and between them where
    Dynamo left a part to eager execution. What was launched outside of any such call is a kernel by
    the name that the GPU knows.
    """
    # Names of calls have no spaces; those of what the compiler puts around them do.
    calls = _outermost(e for e in events if e.get("cat") == "cpu_op" and " " not in e["name"])
    if not cuda:
        return tuple(_compiled_kernel(call, float(call["dur"])) for call in calls)
    calls_by_position = dict(enumerate(calls))
    durations_us: dict[int, float] = {}  # by call, in the order of its first kernel
    for number, (position, kernel) in enumerate(_joined(events, calls, _device_events(events))):
        if position is None:
            position = -1 - number  # a call of its own
            calls_by_position[position] = kernel
        durations_us[position] = durations_us.get(position, 0.0) + float(kernel["dur"])
    return tuple(
        _compiled_kernel(calls_by_position[position], us) for position, us in durations_us.items()
    )


def _compiled_kernel(event: Event, duration_us: float) -> CompiledKernel:
    arguments = event.get("args", {})
    types, shapes = arguments.get("Input type", []), arguments.get("Input Dims", [])
    values = arguments.get("Concrete Inputs", [])
    attributes = [str(value) for value in values if value != ""]
    is_told = all(dtype in _DTYPES or dtype in _NO_TENSORS for dtype in types)
    return CompiledKernel(
        _plain_name(event["name"]),
        tuple(
            Tensor(_DTYPES[dtype], tuple(shape))
            for dtype, shape in zip(types, shapes, strict=False)
            if is_told and dtype in _DTYPES
        ),
        (("arguments", " ".join(attributes)),) if attributes else (),
        duration_us,
    )


def _plain_name(name: str) -> str:
    """The name without what tells a kernel from its like in one graph.

    Example:
        >>> _plain_name("graph_0_cpp_fused_relu_1"), _plain_name("aten::convolution")
        ('cpp_fused_relu', 'convolution')
    """
    return re.sub(r"^graph_\d+_|_\d+$", "", name.removeprefix("aten::"))


def _device_events(events: Sequence[Event]) -> list[Event]:
    found = [event for event in events if event.get("cat") in _ON_DEVICE]
    return sorted(found, key=lambda event: float(event["ts"]))


def _joined(
    events: Sequence[Event], scopes: Sequence[Event], kernels: Sequence[Event]
) -> Iterator[tuple[int | None, Event]]:
    """Every kernel with the position of the scope that launched it; None: none of them did."""
    launches = {
        event["args"]["correlation"]: event
        for event in events
        if event.get("cat") in _LAUNCHES and "correlation" in event.get("args", {})
    }
    by_thread: dict[Any, list[tuple[float, float, int]]] = {}
    for position, scope in enumerate(scopes):
        start = float(scope["ts"])
        by_thread.setdefault(scope["tid"], []).append(
            (start, start + float(scope["dur"]), position)
        )
    for spans in by_thread.values():
        spans.sort()
    for kernel in kernels:
        launch = launches.get(kernel["args"].get("correlation"))
        spans = by_thread.get(launch["tid"], []) if launch else []
        at = float(launch["ts"]) if launch else 0.0
        # Scopes do not overlap: only the last that began before the launch can hold it.
        i = bisect_right(spans, (at, float("inf"), 0)) - 1
        yield (spans[i][2] if i >= 0 and at <= spans[i][1] else None), kernel


def _outermost(events: Iterable[Event]) -> list[Event]:
    """Those events that lie in no other one on their thread, in order."""
    found: list[Event] = []
    ends: dict[Any, float] = {}  # by thread
    for event in sorted(events, key=lambda event: (float(event["ts"]), -float(event["dur"]))):
        start = float(event["ts"])
        if start >= ends.get(event["tid"], start):
            found.append(event)
            ends[event["tid"]] = start + float(event["dur"])
    return found
