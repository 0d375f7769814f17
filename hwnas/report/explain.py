"""Why a search came out as it did: what each choice costs, what the front shares, where time goes.

Thousands of random networks are costed by the predictor, which takes a second: so what a choice
does to the latency is known far better than from the few networks that were trained.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwnas.budget import parse_budget
from hwnas.config import CONFIG, SearchConfig, check_trusted, read_config
from hwnas.cost import CostTable
from hwnas.data import load_data
from hwnas.drawing import described, layers_of
from hwnas.errors import RunFolderError
from hwnas.profile_parts import kind_of
from hwnas.report.data import RunData, genotype_of, records
from hwnas.report.explanation import (
    ChoiceEffect,
    Explanation,
    KindTime,
    MemberTime,
    OptionShare,
)
from hwnas.report.read import FRONT, read_run
from hwnas.spaces.architecture import shape_text
from hwnas.spaces.base import GenotypeArray, SearchSpace
from hwnas.spaces.for_data import space_for
from hwnas.strategies.base import Costs, FloatArray, Problem
from predictors.cost import CostPredictor
from predictors.explain import PredictedKernel, explain, slices
from predictors.files import load_predictor
from profilers.isolation import AnyProfiler
from profilers.onnx_models import load_model
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target

N_SAMPLE = 20_000  # random networks
N_PAIRS = 4096  # of them, that are each changed in one choice
N_FEASIBLE, MAX_BATCHES = 200, 10  # what is wanted of those that keep the budgets
MIN_ROWS = 8  # fewer networks than that give no share
_BLOCK = re.compile(r"/blocks\.(\d+)(?:/|$)")  # the place of a block in a node's name


def explain_run(
    folder: Path,
    problem: Problem,
    table: CostTable,
    predictor: CostPredictor,
    profiler: AnyProfiler,
) -> Explanation:
    """Explain what lies in a run folder; the same folder gives the same explanation.

    Args:
        folder: Of the run; its front is read from `front.csv` and the models that this names.
        problem: What was searched.
        table: Costs of the problem's space.
        predictor: What predicted them.
        profiler: Asked what kernels the target's runtime makes of a model; times nothing.

    Raises:
        RunFolderError: The folder is no run, or a file in it cannot be read.
        ModelError: A model of the front cannot be read.
        SpaceError: The front is not of the problem's space.
    """
    run = read_run(folder)
    space = problem.space
    front = _front_genotypes(run, space)
    sample, costs, is_feasible = _sample(problem, table)
    return Explanation(
        n_random=len(sample),
        n_feasible=int(is_feasible.sum()),
        choices=choice_effects(space, table, sample, costs.latency_ms, is_feasible, front),
        members=tuple(
            _member(run, row, space, predictor, profiler)
            for row in records(run.front)
            if genotype_of(row) is not None
        ),
    )


def explain_again(
    folder: Path, measurements: Path, *, data_path: Path | None = None, trust: bool = False
) -> Explanation:
    """Explain a run that ended earlier, on the machine that it ran on; times nothing.

    Args:
        folder: Of the run.
        measurements: Database that has the space's pieces, or will.
        data_path: Of the data, where it lies elsewhere now.
        trust: Run code that the folder names (a space or data of the user's own).

    Raises:
        HwnasError, PredictorError, ProfilerError: The folder is not complete, or of another device.
    """
    tables = read_config(folder / CONFIG)
    config = SearchConfig.from_table(tables.get("search", {}))
    check_trusted(config, folder, trust=trust)
    path = data_path or (Path(config.data_path) if config.data_path else None)
    space = space_for(config.space, load_data(config.data, path=path))
    target = make_target(
        config.target, threads=config.threads, precision=config.precision, batch=config.batch
    )
    predictor = load_predictor(folder / "predictor.npz", CostPredictor)
    predictor.check_target(target)
    limits = tables.get("budget", {}).get("limits", [])
    budgets = tuple(parse_budget(text) for text in limits)
    profiler = Profiler(target)
    with MeasurementStore(measurements) as store:
        table = CostTable(space, profiler, store)
        table.use(predictor, metrics=[budget.metric for budget in budgets])
        table.warm(np.random.default_rng(0))
        problem = Problem(space, table.predict, budgets)
        return explain_run(folder, problem, table, predictor, profiler)


def choice_effects(
    space: SearchSpace,
    table: CostTable,
    sample: GenotypeArray,
    latency_ms: FloatArray,
    is_feasible: NDArray[np.bool_],
    front: GenotypeArray,
) -> tuple[ChoiceEffect, ...]:
    """What each choice does to the latency, and how often its options are met.

    Args:
        space: Where the genotypes come from.
        table: Predicts what is to be compared with the sample.
        sample: Random genotypes, `(n, len(choices))`.
        latency_ms: Predicted, `(n,)`.
        is_feasible: Which of them keep the budgets, `(n,)`.
        front: Genotypes of the front, `(m, len(choices))`.

    Reference:
        Saltelli et al., Computer Physics Communications 181(2), 2010: first-order and total
        indices, the latter by Jansen's estimator. https://doi.org/10.1016/j.cpc.2009.09.018
    """
    log_ms = np.log(np.maximum(latency_ms, 1e-12))
    active, front_active = space.active(sample), space.active(front)
    totals = _total_shares(space, table, sample[:N_PAIRS], log_ms[:N_PAIRS])
    effects = []
    for j, choice in enumerate(space.choices):
        n_options = len(choice.options)
        has = active[:, j]
        random = _shares(sample[has & is_feasible, j], n_options)
        of_front = _shares(front[front_active[:, j], j], n_options, least=1)
        means = _group_means(log_ms[has], sample[has, j], n_options)
        options = tuple(
            OptionShare(str(option), random[i], of_front[i], means[i])
            for i, option in enumerate(choice.options)
        )
        alone = _share_alone(log_ms, sample[:, j], n_options)
        effects.append(
            ChoiceEffect(choice.name, alone, totals[j], int(front_active[:, j].sum()), options)
        )
    return tuple(effects)


def _sample(problem: Problem, table: CostTable) -> tuple[GenotypeArray, Costs, NDArray[np.bool_]]:
    """Random genotypes, their costs, and which of them keep the budgets; more where few do."""
    rng = np.random.default_rng(0)  # as for pricing the space: where pieces are many, these are met
    drawn = problem.space.sample(rng, N_SAMPLE)
    sample = drawn[table.affordable(drawn)]
    costs = problem.predict(sample)
    is_feasible = problem.excess(costs) <= 0
    if len(sample) == len(drawn):
        for _ in range(MAX_BATCHES):
            if is_feasible.sum() >= N_FEASIBLE:
                break
            more = problem.space.sample(rng, N_SAMPLE)
            costs_of_more = problem.predict(more)
            sample = np.concatenate([sample, more])
            costs = Costs.joined([costs, costs_of_more])
            is_feasible = np.concatenate([is_feasible, problem.excess(costs_of_more) <= 0])
    return sample, costs, is_feasible


def _total_shares(
    space: SearchSpace, table: CostTable, sample: GenotypeArray, log_ms: FloatArray
) -> list[float | None]:
    """Total index of each choice: half the mean square of what redrawing it alone changes."""
    variance = float(np.var(log_ms))
    if len(sample) < MIN_ROWS or not variance > 0:
        return [None] * len(space.choices)
    rng = np.random.default_rng(1)
    found: list[float | None] = []
    for j, n in enumerate(space.n_options):
        changed = sample.copy()
        changed[:, j] = rng.integers(0, n, size=len(sample))
        kept = space.is_valid(changed)
        kept[kept] = table.affordable(changed[kept], n_least=0)
        if kept.sum() < MIN_ROWS:
            found.append(None)
            continue
        other = np.log(np.maximum(table.predict(changed[kept]).latency_ms, 1e-12))
        share = 0.5 * float(np.mean((log_ms[kept] - other) ** 2)) / variance
        found.append(min(share, 1.0))
    return found


def _share_alone(values: FloatArray, option: NDArray[np.int64], n_options: int) -> float:
    """Share of the variance that the groups' means explain, less what chance would (ω²)."""
    n = np.bincount(option, minlength=n_options)
    k = int((n > 0).sum())
    total = float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0
    if k < 2 or len(values) <= k or not total > 0:
        return 0.0
    sums = np.bincount(option, weights=values, minlength=n_options)
    between = float((sums[n > 0] ** 2 / n[n > 0]).sum() - values.sum() ** 2 / len(values))
    within = (total - between) / (len(values) - k)
    return float(np.clip((between - (k - 1) * within) / (total + within), 0.0, 1.0))


def _shares(
    options: NDArray[np.int64], n_options: int, *, least: int = MIN_ROWS
) -> list[float | None]:
    if len(options) < least:
        return [None] * n_options
    return [float(n) / len(options) for n in np.bincount(options, minlength=n_options)]


def _group_means(
    log_ms: FloatArray, option: NDArray[np.int64], n_options: int
) -> list[float | None]:
    """Geometric mean by option, ms."""
    return [
        float(np.exp(log_ms[option == i].mean())) if (option == i).sum() >= MIN_ROWS else None
        for i in range(n_options)
    ]


def _front_genotypes(run: RunData, space: SearchSpace) -> GenotypeArray:
    found = [genotype_of(row) for row in records(run.front)]
    rows = [space.check(genotype) for genotype in found if genotype is not None]
    return np.array(rows, dtype=np.int64).reshape(len(rows), len(space.choices))


def _member(
    run: RunData,
    row: Mapping[str, str],
    space: SearchSpace,
    predictor: CostPredictor,
    profiler: AnyProfiler,
) -> MemberTime:
    """What a member is made of, and where its time goes by what the predictor knows of kernels.

    Not by the profile: around kernels of some microseconds the profiler itself takes longer.
    """
    genotype = genotype_of(row)
    assert genotype is not None
    architecture = space.architecture(genotype)
    path = run.folder / row["onnx"]
    if not path.resolve().is_relative_to(run.folder.resolve()):
        raise RunFolderError(f"{FRONT} names {row['onnx']!r}, which is not in {run.folder}")
    model = load_model(path, batch=profiler.target.batch)
    found = explain(predictor.latency, profiler.kernels(model), family=space.key)
    by_kind = slices(found, [kind_of(kernel.node.kernel) for kernel in found.kernels])
    times = _block_times(found.kernels)
    layers = [
        # A runtime that renames its kernels does not tell of which block they are.
        described(layer, times.get(i, 0.0) if times else None)
        for i, layer in enumerate(layers_of(architecture))
    ]
    return MemberTime(
        name=row["name"],
        in_shape=shape_text(architecture.input_shape),
        layers=tuple(layers),
        kinds=tuple(
            KindTime(part.name, part.n_kernels, part.latency_ms)
            for part in sorted(by_kind, key=lambda part: -part.latency_ms)
        ),
        overhead_ms=found.overhead_ms,
    )


def _block_times(kernels: tuple[PredictedKernel, ...]) -> dict[int, float]:
    """Milliseconds by the block's place; what the runtime adds goes with what runs before it."""
    times: dict[int, float] = {}
    place: int | None = None
    waiting_ms = 0.0
    for kernel in kernels:
        names = (*kernel.node.writes, kernel.node.name)
        told = next((m for name in names if (m := _BLOCK.search(name))), None)
        place = place if told is None else int(told[1])
        if place is None:  # before the first block
            waiting_ms += kernel.latency_ms
            continue
        times[place] = times.get(place, 0.0) + kernel.latency_ms + waiting_ms
        waiting_ms = 0.0
    return times
