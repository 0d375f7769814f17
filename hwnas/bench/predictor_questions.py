"""Networks to predict from their kernels alone, and again after unknown kernels were measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwnas.bench.predictor_setup import EXCERPTS, PredictorBench, judge
from hwnas.measure_unknown import measure_unknown, with_stored
from predictors.network_latency import LatencyPrediction, NetworkLatencyPredictor
from profilers.kernels import Kernel
from profilers.measurement import NetworkMeasurement
from profilers.onnx_models import OnnxModel
from profilers.store import MeasurementStore

MIN_SECONDS = 1.0  # left of those to measure the kernels of a network: for less it does not go on


@dataclass(frozen=True)
class Question:
    """A network to predict.

    Attributes:
        make: The model; called when something of it is to be measured.
        kernels: What the target's runtime makes of it, found without timing it.
        measurement: What it takes in truth; no prediction sees it.
    """

    make: Callable[[], OnnxModel]
    kernels: tuple[Kernel, ...]
    measurement: NetworkMeasurement

    @property
    def is_trusted(self) -> bool:
        """Whether the measurement does not say of itself that it is not to be trusted."""
        return self.measurement.samples.warning is None


def predict(
    questions: Sequence[Question], predictors: Sequence[NetworkLatencyPredictor]
) -> LatencyPrediction:
    """Answers to all questions, each by its predictor."""
    answers = [p.predict([q.kernels]) for q, p in zip(questions, predictors, strict=True)]
    return LatencyPrediction(
        *(
            np.concatenate([getattr(answer, name) for answer in answers])
            for name in ("latency_ms", "low_ms", "high_ms", "known_share")
        )
    )


def informed_predictors(
    bench: PredictorBench, questions: Sequence[Question], predictor: NetworkLatencyPredictor
) -> list[NetworkLatencyPredictor]:
    """For each question, `predictor` with the network's unknown kernels measured.

    Each network has its own `bench.measure_seconds`, in all runs of the command together.
    """
    assert bench.measure_seconds is not None
    with MeasurementStore(bench.database(EXCERPTS)) as store:
        if bench.is_new:
            with (
                bench.profiler(store) as profiler,
                bench.progress.task("measuring kernels, by network", len(questions)) as task,
            ):
                for i, question in enumerate(questions):
                    task.update(i, note=question.measurement.name)
                    spent_s = seconds_spent(bench, question)
                    left_s = bench.measure_seconds - spent_s
                    if left_s < MIN_SECONDS:
                        continue
                    model = question.make()
                    start = time.perf_counter()
                    measure_unknown(
                        model, question.kernels, predictor, profiler, seconds=left_s, store=store
                    )
                    bench.ledger.put(_spent(bench, question), spent_s + time.perf_counter() - start)
        return [
            with_stored(question.measurement.digest, question.kernels, predictor, store)
            for question in questions
        ]


def seconds_spent(bench: PredictorBench, question: Question) -> float:
    """What measuring kernels of that network has taken so far."""
    return float(bench.ledger.get(_spent(bench, question), 0.0))


def _spent(bench: PredictorBench, question: Question) -> str:
    return f"excerpt of {question.measurement.digest}, {bench.target.key}"


def judge_questions(questions: Sequence[Question], answer: LatencyPrediction) -> dict[str, Any]:
    """How good the answers are, over the networks whose measurement is trusted if any is."""
    measured_ms = np.array([q.measurement.latency_ms for q in questions])
    is_trusted = np.array([q.is_trusted for q in questions])
    used = is_trusted if is_trusted.any() else np.ones(len(questions), dtype=bool)
    part = LatencyPrediction(
        answer.latency_ms[used], answer.low_ms[used], answer.high_ms[used], answer.known_share[used]
    )
    return judge(part, measured_ms[used]) | {"n_untrusted": int((~is_trusted).sum())}


def rows_of(questions: Sequence[Question], answer: LatencyPrediction) -> list[dict[str, Any]]:
    """One line for each network, as plain data."""
    return [
        {
            "name": question.measurement.name,
            "n_kernels": len(question.kernels),
            "predicted_ms": float(answer.latency_ms[i]),
            "low_ms": float(answer.low_ms[i]),
            "high_ms": float(answer.high_ms[i]),
            "known_share": float(answer.known_share[i]),
            "measured_ms": question.measurement.latency_ms,
            "error": float(answer.latency_ms[i] / question.measurement.latency_ms - 1),
            "is_trusted": question.is_trusted,
        }
        for i, question in enumerate(questions)
    ]
