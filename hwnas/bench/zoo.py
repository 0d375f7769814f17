"""Prediction of strangers' networks: the models that `onnx` brings, and those of `transformers`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from hwnas.bench.predictor_families import fit_without, measure_families, measure_survey
from hwnas.bench.predictor_questions import (
    Question,
    informed_predictors,
    judge_questions,
    predict,
    rows_of,
)
from hwnas.bench.predictor_setup import ZOO as ZOO_DATABASE
from hwnas.bench.predictor_setup import PredictorBench, Wanted, measure_networks
from hwnas.bench.predictor_space import measure_space
from hwnas.bench.zoo_models import ZOO, export_zoo_model
from hwnas.errors import HwnasError
from hwnas.export import save_onnx
from predictors.errors import PredictorError
from profilers.errors import ProfilerError
from profilers.onnx_models import load_model
from profilers.store import MeasurementStore

LIGHT_FOLDER = Path("backend") / "test" / "data" / "light"  # of the installed `onnx`
SOURCE = "source"


@dataclass(frozen=True)
class Stranger:
    """A network of the zoo.

    Attributes:
        name: For people.
        path: Its file; None: there is none.
        reason: Why there is no file, or no measurement of it.
    """

    name: str
    path: Path | None
    reason: str | None = None


def bench_zoo(bench: PredictorBench) -> dict[str, Any]:
    """Predict networks of strangers by what was fitted on the survey, all families and the space.

    Returns:
        Plain data: `unmeasured` and, where `bench.measure_seconds` says so, `measured`: predictions
        before and after unknown kernels were measured; `not_asked`: names with the reason.

    Raises:
        PredictorError: Too little was measured.
    """
    measure_space(bench)
    measure_survey(bench)
    measure_families(bench)
    with bench.progress.task("fitting", None):
        predictor = fit_without(bench, None)
    strangers = find_strangers(bench)
    questions, failed = _questions(bench, strangers)
    not_asked = {each.name: str(each.reason) for each in failed}
    if not questions:
        raise PredictorError(
            f"no network of the zoo was measured on {bench.target.describe()}: "
            + ("let it measure them, without --no-new" if not bench.is_new else str(not_asked))
        )
    answer = predict(questions, [predictor] * len(questions))
    record: dict[str, Any] = {
        "unmeasured": judge_questions(questions, answer) | {"networks": rows_of(questions, answer)},
    }
    if bench.measure_seconds is not None:
        informed = predict(questions, informed_predictors(bench, questions, predictor))
        record["measured"] = judge_questions(questions, informed) | {
            "limit_s": bench.measure_seconds,
            "networks": rows_of(questions, informed),
        }
    return record | {"not_asked": not_asked}


def find_strangers(bench: PredictorBench) -> list[Stranger]:
    """The files of all networks; those of `transformers` are exported where they are not yet."""
    folder = bench.models_folder or bench.measurements.with_name(f"{bench.measurements.stem}.zoo")
    light = Path(onnx.__file__).parent / LIGHT_FOLDER
    found = [Stranger(path.stem, path) for path in sorted(light.glob("light_*.onnx"))]
    with bench.progress.task("exporting the zoo", len(ZOO)) as task:
        for i, name in enumerate(ZOO):
            path = folder / f"{name}.onnx"
            try:
                if not path.exists():
                    save_onnx(export_zoo_model(name), path, metadata={SOURCE: "transformers"})
                found.append(Stranger(name, path))
            except (HwnasError, ProfilerError) as error:
                found.append(Stranger(name, None, str(error)))
            task.update(i + 1, note=name)
    return found


def _questions(
    bench: PredictorBench, strangers: list[Stranger]
) -> tuple[list[Question], list[Stranger]]:
    """Those that were measured, with kernels found without timing them, and those that were not."""
    questions: list[Question] = []
    failed = [each for each in strangers if each.path is None]
    digests: dict[str, Stranger] = {}
    for each in strangers:
        if each.path is not None:
            try:
                digests[load_model(each.path, batch=bench.target.batch).digest] = each
            except ProfilerError as error:
                failed.append(Stranger(each.name, each.path, str(error)))
    with MeasurementStore(bench.database(ZOO_DATABASE)) as store:
        wanted = [
            Wanted(digest, partial(load_model, each.path, batch=bench.target.batch))
            for digest, each in digests.items()
            if each.path is not None
        ]
        measure_networks(bench, store, wanted, name="measuring the zoo")
        measured = {m.digest: m for m in store.networks(bench.target)}
        reasons = store.failures(bench.target)
        with (
            bench.profiler(store) as profiler,
            bench.progress.task("asking the runtime for its kernels", len(wanted)) as task,
        ):
            for i, asked in enumerate(wanted):
                stranger = digests[asked.digest]
                task.update(i, note=stranger.name)
                if asked.digest not in measured:
                    reason = reasons.get(asked.digest, "it was not measured")
                    failed.append(Stranger(stranger.name, stranger.path, reason))
                    continue
                try:
                    kernels = tuple(node.kernel for node in profiler.kernels(asked.make()))
                except ProfilerError as error:
                    failed.append(Stranger(stranger.name, stranger.path, str(error)))
                    continue
                questions.append(Question(asked.make, kernels, measured[asked.digest]))
    return questions, failed
