"""Measure a space on a target: networks of it in place, then the kernels that they did not show."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from functools import partial

import numpy as np

from hwnas.campaign import Campaign, Candidate, check_amount, open_campaign
from hwnas.campaign_report import ASKING, CHOOSING, CampaignReport
from hwnas.cost import CostTable
from hwnas.export import network_to_onnx
from hwnas.missing_kernels import measure_missing
from hwnas.network_choice import networks_in_turn, sample_networks
from hwnas.networks import Network, look_trained
from hwnas.progress import Progress
from hwnas.spaces.base import Architecture, Genotype, SearchSpace
from hwnas.training import seeded
from profilers.devices import Device
from profilers.isolation import AnyProfiler
from profilers.measurement import FAMILY_TAG, SPACE_TAG, NetworkMeasurement
from profilers.onnx_models import OnnxModel, make_model
from profilers.store import MeasurementStore
from profilers.targets import Target

SECONDS_PER_NETWORK = 0.7
ARCHITECTURE_TAG = "architecture"
N_SAMPLE = 4096
N_VALUED = 256  # random networks by which the value of a kernel is judged
ISOLATED_SHARE = 0.2  # of the minutes
ISOLATED_PER_NETWORK = 0.5  # where the number of networks is given, not the time


def architecture_digest(architecture: Architecture) -> str:
    """Tells architectures apart, whatever their weights."""
    return hashlib.sha256(architecture.to_json().encode()).hexdigest()


def network_tags(space: SearchSpace, genotype: Genotype) -> dict[str, str]:
    """What a measurement of that network says about where it comes from."""
    return {
        FAMILY_TAG: space.name,
        SPACE_TAG: space.key,
        ARCHITECTURE_TAG: space.architecture(genotype).to_json(),
        "genotype": json.dumps(genotype),
    }


def untrained_model(architecture: Architecture, *, batch: int = 1) -> OnnxModel:
    """The architecture as ONNX with fixed random weights: latency does not depend on them."""
    with seeded(0):
        network = Network(architecture)
        look_trained(network)
    proto = network_to_onnx(
        network, architecture.input_shape, batch=batch, input_type=architecture.input_type
    )
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
    device: Device | None = None,
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
        device: That the profiler measures on; None: this machine's.
        report: Filled with where the time goes.

    Returns:
        Every measurement of the target that the store then holds.

    Raises:
        ConfigError: Neither a number of networks nor a time is given, or they are below 1 or 0.
        ModelError: No network can be measured; what the last error said.
        StoreError: The database cannot be written; what was measured before is in it.
    """
    check_amount(n_networks, minutes)
    start = time.perf_counter()
    with open_campaign(
        space.name, target, store, seconds=seconds, progress=progress, profiler=profiler,
        device=device, report=report,
    ) as campaign:  # fmt: skip
        stages = _Stages(space, campaign)
        rng = np.random.default_rng(seed)
        stages.ask(rng)
        if minutes is None:
            assert n_networks is not None
            candidates = list(stages.candidates(rng, n_networks))
            campaign.measure_number(candidates, len(candidates))
            stages.isolate(rng, n_kernels=round(ISOLATED_PER_NETWORK * n_networks))
        else:
            limit_s = 60 * minutes
            campaign.measure_until(
                stages.candidates(rng, n_networks),
                start=start,
                limit_s=(1 - ISOLATED_SHARE) * limit_s,
            )
            stages.isolate(rng, stop=start + limit_s)
    return store.networks(target)


class _Stages:
    """What a campaign on a space does besides measuring networks."""

    def __init__(self, space: SearchSpace, campaign: Campaign) -> None:
        self._space, self._campaign = space, campaign
        self._progress, self._report = campaign.progress, campaign.report
        self._table = CostTable(space, campaign.profiler, campaign.store)

    def ask(self, rng: np.random.Generator) -> None:
        """Let the table meet the pieces of the space."""
        with (
            self._report.timing(ASKING),
            self._progress.task("asking the runtime for its kernels", None) as task,
        ):
            self._table.warm(rng, on_progress=lambda n_pieces: task.update(n_pieces))

    def candidates(self, rng: np.random.Generator, n: int | None) -> Iterator[Candidate]:
        """Networks of the space, the most useful first, at most `n`."""
        with self._report.timing(CHOOSING):
            sample = sample_networks(self._space, rng, max(N_SAMPLE, 8 * (n or 0)))
            sample = sample[self._table.affordable(sample, n_least=n or N_VALUED)]
            genotypes = networks_in_turn(self._table, sample)
        return self._drawn(genotypes, len(sample) if n is None else n)

    def _drawn(self, genotypes: Iterator[Genotype], n: int) -> Iterator[Candidate]:
        for _ in range(n):
            with self._report.timing(CHOOSING):
                genotype = next(genotypes, None)
            if genotype is None:
                return
            architecture = self._space.architecture(genotype)
            yield Candidate(
                str(genotype),
                architecture_digest(architecture),
                partial(untrained_model, architecture, batch=self._campaign.target.batch),
                network_tags(self._space, genotype),
            )

    def isolate(
        self, rng: np.random.Generator, *, n_kernels: int | None = None, stop: float | None = None
    ) -> None:
        """Measure kernels that no network has shown, alone."""
        sample = sample_networks(self._space, rng, N_VALUED)
        sample = sample[self._table.affordable(sample)]
        measure_missing(
            [self._table.kernels(tuple(int(v) for v in row)) for row in sample],
            self._campaign.store,
            self._campaign.profiler,
            n_kernels=n_kernels,
            stop=stop,
            progress=self._progress,
            report=self._report,
        )
