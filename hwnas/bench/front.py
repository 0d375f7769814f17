"""Do delivered networks meet their budget later, and how much of it do they leave unused?

Searches over several budgets share one database and one predictor. When all are done, every network
that they delivered is measured again, those of one search in turns in a new process.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from hwnas.bench.shared_predictor import shared_predictor
from hwnas.config import CONFIG, SearchConfig, read_config
from hwnas.errors import ConfigError
from hwnas.progress import Progress
from hwnas.run import run_search
from profilers.isolation import IsolatedProfiler
from profilers.onnx_models import load_model
from profilers.store import MeasurementStore
from profilers.targets import Target, make_target
from profilers.timing import LatencySamples

__all__ = ["bench_front"]

AGAIN = "again.json"
SECONDS = 1.0  # for each network that is measured again
MAX_TRIES = 3  # while the machine disturbs it


@dataclass(frozen=True)
class _Member:
    """A delivered network: what was said of it, and what is measured now."""

    name: str
    latency_ms: float
    again_ms: float
    is_within: bool


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
            if (folder / "front.csv").exists():
                continue
            asked = replace(config, budgets=(f"latency_ms<=p{percentile:g}",), seed=seed)
            result = run_search(
                asked, folder, measurements=measurements, predictor=predictor, progress=progress
            )
            if not result.is_complete:
                raise KeyboardInterrupt
    searches = []
    with progress.task("measuring again", len(runs)) as task:
        for i, (percentile, seed) in enumerate(runs):
            folder = _folder(out, percentile, seed)
            limit_ms = float(read_config(folder / CONFIG)["budget"]["latency_ms"])
            members = _measured_again(folder, target, limit_ms, measurements)
            searches.append(_search_row(percentile, seed, limit_ms, folder, members))
            task.update(i + 1, note=folder.name)
    return {
        "target": target.describe(),
        "space": config.space,
        "data": config.data,
        "seconds": round(time.perf_counter() - start, 1),
        **_summary(searches),
        "budgets": {
            f"p{p:g}": _summary([row for row in searches if row["percentile"] == p])
            for p in percentiles
        },
        "searches": searches,
    }


def _folder(out: Path, percentile: float, seed: int) -> Path:
    return out / f"p{percentile:g}-{seed}"


def _measured_again(
    folder: Path, target: Target, limit_ms: float, measurements: Path
) -> list[_Member]:
    """The members of a run's front, measured in a new process; kept in the run folder."""
    front = pd.read_csv(folder / "front.csv")
    path = folder / AGAIN
    if path.exists():
        again = json.loads(path.read_text(encoding="utf-8"))
    else:
        models = [load_model(folder / onnx, batch=target.batch) for onnx in front["onnx"]]
        with MeasurementStore(measurements) as store:
            references_ms = store.references_ms(target)
        samples: dict[str, LatencySamples] = {}
        left = models
        for _ in range(MAX_TRIES):
            if left:
                with IsolatedProfiler(target, references_ms=references_ms) as profiler:
                    found = profiler.latency(left, seconds=SECONDS)
                samples |= {m.name: s for m, s in zip(left, found, strict=True)}
            left = [model for model in left if samples[model.name].warning is not None]
        again = {name: found.latency_ms for name, found in samples.items()}
        path.write_text(json.dumps(again), encoding="utf-8")
    return [
        _Member(str(name), float(before_ms), float(again[name]), float(again[name]) <= limit_ms)
        for name, before_ms in zip(front["name"], front["latency_ms"], strict=True)
    ]


def _search_row(
    percentile: float, seed: int, limit_ms: float, folder: Path, members: Sequence[_Member]
) -> dict[str, Any]:
    """One search in numbers; the nearest member is the slowest, as measured again."""
    nearest = max(members, key=lambda member: member.again_ms, default=None)
    candidates = pd.read_csv(folder / "candidates.csv")
    return {
        "percentile": percentile,
        "seed": seed,
        "limit_ms": limit_ms,
        "n_members": len(members),
        "n_within": sum(member.is_within for member in members),
        "n_trained": int((candidates["kind"] == "searched").sum()),
        "n_over": int(candidates["verdict"].str.startswith("over budget").sum()),
        "nearest": nearest.name if nearest else None,
        "nearest_slack": 1 - nearest.again_ms / limit_ms if nearest else 1.0,
        "changes": [member.again_ms / member.latency_ms - 1 for member in members],
    }


def _summary(searches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of several searches: who held, what stayed unused, how the second measuring differs."""
    n_members = sum(row["n_members"] for row in searches)
    changes = [abs(change) for row in searches for change in row["changes"]]
    return {
        "n_searches": len(searches),
        "n_without_front": sum(not row["n_members"] for row in searches),
        "n_members": n_members,
        "n_within": sum(row["n_within"] for row in searches),
        "within_share": sum(row["n_within"] for row in searches) / max(1, n_members),
        "mean_nearest_slack": statistics.fmean(row["nearest_slack"] for row in searches),
        "largest_nearest_slack": max(row["nearest_slack"] for row in searches),
        "median_change": statistics.median(changes) if changes else None,
        "largest_change": max(changes, default=None),
    }
