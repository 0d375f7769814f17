"""Kernels that a space needs and no run has shown: what they are worth, and measuring them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

import numpy as np

from hwnas.campaign_report import KERNELS, STORING, CampaignReport
from hwnas.progress import Progress, Task
from predictors.kernel_latency import KernelLatencyPredictor
from profilers.isolated_kernels import (
    KERNELS_PER_MODEL,
    SECONDS_PER_MODEL,
    can_isolate,
    measure_isolated,
)
from profilers.isolation import AnyProfiler
from profilers.kernels import Kernel, macs
from profilers.store import MeasurementStore

N_BOTH_WAYS = 6  # kernels of a kind that are measured in isolation though networks have shown them


@dataclass(frozen=True)
class MissingKernel:
    """A kernel that no run has shown.

    Attributes:
        kernel: What would run.
        value: Expected error that it brings into a network's latency, as a share of the latency.
    """

    kernel: Kernel
    value: float


def missing_kernels(
    networks: Iterable[Sequence[Kernel]],
    predictor: KernelLatencyPredictor,
    measured: Set[Kernel],
) -> list[MissingKernel]:
    """The kernels of `networks` that are not `measured`, the most valuable first.

    The value is the kernel's share of the predicted latency of all networks together, times the
    relative error that such a prediction has.
    """
    counts = Counter(kernel for kernels in networks for kernel in kernels)
    kernels = list(counts)
    ms, error = predictor.estimate(kernels)
    total_ms = ms * np.array([counts[kernel] for kernel in kernels])
    found = [
        MissingKernel(kernel, float(value))
        for kernel, value in zip(kernels, total_ms / total_ms.sum() * error, strict=True)
        if kernel not in measured
    ]
    return sorted(found, key=lambda missing: (-missing.value, missing.kernel.key))


def with_comparisons(
    missing: Sequence[MissingKernel], shown: Set[Kernel], isolated: Set[Kernel]
) -> Iterator[Kernel]:
    """The missing kernels in their order; before the first of a kind, a few that are known.

    Those are measured both ways, so that it shows by how much isolation changes their kind.

    Args:
        missing: What to measure.
        shown: Kernels that networks have shown, without those that cannot run alone.
        isolated: Kernels that were measured in isolation before.
    """
    compared: set[str] = set()
    for item in missing:
        kind = item.kernel.kind
        if kind not in compared:
            compared.add(kind)
            known = [kernel for kernel in shown if kernel.kind == kind]
            n_compared = sum(kernel in isolated for kernel in known)
            known = [kernel for kernel in known if kernel not in isolated]
            n_wanted = min(len(known), max(0, N_BOTH_WAYS - n_compared))
            # Isolation changes small kernels more than large ones: compare all sizes.
            known.sort(key=lambda kernel: (macs(kernel), kernel.n_bytes, kernel.key))
            positions = np.linspace(0, len(known) - 1, n_wanted).round().astype(int)
            yield from (known[i] for i in positions)
        yield item.kernel


def measure_missing(
    networks: Sequence[Sequence[Kernel]],
    store: MeasurementStore,
    profiler: AnyProfiler,
    *,
    n_kernels: int | None,
    stop: float | None,
    progress: Progress,
    report: CampaignReport,
) -> None:
    """Measure the kernels of `networks` that no run has shown, the most valuable first.

    Args:
        networks: The kernels of random networks, by which values are judged.
        store: Says what was measured, and keeps what is measured now.
        profiler: What measures.
        n_kernels: So many shall be known in all; None: as many as the time allows.
        stop: When to end, by `time.perf_counter`; None: when `n_kernels` are known.
        progress: Told how it goes on.
        report: Filled.
    """
    target = profiler.target
    if not can_isolate(target):
        progress.say(
            f"{target.runtime} in {target.precision} cannot run kernels alone: none is measured so"
        )
        return
    measured = store.networks(target)
    shown = {run.kernel for m in measured for run in m.kernels}
    isolated = store.isolated(target)
    if n_kernels is not None:
        n_kernels = max(0, n_kernels - len(isolated.keys() - shown))
    if n_kernels == 0 or not shown or (stop is not None and time.perf_counter() >= stop):
        return
    alone_ms = {kernel: run.latency_ms for kernel, run in isolated.items()}
    predictor, _ = KernelLatencyPredictor.learn(measured, alone_ms)
    failed = store.failures(target)
    missing = [
        item
        for item in missing_kernels(networks, predictor, shown | isolated.keys())
        if item.kernel.key not in failed
    ][:n_kernels]
    usable = {kernel for kernel in shown if kernel.key not in failed}
    kernels = list(with_comparisons(missing, usable, isolated.keys()))
    with progress.task("measuring kernels alone", len(kernels)) as task:
        measure_alone(kernels, store, profiler, stop=stop, task=task, report=report)


def measure_alone(
    kernels: Sequence[Kernel],
    store: MeasurementStore,
    profiler: AnyProfiler,
    *,
    stop: float | None,
    task: Task,
    report: CampaignReport,
) -> None:
    """Measure `kernels` outside of any network, in their order, until `stop`; all goes to `store`.

    By `time.perf_counter`; the first few are measured whatever it says. What cannot be run alone is
    stored as a failure under its key.
    """
    longest_s = 0.0
    for done in range(0, len(kernels), KERNELS_PER_MODEL):
        start = time.perf_counter()
        if stop is not None and start + longest_s > stop:
            return
        part = [
            kernel
            for kernel in kernels[done : done + KERNELS_PER_MODEL]
            if not store.has_isolated(profiler.target, kernel)  # by another process
        ]
        with report.timing(KERNELS):
            answers = measure_isolated(part, profiler, seconds=SECONDS_PER_MODEL)
        found = [answer for answer in answers if answer is not None]
        with report.timing(STORING):
            store.add_isolated(profiler.target, found)
            for kernel, answer in zip(part, answers, strict=True):
                if answer is None:  # or it would be tried for ever
                    store.add_failure(
                        profiler.target, kernel.key, kernel.describe(), "it cannot be run alone"
                    )
        report.n_isolated += len(found)
        report.n_not_isolated += len(part) - len(found)
        task.update(min(done + KERNELS_PER_MODEL, len(kernels)))
        longest_s = max(longest_s, time.perf_counter() - start)
