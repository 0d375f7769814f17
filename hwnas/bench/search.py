"""How many evaluations each strategy needs, on tables whose true Pareto front is known."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.bench.peers import PEERS, Meter, Spent, missing, version
from hwnas.bench.tables import REFERENCE, SearchTable, read_search_table
from hwnas.errors import ConfigError, unknown_name
from hwnas.progress import Progress
from hwnas.report.html import section
from hwnas.report.page import N_KINDS, Hints, report_page
from hwnas.report.picture import SIZES, Size, kinds_legend, picture
from hwnas.report.svg import Axis, Plot, area, curve, line, text
from hwnas.strategies import (
    NEEDS_GUIDE,
    STRATEGIES,
    SpaceExhaustedError,
    Trial,
    make_strategy,
    needs_data,
)
from hwnas.strategies.base import Proposal
from profilers.devices import this_device

__all__ = [
    "DEFAULT_STRATEGY",
    "Run",
    "bench_search",
    "check_strategies",
    "draw_curves",
    "run_strategy",
]

FloatArray = NDArray[np.float64]
DEFAULT_STRATEGY = "guided"  # what `default` stands for
SHARES = (0.99, 0.995, 0.999)
CHECKPOINTS = (10, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1000, 1500, 2000)
FAIR_FROM = 30  # evaluations from which on no strategy should be below random search
SMALLEST = 1e-5  # share of the hypervolume that is drawn as missing
_CURVES = ("curve_low", "curve_high", "curve")


@dataclass
class Run:
    """One strategy on one table with one seed.

    Attributes:
        curve: Share of the true hypervolume after each evaluation, `(n,)`.
        n_missing: Proposals that are not in the table.
        n_repeated: Proposals that were evaluated before.
        ask_tell_s: Seconds of each ask and tell, the look-up between them included; empty for
            peers, whose loops are their own.
        seconds: In all.
        ended_early: It had evaluations left: it proposed too many that cost none.
    """

    curve: FloatArray
    n_missing: int
    n_repeated: int
    ask_tell_s: list[float] = field(default_factory=list)
    seconds: float = 0.0
    ended_early: bool = False

    def evaluations_to(self, share: float) -> float:
        """Evaluations until the curve reached `share`; infinite if it did not."""
        reached = np.flatnonzero(self.curve >= share)
        return float(reached[0] + 1) if len(reached) else float("inf")


def run_strategy(
    name: str, table: SearchTable, *, n_evaluations: int, seed: int, latency_is_known: bool
) -> Run:
    """Let one strategy, or peer, evaluate rows of the table.

    A table knows the whole training only: that is what a strategy gets for any share of it.
    """
    meter = Meter(table, n_evaluations)
    ask_tell_s: list[float] = []
    start_s = time.perf_counter()
    try:
        if name in PEERS:
            PEERS[name](meter, seed)
        else:
            problem = table.problem(latency_is_known=latency_is_known)
            strategy = make_strategy(name, problem, seed=seed)
            number = 0
            while not meter.is_spent:
                asked_s = time.perf_counter()
                proposal = Proposal.of(strategy.ask())
                found = meter.evaluate(proposal.genotype)
                failure = None if found else "it is not in the table"
                trial = Trial(number, proposal.genotype, found, failure, proposal.share)
                strategy.tell(trial)
                ask_tell_s.append(time.perf_counter() - asked_s)
                number += 1
    except (Spent, SpaceExhaustedError):
        pass
    seconds = time.perf_counter() - start_s
    curve = table.hypervolumes(np.array(meter.rows, dtype=np.int64))
    ended_early = not meter.is_spent
    return Run(curve, meter.n_missing, meter.n_repeated, ask_tell_s, seconds, ended_early)


def check_strategies(names: Sequence[str]) -> None:
    """Make sure that there is a strategy, or peer, of each name; and that there are names.

    Raises:
        ConfigError: If not.
    """
    if not names:
        raise ConfigError("name at least one strategy, such as default,random")
    for name in names:
        if name not in (known := ["default", *STRATEGIES, *PEERS]):
            raise ConfigError(unknown_name("strategy", name, known))
        if name in NEEDS_GUIDE:
            raise ConfigError(needs_data(name))


def bench_search(
    path: Path,
    *,
    accuracy: str,
    latency: str,
    strategies: Sequence[str],
    n_evaluations: int,
    n_seeds: int,
    latency_is_known: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Evaluations to shares of the true hypervolume, by strategy, over seeds.

    Quartiles count a run that did not get there as later than all that did; None: so many did not
    that there is no number. Strategies take turns, seed by seed. A peer whose package is not
    installed is named under `not_available`, with the reason. Peers know latency by evaluating
    only, whatever `latency_is_known` says: they have no place for it.

    Raises:
        ConfigError: If a strategy or column does not exist.
        DataError: If the table cannot be used.
    """
    if n_evaluations < 1 or n_seeds < 1:
        raise ConfigError(
            f"at least one evaluation and seed are needed, got {n_evaluations=}, {n_seeds=}"
        )
    check_strategies(strategies)
    table = read_search_table(path, accuracy=accuracy, latency=latency)
    reasons = {name: reason for name in strategies if (reason := missing(name))}
    runs: dict[str, list[Run]] = {name: [] for name in strategies if name not in reasons}
    with progress.task("searching", n_seeds * len(runs)) as task:
        for seed in range(n_seeds):
            for i, (name, done) in enumerate(runs.items()):
                done.append(
                    run_strategy(
                        DEFAULT_STRATEGY if name == "default" else name,
                        table,
                        n_evaluations=n_evaluations,
                        seed=seed,
                        latency_is_known=latency_is_known,
                    )
                )
                task.update(seed * len(runs) + i + 1, note=name)
    return {
        "table": path.name,
        "accuracy": accuracy,
        "latency": latency,
        "latency_is_known": latency_is_known,
        "n_architectures": len(table),
        "n_choices": len(table.space.choices),
        "reference_error": REFERENCE[0],
        "reference_latency": REFERENCE[1],
        "n_evaluations": n_evaluations,
        "n_seeds": n_seeds,
        "threads": 1,
        "device": this_device().cpu,
        "strategies": {
            name: _summary(name, done, runs, latency_is_known) for name, done in runs.items()
        },
        "default": DEFAULT_STRATEGY,
        "not_available": reasons,
    }


def _summary(
    name: str, runs: list[Run], every: dict[str, list[Run]], latency_is_known: bool
) -> dict[str, Any]:
    curves = _stacked(runs)
    n = curves.shape[1]
    summary: dict[str, Any] = {
        "version": version(name),
        "evaluations_to": {
            f"{100 * share:g}%": _quartiles([run.evaluations_to(share) for run in runs])
            for share in SHARES
        },
        "hypervolume_at": {
            str(at): _quartiles(curves[:, at - 1].tolist())
            for at in sorted({*(c for c in CHECKPOINTS if c <= n), n})
        },
        "curve": np.median(curves, axis=0).round(6).tolist(),
        "curve_low": np.quantile(curves, 0.25, axis=0).round(6).tolist(),
        "curve_high": np.quantile(curves, 0.75, axis=0).round(6).tolist(),
        "n_missing": float(np.median([run.n_missing for run in runs])),
        "n_repeated": float(np.median([run.n_repeated for run in runs])),
        "n_evaluated": float(np.median([len(run.curve) for run in runs])),
        "n_ended_early": sum(run.ended_early for run in runs),
        "latency_is_known": latency_is_known and name not in PEERS,
        "seconds": float(np.median([run.seconds for run in runs])),
        "ask_tell_s": _median_s([run.ask_tell_s for run in runs]),
        "ask_tell_last_tenth_s": _median_s(
            [run.ask_tell_s[9 * len(run.ask_tell_s) // 10 :] for run in runs]
        ),
    }
    if "random" in every and name != "random":
        # A run that ended early stays where it was; only the first ones may be behind by chance.
        random, own = np.median(_stacked(every["random"]), axis=0), np.median(curves, axis=0)
        longest = max(len(random), n)
        random, own = (np.pad(c, (0, longest - len(c)), mode="edge") for c in (random, own))
        below = own[FAIR_FROM - 1 :] < random[FAIR_FROM - 1 :]
        summary["evaluations_below_random"] = int(below.sum())
    return summary


def _median_s(seconds: list[list[float]]) -> float | None:
    """Median over all runs; None where nothing was timed, as of peers."""
    found = [value for run in seconds for value in run]
    return float(np.median(found)) if found else None


def _stacked(runs: list[Run]) -> FloatArray:
    """The curves of all seeds, `(n_seeds, n)`; one that ended before goes on as it was."""
    curves = [run.curve if len(run.curve) else np.zeros(1) for run in runs]
    n = max(map(len, curves))
    return np.array([np.pad(curve, (0, n - len(curve)), mode="edge") for curve in curves])


def _quartiles(values: list[float]) -> dict[str, float | None]:
    """Lower quartile, median, upper; None where that is infinite."""
    ordered = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
    ordered[1] = np.median(values) if np.isfinite(np.median(values)) else np.inf
    return {
        key: float(value) if np.isfinite(value) else None
        for key, value in zip(("q1", "median", "q3"), ordered, strict=True)
    }


def draw_curves(record: dict[str, Any]) -> str:
    """Draw the curves with their quartiles as a web page that needs no network.

    Args:
        record: What `bench_search` returned, of one strategy at least.
    Returns:
        The page.
    """
    # What is missing, on a log axis: the last tenth of a percent is where strategies differ.
    missing = {
        name: [np.maximum(1 - np.array(found[key]), SMALLEST) for key in _CURVES]
        for name, found in record["strategies"].items()
    }
    n = max(len(values) for values, *_ in missing.values())
    lowest = min(float(values.min()) for curves in missing.values() for values in curves)
    classes = {name: f"k{i % N_KINDS}" for i, name in enumerate(missing)}
    axes = (
        Axis(0, n + 1, "Evaluations"),
        Axis(0.8 * lowest, 1.2, "Hypervolume missing, share of the true front's", is_log=True),
    )

    def draw(size: Size) -> Iterator[str]:
        plot = Plot(*axes, *size)
        yield from plot.axes()
        for share in (share for share in SHARES if 1 - share > axes[1].low):
            y = plot.at_y(1 - share)
            yield line(plot.left, y, plot.right, y, "equal")
            yield text(plot.right, y - 5, f"{100 * share:g} %", "small end")
        for name, curves in missing.items():
            low, high, median = (
                [plot.at(i + 1, value) for i, value in enumerate(values.tolist())]
                for values in curves
            )
            yield area([*low, *high[::-1]], f"{classes[name]} quartiles")
            yield curve(median, classes[name])

    mode = "latency predicted" if record["latency_is_known"] else "latency evaluated"
    if record["latency_is_known"] and any(name in PEERS for name in record["strategies"]):
        mode += " (evaluated by strategies of other packages)"
    title = (
        f"{record['accuracy']} × {record['latency']} of {record['table']}, {mode}: median and "
        f"quartiles of {record['n_seeds']} seeds"
    )
    drawn = picture("Hypervolume missing by evaluations", SIZES, draw) + kinds_legend(classes)
    body = f"<h1>{escape(title)}</h1>{section('What is missing', drawn)}"
    return report_page(title, body, Hints())
