"""From the trace of many runs to one latency a kernel, disturbances left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profilers.runtimes.base import KernelTrace
from profilers.timing import FAST_CHUNKS_PERCENTILE, SLOW_CHUNK

FloatArray = NDArray[np.float64]

MIN_KERNEL_US = 0.05
NEAR_MEDIAN = 1.02
LOST_CORE = 1.2  # times its usual time: beyond it a kernel was interrupted


def kernel_latencies_ms(
    trace: KernelTrace, is_steady: NDArray[np.bool_] | None = None
) -> tuple[FloatArray, int]:
    """Latency of every node in ms, `(k,)`, and the number of runs that it is the mean of.

    A duration in whole microseconds is rounded down, so a kernel of 2.9 µs reads as 2 however often
    it is run. The interval from a node's start to the next one's is a difference of two roundings:
    its mean over runs is exact, but has the runtime's step between nodes in it. That step is the
    same for all nodes; it is estimated as the median of interval - duration, and taken off.

    Args:
        trace: Of one run at least, the warm-up left out.
        is_steady: Whether the machine was at its best in each run, `(runs,)`.
    """
    runs = trace.duration_us.T  # (k, runs)
    n_nodes, n_runs = runs.shape
    if not n_nodes:  # the runtime folded the whole graph into a constant
        return np.zeros(0), n_runs
    kept = np.ones(n_runs, dtype=bool)
    if is_steady is not None and is_steady.any():
        kept = is_steady.copy()
    slowness = _slowness(runs)
    kept &= slowness <= SLOW_CHUNK * np.percentile(slowness[kept], FAST_CHUNKS_PERCENTILE)
    mean_us = _undisturbed_mean(runs[:, kept])
    if trace.start_us is not None and n_nodes > 1:
        # The last node has none: what follows it is the next run.
        interval_us = _undisturbed_mean(np.diff(trace.start_us.T, axis=0)[:, kept])
        mean_us[:-1] = interval_us - np.median(interval_us - mean_us[:-1])
    return np.maximum(mean_us, MIN_KERNEL_US) / 1e3, int(kept.sum())


def _slowness(runs: FloatArray) -> FloatArray:
    """Time of each run of `(k, runs)` with no kernel counted far beyond what is usual for it.

    So a kernel that lost the core in the middle does not spoil its run, but a slow machine does.
    """
    usual_us = np.median(runs, axis=1, keepdims=True)
    return np.asarray(np.minimum(runs, LOST_CORE * usual_us + 1).sum(axis=0))


def _undisturbed_mean(samples_us: FloatArray) -> FloatArray:
    """Mean over the runs `(n, runs)` that are near the median: 1 µs, the clock's step, or 2 %."""
    median_us = np.median(samples_us, axis=1, keepdims=True)
    is_high = samples_us > np.maximum(median_us + 1, NEAR_MEDIAN * median_us)
    return np.asarray(np.ma.masked_array(samples_us, is_high).mean(axis=1).filled(np.nan))
