"""PyTorch on the CPU: eager, node by node, or compiled by Inductor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch

from profilers.onnx_models import OnnxModel
from profilers.runtimes.base import Feed, KernelTrace, Outputs, ShownGraph
from profilers.runtimes.torch_common import (
    CompiledRecording,
    Loaded,
    compiled,
    load,
    n_threads,
    outputs,
    running,
)
from profilers.runtimes.torch_trace import compiled_kernels, peak_bytes, record
from profilers.targets import Target

# Generated C++ kernels show in the trace only if they are made to.
_TRACED = {"cpp.enable_kernel_profile": True}


class TorchCpu:
    """Runs ONNX models with PyTorch on the CPU, `torch-cpu` eager and `torch-cpu-compile` compiled.

    PyTorch's number of threads is one of the process: every run sets it and puts it back.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._is_compiled = target.runtime.endswith("-compile")

    def session(self, model: OnnxModel, feed: Feed) -> CpuSession:
        """Load `model`; compiling takes seconds."""
        loaded = load(model, feed, self.target, "cpu")
        with running(loaded.failure), torch.inference_mode(), n_threads(self.target.threads):
            call = compiled(loaded) if self._is_compiled else loaded.call
        session = CpuSession(call, self.target.threads)
        with running(loaded.failure):
            session.run()
        return session

    def profiled_session(
        self, model: OnnxModel, feed: Feed
    ) -> ProfiledEagerSession | ProfiledCompiledSession:
        """Load `model` with a clock around every node, or with the compiler's kernels traced."""
        loaded = load(model, feed, self.target, "cpu")
        with running(loaded.failure):
            if self._is_compiled:
                return ProfiledCompiledSession(loaded, self.target.threads)
            return ProfiledEagerSession(loaded, self.target.threads)

    def outputs(self, model: OnnxModel, feeds: Iterable[Feed]) -> list[Outputs]:
        """What `model` computes of each of the inputs, not compiled."""
        return outputs(model, feeds, self.target, "cpu")


class CpuSession:
    """A model and its inputs in place."""

    def __init__(self, call: Callable[[], object], threads: int) -> None:
        self._call = call
        self._threads = threads

    def run(self) -> None:
        """One inference, by the wall clock."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)  # 0.1 µs, less than any kernel
        try:
            with torch.inference_mode():
                self._call()
        finally:
            torch.set_num_threads(before)

    def close(self) -> None:
        """Let the model and its tensors go."""
        self._call = _closed


def _closed() -> None:
    raise RuntimeError("the session is closed")


class ProfiledEagerSession(CpuSession):
    """Times every node by the clock; the peak of memory is from a run under PyTorch's profiler."""

    def __init__(
        self,
        loaded: Loaded,
        threads: int,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        super().__init__(loaded.call, threads)
        # PyTorch makes some tensors in its first run: it is not the one that counts.
        super().run()
        self._peak_bytes = peak_bytes(record(super().run, memory=True))
        self._nodes = tuple(node.node for node in loaded.torch_model.nodes)
        self._proto = loaded.model.proto
        self._clock_ns = clock_ns
        self._elapsed_ns: list[int] = []
        self._n_runs = 0
        for node in loaded.torch_model.nodes:
            node.forward = partial(self._timed, node.forward)  # type: ignore[method-assign]
        self.run()

    def run(self) -> None:
        """One inference; its nodes are timed."""
        super().run()
        self._n_runs += 1

    def _timed(self, forward: Callable[..., Any], *inputs: Any) -> Any:
        start = self._clock_ns()
        outputs = forward(*inputs)
        self._elapsed_ns.append(self._clock_ns() - start)
        return outputs

    def trace(self) -> KernelTrace:
        """Times of all nodes in all runs."""
        rows = np.array(self._elapsed_ns, dtype=np.float64).reshape(self._n_runs, len(self._nodes))
        return KernelTrace(
            self._nodes,
            rows / 1e3,
            peak_memory_bytes=self._peak_bytes,
            graph=lambda: ShownGraph(self._proto),
        )


class ProfiledCompiledSession(CpuSession):
    """Takes the kernels of a compiled model from a trace of every run."""

    def __init__(self, loaded: Loaded, threads: int) -> None:
        with torch.inference_mode(), n_threads(threads):
            call = compiled(loaded, _TRACED)
            self._recording = CompiledRecording(loaded, call())
        super().__init__(call, threads)
        self._peak_bytes = peak_bytes(record(super().run, memory=True))
        self.run()

    def run(self) -> None:
        """One inference in a trace of its own."""
        run, elapsed_ns = super().run, [0]

        def timed() -> None:
            start = time.perf_counter_ns()
            run()
            elapsed_ns[0] = time.perf_counter_ns() - start

        events = record(timed, shapes=True)
        self._recording.add(compiled_kernels(events, cuda=False), elapsed_ns[0] / 1e3)

    def trace(self) -> KernelTrace:
        """Times of all kernels in all runs."""
        return self._recording.trace(self._peak_bytes)
