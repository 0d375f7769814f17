"""Where a target is measured: on this machine, or on a node of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from profilers.devices import Device, observed_device
from profilers.isolation import IsolatedProfiler
from profilers.profiler import Profiler
from profilers.targets import Target

__all__ = ["OpenProfiler", "TargetPlace"]

# Asked in this process, which is faster: others take it down over some models (OpenVINO 2026.4).
TRUSTED = "onnxruntime-cpu"
# Called with `references_ms`; gives a profiler whose models run in a process of their own, a new
# one for every profiler.
OpenProfiler = Callable[..., AbstractContextManager[Any]]


@dataclass(frozen=True)
class TargetPlace:
    """A target, and how it is reached.

    Attributes:
        target: The device, the runtime and how it is run.
        open_profiler: A profiler that measures; called like `IsolatedProfiler`, without target.
        open_asker: A profiler that is asked for kernels only, thousands of times.
        observed_device: The state that the device is in now.
    """

    target: Target
    open_profiler: OpenProfiler
    open_asker: OpenProfiler
    observed_device: Callable[[], Device]

    @classmethod
    def here(cls, target: Target) -> TargetPlace:
        """On this machine."""
        isolated = partial(IsolatedProfiler, target)
        asker: OpenProfiler = isolated
        if target.runtime == TRUSTED:
            asker = partial(nullcontext, Profiler(target))
        return cls(target, isolated, asker, observed_device)
