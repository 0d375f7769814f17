"""Every strategy on one real task: what its trials are worth after the same time.

Searches share one predictor and one budget. Each runs in a new process with one thread on a core of
its own, so many side by side as are asked for, seed by seed: all strategies with the first seed, in
random order, then all with the next, so that whatever the machine does meanwhile meets them alike.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import __version__
from hwnas.bench.shared_predictor import shared_predictor
from hwnas.bench.side_by_side import side_by_side, usable_cores
from hwnas.bench.strategies_table import BASELINE, markdown, summaries
from hwnas.bench.strategy_search import SearchJob, load_task, priced_table, search_once
from hwnas.bench.tables import REFERENCE
from hwnas.budget import parse_budget
from hwnas.config import SearchConfig
from hwnas.cost import check_measurable
from hwnas.errors import ConfigError, RunFolderError
from hwnas.executors.errors import EvaluationFailedError
from hwnas.feasibility import resolve_budgets
from hwnas.progress import Progress
from hwnas.strategies import Problem, check_strategy
from profilers.devices import this_device
from profilers.store import MeasurementStore
from profilers.targets import Target, make_target

__all__ = ["bench_strategies", "order_of"]

ASKED, RESULT, RECORD, TABLE = "bench.json", "result.json", "strategies.json", "strategies.md"
N_TRIALS = 1_000_000  # more than there is time for
HUNG_AFTER = 10.0  # times the wall clock
START_S = 600.0  # at most, until a search begins


def bench_strategies(
    config: SearchConfig,
    out: Path,
    *,
    strategies: Sequence[str],
    n_seeds: int,
    n_jobs: int,
    measurements: Path,
    predictor: Path | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Search with every strategy and seed for the same time, and compare what was found.

    Called again with the same arguments, or with more strategies or seeds, it repeats no search
    that has ended. One that was interrupted, or failed, begins anew: its time would not compare.

    Args:
        config: Of all searches: data, space, budgets with one on `latency_ms`, `minutes` of guide
            and trials together, epochs. Its strategy, seed, trials and workers are replaced.
        out: Where the run folders lie, and what they share; `strategies.md` and `strategies.json`
            are written there.
        strategies: Names of `hwnas.strategies.STRATEGIES`; `random`, the baseline, is added.
        n_seeds: Searches of each strategy, with seeds 0, 1, …
        n_jobs: Searches side by side, each on a core of its own.
        measurements: Database of measurements.
        predictor: A fitted one of the target; None: one is fitted, and kept in `out`.
        progress: Told how it goes on.

    Returns:
        What was asked, the `searches` in the order in which they were begun, and of each of the
        `strategies`, best first, the mean, least and largest over seeds; see `figures`. `ratio` is
        the hypervolume over the mean of the baseline.

    Raises:
        ConfigError: There is nothing to compare, or no such strategy.
        RunFolderError: `out` holds another comparison, or cannot be written.
        KeyboardInterrupt: It was interrupted; the same call goes on.
        HwnasError, ProfilerError, PredictorError: Something else that the user can mend.
    """
    names = list(dict.fromkeys([*strategies, BASELINE]))
    _check(config, names, n_seeds)
    cores = usable_cores(n_jobs)
    target = make_target(
        config.target, threads=config.threads, precision=config.precision, batch=config.batch
    )
    config = replace(config, trials=N_TRIALS, workers=0, evaluator="training")
    for budget in config.budgets:
        check_measurable(parse_budget(budget).metric, target)
    _hold(out, _asked(config, target, predictor, n_jobs))
    path = shared_predictor(config, target, out, measurements, progress, given=predictor)
    config = _with_limits(config, target, path, measurements)
    jobs = [
        SearchJob(
            replace(config, strategy=name, seed=seed), _folder(out, name, seed), target, path,
            measurements,
        )
        for seed, name in order_of(names, n_seeds)
    ]  # fmt: skip
    rows = _searched(jobs, cores, progress)
    record = {
        "data": config.data,
        "space": config.space,
        "target": target.describe(),
        "device": this_device().cpu,
        "budgets": list(config.budgets),
        "latency": "predicted",
        "minutes": config.minutes,
        "search_epochs": config.search_epochs,
        "guide_epochs": config.guide_epochs,
        "n_seeds": n_seeds,
        "n_jobs": n_jobs,
        "threads_per_search": 1,
        "reference_error": REFERENCE[0],
        "reference_latency": REFERENCE[1],
        "baseline": BASELINE,
        "strategies": summaries(names, rows),
        "searches": rows,
    }
    _write(out / RECORD, json.dumps(record, indent=2))
    _write(out / TABLE, markdown(record))
    return record


def order_of(names: Sequence[str], n_seeds: int) -> list[tuple[int, str]]:
    """Seeds and strategies in the order in which they are searched.

    Example:
        >>> order_of(["nsga2", "random", "tpe"], 1)
        [(0, 'tpe'), (0, 'nsga2'), (0, 'random')]
    """
    known = sorted(names)
    return [
        (seed, known[i])
        for seed in range(n_seeds)
        for i in np.random.default_rng(seed).permutation(len(known))
    ]


def _check(config: SearchConfig, names: Sequence[str], n_seeds: int) -> None:
    for name in names:
        check_strategy(name)
    if n_seeds < 1:
        raise ConfigError(f"at least one seed is needed, got {n_seeds}")
    if config.minutes is None:
        raise ConfigError("strategies are compared after the same time: give the minutes of each")
    if not any(parse_budget(text).metric == "latency_ms" for text in config.budgets):
        raise ConfigError(
            f"a latency budget is needed, which latencies are divided by, such as latency_ms<=40%; "
            f"got {', '.join(config.budgets) or 'none'}"
        )


def _asked(
    config: SearchConfig, target: Target, predictor: Path | None, n_jobs: int
) -> dict[str, Any]:
    """All that has to be the same for searches to compare."""
    data, space = load_task(config)
    same = {k: v for k, v in config.to_table().items() if k not in ("strategy", "seed")}
    return same | {
        "target": target.key,
        "data_fingerprint": data.fingerprint,
        "space_fingerprint": space.fingerprint,
        "predictor": None if predictor is None else str(predictor),
        "jobs": n_jobs,
        "version": __version__,
    }


def _hold(out: Path, asked: Mapping[str, Any]) -> None:
    """Note in `out` what is compared there, or make sure that it is this.

    Raises:
        RunFolderError: It is not, or `out` is some other folder, or cannot be written.
    """
    path = out / ASKED
    try:
        if not path.exists():
            if out.exists() and any(out.iterdir()):
                raise RunFolderError(
                    f"{out} holds other files and no {ASKED}: give --out a new or an empty folder"
                )
            out.mkdir(parents=True, exist_ok=True)
            _write(path, json.dumps(asked, indent=2))
            return
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot use {out}: {error}") from None
    differences = [
        f"{key} is {there.get(key)!r} there, {asked.get(key)!r} asked"
        for key in sorted({*there, *asked})
        if there.get(key) != asked.get(key)
    ]
    if differences:
        raise RunFolderError(
            f"{out} holds another comparison: {'; '.join(differences)}. Give --out another folder, "
            f"or the options of that comparison to go on with it"
        )


def _with_limits(
    config: SearchConfig, target: Target, predictor: Path, measurements: Path
) -> SearchConfig:
    """The config with budgets that are numbers; what no network can meet is refused."""
    _, space = load_task(config)
    with MeasurementStore(measurements) as store:
        table = priced_table(config, space, target, predictor, store)
        problem, _ = resolve_budgets(
            Problem(space, table.predict),
            tuple(parse_budget(text) for text in config.budgets),
            np.random.default_rng(0),
            affordable=table.affordable,
        )
    # Every digit of the limit, so that all searches have the same to the last bit.
    texts = tuple(f"{budget.metric}<={budget.limit!r}" for budget in problem.budgets)
    return replace(config, budgets=texts)


def _searched(
    jobs: Sequence[SearchJob], cores: Sequence[int | None], progress: Progress
) -> list[dict[str, Any]]:
    """What came of each job, in their order; those that have ended before are not run."""
    rows = {job.folder.name: _read(job.folder / RESULT) for job in jobs}
    left = [job for job in jobs if rows[job.folder.name] is None]
    for job in left:
        shutil.rmtree(job.folder, ignore_errors=True)
    minutes = jobs[0].config.minutes
    assert minutes is not None
    n_done = len(jobs) - len(left)
    with progress.task("searches", len(jobs)) as task:

        def on_tick(running_s: list[float]) -> None:
            task.update(round(n_done + sum(min(s / (60 * minutes), 0.99) for s in running_s), 2))

        hung_after_s = START_S + HUNG_AFTER * 60 * minutes
        for job, found in side_by_side(
            search_once, left, cores, hung_after_s=hung_after_s, on_tick=on_tick
        ):
            name = job.folder.name
            if isinstance(found, EvaluationFailedError):
                progress.say(f"{name} failed: {found}")
                config = job.config
                rows[name] = {
                    "strategy": config.strategy, "seed": config.seed, "failure": str(found)
                }  # fmt: skip
            else:
                _write(job.folder / RESULT, json.dumps(found))
                rows[name] = found
            n_done += 1
            task.update(n_done, note=name)
    return [row for row in rows.values() if row is not None]


def _folder(out: Path, name: str, seed: int) -> Path:
    return out / f"{name}-{seed}"


def _read(path: Path) -> dict[str, Any] | None:
    """A search that has ended; None: there is none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from None
