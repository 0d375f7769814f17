"""From trained networks to a front that holds: exported, compared, measured, and judged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from hwnas import __version__
from hwnas.budget import Budget
from hwnas.data import DataSet, Preprocessing
from hwnas.errors import ExportMismatchError, RunFolderError
from hwnas.evaluation import METADATA_KEY, evaluate_onnx
from hwnas.export import check_parity, network_to_onnx, save_onnx
from hwnas.networks import counts
from hwnas.pareto import non_dominated
from hwnas.profiling import ARCHITECTURE_TAG
from hwnas.progress import Progress
from hwnas.spaces.base import Architecture, Genotype
from hwnas.strategies.base import Problem
from predictors.network_latency import NetworkLatencyPredictor
from profilers.devices import Device
from profilers.isolation import IsolatedProfiler
from profilers.measurement import FAMILY_TAG, NetworkMeasurement
from profilers.onnx_models import OnnxModel, load_model
from profilers.store import MeasurementStore
from profilers.targets import Target

N_PARITY_EXAMPLES = 64
SECONDS_PROFILE, SECONDS_LATENCY = 0.7, 1.0
SEARCHED, BASELINE = "searched", "baseline"
DOMINATED = "dominated by another candidate"
FRONT, CANDIDATES = "front", "candidates"  # folders of models; `front` is also a verdict


@dataclass(frozen=True)
class Candidate:
    """A network that was trained to the end. Fields up to `kind` are columns of `front.csv`.

    Attributes:
        name: Of the file, without its ending.
        onnx: Path of the model, relative to the run folder.
        val_accuracy: Of ONNX Runtime on the validation split; what the front is chosen by.
        test_accuracy: Of ONNX Runtime on the test split; reported, never used.
        latency_ms: Measured on the target, end to end.
        predicted_latency_ms: By the predictor that the search used.
        predicted_low_ms: Lower end of its interval.
        predicted_high_ms: Upper end of its interval.
        peak_memory_bytes: See `NetworkMeasurement`.
        params: Trainable values.
        macs: Multiply-accumulates of one example.
        parity_max_abs_error: Largest difference between the logits of ONNX Runtime and PyTorch.
        meets_budget: Whether every measured value is within its budget.
        genotype: Option indices; None: not of the space.
        predicted_peak_memory_bytes: As the search had it; None: not predicted.
        energy_mj: See `NetworkMeasurement`.
        predicted_energy_mj: As the search had it; None: not predicted.
        kind: `searched` or `baseline`.
        verdict: `front`, or why it is not on it.
    """

    name: str
    onnx: str
    val_accuracy: float
    test_accuracy: float
    latency_ms: float
    predicted_latency_ms: float
    predicted_low_ms: float
    predicted_high_ms: float
    peak_memory_bytes: int | None
    params: int
    macs: int
    parity_max_abs_error: float
    meets_budget: bool
    genotype: Genotype | None
    predicted_peak_memory_bytes: float | None = None
    energy_mj: float | None = None
    predicted_energy_mj: float | None = None
    kind: str = SEARCHED
    verdict: str = ""


FRONT_COLUMNS = tuple(Candidate.__dataclass_fields__)[:17]


@dataclass(frozen=True)
class Trained:
    """A network and its weights, before anything is known of it on the target."""

    name: str
    network: nn.Module
    architecture: Architecture
    genotype: Genotype | None
    kind: str = SEARCHED


def export_candidate(trained: Trained, data: DataSet, target: Target, path: Path) -> float:
    """Write the ONNX model and compare it with PyTorch on real examples; the largest difference.

    Raises:
        ExportMismatchError: They differ; the file is then removed.
    """
    architecture = trained.architecture
    preprocessing = Preprocessing.of(data, architecture.input_shape)
    proto = network_to_onnx(
        trained.network,
        architecture.input_shape,
        batch=target.batch,
        input_type=architecture.input_type,
    )
    about = {
        "version": __version__,
        "name": trained.name,
        "genotype": trained.genotype,
        "architecture": json.loads(architecture.to_json()),
        "data": data.name,
        "classes": data.class_names,
        "preprocessing": preprocessing.to_dict(),
        "target": target.to_dict(),
    }
    save_onnx(proto, path, metadata={METADATA_KEY: json.dumps(about)})
    some = np.arange(min(N_PARITY_EXAMPLES, len(data.validation)))
    examples = preprocessing.apply(data.validation.take(some).inputs)
    return check_parity(path, trained.network, examples)


def verify(
    trained: Sequence[Trained],
    data: DataSet,
    target: Target,
    problem: Problem,
    predictor: NetworkLatencyPredictor,
    store: MeasurementStore,
    device: Device,
    folder: Path,
    progress: Progress,
) -> list[Candidate]:
    """Export, compare and measure networks; which of them form the front that meets the budgets.

    A network whose export differs from PyTorch is left out, with a message.

    The latencies are measured in turns, so that all meet the same machine. All measurements go to
    the store: the next fit of a predictor learns from what this one missed.
    """
    shutil.rmtree(folder / CANDIDATES, ignore_errors=True)
    with IsolatedProfiler(target, references_ms=store.references_ms(target)) as profiler:
        exported, parities, measured = _export_and_measure(
            trained, data, profiler, folder, progress
        )
    with progress.task("scoring", len(exported)) as task:
        for measurement in measured:
            store.add(measurement, device)
        candidates = []
        for i, item in enumerate(exported):
            path = folder / CANDIDATES / f"{item.name}.onnx"
            counted = counts(item.architecture)
            predicted = _predicted(item, measured[i], problem, predictor)
            candidate = Candidate(
                name=item.name,
                onnx=f"{CANDIDATES}/{path.name}",
                val_accuracy=evaluate_onnx(path, data, split="validation").accuracy,
                test_accuracy=evaluate_onnx(path, data, split="test").accuracy,
                latency_ms=measured[i].latency_ms,
                predicted_latency_ms=predicted["latency_ms"],
                predicted_low_ms=predicted["low_ms"],
                predicted_high_ms=predicted["high_ms"],
                peak_memory_bytes=measured[i].peak_memory_bytes,
                params=counted.params,
                macs=counted.macs,
                parity_max_abs_error=parities[i],
                meets_budget=True,
                genotype=item.genotype,
                predicted_peak_memory_bytes=predicted.get("peak_memory_bytes"),
                energy_mj=measured[i].energy_mj,
                predicted_energy_mj=predicted.get("energy_mj"),
                kind=item.kind,
            )
            misses = _misses(candidate, problem.budgets)
            candidates.append(replace(candidate, meets_budget=not misses))
            task.update(i + 1, note=item.name)
    return judge(candidates, problem.budgets)


def _predicted(
    item: Trained,
    measurement: NetworkMeasurement,
    problem: Problem,
    predictor: NetworkLatencyPredictor,
) -> dict[str, float]:
    """What was predicted, by name; of a network that is not of the space, its latency."""
    if item.genotype is not None:
        return problem.predict(np.array([item.genotype], dtype=np.int64)).row(0)
    found = predictor.predict([[run.kernel for run in measurement.kernels]])
    return {name: float(values[0]) for name, values in vars(found).items()}


def _export_and_measure(
    trained: Sequence[Trained],
    data: DataSet,
    profiler: IsolatedProfiler,
    folder: Path,
    progress: Progress,
) -> tuple[list[Trained], list[float], list[NetworkMeasurement]]:
    """Those that PyTorch agrees with, the largest difference of each, and its measurement."""
    exported: list[Trained] = []
    parities: list[float] = []
    models: list[OnnxModel] = []
    profiles: list[NetworkMeasurement] = []
    with progress.task("exporting and measuring", len(trained)) as task:
        for item in trained:
            path = folder / CANDIDATES / f"{item.name}.onnx"
            try:
                parities.append(export_candidate(item, data, profiler.target, path))
            except ExportMismatchError as error:
                progress.say(f"left out: {error}")
                continue
            exported.append(item)
            models.append(load_model(path, batch=profiler.target.batch))
            tags = {FAMILY_TAG: item.kind, ARCHITECTURE_TAG: item.architecture.to_json()}
            profiles.append(profiler.profile(models[-1], seconds=SECONDS_PROFILE, tags=tags))
            task.update(len(models), note=item.name)
    with progress.task("measuring in turns", None) as task:
        samples = profiler.latency(models, seconds=SECONDS_LATENCY, on_round=task.update)
        for item, sampled in zip(exported, samples, strict=True):
            if sampled.warning:
                progress.say(f"{item.name}: {sampled.warning}")
    measured = [replace(p, samples=s) for p, s in zip(profiles, samples, strict=True)]
    return exported, parities, measured


def _misses(candidate: Candidate, budgets: Sequence[Budget]) -> list[str]:
    """The budgets that the measured candidate misses, each with its value."""
    misses = []
    for budget in budgets:
        value = getattr(candidate, budget.metric, None)
        if value is None or budget.excess(value).item() > 0:
            text = "not measured" if value is None else f"{value:.4g}"
            misses.append(f"measured {budget.metric} {text}, budget {budget}")
    return misses


def judge(candidates: Sequence[Candidate], budgets: Sequence[Budget]) -> list[Candidate]:
    """Give every candidate its verdict.

    The front: searched, within every budget, and no other such network is better in both
    validation accuracy and measured latency. Test accuracy plays no part.
    """
    contenders = [i for i, c in enumerate(candidates) if c.kind == SEARCHED and c.meets_budget]
    objectives = np.array(
        [[1 - candidates[i].val_accuracy, candidates[i].latency_ms] for i in contenders]
    ).reshape(-1, 2)
    front = (
        {i for i, is_best in zip(contenders, non_dominated(objectives), strict=True) if is_best}
        if contenders
        else set()
    )
    judged = []
    for i, candidate in enumerate(candidates):
        if candidate.kind != SEARCHED:
            verdict = candidate.kind
        elif not candidate.meets_budget:
            verdict = f"over budget: {'; '.join(_misses(candidate, budgets))}"
        else:
            verdict = FRONT if i in front else DOMINATED
        judged.append(replace(candidate, verdict=verdict))
    return judged


def deliver(candidates: Sequence[Candidate], folder: Path) -> list[Candidate]:
    """Put the front's models under `front/`, and write `front.csv` and `candidates.csv`.

    Returns:
        The members of the front, fastest first.
    """
    ordered = sorted(candidates, key=lambda c: c.latency_ms)
    placed = []
    try:
        shutil.rmtree(folder / FRONT, ignore_errors=True)
        (folder / FRONT).mkdir(parents=True)
        for candidate in ordered:
            if candidate.verdict == FRONT:
                moved = f"{FRONT}/{candidate.name}.onnx"
                (folder / candidate.onnx).replace(folder / moved)
                candidate = replace(candidate, onnx=moved)
            placed.append(candidate)
        table = pd.DataFrame(
            [_row(candidate) for candidate in placed], columns=list(Candidate.__dataclass_fields__)
        )
        front = table[table["verdict"] == FRONT][list(FRONT_COLUMNS)]
        front.to_csv(folder / "front.csv", index=False)
        table.to_csv(folder / "candidates.csv", index=False)
    except OSError as error:
        raise RunFolderError(f"cannot write to {folder}: {error.strerror or error}") from None
    return [candidate for candidate in placed if candidate.verdict == FRONT]


def _row(candidate: Candidate) -> dict[str, object]:
    genotype = None if candidate.genotype is None else json.dumps(candidate.genotype)
    return asdict(candidate) | {"genotype": genotype}
