"""Measure a space on a target: networks of it in place, then the kernels that they did not show."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import ExitStack
from itertools import islice

import numpy as np

from hwnas.campaign_report import ASKING, CHOOSING, EXPORTING, NETWORKS, STORING, CampaignReport
from hwnas.cost import CostTable
from hwnas.errors import ConfigError
from hwnas.export import network_to_onnx
from hwnas.missing_kernels import measure_missing
from hwnas.network_choice import networks_in_turn, sample_networks
from hwnas.networks import Network
from hwnas.progress import Progress, Silent
from hwnas.spaces.base import Architecture, Genotype, SearchSpace
from hwnas.training import seeded
from profilers.devices import Device, observed_device
from profilers.errors import ModelError
from profilers.isolation import AnyProfiler, IsolatedProfiler
from profilers.measurement import FAMILY_TAG, NetworkMeasurement
from profilers.onnx_models import OnnxModel, make_model
from profilers.store import MeasurementStore
from profilers.targets import Target

SECONDS_PER_NETWORK = 0.7
ARCHITECTURE_TAG, SPACE_TAG = "architecture", "space"
N_SAMPLE = 4096
N_VALUED = 256  # random networks by which the value of a kernel is judged
ISOLATED_SHARE = 0.2  # of the minutes
ISOLATED_PER_NETWORK = 0.5  # where the number of networks is given, not the time
MIN_NETWORKS = 2  # the corners are measured whatever the time says
MAX_TRIES = 2  # of one network, in all campaigns together
MAX_FAILURES_IN_A_ROW = 5


def architecture_digest(architecture: Architecture) -> str:
    """Tells architectures apart, whatever their weights."""
    return hashlib.sha256(architecture.to_json().encode()).hexdigest()


def space_key(space: SearchSpace) -> str:
    """Tells spaces apart, also those of one name made for different data."""
    choices = json.dumps([[choice.name, choice.options] for choice in space.choices])
    return f"{space.name}-{hashlib.sha256(choices.encode()).hexdigest()[:12]}"


def network_tags(space: SearchSpace, genotype: Genotype) -> dict[str, str]:
    """What a measurement of that network says about where it comes from."""
    return {
        FAMILY_TAG: space.name,
        SPACE_TAG: space_key(space),
        ARCHITECTURE_TAG: space.architecture(genotype).to_json(),
        "genotype": json.dumps(genotype),
    }


def untrained_model(architecture: Architecture, *, batch: int = 1) -> OnnxModel:
    """The architecture as ONNX with fixed random weights: latency does not depend on them."""
    with seeded(0):
        network = Network(architecture)
    proto = network_to_onnx(network, architecture.input_shape, batch=batch)
    digest = architecture_digest(architecture)
    return make_model(proto, name=digest[:12], digest=digest)


def profile_space(
    space: SearchSpace,
    target: Target,
    store: MeasurementStore,
    *,
    n_networks: int | None = None,
    minutes: float | None = None,
    seconds: float = SECONDS_PER_NETWORK,
    seed: int = 0,
    progress: Progress | None = None,
    profiler: AnyProfiler | None = None,
    report: CampaignReport | None = None,
) -> list[NetworkMeasurement]:
    """Measure networks of a space with all their kernels in place, then kernels they do not show.

    The same call goes on where an interrupted one stopped, or was killed: what is stored is not
    measured again, and what failed twice is not tried again. Several processes may do this with
    one database at the same time, at best with different seeds.

    Args:
        space: Where the networks come from.
        target: What they are measured on.
        store: Where measurements go, each as soon as it is made.
        n_networks: How many networks there shall be, those known before included; with `minutes`,
            how many at most.
        minutes: How long it may take, the last fifth for the kernels that no network has shown; the
            two corners of the space are measured in any case.
        seconds: For one network at most; four times that while the machine is slow.
        seed: Of the networks drawn.
        progress: Told how it goes on.
        profiler: What measures; None: a process of its own, so that a network that crashes the
            runtime is one failure.
        report: Filled with where the time goes.

    Returns:
        Every measurement of the target that the store then holds.

    Raises:
        ConfigError: Neither a number of networks nor a time is given, or they are below 1 or 0.
        ModelError: No network can be measured; what the last error said.
        StoreError: The database cannot be written; what was measured before is in it.
    """
    if n_networks is None and minutes is None:
        raise ConfigError("say how much to measure: a number of networks, or minutes")
    if (n_networks is not None and n_networks < 1) or (minutes is not None and minutes <= 0):
        raise ConfigError(
            f"at least 1 network, and a time, are needed, got {n_networks=}, {minutes=}"
        )
    start = time.perf_counter()
    report = report if report is not None else CampaignReport()
    with ExitStack() as stack:
        if profiler is None:
            profiler = stack.enter_context(
                IsolatedProfiler(target, references_ms=store.references_ms(target))
            )
        campaign = _Campaign(space, store, profiler, seconds, progress or Silent(), report)
        rng = np.random.default_rng(seed)
        campaign.ask(rng)
        if minutes is None:
            assert n_networks is not None
            campaign.measure_number(rng, n_networks)
        else:
            campaign.measure_minutes(rng, start, 60 * minutes, n_networks)
    return store.networks(target)


class _Campaign:
    """What the stages of one call share."""

    def __init__(
        self,
        space: SearchSpace,
        store: MeasurementStore,
        profiler: AnyProfiler,
        seconds: float,
        progress: Progress,
        report: CampaignReport,
    ) -> None:
        self.space, self.store, self.profiler, self.seconds = space, store, profiler, seconds
        self.progress, self.report = progress, report
        self.target = profiler.target
        self.device: Device = observed_device()
        self.table = CostTable(space, profiler, store)
        self.last_failure: ModelError | None = None
        self.n_failures_in_a_row = 0

    def ask(self, rng: np.random.Generator) -> None:
        """Let the table meet the pieces of the space."""
        with (
            self.report.timing(ASKING),
            self.progress.task("asking the runtime for its kernels", None) as task,
        ):
            self.table.warm(rng, on_progress=lambda n_pieces: task.update(n_pieces))

    def measure_number(self, rng: np.random.Generator, n: int) -> None:
        """Measure `n` networks, the most useful first, then half as many kernels."""
        with self.report.timing(CHOOSING):
            sample = sample_networks(self.space, rng, max(N_SAMPLE, 8 * n))
            genotypes = list(islice(networks_in_turn(self.table, sample), n))
        unknown = [g for g in genotypes if not self._is_known(g)]
        self.report.n_known += len(genotypes) - len(unknown)
        with self.progress.task("measuring networks", len(genotypes)) as task:
            start, n_before = time.perf_counter(), len(genotypes) - len(unknown)
            task.update(n_before, note="known")
            for i, genotype in enumerate(unknown, start=1):
                note = self.measure(genotype)
                each_s = (time.perf_counter() - start) / i
                left = _duration(each_s * (len(unknown) - i))
                task.update(n_before + i, note=f"{note}, about {left} left")
        self._check_any()
        self._isolate(rng, n_kernels=round(ISOLATED_PER_NETWORK * n))

    def measure_minutes(
        self, rng: np.random.Generator, start: float, seconds: float, n: int | None
    ) -> None:
        """Measure networks, the most useful first, then kernels, until the time is over."""
        with self.report.timing(CHOOSING):
            sample = sample_networks(self.space, rng, max(N_SAMPLE, 8 * (n or 0)))
            genotypes = islice(networks_in_turn(self.table, sample), n)
        limit_s = (1 - ISOLATED_SHARE) * seconds
        done = 0
        with self.progress.task("measuring networks, in seconds", round(limit_s)) as task:
            for i in range(len(sample)):
                with self.report.timing(CHOOSING):
                    genotype = next(genotypes, None)
                if genotype is None:
                    break
                elapsed_s = time.perf_counter() - start
                each_s = (elapsed_s - self.report.seconds[ASKING]) / max(done, 1)
                if i >= MIN_NETWORKS and elapsed_s + each_s > limit_s:
                    break
                if self._is_known(genotype):
                    self.report.n_known += 1
                    continue
                note = self.measure(genotype)
                done += 1
                elapsed_s = min(time.perf_counter() - start, limit_s)
                task.update(round(elapsed_s), note=f"{done} networks, {note}")
        self._check_any()
        self._isolate(rng, stop=start + seconds)

    def _is_known(self, genotype: Genotype) -> bool:
        return self.store.has(self.target, architecture_digest(self.space.architecture(genotype)))

    def measure(self, genotype: Genotype) -> str:
        """Measure one network, unless it is known by now; says in a few words what came of it."""
        architecture = self.space.architecture(genotype)
        digest = architecture_digest(architecture)
        if self.store.n_failures(self.target, digest) >= MAX_TRIES:
            self.report.n_failed += 1
            return "failed before"
        try:
            with self.report.timing(EXPORTING):
                model = untrained_model(architecture, batch=self.target.batch)
            if self.store.has(self.target, digest):  # another process was faster
                self.report.n_known += 1
                return "known"
            tags = network_tags(self.space, genotype)
            with self.report.timing(NETWORKS):
                measurement = self.profiler.profile(model, seconds=self.seconds, tags=tags)
        except ModelError as error:
            self._fail(digest, str(genotype), error)
            return "failed"
        with self.report.timing(STORING):
            self.store.add(measurement, self.device)
        self.report.n_measured += 1
        self.n_failures_in_a_row = 0
        return f"{measurement.latency_ms:.3f} ms"

    def _fail(self, digest: str, name: str, error: ModelError) -> None:
        self.store.add_failure(self.target, digest, name, str(error))
        self.report.n_failed += 1
        self.last_failure = error
        self.n_failures_in_a_row += 1
        self.progress.say(f"not measured, the others go on: {error}")
        if self.n_failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            raise ModelError(
                f"{self.n_failures_in_a_row} networks in a row could not be measured on "
                f"{self.target.runtime}, the last: {error}. What was measured before is kept"
            )

    def _check_any(self) -> None:
        if not self.report.n_measured + self.report.n_known:
            reason = f", the last: {self.last_failure}" if self.last_failure else " before"
            raise ModelError(
                f"all {self.report.n_failed} networks of {self.space.name} failed on "
                f"{self.target.runtime}{reason}"
            )

    def _isolate(
        self, rng: np.random.Generator, *, n_kernels: int | None = None, stop: float | None = None
    ) -> None:
        sample = sample_networks(self.space, rng, N_VALUED)
        networks = [self.table.kernels(tuple(int(v) for v in row)) for row in sample]
        measure_missing(
            networks,
            self.store,
            self.profiler,
            n_kernels=n_kernels,
            stop=stop,
            progress=self.progress,
            report=self.report,
        )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
