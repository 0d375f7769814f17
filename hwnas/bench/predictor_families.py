"""Prediction of families that were never measured, without and with measuring unknown kernels."""

from __future__ import annotations

from functools import partial
from typing import Any

from hwnas.bench.predictor_questions import (
    Question,
    informed_predictors,
    judge_questions,
    predict,
    rows_of,
    seconds_spent,
)
from hwnas.bench.predictor_setup import (
    FAMILY,
    SURVEY,
    TRAINING,
    PredictorBench,
    Wanted,
    measure_networks,
)
from hwnas.bench.predictor_space import measure_space
from hwnas.families import sample_network
from hwnas.survey import profile_survey
from predictors.errors import PredictorError
from predictors.network_latency import NetworkLatencyPredictor
from profilers.errors import ModelError
from profilers.measurement import FAMILY_TAG
from profilers.store import MeasurementStore


def bench_families(bench: PredictorBench) -> dict[str, Any]:
    """Predict each family by what was fitted on the survey, the space and the other families.

    Returns:
        Plain data: `survey`, `unmeasured` and, where `bench.measure_seconds` says so, `measured`:
        predictions before and after unknown kernels were measured, over all families, by
        family, and one by one.

    Raises:
        PredictorError: Too little was measured.
    """
    measure_space(bench)
    record: dict[str, Any] = {"survey": measure_survey(bench)}
    measure_families(bench)
    questions = {family: _questions(bench, family) for family in bench.families}
    asked = [question for of_family in questions.values() for question in of_family]
    if not asked:
        raise PredictorError(
            f"{bench.database(FAMILY)} holds no network of {', '.join(bench.families)} on "
            f"{bench.target.describe()}: let it measure them, without --no-new"
        )
    plain_ones: list[NetworkLatencyPredictor] = []
    informed: list[NetworkLatencyPredictor] = []
    for family, of_family in questions.items():
        with bench.progress.task(f"fitting without {family}", None):
            predictor = fit_without(bench, family)
        plain_ones += [predictor] * len(of_family)
        if bench.measure_seconds is not None:
            informed += informed_predictors(bench, of_family, predictor)
    record["unmeasured"] = _judged(questions, plain_ones)
    if bench.measure_seconds is not None:
        seconds = [seconds_spent(bench, question) for question in asked]
        record["measured"] = _judged(questions, informed) | {
            "limit_s": bench.measure_seconds,
            "mean_s": sum(seconds) / len(seconds),
            "longest_s": max(seconds),
        }
    return record


def measure_survey(bench: PredictorBench) -> dict[str, Any]:
    """Measure random operators for what is left of their minutes; says what there is of them."""
    with MeasurementStore(bench.database(SURVEY)) as store:
        minutes = bench.campaign(
            "survey", store, bench.survey_minutes,
            lambda left, profiler: profile_survey(
                bench.target, store, minutes=left, seed=bench.seed, progress=bench.progress,
                profiler=profiler,
            ),
        )  # fmt: skip
        return {
            "minutes": minutes,
            "n_networks": len(store.networks(bench.target)),
            "n_isolated_kernels": len(store.isolated(bench.target)),
        }


def measure_families(bench: PredictorBench) -> None:
    """Measure the networks of all families, as far as it was not done."""
    if not bench.is_new:
        return
    wanted = []
    with bench.progress.task("making networks of all families", None):
        for seed in range(bench.n_per_family):  # in turns, so that a part is of all families
            for family in bench.families:
                make = partial(sample_network, family, seed, batch=bench.target.batch)
                wanted.append(Wanted(make().digest, make, {FAMILY_TAG: family}))
    with MeasurementStore(bench.database(FAMILY)) as store:
        measure_networks(bench, store, wanted, name="measuring families")


def fit_without(bench: PredictorBench, family: str | None) -> NetworkLatencyPredictor:
    """Fit on the survey, the space, and all families but that one.

    Raises:
        PredictorError: They are too few networks.
    """
    networks, isolated = bench.measured(TRAINING, SURVEY)
    others = [m for m in bench.measured(FAMILY)[0] if m.tags.get(FAMILY_TAG) != family]
    return NetworkLatencyPredictor(seed=bench.seed).fit([*networks, *others], isolated=isolated)


def _questions(bench: PredictorBench, family: str) -> list[Question]:
    """The networks of a family that were measured, with kernels found without timing them."""
    found = []
    with MeasurementStore(bench.database(FAMILY)) as store, bench.profiler(store) as profiler:
        measured = {m.digest: m for m in store.networks(bench.target)}
        for seed in range(bench.n_per_family):
            make = partial(sample_network, family, seed, batch=bench.target.batch)
            model = make()
            if model.digest not in measured:
                continue
            try:
                kernels = tuple(node.kernel for node in profiler.kernels(model))
            except ModelError as error:
                bench.progress.say(f"not asked for: {error}")
                continue
            found.append(Question(make, kernels, measured[model.digest]))
    return found


def _judged(
    questions: dict[str, list[Question]], predictors: list[NetworkLatencyPredictor]
) -> dict[str, Any]:
    asked = [question for of_family in questions.values() for question in of_family]
    answer = predict(asked, predictors)
    by_family: dict[str, Any] = {}
    start = 0
    for family, of_family in questions.items():
        if of_family:
            own = predict(of_family, predictors[start : start + len(of_family)])
            by_family[family] = judge_questions(of_family, own)
        start += len(of_family)
    return judge_questions(asked, answer) | {
        "by_family": by_family,
        "networks": rows_of(asked, answer),
    }
