"""What a runtime must do to be measured: load a model, run it, and tell about its kernels.

How samples are taken, judged and summed up is the same for all runtimes and is not in here: see
`profilers/profiler.py`. A new runtime is one file with a class of this shape, one line in
`catalog.py` and one in the contract test.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from profilers.measurement import KernelNode
from profilers.onnx_models import OnnxModel
from profilers.targets import Target

FloatArray = NDArray[np.float64]
Feed = Mapping[str, NDArray[np.generic]]
Outputs = tuple[NDArray[np.generic], ...]  # in the order of the model's


@dataclass(frozen=True)
class ShownGraph:
    """What a runtime runs, as ONNX.

    Attributes:
        proto: Weights included.
        computes: Of every node of the trace, the tensors of `proto` that it computes. None: what it
            writes.
    """

    proto: onnx.ModelProto
    computes: Sequence[Collection[str]] | None = None


@dataclass(frozen=True)
class KernelTrace:
    """What a runtime reported of `runs` runs of one model, node by node.

    Attributes:
        nodes: In running order, `k` of them.
        duration_us: Of every node in every run, `(runs, k)`.
        start_us: When every node started, `(runs, k)`, if the runtime's clock ticks too coarsely
            for the durations (whole microseconds); None: the durations are exact.
        peak_memory_bytes: Most bytes of tensors in use at once; weights and inputs are not in it.
            None: the runtime does not say.
        graph: Called before the session is closed: the model as the runtime runs it. None: the
            runtime does not show it.
    """

    nodes: tuple[KernelNode, ...]
    duration_us: FloatArray
    start_us: FloatArray | None = None
    peak_memory_bytes: int | None = None
    graph: Callable[[], ShownGraph] | None = None

    def without_first(self, n_runs: int) -> KernelTrace:
        """The trace without its first runs: the warm-up."""
        start_us = None if self.start_us is None else self.start_us[n_runs:]
        return replace(self, duration_us=self.duration_us[n_runs:], start_us=start_us)


class Session(Protocol):
    """A loaded model with its inputs in place, to be run again and again."""

    def run(self) -> float | None:
        """One inference, finished when it returns.

        Returns:
            Milliseconds by the device's own clock, if it has one (CUDA events); else None: the wall
            clock around the call holds.
        """

    def close(self) -> None:
        """Free what the session holds."""


class ProfiledSession(Session, Protocol):
    """A session that keeps the times of its kernels; they may disturb the run's own."""

    def trace(self) -> KernelTrace:
        """What the runs so far showed; there must be one at least. Ends the recording."""


class Runtime(Protocol):
    """Loads models on one target. `ToyRuntime` in the contract test is the shortest example.

    All methods raise `ModelError` if the runtime cannot load the model or run it.
    """

    target: Target

    def session(self, model: OnnxModel, feed: Feed) -> Session:
        """Load `model` as a user of the runtime would."""

    def profiled_session(self, model: OnnxModel, feed: Feed) -> ProfiledSession:
        """Load `model` so that every run records its kernels."""

    def outputs(self, model: OnnxModel, feeds: Iterable[Feed]) -> list[Outputs]:
        """What `model` computes of each of the inputs, as the target does; nothing is timed."""
