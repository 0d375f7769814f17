"""Sample the latency of a callable on a machine that is not quiet.

Every sample carries what disturbed it, so that the summary can leave out the samples in which the
machine did something else. See `docs/design.md`, "Timing on a machine that is not quiet".
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

try:  # not on Windows; there, wall time against CPU time is the only flag
    import resource
except ImportError:  # pragma: no cover
    resource = None  # type: ignore[assignment]

FloatArray = NDArray[np.float64]

_TASKS = Path("/proc/self/task")
# On Windows a thread's clock steps by 15.6 ms.
THREAD_CLOCK_NS = None if os.name == "nt" else time.thread_time_ns
MIN_INTERVAL = 6  # fewer values have no 95 % interval: from the smallest to the largest is less
MAX_RELATIVE_ERROR = 0.05  # beyond it an estimate is no measurement
MAX_OVER_MIN = 1.08  # a machine that is slow for seconds shows in nothing but one fast run
# A thread that had the core all the time still shows a little less CPU time than wall time.
WALL_OVER_CPU_TOLERANCE = 0.05
WALL_OVER_CPU_TOLERANCE_MS = 0.005
# Between chunks the whole machine changes speed (clocks, neighbours that share the core or caches):
# nothing in a sample shows it, but it lasts for milliseconds, so a chunk shows it against others.
SLOW_CHUNK = 1.05
FAST_CHUNKS_PERCENTILE = 10
# The same holds for minutes: only a fixed reference workload, timed beside the chunk, shows those.
# Moments are of two kinds, seen on 10,000 of them: within 5 % of the best, or 22 % and more above.
SLOW_REFERENCE = 1.15
MIN_CLEAN_SAMPLES = 8
USUAL_FAULTS_PERCENTILE = 10
# A run that lost the core refills its caches: its CPU time is a little high, the lowest part least.
CPU_TIME_PERCENTILE = 10
FASTEST_SHARE, MIN_FASTEST = 0.05, 3
NS_WAITED = 20_000  # of any thread in the queue for a core; less is the scheduler's own work


class Basis(Enum):
    """What a latency rests on, from the best to the worst."""

    UNDISTURBED = "undisturbed runs"
    CPU_TIME = "the CPU time of disturbed runs"
    FASTEST = "the fastest runs"


@dataclass(frozen=True)
class LatencySamples:
    """Raw samples of one callable on one target, with what disturbed each.

    Attributes:
        wall_ms: Wall time of each run, or the device's own time if it has a clock, `(n,)`.
        cpu_ms: CPU time of the calling thread in each run, `(n,)`; NaN where that says nothing
            about the work, which several threads or an accelerator do.
        switches: Involuntary context switches in each run, `(n,)`.
        faults: Page faults in each run, `(n,)`.
        chunk: Samples with the same number were taken without a break between them, `(n,)`.
        slowdown: Time of a reference workload beside the chunk over that of good moments, `(n,)`.
    """

    wall_ms: FloatArray
    cpu_ms: FloatArray
    switches: NDArray[np.int64]
    faults: NDArray[np.int64]
    chunk: NDArray[np.int64]
    slowdown: FloatArray

    def __post_init__(self) -> None:
        if not len(self.wall_ms):
            raise ValueError("at least one sample is needed, got none")

    @cached_property
    def _is_disturbed(self) -> NDArray[np.bool_]:
        """Whether the work lost a core, waited, or took page faults, `(n,)`."""
        allowed_ms = self.cpu_ms * (1 + WALL_OVER_CPU_TOLERANCE) + WALL_OVER_CPU_TOLERANCE_MS
        return (self.switches > 0) | self._is_faulting | (self.wall_ms > allowed_ms)

    @cached_property
    def _is_faulting(self) -> NDArray[np.bool_]:
        """Whether the run took more page faults than such runs do, `(n,)`.

        A runtime that gives large buffers back after every run takes faults in every run: those are
        part of its latency.
        """
        return np.asarray(self.faults > np.percentile(self.faults, USUAL_FAULTS_PERCENTILE))

    @cached_property
    def _is_slowed(self) -> NDArray[np.bool_]:
        """Whether the machine was slower in the sample's chunk than at its best, `(n,)`."""
        by_reference = self.slowdown > SLOW_REFERENCE
        if by_reference.all():
            return by_reference
        chunks, chunk_of = np.unique(self.chunk, return_inverse=True)
        # By the runs that nothing else disturbed, where a chunk has any.
        medians = np.array(
            [
                np.median(self.wall_ms[mask & ~self._is_disturbed])
                if (mask & ~self._is_disturbed).any()
                else np.median(self.wall_ms[mask])
                for mask in (chunk_of == i for i in range(len(chunks)))
            ]
        )
        steady = np.unique(chunk_of[~by_reference])
        floor_ms = np.percentile(medians[steady], FAST_CHUNKS_PERCENTILE)
        return np.asarray(by_reference | (medians > SLOW_CHUNK * floor_ms)[chunk_of])

    @cached_property
    def _is_cold(self) -> NDArray[np.bool_]:
        """Whether the sample follows a disturbed one, which left its caches to others, `(n,)`."""
        is_cold = np.zeros(len(self.wall_ms), dtype=bool)
        is_cold[1:] = self._is_disturbed[:-1] & (self.chunk[1:] == self.chunk[:-1])
        return is_cold

    @cached_property
    def is_contended(self) -> NDArray[np.bool_]:
        """Whether something else than the callable shows in the sample, `(n,)`."""
        return self._is_disturbed | self._is_slowed | self._is_cold

    @property
    def contended_share(self) -> float:
        """Share of the samples that were disturbed, in [0, 1]."""
        return float(self.is_contended.mean())

    @property
    def chunk_slowdowns(self) -> FloatArray:
        """The slowdown of every chunk, in the order in which they were taken, `(chunks,)`."""
        return np.asarray(self.slowdown[np.unique(self.chunk, return_index=True)[1]])

    @cached_property
    def basis(self) -> Basis:
        """What `latency_ms` rests on."""
        if int((~self.is_contended).sum()) >= MIN_CLEAN_SAMPLES:
            return Basis.UNDISTURBED
        if int(self._is_usable.sum()) >= MIN_CLEAN_SAMPLES:
            return Basis.CPU_TIME
        return Basis.FASTEST

    @property
    def _is_usable(self) -> NDArray[np.bool_]:
        """Whether the run at worst lost the core, while the machine was at its speed, `(n,)`."""
        # Chunks cannot be compared by their wall times here: those are what is disturbed.
        is_steady = ~self._is_faulting & (self.slowdown <= SLOW_REFERENCE)
        return np.asarray(is_steady & np.isfinite(self.cpu_ms))

    @cached_property
    def _kept_ms(self) -> FloatArray:
        """The samples that `latency_ms` is the median of."""
        if self.basis is Basis.UNDISTURBED:
            return self.wall_ms[~self.is_contended]
        if self.basis is Basis.CPU_TIME:
            cpu_ms = np.sort(self.cpu_ms[self._is_usable])
            return cpu_ms[: max(MIN_FASTEST, len(cpu_ms) * 2 * CPU_TIME_PERCENTILE // 100)]
        # Disturbances only ever add time, so the fastest samples are the least disturbed.
        n = max(MIN_FASTEST, round(len(self.wall_ms) * FASTEST_SHARE))
        return np.sort(self.wall_ms)[:n]

    @cached_property
    def latency_ms(self) -> float:
        """Median of the undisturbed samples.

        Where fewer than eight are: the lower tenth of the CPU times of all runs, which leaves out
        the time in which others had the core. Where that cannot be had either: the median of
        the fastest 5 %, at least 3, of the samples.
        """
        return float(np.median(self._kept_ms))

    @property
    def min_ms(self) -> float:
        """Fastest sample."""
        return float(self.wall_ms.min())

    def percentile_ms(self, q: float) -> float:
        """Percentile of *all* samples, what a user of the machine would see; `q` in [0, 100]."""
        return float(np.percentile(self.wall_ms, q))

    @cached_property
    def interval_ms(self) -> tuple[float, float]:
        """95 % interval of `latency_ms` from order statistics, infinite if values are too few.

        Samples of one chunk are not independent: it is taken over the chunks' own estimates where
        there are six or more, and widened to hold `latency_ms` where that lies outside.
        """
        values = self._chunk_estimates_ms
        if len(values) < MIN_INTERVAL:
            values = self._kept_ms
        n = len(values)
        if n < MIN_INTERVAL:
            return 0.0, float("inf")
        values = np.sort(values)
        half = 0.98 * np.sqrt(n)  # 1.96 · sqrt(n) / 2 ranks to each side of the median
        low, high = int(max(0, np.floor(n / 2 - half))), int(min(n - 1, np.ceil(n / 2 + half)))
        return min(float(values[low]), self.latency_ms), max(float(values[high]), self.latency_ms)

    @property
    def _chunk_estimates_ms(self) -> FloatArray:
        """What each chunk alone would say, `(chunks,)`; none where the fastest samples speak."""
        if self.basis is Basis.FASTEST:
            return np.zeros(0)
        if self.basis is Basis.UNDISTURBED:
            is_used, ms, q = ~self.is_contended, self.wall_ms, 50
        else:
            is_used, ms, q = self._is_usable, self.cpu_ms, CPU_TIME_PERCENTILE
        return np.array(
            [
                np.percentile(ms[is_used & (self.chunk == i)], q)
                for i in np.unique(self.chunk[is_used])
            ]
        )

    @property
    def relative_error(self) -> float:
        """Half the width of `interval_ms` over `latency_ms`."""
        low_ms, high_ms = self.interval_ms
        return float((high_ms - low_ms) / 2 / self.latency_ms)

    @property
    def over_min(self) -> float:
        """`latency_ms` over the fastest sample; 1.02 is usual, a slow stretch shows as more."""
        return self.latency_ms / self.min_ms

    @property
    def disturbances(self) -> dict[str, int]:
        """In how many samples each disturbance was seen; those that were not are left out."""
        waited = self._is_disturbed & (self.switches == 0) & ~self._is_faulting
        counts = {
            "lost the core": int((self.switches > 0).sum()),
            "page faults": int(self._is_faulting.sum()),
            "waited": int(waited.sum()),
            "caches cold": int((self._is_cold & ~self._is_disturbed).sum()),
            "machine slowed": int((self._is_slowed & ~self._is_disturbed & ~self._is_cold).sum()),
        }
        return {cause: count for cause, count in counts.items() if count}

    @property
    def warning(self) -> str | None:
        """Why `latency_ms` is not to be trusted, and what disturbed it; None if it is."""
        if self.basis is not Basis.FASTEST and self.relative_error <= MAX_RELATIVE_ERROR:
            if self.over_min <= MAX_OVER_MIN:
                return None
            return (
                f"latency_ms {self.latency_ms:.4g} is {100 * (self.over_min - 1):.0f} % above the "
                f"fastest run: the machine may have been slow nearly all the time; measure again "
                f"when it is quieter, or for longer"
            )
        causes = ", ".join(f"{cause} in {count}" for cause, count in self.disturbances.items())
        n_clean = int((~self.is_contended).sum())
        return (
            f"only {n_clean} of {len(self.wall_ms)} samples were undisturbed"
            f"{f' ({causes})' if causes else ''}; latency_ms rests on {self.basis.value} and may "
            f"be high: measure again when the machine is quieter, or for longer"
        )

    def extended(self, other: LatencySamples) -> LatencySamples:
        """These samples followed by those of `other`, which were taken after a break."""
        return LatencySamples(
            np.concatenate([self.wall_ms, other.wall_ms]),
            np.concatenate([self.cpu_ms, other.cpu_ms]),
            np.concatenate([self.switches, other.switches]),
            np.concatenate([self.faults, other.faults]),
            np.concatenate([self.chunk, other.chunk + self.chunk.max() + 1]),
            np.concatenate([self.slowdown, other.slowdown]),
        )


def thread_disturbances() -> tuple[int, int]:
    """Involuntary context switches and page faults of the calling thread so far."""
    return _usage("RUSAGE_THREAD")


def process_disturbances() -> tuple[int, int]:
    """The same of all threads of this process; waiting in the queue for a core counts as well."""
    switches, faults = _usage("RUSAGE_SELF")
    return switches + _queued_ns() // NS_WAITED, faults


def _usage(of: str) -> tuple[int, int]:
    if resource is None or not hasattr(resource, of):
        return 0, 0
    usage = resource.getrusage(getattr(resource, of))
    return usage.ru_nivcsw, usage.ru_minflt + usage.ru_majflt


def _queued_ns() -> int:
    """Time that the threads of this process were ready to run and had no core (Linux; else 0)."""
    total = 0
    for path in _TASKS.glob("*/schedstat"):
        with suppress(OSError, IndexError, ValueError):  # a thread that just ended
            total += int(path.read_text().split()[1])
    return total


def sample_latency(
    run: Callable[[], float | None],
    *,
    n_samples: int,
    slowdown: float = 1.0,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    cpu_clock_ns: Callable[[], int] | None = THREAD_CLOCK_NS,
    disturbances: Callable[[], tuple[int, int]] = thread_disturbances,
) -> LatencySamples:
    """Time `run` `n_samples` times in one chunk, one sample a call; warming up is the caller's.

    `run` returns when the work is done: milliseconds by the device's own clock, or None where the
    wall clock around the call holds. `slowdown` is what a reference workload showed just before,
    see `LatencySamples`. `cpu_clock_ns` is None where this thread's CPU time says nothing about the
    work. The clocks are arguments so that tests need no real ones.
    """
    read_cpu_ns = cpu_clock_ns or (lambda: 0)
    wall_ms, cpu_ns, switches, faults = [], [], [], []
    for _ in range(n_samples):
        switches_before, faults_before = disturbances()
        cpu_start = read_cpu_ns()
        start = clock_ns()
        device_ms = run()
        elapsed_ms = (clock_ns() - start) / 1e6
        wall_ms.append(elapsed_ms if device_ms is None else device_ms)
        cpu_ns.append(read_cpu_ns() - cpu_start)
        switches_after, faults_after = disturbances()
        switches.append(switches_after - switches_before)
        faults.append(faults_after - faults_before)
    return LatencySamples(
        np.array(wall_ms),
        np.array(cpu_ns) / 1e6 if cpu_clock_ns else np.full(n_samples, np.nan),
        np.array(switches),
        np.array(faults),
        np.zeros(n_samples, dtype=np.int64),
        np.full(n_samples, slowdown),
    )
