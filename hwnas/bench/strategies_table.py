"""What a comparison of strategies says: spreads over seeds, ratios to the baseline, the table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["BASELINE", "COLUMNS", "markdown", "summaries", "table_rows"]

BASELINE = "random"
COLUMNS = (
    "strategy", "hypervolume × random", "hypervolume", "best validation %", "its test %",
    "networks trained", "shorter trainings", "seconds", "of them guide",
)  # fmt: skip
_SPREADS = (
    "hypervolume", "best_val_accuracy", "test_accuracy", "n_trained", "n_shorter", "n_whole",
    "n_failed", "seconds", "guide_seconds", "guide_epochs",
)  # fmt: skip


def summaries(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, least and largest over seeds by strategy, the largest mean hypervolume first.

    Args:
        names: Of the strategies; the baseline is one of them.
        rows: What `search_once` returned; or the strategy, the seed and the `failure` of a search.

    Returns:
        By strategy, spreads by figure, None where it is not known; `ratio` is the hypervolume over
        the mean of the baseline. `n_over` and `n_trained_over` are sums, `failures` the reasons.
    """
    of = {name: [row for row in rows if row["strategy"] == name] for name in names}
    baseline = [row["hypervolume"] for row in of[BASELINE] if "failure" not in row]
    unit = statistics.fmean(baseline) if baseline else 0.0
    found = {name: _summary(of_one, unit) for name, of_one in of.items()}
    return dict(sorted(found.items(), key=_by_hypervolume))


def table_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The strategies of a record as texts by `COLUMNS`: mean (least to largest) over seeds."""
    return [
        (
            name,
            _range(found["ratio"], 2),
            _range(found["hypervolume"], 3),
            _range(found["best_val_accuracy"], 1, 100),
            _range(found["test_accuracy"], 1, 100),
            _range(found["n_trained"], 0),
            _range(found["n_shorter"], 0),
            _mean(found["seconds"]),
            _mean(found["guide_seconds"]),
        )
        for name, found in record["strategies"].items()
    ]


def markdown(record: Mapping[str, Any]) -> str:
    """The comparison as a page: what was asked, then the table."""
    found = record["strategies"]
    n_over, n_trained_over = (
        sum(of[key] for of in found.values()) for key in ("n_over", "n_trained_over")
    )
    guides = [of["guide_epochs"]["mean"] for of in found.values() if of["guide_epochs"]]
    epochs = record["search_epochs"]
    lines = [
        f"`{record['data']}`, space `{record['space']}`, {' and '.join(record['budgets'])} "
        f"(predicted, upper end of the interval) on {record['target']}.",
        f"{60 * record['minutes']:g} s of one core for each search, {record['n_seeds']} seeds, "
        f"{record['n_jobs']} side by side; a candidate is trained for "
        f"{'as long as by default' if epochs is None else f'{epochs:g} epochs'}.",
        f"Hypervolume: of validation error and predicted latency, as a share of the box from 0 to "
        f"error {record['reference_error']:g} and the latency budget; mean (least–largest).",
        f"Proposals over the budget: {n_over}, trained: {n_trained_over}.",
    ]
    if guides:
        lines.append(f"Guides: {min(guides):.3g} to {max(guides):.3g} epochs.")
    lines += [
        f"{name}, {len(of['failures'])} failed: {of['failures'][0]}"
        for name, of in found.items()
        if of["failures"]
    ]
    rows = [COLUMNS, ("---",) * len(COLUMNS), *table_rows(record)]
    table = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *table, ""])


def _by_hypervolume(item: tuple[str, dict[str, Any]]) -> tuple[float, str]:
    name, found = item
    return (-found["hypervolume"]["mean"] if found["hypervolume"] else 0.0, name)


def _summary(rows: Sequence[Mapping[str, Any]], unit: float) -> dict[str, Any]:
    ended = [row for row in rows if "failure" not in row]
    ratios = [row["hypervolume"] / unit for row in ended] if unit else []
    return {
        "ratio": _spread(ratios),
        **{key: _spread([row[key] for row in ended]) for key in _SPREADS},
        "n_over": sum(row["n_over"] for row in ended),
        "n_trained_over": sum(row["n_trained_over"] for row in ended),
        "failures": [row["failure"] for row in rows if "failure" in row],
    }


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    """Mean, least and largest of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"mean": statistics.fmean(known), "low": min(known), "high": max(known)}


def _range(spread: Mapping[str, float] | None, digits: int, factor: float = 1.0) -> str:
    if spread is None:
        return "–"
    mean, low, high = (f"{factor * spread[key]:.{digits}f}" for key in ("mean", "low", "high"))
    return mean if low == high else f"{mean} ({low}–{high})"


def _mean(spread: Mapping[str, float] | None) -> str:
    return "–" if spread is None else f"{spread['mean']:.1f}"
