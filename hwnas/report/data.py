"""What a run folder holds, as tables that charts and pages can be made of; no torch, no charts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwnas.number_text import as_number as as_number
from hwnas.number_text import number as number
from hwnas.number_text import percent as percent
from hwnas.report.explanation import Explanation


@dataclass(frozen=True)
class RunData:
    """The record of one run. A file that is not there yet is an empty table or mapping.

    Attributes:
        folder: Where it was read from.
        front: Members of the verified front, by rising measured latency.
        candidates: All networks that were trained to the end, the front and baselines included.
        trials: All trials of the search, by number.
        config: What was asked, on which target, and what was spent.
        missing: Names of the files that are not there.
        left_out: Why finalists were not trained to the end or have no model, by name.
        unread: Why the record of the trials could not be read; empty: it was, or need not be.
        forms: Further files of networks, such as quantized ones.
        explanation: What explains the search; None: nobody asked.
    """

    folder: Path
    front: pd.DataFrame
    candidates: pd.DataFrame
    trials: pd.DataFrame
    config: Mapping[str, Any]
    missing: tuple[str, ...]
    forms: pd.DataFrame
    explanation: Explanation | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    unread: str = ""

    def table(self, name: str) -> dict[str, Any]:
        """A table of `config.toml` with nested keys joined by dots; empty where there is none."""
        value = self.config.get(name, {})
        return dict(_flat(value)) if isinstance(value, Mapping) else {}

    @cached_property
    def budget_ms(self) -> float | None:
        """The latency budget; None: the run has none."""
        return as_number(self.table("budget").get("latency_ms"))

    @cached_property
    def device(self) -> str:
        """The device in words, or "the target"."""
        names = [text for key, text in _flat(self.table("target")) if key.startswith("device")]
        return next((text for text in names if isinstance(text, str) and text), "the target")

    @cached_property
    def baselines(self) -> pd.DataFrame:
        """Hand-made networks, trained by the same recipe; best validation accuracy first."""
        rows = self.candidates[self.candidates["kind"] == "baseline"]
        return rows.sort_values("val_accuracy", ascending=False, kind="stable")

    @cached_property
    def removed(self) -> pd.DataFrame:
        """Searched networks that were trained to the end, but are not on the front."""
        is_searched = self.candidates["kind"] != "baseline"
        return self.candidates[is_searched & ~self.candidates["name"].isin(self.front["name"])]

    @cached_property
    def int8(self) -> pd.DataFrame:
        """The INT8 forms of networks."""
        return self.forms[self.forms["form"] == "int8"]

    @cached_property
    def networks(self) -> pd.DataFrame:
        """All that was measured: `candidates`, or the front where that is all there is."""
        return self.front if self.candidates.empty else self.candidates

    @cached_property
    def complete(self) -> pd.DataFrame:
        """Trials with an accuracy and a predicted latency, of the longest training that any had."""
        rows = self.trials[self.trials["state"] == "complete"]
        rows = rows.dropna(subset=["val_accuracy", "predicted_latency_ms"])
        share = rows["share"].fillna(1.0)
        whole: pd.DataFrame = rows[share == share.max()]
        return whole

    @cached_property
    def failed(self) -> pd.DataFrame:
        """Trials without a result; `failure` says why."""
        return self.trials[self.trials["state"] == "failed"]

    @cached_property
    def predicted(self) -> pd.DataFrame:
        """Networks with a measured and a predicted latency; `error` is relative, absolute."""
        rows = self.networks.dropna(subset=["latency_ms", "predicted_latency_ms"])
        return rows.assign(error=(rows["predicted_latency_ms"] / rows["latency_ms"] - 1).abs())

    @cached_property
    def reference_ms(self) -> float | None:
        """Latency of the hypervolume's reference point; None: there is no complete trial."""
        if self.budget_ms is not None or self.complete.empty:
            return self.budget_ms
        return 1.1 * float(self.complete["predicted_latency_ms"].max())

    def options(self, genotype: str) -> dict[str, str]:
        """The chosen options by name; the text itself where it cannot be decoded."""
        space = self.config.get("space")
        choices = space.get("choices") if isinstance(space, Mapping) else None
        try:
            indices = json.loads(genotype)
            pairs = zip(choices.items(), indices, strict=True)  # type: ignore[union-attr]
            return {name: str(options[int(index)]) for (name, options), index in pairs}
        except (
            AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError,
        ):  # fmt: skip
            return {"genotype": genotype} if genotype else {}


@dataclass(frozen=True, slots=True)
class View:
    """The part of the latency-accuracy plane that a chart shows at first."""

    low_ms: float
    high_ms: float
    low_accuracy: float
    high_accuracy: float


def pareto_view(run: RunData) -> View | None:
    """A view with every measured network in it; None where there is nothing to show.

    Short training leaves trials far below the finished networks, and one diverged trial lies at
    the accuracy of guessing: trials are let in only as far as the front stays readable.
    """
    networks, trials = run.networks, run.complete
    accuracies = [*networks["val_accuracy"].dropna()] or [*trials["val_accuracy"]]
    latencies = [*networks["latency_ms"].dropna(), *trials["predicted_latency_ms"]]
    latencies += [*run.int8["latency_ms"].dropna()]
    if not accuracies or not latencies:
        return None
    if run.budget_ms is not None:
        latencies.append(run.budget_ms)
    low, high = min(accuracies), max(accuracies)
    quantized = run.int8["val_accuracy"]
    near = quantized[quantized >= low - 2 * max(high - low, 0.01)]  # not those that it ruined
    low, high = min([low, *near]), max([high, *near])
    if not trials.empty:
        worst, upper_quarter = trials["val_accuracy"].quantile([0.05, 0.75])
        span = max(high - low, 0.01)
        wanted = max(min(low - 1.5 * span, upper_quarter), low - 4 * span)
        low = worst if networks.empty else min(low, max(worst, wanted))
        high = max(high, float(trials["val_accuracy"].max()))
    margin = 0.08 * max(high - low, 0.01)
    margin_ms = 0.06 * (max(latencies) - min(latencies) or max(latencies))
    return View(
        low_ms=max(0.0, min(latencies) - margin_ms),
        high_ms=max(latencies) + margin_ms,
        low_accuracy=low - margin,
        high_accuracy=min(high + margin, 1.0 + margin / 4),
    )


def hypervolume_by_trial(trials: pd.DataFrame, reference_ms: float) -> NDArray[np.float64]:
    """Share of the box (0 to `reference_ms`, accuracy 0 to 1) that the trials so far dominate.

    Args:
        trials: Complete trials in their order; those slower than `reference_ms` add nothing.
        reference_ms: The latency of the reference point; its accuracy is 0.

    Returns:
        `(n,)`, never falling; larger is better.
    """
    points = np.column_stack(
        [trials["predicted_latency_ms"] / reference_ms, -trials["val_accuracy"]]
    ).astype(np.float64)
    front = np.empty((0, 2))
    volumes = np.zeros(len(points))
    for i, point in enumerate(points):
        if point[0] < 1 and point[1] < 0:
            front = moocore.filter_dominated(np.vstack([front, point]))
        volumes[i] = moocore.hypervolume(front, ref=[1.0, 0.0]) if len(front) else 0.0
    return volumes


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as mappings from column to value."""
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def best(rows: pd.DataFrame) -> dict[str, Any]:
    """The row of highest validation accuracy: test accuracy chooses nothing."""
    return records(rows.sort_values("val_accuracy", ascending=False, kind="stable").head(1))[0]


def genotype_of(row: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The genotype of a row; None: it has none, as a baseline, or none that can be read."""
    try:
        return tuple(int(index) for index in json.loads(row["genotype"]))
    except (OverflowError, RecursionError, TypeError, ValueError):
        return None


def with_interval(row: Mapping[str, Any]) -> str:
    """The predicted latency in milliseconds, `0.188 [0.176, 0.201]`."""
    low, high = number(row["predicted_low_ms"]), number(row["predicted_high_ms"])
    return f"{number(row['predicted_latency_ms'])} [{low}, {high}]"


def measured_text(row: Mapping[str, Any]) -> str:
    """The measured latency in milliseconds, with its interval where it has one."""
    latency = number(row["latency_ms"])
    low, high = number(row["measured_low_ms"]), number(row["measured_high_ms"])
    return latency if low == "–" else f"{latency} [{low}, {high}]"


def duration(seconds: float) -> str:
    """A duration in words.

    Example:
        >>> duration(7.25), duration(95), duration(7500)
        ('7.2 s', '1 min 35 s', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
