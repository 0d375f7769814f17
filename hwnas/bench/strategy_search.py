"""One search of a comparison of strategies: its trials alone, and the figures of what they found.

The trials are those of `hwnas search`; what comes after them (long trainings, export, measuring) is
the same whatever the strategy, and left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwnas import pareto
from hwnas.bench.tables import REFERENCE
from hwnas.budget import parse_budget
from hwnas.config import SearchConfig
from hwnas.cost import CostTable, check_predictable
from hwnas.data import DataSet, load_data
from hwnas.evaluators.plan import EvaluatorPlan
from hwnas.evaluators.training import seed_of, train_network
from hwnas.guides.folder import PLAN, learned_guide
from hwnas.progress import Silent
from hwnas.record import Record
from hwnas.run import GUIDE, STUDY
from hwnas.run_folder import RunFolder
from hwnas.run_trials import run_trials
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.for_data import space_for
from hwnas.strategies import NEEDS_GUIDE, Guide, Problem, Trial, make_strategy
from hwnas.training import Recipe, default_recipes, with_changes
from hwnas.training.loop import evaluate
from predictors.cost import CostPredictor
from predictors.files import load_predictor
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import Target

__all__ = ["SearchJob", "figures", "load_task", "priced_table", "search_once"]

GUIDE_SHARE = 0.5  # of the wall clock, unless epochs are asked for: as in `hwnas search`


@dataclass(frozen=True)
class SearchJob:
    """One search; it pickles.

    Attributes:
        config: What to search; its budgets are numbers, one of them on `latency_ms`, and `minutes`
            are the wall clock of guide and trials together.
        folder: The run folder; must not exist.
        target: What latency is predicted on. Not made where the search runs: there, fewer cores
            are usable, which would be another device.
        predictor: File of a fitted one.
        measurements: Database that holds the space's pieces.
    """

    config: SearchConfig
    folder: Path
    target: Target
    predictor: Path
    measurements: Path


def load_task(config: SearchConfig) -> tuple[DataSet, SearchSpace]:
    """The data of a search, and its space."""
    data = load_data(config.data, path=Path(config.data_path) if config.data_path else None)
    return data, space_for(config.space, data)


def priced_table(
    config: SearchConfig,
    space: SearchSpace,
    target: Target,
    predictor: Path,
    store: MeasurementStore,
) -> CostTable:
    """The space's costs, with hardly a piece left to be met.

    Raises:
        BudgetError: The predictor does not predict what a budget is on.
        PredictorError: It cannot be read, or is of another target.
    """
    costs = load_predictor(predictor, CostPredictor)
    metrics = [parse_budget(text).metric for text in config.budgets]
    for metric in metrics:
        check_predictable(metric, costs)
    table = CostTable(space, Profiler(target), store)
    table.use(costs, metrics=metrics)
    table.warm(np.random.default_rng(0))
    return table


def search_once(job: SearchJob, core: int | None = None) -> dict[str, Any]:
    """Run one search with one thread, and say what came of it.

    The clock runs while a guide is learned and while there are trials: it starts when the space is
    priced. No trial is started after `minutes`; the one that runs then is finished, and counts.

    Args:
        job: Which.
        core: The only one that this process may use from now on; None: any.

    Returns:
        `figures`, with the `seconds` of the wall clock, those of them that the guide took and the
        epochs that it was given, and the `test_accuracy` of the network whose validation accuracy
        is best: it is trained once more, by the same seed, after the search.

    Raises:
        HwnasError, ProfilerError, PredictorError: Something that the user can mend.
    """
    if core is not None:
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    config = job.config
    data, space = load_task(config)
    recipe = _recipe(config, data)
    budgets = tuple(parse_budget(text) for text in config.budgets)
    tables = {"search": config.to_table(), "run": {"target": job.target.key}}
    plan = EvaluatorPlan(
        config.evaluator, data, config.space, space.fingerprint, recipe, config.seed
    )
    with MeasurementStore(job.measurements) as store:
        table = priced_table(config, space, job.target, job.predictor, store)
        problem = Problem(space, table.predict, budgets)
        with (
            RunFolder.open(job.folder, tables, has_trials=lambda: False) as folder,
            Record.open(job.folder / STUDY, space, create=True) as record,
        ):
            guide = _guide(config, problem, data, recipe, folder)
            trials, is_complete = run_trials(
                config,
                problem,
                make_strategy(config.strategy, problem, seed=config.seed, guide=guide),
                plan,
                record,
                folder,
                Silent(),
                n_threads=1,
            )
            spent = folder.spent
        if not is_complete:
            raise KeyboardInterrupt
        found = figures(trials, problem)
    guide_seconds = spent.get("guide_seconds", 0.0)
    best = _best(trials)
    test = None if best is None else _test_accuracy(best, space, data, recipe, config.seed)
    return {
        "strategy": config.strategy,
        "seed": config.seed,
        **found,
        "test_accuracy": test,
        "seconds": round(guide_seconds + spent["search_seconds"], 1),
        "guide_seconds": guide_seconds,
        "guide_epochs": _guide_epochs(job.folder),
    }


def figures(trials: Sequence[Trial], problem: Problem) -> dict[str, Any]:
    """What the trials of a search are worth.

    Args:
        trials: Those that ended.
        problem: What was searched, with a budget on `latency_ms`.

    Returns:
        `hypervolume` of error and predicted latency, as a share of the box from 0 to the reference
        point (the budget, error 0.9); only trials with the whole training count.
        `best_val_accuracy` of those, None if there is none. `n_trained`, `n_shorter` (with a part
        of the training), `n_failed`; `n_whole`, what all trials cost, in whole trainings.
        `n_over`: proposals whose predicted upper bound is over a budget; `n_trained_over`: those of
        them that were trained all the same.
    """
    limits = {budget.metric: budget.limit for budget in problem.budgets}
    latency_limit_ms = limits["latency_ms"]
    assert latency_limit_ms is not None
    trained = [trial for trial in trials if trial.objectives is not None]
    whole = [trial for trial in trained if trial.share == 1]
    points = np.array([trial.objectives for trial in whole]).reshape(-1, 2)
    points[:, 1] /= latency_limit_ms
    best = _best(trials)
    return {
        "hypervolume": pareto.hypervolume(points, REFERENCE) / float(np.prod(REFERENCE)),
        "best_val_accuracy": None if best is None else 1 - _objectives(best)[0],
        "n_trained": len(whole),
        "n_shorter": len(trained) - len(whole),
        "n_failed": len(trials) - len(trained),
        "n_whole": round(sum(trial.share for trial in trials), 3),
        "n_over": _n_over(trials, problem),
        "n_trained_over": _n_over(trained, problem),
    }


def _n_over(trials: Sequence[Trial], problem: Problem) -> int:
    if not trials:
        return 0
    genotypes = np.array([trial.genotype for trial in trials], dtype=np.int64)
    return int((~problem.is_feasible(genotypes)).sum())


def _best(trials: Sequence[Trial]) -> Trial | None:
    """The most accurate on validation of those that were trained whole; of equals the fastest."""
    whole = [trial for trial in trials if trial.objectives is not None and trial.share == 1]
    return min(whole, key=_objectives, default=None)


def _objectives(trial: Trial) -> tuple[float, ...]:
    assert trial.objectives is not None
    return trial.objectives


def _recipe(config: SearchConfig, data: DataSet) -> Recipe:
    recipe = with_changes(default_recipes(data)[0], config.recipe)
    recipe.check_kind(data.kind)
    return recipe if config.search_epochs is None else replace(recipe, epochs=config.search_epochs)


def _guide(
    config: SearchConfig, problem: Problem, data: DataSet, recipe: Recipe, folder: RunFolder
) -> Guide | None:
    """What the strategy learns before the first trial; None: nothing."""
    if config.strategy not in NEEDS_GUIDE:
        return None
    assert config.minutes is not None
    with folder.spending("guide_seconds"):
        return learned_guide(
            folder.path / GUIDE,
            config.strategy,
            problem,
            data,
            recipe,
            n_trials=config.trials,
            seed=config.seed,
            epochs=config.guide_epochs,
            seconds=60 * GUIDE_SHARE * config.minutes,
        )


def _guide_epochs(folder: Path) -> float | None:
    """How many epochs the guide of a run was given; None: it has none."""
    path = folder / GUIDE / PLAN
    if not path.exists():
        return None
    return float(json.loads(path.read_text(encoding="utf-8"))["epochs"])


def _test_accuracy(
    trial: Trial, space: SearchSpace, data: DataSet, recipe: Recipe, seed: int
) -> float:
    architecture = space.architecture(trial.genotype)
    network, _ = train_network(architecture, data, recipe, seed=seed_of(seed, trial.number))
    return evaluate(network, data, data.test, input_shape=architecture.input_shape).accuracy
