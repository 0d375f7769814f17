"""PyTorch on an NVIDIA GPU: eager, as a replayed CUDA graph, or compiled by Inductor.

Times are the GPU's own: CUDA events around a run, Kineto's records of single kernels. Nothing is
read before the end event is synchronized. All of `torch.cuda` that is used goes through `CudaApi`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import torch

from profilers.errors import TargetError
from profilers.onnx_models import OnnxModel
from profilers.runtimes.base import Feed, KernelTrace, Outputs, ShownGraph
from profilers.runtimes.torch_common import (
    CompiledRecording,
    Loaded,
    compiled,
    load,
    outputs,
    running,
)
from profilers.runtimes.torch_trace import (
    SCOPE,
    Event,
    compiled_kernels,
    record,
    scope_durations_us,
)
from profilers.targets import Target

N_WARMUP = 3  # before a capture, as PyTorch's notes on CUDA graphs ask for
DEFAULT_L2_BYTES = 64 * 2**20  # where the driver does not tell: more than most GPUs have
FLUSH_FACTOR = 2  # a buffer of just the cache's size leaves some of the old lines in it


class CudaEvent(Protocol):
    """A point in the GPU's queue."""

    def record(self) -> None:
        """Put it into the queue."""

    def synchronize(self) -> None:
        """Wait until the GPU has come to it."""

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds to a later one; both must have been reached."""


class CudaApi(Protocol):
    """The part of `torch.cuda` that is used here, by the same names."""

    def Event(self, *, enable_timing: bool) -> CudaEvent: ...  # noqa: D102
    def Stream(self) -> Any: ...  # noqa: D102
    def CUDAGraph(self) -> Any: ...  # noqa: D102
    def current_stream(self) -> Any: ...  # noqa: D102
    def stream(self, stream: Any) -> AbstractContextManager[Any]: ...  # noqa: D102
    def graph(self, cuda_graph: Any) -> AbstractContextManager[Any]: ...  # noqa: D102
    def synchronize(self) -> None: ...  # noqa: D102
    def memory_allocated(self) -> int: ...  # noqa: D102
    def max_memory_allocated(self) -> int: ...  # noqa: D102
    def reset_peak_memory_stats(self) -> None: ...  # noqa: D102
    def get_device_properties(self, device: int) -> Any: ...  # noqa: D102


Recorder = Callable[..., list[Event]]


class TorchCuda:
    """Runs ONNX models on the current CUDA device, with PyTorch's defaults (TF32 as they have it).

    Args:
        target: `torch-cuda`, `torch-cuda-graph` or `torch-cuda-compile`.
        flush_l2: Empty the GPU's second-level cache before every run: for operators that are
            measured alone and would find in it what the run before left there.
        cuda: What is called of `torch.cuda`; None: that itself.
        device: Where the tensors are.
        recorder: Runs a callable under PyTorch's profiler, see `torch_trace.record`.

    Raises:
        TargetError: This PyTorch has no CUDA, or finds no GPU.
    """

    def __init__(
        self,
        target: Target,
        *,
        flush_l2: bool = False,
        cuda: CudaApi | None = None,
        device: str = "cuda",
        recorder: Recorder = record,
    ) -> None:
        if cuda is None and not torch.cuda.is_available():
            raise TargetError(
                f"target {target.runtime!r} needs a PyTorch with CUDA and a GPU, and this PyTorch "
                f"{torch.__version__} has or finds none: see https://pytorch.org/get-started/locally"
            )
        self.target = target
        self._mode = target.runtime.removeprefix("torch-cuda").removeprefix("-") or "eager"
        self._flush = flush_l2
        self._cuda = cuda or cast(CudaApi, torch.cuda)
        self._device = device
        self._recorder = recorder

    def session(self, model: OnnxModel, feed: Feed) -> CudaSession:
        """Load `model` and, as the target asks, capture or compile it."""
        loaded = load(model, feed, self.target, self._device)
        with running(loaded.failure):
            with torch.inference_mode():
                call: Callable[[], object] = loaded.call
                if self._mode == "compile":
                    call = compiled(loaded)
                elif self._mode == "graph":
                    call = captured(loaded.call, self._cuda)
            session = CudaSession(call, self._cuda, self._before())
            session.run()
        return session

    def profiled_session(
        self, model: OnnxModel, feed: Feed
    ) -> ProfiledCudaSession | ProfiledCompiledCudaSession:
        """Load `model` to time its kernels; those of a CUDA graph are the eager ones."""
        loaded = load(model, feed, self.target, self._device)
        kind = ProfiledCompiledCudaSession if self._mode == "compile" else ProfiledCudaSession
        with running(loaded.failure):
            return kind(loaded, self._cuda, self._before(), self._recorder)

    def outputs(self, model: OnnxModel, feeds: Iterable[Feed]) -> list[Outputs]:
        """What `model` computes of each of the inputs, neither captured nor compiled."""
        return outputs(model, feeds, self.target, self._device)

    def _before(self) -> Callable[[], object]:
        return l2_flush(self._cuda, self._device) if self._flush else _nothing


def _nothing() -> None:
    """What is queued before a run if the caches stay as they are."""


def l2_flush(cuda: CudaApi, device: str) -> Callable[[], object]:
    """A function that fills the GPU's second-level cache with a buffer larger than it."""
    n_bytes = getattr(cuda.get_device_properties(0), "L2_cache_size", 0) or DEFAULT_L2_BYTES
    buffer = torch.empty(FLUSH_FACTOR * n_bytes, dtype=torch.uint8, device=device)
    return buffer.zero_


def captured(call: Callable[[], object], cuda: CudaApi) -> Callable[[], object]:
    """Capture `call` as a CUDA graph, after warm-up on a side stream; the result replays it.

    Source: https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        for _ in range(N_WARMUP):
            call()
    cuda.current_stream().wait_stream(side)
    graph = cuda.CUDAGraph()
    kept: list[object] = []  # what the graph writes to lives as long as it can be replayed
    with cuda.graph(graph):
        kept.append(call())

    def replay() -> object:
        graph.replay()
        return kept

    return replay


class CudaSession:
    """A model and its inputs on the GPU."""

    def __init__(
        self, call: Callable[[], object], cuda: CudaApi, before: Callable[[], object]
    ) -> None:
        self._call = call
        self._cuda = cuda
        self._before = before
        self._start, self._end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)

    def run(self) -> float:
        """One inference; milliseconds between the events before and behind it."""
        with torch.inference_mode():
            self._before()
            self._start.record()
            self._call()
            self._end.record()
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end))

    def close(self) -> None:
        """Let the model, its tensors and the graph go."""
        self._call = self._before = _nothing

    def _peak_bytes(self) -> int:
        """Most bytes that a run allocates beyond the weights and inputs."""
        self._cuda.synchronize()
        self._cuda.reset_peak_memory_stats()
        before = self._cuda.memory_allocated()
        CudaSession.run(self)
        return self._cuda.max_memory_allocated() - before


class ProfiledCudaSession(CudaSession):
    """Times every node's GPU kernels, eager, by a trace of every run.

    Where the trace shows no GPU (its driver interface needs rights that not every machine gives),
    every node is timed by two CUDA events instead; gaps between launches are then in its time.
    """

    def __init__(
        self, loaded: Loaded, cuda: CudaApi, before: Callable[[], object], recorder: Recorder
    ) -> None:
        super().__init__(loaded.call, cuda, before)
        super().run()  # libraries load and choose their algorithms
        self._peak = self._peak_bytes()
        self._recorder = recorder
        self._nodes = loaded.torch_model.nodes
        self._proto = loaded.model.proto
        self._rows: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        self._events: list[tuple[CudaEvent, CudaEvent]] = []
        self._forwards = [node.forward for node in self._nodes]
        self._wrap(self._in_scope)
        self.run()

    def run(self) -> float:
        """One inference in a trace of its own."""
        if self._events:
            return self._run_with_events()
        elapsed_ms: list[float] = []
        run = super().run
        events = self._recorder(lambda: elapsed_ms.append(run()), cuda=True)
        durations_us = scope_durations_us(events, len(self._nodes))
        if durations_us is not None:
            self._rows.append(durations_us)
            return elapsed_ms[0]
        self._rows.clear()
        self._events = [
            (self._cuda.Event(enable_timing=True), self._cuda.Event(enable_timing=True))
            for _ in self._nodes
        ]
        self._wrap(self._between_events)
        return self._run_with_events()

    def trace(self) -> KernelTrace:
        """Times of all nodes in all runs."""
        nodes = tuple(node.node for node in self._nodes)
        return KernelTrace(
            nodes,
            np.array(self._rows),
            peak_memory_bytes=self._peak,
            graph=lambda: ShownGraph(self._proto),
        )

    def _run_with_events(self) -> float:
        elapsed_ms = super().run()  # synchronizes behind the last node
        self._rows.append(np.array([start.elapsed_time(end) * 1e3 for start, end in self._events]))
        return elapsed_ms

    def _wrap(self, around: Callable[..., Any]) -> None:
        for i, (node, forward) in enumerate(zip(self._nodes, self._forwards, strict=True)):
            node.forward = partial(around, i, forward)  # type: ignore[method-assign]

    def _in_scope(self, i: int, forward: Callable[..., Any], *inputs: Any) -> Any:
        with torch.profiler.record_function(f"{SCOPE}{i}"):
            return forward(*inputs)

    def _between_events(self, i: int, forward: Callable[..., Any], *inputs: Any) -> Any:
        start, end = self._events[i]
        start.record()
        outputs = forward(*inputs)
        end.record()
        return outputs


class ProfiledCompiledCudaSession(CudaSession):
    """Takes the kernels of a compiled model from a trace of every run."""

    def __init__(
        self, loaded: Loaded, cuda: CudaApi, before: Callable[[], object], recorder: Recorder
    ) -> None:
        with torch.inference_mode():
            call = compiled(loaded)
            self._recording = CompiledRecording(loaded, call())
        super().__init__(call, cuda, before)
        self._peak = self._peak_bytes()
        self._recorder = recorder
        self.run()

    def run(self) -> float:
        """One inference in a trace of its own."""
        elapsed_ms: list[float] = []
        run = super().run
        events = self._recorder(lambda: elapsed_ms.append(run()), cuda=True, shapes=True)
        self._recording.add(compiled_kernels(events, cuda=True), elapsed_ms[0] * 1e3)
        return elapsed_ms[0]

    def trace(self) -> KernelTrace:
        """Times of all kernels in all runs."""
        return self._recording.trace(self._peak)
