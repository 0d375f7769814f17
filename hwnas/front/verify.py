"""From trained networks to a front that holds: exported, compared, measured, and judged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from hwnas import __version__
from hwnas.budget import Budget
from hwnas.data import DataSet, Preprocessing
from hwnas.errors import ExportMismatchError, RunFolderError
from hwnas.evaluation import METADATA_KEY, about_examples, evaluate_onnx
from hwnas.export import check_parity, network_to_onnx, save_onnx
from hwnas.front.failed_finalists import note_unusable
from hwnas.front.sittings import SeveralSittings, time_in_sittings
from hwnas.networks import counts
from hwnas.pareto import non_dominated
from hwnas.profiling import ARCHITECTURE_TAG, network_tags
from hwnas.progress import Progress
from hwnas.spaces.base import Architecture, Genotype, SearchSpace
from hwnas.strategies.base import Problem
from hwnas.target_place import OpenProfiler
from predictors.network_latency import NetworkLatencyPredictor
from profilers.devices import Device
from profilers.errors import ModelError
from profilers.isolation import AnyProfiler, IsolatedProfiler
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
        latency_ms: Measured on the target, end to end, in several sittings.
        predicted_latency_ms: By the predictor that the search used.
        predicted_low_ms: Lower end of its interval.
        predicted_high_ms: Upper end of its interval.
        peak_memory_bytes: See `NetworkMeasurement`.
        params: Values of its weights, those that are not trained too.
        macs: Multiply-accumulates of one example.
        parity_max_abs_error: Largest difference between the logits of ONNX Runtime and PyTorch.
        meets_budget: Whether every measured value is within its budget, the latency with all of its
            measured interval.
        genotype: Option indices; None: not of the space.
        predicted_peak_memory_bytes: As the search had it; None: not predicted.
        energy_mj: See `NetworkMeasurement`.
        predicted_energy_mj: As the search had it; None: not predicted.
        measured_low_ms: Lower end of where later measurements are expected.
        measured_high_ms: Upper end; what the latency budget is compared with.
        slack: The share of the latency budget that is left unused; None: there is no such budget.
        kind: `searched` or `baseline`.
        verdict: `front`, or why it is not on it.
        parent: Name of the network from whose weights it started; empty: from new ones.
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
    measured_low_ms: float | None = None
    measured_high_ms: float | None = None
    slack: float | None = None
    kind: str = SEARCHED
    verdict: str = ""
    parent: str = ""


FRONT_COLUMNS = tuple(Candidate.__dataclass_fields__)[:20]


@dataclass(frozen=True)
class Trained:
    """A network and its weights, before anything is known of it on the target.

    `parent` is the name of the network from whose weights it started; empty: from new ones.
    """

    name: str
    network: nn.Module
    architecture: Architecture
    genotype: Genotype | None
    kind: str = SEARCHED
    parent: str = ""


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
    } | about_examples(data)
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
    *,
    open_profiler: OpenProfiler | None = None,
) -> list[Candidate]:
    """Export, compare and measure networks; which of them form the front that meets the budgets.

    A network whose export differs from PyTorch, or that the target cannot run, is left out, with a
    message and a note in the folder. All measurements go to the store: the next fit of a predictor
    learns from what this one missed.
    """
    open_profiler = open_profiler or partial(IsolatedProfiler, target)
    references_ms = store.references_ms(target)
    with open_profiler(references_ms=references_ms) as profiler:
        exported = _export_and_profile(
            trained, data, target, profiler, folder, progress, space=problem.space
        )
    just_seen_ms = [item.profile.reference_ms for item in exported if item.profile.reference_ms]
    sittings = time_in_sittings(
        [item.model for item in exported],
        open_profiler,
        seconds=SECONDS_LATENCY,
        references_ms=[*references_ms, *just_seen_ms],
        progress=progress,
    )
    candidates = []
    with progress.task("scoring", len(exported)) as task:
        for item, sat in zip(exported, sittings, strict=True):
            if isinstance(sat, ModelError):
                _leave_out(item.trained, sat, folder, progress)
                continue
            if sat.samples.warning:
                progress.say(f"{item.trained.name}: {sat.samples.warning}")
            item = replace(item, profile=replace(item.profile, samples=sat.samples))
            store.add(item.profile, device)
            candidates.append(_candidate(item, sat, data, problem, predictor, folder))
            task.update(len(candidates), note=item.trained.name)
    return judge(candidates, problem.budgets)


@dataclass(frozen=True)
class _Exported:
    """A network whose model computes the same as PyTorch, and what was measured of it."""

    trained: Trained
    model: OnnxModel
    parity: float
    profile: NetworkMeasurement


def _tags(item: Trained, space: SearchSpace) -> dict[str, str]:
    """A predictor may be fitted on it: it must not take it for a network of another kind."""
    if item.kind == SEARCHED and item.genotype is not None:
        return network_tags(space, item.genotype)
    family = space.name if item.kind == SEARCHED else item.kind
    return {FAMILY_TAG: family, ARCHITECTURE_TAG: item.architecture.to_json()}


def _export_and_profile(
    trained: Sequence[Trained],
    data: DataSet,
    target: Target,
    profiler: AnyProfiler,
    folder: Path,
    progress: Progress,
    *,
    space: SearchSpace,
) -> list[_Exported]:
    """Those that PyTorch agrees with and the target can run."""
    exported: list[_Exported] = []
    with progress.task("exporting and profiling", len(trained)) as task:
        for i, item in enumerate(trained):
            path = folder / CANDIDATES / f"{item.name}.onnx"
            try:
                parity = export_candidate(item, data, target, path)
                model = load_model(path, batch=target.batch)
                profile = profiler.profile(model, seconds=SECONDS_PROFILE, tags=_tags(item, space))
            except (ExportMismatchError, ModelError) as error:
                _leave_out(item, error, folder, progress)
                continue
            note_unusable(folder, item.name, None)
            exported.append(_Exported(item, model, parity, profile))
            task.update(i + 1, note=item.name)
    return exported


def _leave_out(trained: Trained, reason: Exception, folder: Path, progress: Progress) -> None:
    progress.say(f"{trained.name} is left out: {reason}")
    note_unusable(folder, trained.name, str(reason))


def _candidate(
    item: _Exported,
    sat: SeveralSittings,
    data: DataSet,
    problem: Problem,
    predictor: NetworkLatencyPredictor,
    folder: Path,
) -> Candidate:
    """All that is known of a measured network, but for its verdict."""
    trained, profile = item.trained, item.profile
    onnx = f"{CANDIDATES}/{trained.name}.onnx"
    counted = counts(trained.architecture)
    predicted = _predicted(trained, profile, problem, predictor)
    limits = [b.limit for b in problem.budgets if b.metric == "latency_ms" and b.limit]
    candidate = Candidate(
        name=trained.name,
        onnx=onnx,
        val_accuracy=evaluate_onnx(folder / onnx, data, split="validation").accuracy,
        test_accuracy=evaluate_onnx(folder / onnx, data, split="test").accuracy,
        latency_ms=profile.latency_ms,
        predicted_latency_ms=predicted["latency_ms"],
        predicted_low_ms=predicted["low_ms"],
        predicted_high_ms=predicted["high_ms"],
        peak_memory_bytes=profile.peak_memory_bytes,
        params=counted.params,
        macs=counted.macs,
        parity_max_abs_error=item.parity,
        meets_budget=True,
        genotype=trained.genotype,
        predicted_peak_memory_bytes=predicted.get("peak_memory_bytes"),
        energy_mj=profile.energy_mj,
        predicted_energy_mj=predicted.get("energy_mj"),
        measured_low_ms=sat.low_ms,
        measured_high_ms=sat.high_ms,
        slack=1 - profile.latency_ms / min(limits) if limits else None,
        kind=trained.kind,
        parent=trained.parent,
    )
    return replace(candidate, meets_budget=not _misses(candidate, problem.budgets))


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


def _misses(candidate: Candidate, budgets: Sequence[Budget]) -> list[str]:
    """The budgets that the measured candidate misses, each with its value."""
    misses = []
    for budget in budgets:
        value = upper = getattr(candidate, budget.metric, None)
        if budget.metric == "latency_ms" and candidate.measured_high_ms is not None:
            upper = candidate.measured_high_ms
        if upper is None or budget.excess(upper).item() > 0:
            text = "not measured" if value is None else f"{value:.4g}"
            if upper != value:
                text += f", up to {upper:.4g} at other times"
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

    Whatever else lies beside the models is removed.

    Returns:
        The members of the front, fastest first.
    """
    placed = []
    try:
        for place in (CANDIDATES, FRONT):
            (folder / place).mkdir(parents=True, exist_ok=True)
        kept = {onnx_path(candidate, folder) for candidate in candidates}
        for path in [*(folder / CANDIDATES).iterdir(), *(folder / FRONT).iterdir()]:
            if path not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for candidate in sorted(candidates, key=lambda c: c.latency_ms):
            path = onnx_path(candidate, folder)
            place = FRONT if candidate.verdict == FRONT else CANDIDATES
            candidate = replace(candidate, onnx=f"{place}/{path.name}")
            path.replace(folder / candidate.onnx)
            placed.append(candidate)
        table = pd.DataFrame(
            [_row(candidate) for candidate in placed], columns=list(Candidate.__dataclass_fields__)
        )
        front = table[table["verdict"] == FRONT][list(FRONT_COLUMNS)]
        for name, rows in (("candidates.csv", table), ("front.csv", front)):
            part = folder / f"{name}.part"
            rows.to_csv(part, index=False)
            part.replace(folder / name)
    except OSError as error:
        raise RunFolderError(f"cannot write to {folder}: {error.strerror or error}") from None
    return [candidate for candidate in placed if candidate.verdict == FRONT]


def onnx_path(candidate: Candidate, folder: Path) -> Path:
    """Where its model lies now: an earlier call may have put it on the front, or taken it off."""
    path = folder / CANDIDATES / Path(candidate.onnx).name
    delivered = folder / FRONT / path.name
    return delivered if delivered.exists() and not path.exists() else path


def _row(candidate: Candidate) -> dict[str, object]:
    genotype = None if candidate.genotype is None else json.dumps(candidate.genotype)
    return asdict(candidate) | {"genotype": genotype}
