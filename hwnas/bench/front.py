"""Do delivered networks meet their budget later, and how much of it do they leave unused?

Searches over several budgets share one database and one predictor. When all are done, every network
that they delivered is measured again, those of one search in turns in a new process. What the
searches say of parity and of INT8 forms is put together.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwnas.bench.front_figures import Member, SearchFound, search_row, summary, twins_of
from hwnas.bench.kept import Kept, read_kept
from hwnas.bench.shared_predictor import shared_predictor
from hwnas.config import SearchConfig
from hwnas.errors import ConfigError, RunFolderError
from hwnas.number_text import as_number
from hwnas.progress import Progress
from hwnas.report.data import RunData
from hwnas.report.read import read_run
from hwnas.run import run_search
from profilers.isolation import IsolatedProfiler
from profilers.onnx_models import OnnxModel, load_model
from profilers.store import MeasurementStore
from profilers.targets import Target, make_target
from profilers.timing import LatencySamples

__all__ = ["bench_front"]

AGAIN = "again.json"
ENDED = "ended.json"  # which search of the folder came to its end; `front.csv` is there before
SEARCH = "search"
SECONDS = 1.0  # for each network that is measured again
MAX_TRIES = 3  # while the machine disturbs it


def bench_front(
    config: SearchConfig,
    out: Path,
    *,
    percentiles: Sequence[float],
    n_searches: int,
    measurements: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Run searches, then measure all that they delivered again.

    Called again with the same arguments it goes on where it stopped.

    Args:
        config: Of all searches; its budgets and its seed are replaced.
        out: Where the run folders lie, and what they share.
        percentiles: Of the space's latency: the budgets.
        n_searches: Of each budget, with seeds 0, 1, …
        measurements: Database of measurements.
        progress: Told how it goes on.

    Raises:
        ConfigError: There is nothing to search.
        KeyboardInterrupt: It was interrupted; the same call goes on.
        HwnasError, ProfilerError, PredictorError: Something that the user can mend.
    """
    if not percentiles or n_searches < 1:
        raise ConfigError(f"at least one budget and search are needed, got {percentiles=}")
    target = make_target(
        config.target, threads=config.threads, precision=config.precision, batch=config.batch
    )
    start = time.perf_counter()
    predictor = shared_predictor(config, target, out, measurements, progress)
    runs = [(percentile, seed) for percentile in percentiles for seed in range(n_searches)]
    with progress.task("searches", len(runs)) as task:
        for i, (percentile, seed) in enumerate(runs):
            folder = _folder(out, percentile, seed)
            task.update(i, note=folder.name)
            asked = replace(config, budgets=(f"latency_ms<=p{percentile:g}",), seed=seed)
            if _has_ended(folder, asked):
                continue
            (folder / ENDED).unlink(missing_ok=True)
            result = run_search(
                asked, folder, measurements=measurements, predictor=predictor, progress=progress
            )
            if not result.is_complete:
                raise KeyboardInterrupt
            with Kept.open(folder / ENDED, {}) as kept:
                kept.put(SEARCH, asked.to_table())
    searches = []
    with progress.task("measuring again", len(runs)) as task:
        for i, (percentile, seed) in enumerate(runs):
            folder = _folder(out, percentile, seed)
            searches.append(_found(percentile, seed, read_run(folder), target, measurements))
            task.update(i + 1, note=folder.name)
    return {
        "target": target.describe(),
        "space": config.space,
        "data": config.data,
        "strategy": config.strategy,
        "seconds": round(time.perf_counter() - start, 1),
        **summary(searches),
        "budgets": {
            f"p{p:g}": summary([search for search in searches if search.percentile == p])
            for p in percentiles
        },
        "searches": [search_row(search) for search in searches],
    }


def _folder(out: Path, percentile: float, seed: int) -> Path:
    return out / f"p{percentile:g}-{seed}"


def _has_ended(folder: Path, asked: SearchConfig) -> bool:
    """Whether nothing is left to do; to ask `run_search` takes half a minute."""
    ended = read_kept(folder / ENDED)
    return ended is not None and ended.get(SEARCH) == asked.to_table()


def _found(
    percentile: float, seed: int, run: RunData, target: Target, measurements: Path
) -> SearchFound:
    """What a search delivered; its members are measured again."""
    limit_ms = run.budget_ms
    if limit_ms is None:
        raise RunFolderError(f"{run.folder} does not say which latency was allowed")
    again_ms = _measured_again(run, target, measurements)
    front = run.front
    members = [
        Member(name, before_ms, again_ms[name], again_ms[name] <= limit_ms, as_number(parity))
        for name, before_ms, parity in zip(
            front["name"], front["latency_ms"], front["parity_max_abs_error"], strict=True
        )
    ]
    candidates = run.candidates
    return SearchFound(
        percentile,
        seed,
        limit_ms,
        n_trained=int((candidates["kind"] == "searched").sum()),
        n_over=int(candidates["verdict"].str.startswith("over budget").sum()),
        members=members,
        twins=twins_of(run),
    )


def _measured_again(run: RunData, target: Target, measurements: Path) -> dict[str, float]:
    """Latencies of a run's front by name, measured in a new process; kept in the run folder."""
    paths = {
        name: run.folder / onnx
        for name, onnx in zip(run.front["name"], run.front["onnx"], strict=True)
    }
    asked = {"target": target.key, "seconds": SECONDS}
    with Kept.open(run.folder / AGAIN, asked) as kept:
        left = {
            name: load_model(path, batch=target.batch)
            for name, path in paths.items()
            if as_number(kept.get(name)) is None
        }
        for name, samples in _samples(left, target, measurements).items():
            kept.put(name, samples.latency_ms)
        return {name: float(kept.get(name)) for name in paths}


def _samples(
    left: Mapping[str, OnnxModel], target: Target, measurements: Path
) -> dict[str, LatencySamples]:
    """Of models, in turns in a new process; those that the machine disturbed are tried again."""
    samples: dict[str, LatencySamples] = {}
    with MeasurementStore(measurements) as store:
        references_ms = store.references_ms(target)
    for _ in range(MAX_TRIES):
        if left:
            with IsolatedProfiler(target, references_ms=references_ms) as profiler:
                found = profiler.latency(list(left.values()), seconds=SECONDS)
            samples |= zip(left, found, strict=True)
        left = {name: left[name] for name in left if samples[name].warning is not None}
    return samples
