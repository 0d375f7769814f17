"""A measuring campaign: networks one after the other, each stored as soon as it is measured.

What is the same whatever the networks are: `hwnas/profiling.py` takes them from a search space,
`hwnas/survey.py` draws them at random.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from hwnas.campaign_report import ASKING, EXPORTING, NETWORKS, STORING, CampaignReport
from hwnas.errors import ConfigError
from hwnas.progress import Progress, Silent
from profilers.devices import Device, observed_device
from profilers.errors import ModelError
from profilers.isolation import AnyProfiler, IsolatedProfiler
from profilers.onnx_models import OnnxModel
from profilers.store import MeasurementStore
from profilers.targets import Target

MIN_NETWORKS = 2  # are measured whatever the time says
MAX_TRIES = 2  # of one network, in all campaigns together
MAX_FAILURES_IN_A_ROW = 5


@dataclass(frozen=True)
class Candidate:
    """A network that may be measured.

    Attributes:
        name: By which it is known in messages and failures.
        digest: Of the model, known before it is made.
        make: Makes it.
        tags: Of the measurement.
    """

    name: str
    digest: str
    make: Callable[[], OnnxModel]
    tags: Mapping[str, str]


def check_amount(n_networks: int | None, minutes: float | None) -> None:
    """Make sure that it was said how much to measure.

    Raises:
        ConfigError: Neither is given, or they are below 1 or 0.
    """
    if n_networks is None and minutes is None:
        raise ConfigError("say how much to measure: a number of networks, or minutes")
    if (n_networks is not None and n_networks < 1) or (minutes is not None and minutes <= 0):
        raise ConfigError(
            f"at least 1 network, and a time, are needed, got {n_networks=}, {minutes=}"
        )


class Campaign:
    """Measures candidates, until so many are known or the time is over.

    Args:
        family: What the networks are, for messages.
        store: Where measurements go; says what is known.
        profiler: What measures.
        seconds: For one network at most; four times that while the machine is slow.
        progress: Told how it goes on.
        report: Filled.
        device: That the profiler measures on; None: this machine's.
    """

    def __init__(
        self,
        family: str,
        store: MeasurementStore,
        profiler: AnyProfiler,
        seconds: float,
        progress: Progress,
        report: CampaignReport,
        device: Device | None = None,
    ) -> None:
        self.family, self.store, self.profiler, self.seconds = family, store, profiler, seconds
        self.progress, self.report = progress, report
        self.target = profiler.target
        self._device = device or observed_device()
        self._last_failure: ModelError | None = None
        self._n_failures_in_a_row = 0

    def measure_number(self, candidates: Iterable[Candidate], n: int) -> None:
        """Measure the first `n` candidates, those that are known included.

        Raises:
            ModelError: None can be measured.
        """
        n_tried, start = 0, time.perf_counter()
        with self.progress.task("measuring networks", n) as task:
            for done, candidate in enumerate(islice(candidates, n), start=1):
                if self._is_known(candidate):
                    task.update(done, note="known")
                    continue
                note = self._measure(candidate)
                n_tried += 1
                left = (time.perf_counter() - start) / n_tried * (n - done)
                task.update(done, note=f"{note}, about {_duration(left)} left")
        self._check_any()

    def measure_until(
        self, candidates: Iterator[Candidate], *, start: float, limit_s: float
    ) -> None:
        """Measure candidates until `limit_s` after `start`, by `time.perf_counter`, or their end.

        The first two are measured whatever the time says.

        Raises:
            ModelError: None can be measured.
        """
        n_tried = 0
        with self.progress.task("measuring networks, in seconds", round(limit_s)) as task:
            for i, candidate in enumerate(candidates):
                elapsed_s = time.perf_counter() - start
                each_s = (elapsed_s - self.report.seconds[ASKING]) / max(n_tried, 1)
                if i >= MIN_NETWORKS and elapsed_s + each_s > limit_s:
                    break
                if self._is_known(candidate):
                    continue
                note = self._measure(candidate)
                n_tried += 1
                elapsed_s = min(time.perf_counter() - start, limit_s)
                task.update(round(elapsed_s), note=f"{n_tried} networks, {note}")
        self._check_any()

    def _is_known(self, candidate: Candidate) -> bool:
        is_known = self.store.has(self.target, candidate.digest)
        self.report.n_known += is_known
        return is_known

    def _measure(self, candidate: Candidate) -> str:
        """Measure one network, unless it is known by now; says in a few words what came of it."""
        if self.store.n_failures(self.target, candidate.digest) >= MAX_TRIES:
            self.report.n_failed += 1
            return "failed before"
        try:
            with self.report.timing(EXPORTING):
                model = candidate.make()
            if self._is_known(candidate):  # another process was faster
                return "known"
            with self.report.timing(NETWORKS):
                measurement = self.profiler.profile(
                    model, seconds=self.seconds, tags=candidate.tags
                )
        except ModelError as error:
            self._fail(candidate, error)
            return "failed"
        with self.report.timing(STORING):
            self.store.add(measurement, self._device)
        self.report.n_measured += 1
        self._n_failures_in_a_row = 0
        return f"{measurement.latency_ms:.3f} ms"

    def _fail(self, candidate: Candidate, error: ModelError) -> None:
        self.store.add_failure(self.target, candidate.digest, candidate.name, str(error))
        self.report.n_failed += 1
        self._last_failure = error
        self._n_failures_in_a_row += 1
        self.progress.say(f"not measured, the others go on: {error}")
        if self._n_failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            raise ModelError(
                f"{self._n_failures_in_a_row} networks in a row could not be measured on "
                f"{self.target.runtime}, the last: {error}. What was measured before is kept"
            )

    def _check_any(self) -> None:
        if not self.report.n_measured + self.report.n_known:
            reason = f", the last: {self._last_failure}" if self._last_failure else " before"
            raise ModelError(
                f"all {self.report.n_failed} networks of {self.family} failed on "
                f"{self.target.runtime}{reason}"
            )


@contextmanager
def open_campaign(
    family: str,
    target: Target,
    store: MeasurementStore,
    *,
    seconds: float,
    progress: Progress | None,
    profiler: AnyProfiler | None,
    report: CampaignReport | None,
    device: Device | None = None,
) -> Iterator[Campaign]:
    """A campaign on `target`; without a profiler, in a process of its own that ends with it."""
    progress = progress or Silent()
    report = report if report is not None else CampaignReport()
    if profiler is not None:
        yield Campaign(family, store, profiler, seconds, progress, report, device)
        return
    with IsolatedProfiler(target, references_ms=store.references_ms(target)) as own:
        yield Campaign(family, store, own, seconds, progress, report)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
