"""What several workers bring: trials a minute against one worker, and latencies beside it."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.data import load_data
from hwnas.errors import ConfigError
from hwnas.evaluators.plan import EvaluatorPlan, evaluate, prepare
from hwnas.executors.processes import ProcessExecutor
from hwnas.profiling import untrained_model
from hwnas.progress import Progress
from hwnas.record import Record
from hwnas.search import search
from hwnas.spaces.base import GenotypeArray, SearchSpace
from hwnas.spaces.for_data import space_for
from hwnas.strategies.base import Costs, Problem, Trial
from hwnas.strategies.random_search import RandomSearch
from hwnas.training import default_recipes
from profilers.devices import this_device
from profilers.isolation import IsolatedProfiler
from profilers.targets import make_target

__all__ = ["bench_workers"]


def bench_workers(
    data_name: str,
    data_path: Path | None,
    space_name: str,
    *,
    n_workers: int,
    n_trials: int,
    n_rounds: int,
    epochs: float | None,
    seconds: float,
    progress: Progress,
) -> dict[str, Any]:
    """Time the same trials with one worker and with several, in turns, one thread a worker.

    Each round searches with one worker and with several, the second first in every other round,
    the time in which processes start left out. After each of them, when its processes have ended,
    one network of the space is measured: searching must leave nothing behind that disturbs it.

    Args:
        data_name: As `load_data` takes it.
        data_path: Its folder or file.
        space_name: As `make_space` takes it.
        n_workers: How many several are.
        n_trials: Of each search.
        n_rounds: Rounds.
        epochs: Of a training; None: those of a search on these data.
        seconds: For each measurement.
        progress: Told how it goes on.

    Returns:
        `ratio` of trials a minute, several over one, and `latency_ratio`, measured after several
        over after one: medians over rounds of what each round gives, which stand beside them.

    Raises:
        ConfigError: There is nothing to compare.
    """
    if n_workers < 2 or n_trials < n_workers or n_rounds < 1:
        raise ConfigError(
            f"at least 2 workers, a trial for each and a round are needed, got {n_workers=}, "
            f"{n_trials=}, {n_rounds=}"
        )
    data = load_data(data_name, path=data_path)
    space = space_for(space_name, data)
    recipe = default_recipes(data)[0]
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    plan = EvaluatorPlan("training", data, space_name, space.fingerprint, recipe, seed=0)
    genotype = space.sample(np.random.default_rng(0), 1)[0]
    model = untrained_model(space.architecture(tuple(genotype.tolist())))
    per_minute: dict[int, list[float]] = {1: [], n_workers: []}
    latency_ms: dict[int, list[float]] = {1: [], n_workers: []}
    with (
        progress.task("searching in turns", 2 * n_rounds) as task,
        IsolatedProfiler(make_target()) as profiler,
    ):
        for i in range(2 * n_rounds):
            several_first = (i // 2) % 2 == 1
            n = n_workers if (i % 2 == 0) == several_first else 1
            taken_s = _search_seconds(space, plan, n_workers=n, n_trials=n_trials)
            per_minute[n].append(60 * n_trials / taken_s)
            latency_ms[n].append(profiler.profile(model, seconds=seconds).latency_ms)
            task.update(i + 1, note=f"{n} workers: {per_minute[n][-1]:.1f} trials a minute")
    ratios = np.array(per_minute[n_workers]) / np.array(per_minute[1])
    latency_ratios = np.array(latency_ms[n_workers]) / np.array(latency_ms[1])
    return {
        "data": data_name,
        "space": space.name,
        "n_workers": n_workers,
        "n_trials": n_trials,
        "n_rounds": n_rounds,
        "threads_per_worker": 1,
        "ratio": float(np.median(ratios)),
        "ratios": ratios.tolist(),
        "trials_per_minute": float(np.median(per_minute[n_workers])),
        "baseline": "one worker",
        "baseline_per_minute": float(np.median(per_minute[1])),
        "latency_ratio": float(np.median(latency_ratios)),
        "latency_ratios": latency_ratios.tolist(),
        "latency_ms": float(np.median(latency_ms[1])),
        "device": this_device().cpu,
    }


def _search_seconds(
    space: SearchSpace, plan: EvaluatorPlan, *, n_workers: int, n_trials: int
) -> float:
    """What a random search of `n_trials` takes once its workers are there."""
    problem = Problem(space, _equal_costs)
    with (
        tempfile.TemporaryDirectory(prefix="hwnas-") as folder,
        Record.open(Path(folder) / "search.db", space, create=True) as record,
        ProcessExecutor(n_workers, initializer=partial(prepare, plan)) as executor,
    ):
        strategy = RandomSearch(problem, seed=0)
        first = [executor.submit(evaluate, _first_trial(space)) for _ in range(n_workers)]
        for future in first:
            future.result()
        start_s = time.monotonic()
        search(
            problem, strategy, evaluate, record,
            n_trials=n_trials, executor=executor, n_workers=n_workers,
        )  # fmt: skip
        return time.monotonic() - start_s


def _first_trial(space: SearchSpace) -> Trial:
    genotype = space.sample(np.random.default_rng(0), 1)[0]
    return Trial(0, tuple(genotype.tolist()), None)


def _equal_costs(genotypes: GenotypeArray) -> Costs:
    """Nothing is asked of a predictor: what is timed are the trainings."""
    ones = np.ones(len(genotypes))
    counts = ones.astype(np.int64)
    return Costs(ones, ones, ones, ones, counts, counts)
