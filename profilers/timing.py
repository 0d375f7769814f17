"""Sample the latency of a callable on a machine that is not quiet.

Every sample carries what disturbed it, so that the summary can leave out the samples in which the
machine did something else. See `docs/design.md`, "Timing on a machine that is not quiet".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

try:  # not on Windows; there, wall time against CPU time is the only flag
    import resource
except ImportError:  # pragma: no cover
    resource = None  # type: ignore[assignment]

FloatArray = NDArray[np.float64]

# A thread that had the core all the time still shows a little less CPU time than wall time.
WALL_OVER_CPU_TOLERANCE = 0.05
WALL_OVER_CPU_TOLERANCE_MS = 0.005
# Between chunks the whole machine changes speed (clocks, neighbours that share the core or caches):
# nothing in a sample shows it, but it lasts for milliseconds, so a chunk shows it against others.
SLOW_CHUNK = 1.05
FAST_CHUNKS_PERCENTILE = 10
# The same holds for minutes: only a fixed reference workload, timed beside the chunk, shows those.
SLOW_REFERENCE = 1.3
MIN_CLEAN_SAMPLES = 8
FASTEST_SHARE, MIN_FASTEST = 0.05, 3


@dataclass(frozen=True)
class LatencySamples:
    """Raw samples of one callable on one target, with what disturbed each.

    Attributes:
        wall_ms: Wall time of each run, `(n,)`.
        cpu_ms: CPU time of the calling thread in each run, `(n,)`.
        switches: Involuntary context switches of the thread in each run, `(n,)`.
        faults: Page faults of the thread in each run, `(n,)`.
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
        """Whether the thread lost the core, waited, or took page faults, `(n,)`."""
        allowed_ms = self.cpu_ms * (1 + WALL_OVER_CPU_TOLERANCE) + WALL_OVER_CPU_TOLERANCE_MS
        return (self.switches > 0) | (self.faults > 0) | (self.wall_ms > allowed_ms)

    @cached_property
    def _is_slowed(self) -> NDArray[np.bool_]:
        """Whether the machine was slower in the sample's chunk than at its best, `(n,)`."""
        by_reference = self.slowdown > SLOW_REFERENCE
        if by_reference.all():
            return by_reference
        chunks, chunk_of = np.unique(self.chunk, return_inverse=True)
        medians = np.array([np.median(self.wall_ms[chunk_of == i]) for i in range(len(chunks))])
        steady = np.unique(chunk_of[~by_reference])
        floor_ms = np.percentile(medians[steady], FAST_CHUNKS_PERCENTILE)
        return np.asarray(by_reference | (medians > SLOW_CHUNK * floor_ms)[chunk_of])

    @property
    def is_contended(self) -> NDArray[np.bool_]:
        """Whether something else than the callable shows in the sample, `(n,)`."""
        return self._is_disturbed | self._is_slowed

    @property
    def contended_share(self) -> float:
        """Share of the samples that were disturbed, in [0, 1]."""
        return float(self.is_contended.mean())

    @cached_property
    def _kept_ms(self) -> FloatArray:
        clean = self.wall_ms[~self.is_contended]
        if len(clean) >= MIN_CLEAN_SAMPLES:
            return clean
        # Disturbances only ever add time, so the fastest samples are the least disturbed.
        n = max(MIN_FASTEST, round(len(self.wall_ms) * FASTEST_SHARE))
        return np.sort(self.wall_ms)[:n]

    @property
    def latency_ms(self) -> float:
        """Median of the uncontended samples; of the fastest 5 % (at least 3) if few are clean."""
        return float(np.median(self._kept_ms))

    @property
    def min_ms(self) -> float:
        """Fastest sample."""
        return float(self.wall_ms.min())

    def percentile_ms(self, q: float) -> float:
        """Percentile of *all* samples, what a user of the machine would see; `q` in [0, 100]."""
        return float(np.percentile(self.wall_ms, q))

    @property
    def relative_error(self) -> float:
        """Half-width of a 95 % interval of the median over the median, from order statistics."""
        kept = np.sort(self._kept_ms)
        n = len(kept)
        if n < 6:  # the interval from the smallest to the largest covers less than 95 %
            return float("inf")
        half = 0.98 * np.sqrt(n)  # 1.96 · sqrt(n) / 2 ranks to each side
        low, high = int(max(0, np.floor(n / 2 - half))), int(min(n - 1, np.ceil(n / 2 + half)))
        return float((kept[high] - kept[low]) / 2 / np.median(kept))

    @property
    def warning(self) -> str | None:
        """What to tell the user about these samples, None if they are fine."""
        n_clean = int((~self.is_contended).sum())
        if n_clean >= MIN_CLEAN_SAMPLES:
            return None
        causes = {
            "lost the core": int((self.switches > 0).sum()),
            "page faults": int((self.faults > 0).sum()),
            "waited": int((self._is_disturbed & (self.switches == 0) & (self.faults == 0)).sum()),
            "machine slowed": int((self._is_slowed & ~self._is_disturbed).sum()),
        }
        seen = ", ".join(f"{cause} in {count}" for cause, count in causes.items() if count)
        return (
            f"only {n_clean} of {len(self.wall_ms)} samples were undisturbed"
            f"{f' ({seen})' if seen else ''}; latency_ms is the median of the fastest 5 %"
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
    if resource is None or not hasattr(resource, "RUSAGE_THREAD"):
        return 0, 0
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_nivcsw, usage.ru_minflt + usage.ru_majflt


def sample_latency(
    run: Callable[[], object],
    *,
    n_samples: int,
    slowdown: float = 1.0,
    synchronize: Callable[[], object] = lambda: None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    cpu_clock_ns: Callable[[], int] = time.thread_time_ns,
    disturbances: Callable[[], tuple[int, int]] = thread_disturbances,
) -> LatencySamples:
    """Time `run` `n_samples` times in one chunk, one sample a call; warming up is the caller's.

    `slowdown` is what a reference workload showed just before, see `LatencySamples`.
    `synchronize` waits for a device to which `run` only queued work; it is inside the sample.
    The clocks are arguments so that tests need no real ones.
    """
    wall_ns, cpu_ns, switches, faults = [], [], [], []
    synchronize()
    for _ in range(n_samples):
        switches_before, faults_before = disturbances()
        cpu_start = cpu_clock_ns()
        start = clock_ns()
        run()
        synchronize()
        wall_ns.append(clock_ns() - start)
        cpu_ns.append(cpu_clock_ns() - cpu_start)
        switches_after, faults_after = disturbances()
        switches.append(switches_after - switches_before)
        faults.append(faults_after - faults_before)
    return LatencySamples(
        np.array(wall_ns) / 1e6,
        np.array(cpu_ns) / 1e6,
        np.array(switches),
        np.array(faults),
        np.zeros(n_samples, dtype=np.int64),
        np.full(n_samples, slowdown),
    )
