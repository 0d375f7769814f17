"""Measure random networks of all kinds: what a predictor for any network learns from."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from hwnas.campaign import Candidate, check_amount, open_campaign
from hwnas.campaign_report import EXPORTING, CampaignReport
from hwnas.progress import Progress
from profilers.isolation import AnyProfiler
from profilers.measurement import FAMILY_TAG, SURVEY_FAMILY, NetworkMeasurement
from profilers.onnx_models import OnnxModel
from profilers.store import MeasurementStore
from profilers.survey import survey_model
from profilers.targets import Target

TAGS = {FAMILY_TAG: SURVEY_FAMILY}
SECONDS_PER_NETWORK = 1.0
SEEDS_EACH = 10**6  # networks of one seed are never those of another


def survey_models(seed: int, n: int | None = None, *, batch: int = 1) -> Iterator[OnnxModel]:
    """The survey's networks of a seed in their order, each made when it is asked for.

    Args:
        seed: 0 or more; different ones share no network.
        n: How many; None: as many as a seed has.
        batch: Examples in one run.
    """
    for i in range(SEEDS_EACH if n is None else n):
        yield survey_model(SEEDS_EACH * seed + i, batch=batch)


def is_surveyed(measurement: NetworkMeasurement) -> bool:
    """Whether the network is one of a survey."""
    return measurement.tags.get(FAMILY_TAG) == SURVEY_FAMILY


def profile_survey(
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
    """Measure random networks of all kinds with all their kernels in place.

    The same call goes on where an interrupted one stopped, or was killed: what is stored is not
    measured again, and what failed twice is not tried again. Several processes may do this with
    one database at the same time, with different seeds.

    Args:
        target: What they are measured on.
        store: Where measurements go, each as soon as it is made; they are tagged as of the family
            `survey`.
        n_networks: How many networks there shall be, those known before included; with `minutes`,
            how many at most.
        minutes: How long it may take; two networks are measured in any case.
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
    check_amount(n_networks, minutes)
    start = time.perf_counter()
    report = report if report is not None else CampaignReport()
    candidates = _candidates(survey_models(seed, n_networks, batch=target.batch), report)
    with open_campaign(
        SURVEY_FAMILY,
        target,
        store,
        seconds=seconds,
        progress=progress,
        profiler=profiler,
        report=report,
    ) as campaign:
        if minutes is None:
            assert n_networks is not None
            campaign.measure_number(candidates, n_networks)
        else:
            campaign.measure_until(candidates, start=start, limit_s=60 * minutes)
    return store.networks(target)


def _candidates(models: Iterator[OnnxModel], report: CampaignReport) -> Iterator[Candidate]:
    """Made one by one: what tells networks apart is their content, and they are large."""
    while True:
        with report.timing(EXPORTING):
            model = next(models, None)
        if model is None:
            return
        yield Candidate(model.name, model.digest, partial(_itself, model), TAGS)


def _itself(model: OnnxModel) -> OnnxModel:
    return model
