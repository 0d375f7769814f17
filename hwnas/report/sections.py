"""The sections of the report, each from the record of a run to HTML; "": nothing to show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any

import pandas as pd

from hwnas.report.charts import (
    WITHIN,
    Hint,
    full_view,
    hypervolume_marks,
    hypervolume_plot,
    pareto_marks,
    pareto_plot,
    prediction_marks,
    prediction_plot,
)
from hwnas.report.data import (
    RunData,
    View,
    as_number,
    duration,
    hypervolume_by_trial,
    number,
    pareto_view,
    percent,
    records,
    with_interval,
)
from hwnas.report.html import Bar, bars, section, side_by_side, table
from hwnas.report.members import NETWORK_COLUMNS, integer, network_cells
from hwnas.report.page import Hints
from hwnas.report.picture import HALF_SIZES, SIZES, Size, legend, picture
from hwnas.report.svg import Plot, cross, dot, line, star

N_TRIALS_SHOWN = 500  # the page stays quick to open; trials.csv has them all
N_REASONS_SHOWN, N_NUMBERS_SHOWN = 20, 8  # of failures


def pareto_section(run: RunData, hints: Hints) -> str:
    """The chart that the page is about, and how to read it."""
    view = pareto_view(run)
    if view is None:
        return section("Accuracy and latency", "<p>Nothing was trained yet.</p>")
    finished, chosen = "", ""
    if not run.networks.empty:
        finished = (
            "Filled dots, crosses and stars are finished networks at the latency measured on the "
            "target; the thin bar behind a dot is what was predicted before. "
        )
    if not run.front.empty:
        chosen = " A click on a dot of the front shows the network below."
    text = (
        f"{finished}Grey dots are trials of the search: predicted latency, accuracy after a short "
        f"training, so they lie lower than the same network trained to the end. Validation "
        f"accuracy was used for choosing; test accuracy is only reported, and chose nothing."
    )
    parts = [
        f"<p>Up and to the left is better.{chosen}</p>",
        _legend(run),
        _pareto_chart(run, view, hints),
        f'<p class="soft">{text}</p>',
    ]
    whole = full_view(run)
    if whole is not None:
        n_below = int((run.complete["val_accuracy"] < view.low_accuracy).sum())
        lies = "trial that lies" if n_below == 1 else "trials that lie"
        parts.append(
            f"<details><summary>With the {n_below} {lies} below</summary>"
            f"{_pareto_chart(run, whole, hints)}</details>"
        )
    return section("Accuracy and latency", *parts)


def _pareto_chart(run: RunData, view: View, hints: Hints) -> str:
    label = "Validation accuracy over latency"
    return _chart(
        label, SIZES, lambda size: pareto_plot(run, view, *size), run, pareto_marks, hints
    )


def _chart(
    label: str,
    sizes: Mapping[str, Size],
    plane: Callable[[Size], Plot | None],
    run: RunData,
    marks: Callable[[RunData, Plot, Hint], Iterable[str]],
    hints: Hints,
) -> str:
    """One chart in all sizes; "": there is nothing to show."""

    def draw(size: Size) -> Iterable[str] | None:
        plot = plane(size)
        return None if plot is None else marks(run, plot, hints)

    return picture(label, sizes, draw)


def _legend(run: RunData) -> str:
    """What is drawn, and only that."""
    items = (
        (run.front, dot(10, 9, 6, "front"), "Pareto front, measured"),
        (run.front, line(1, 9, 19, 9, "interval"), "its predicted interval"),
        (run.baselines, star(10, 9), "hand-made baseline, measured"),
        (run.removed, cross(10, 9), "measured, not on the front"),
        (run.int8, dot(10, 9, 5, "twin"), "in INT8, measured"),
        (run.complete, dot(10, 9, 3, "trial"), "trial: predicted, trained briefly"),
    )
    return legend((mark, words) for rows, mark, words in items if not rows.empty)


def prediction_section(run: RunData, hints: Hints) -> str:
    """How far the measured latencies lie from what was predicted."""
    networks = run.predicted
    label = "Predicted over measured latency"
    drawn = _chart(
        label, HALF_SIZES, lambda size: prediction_plot(run, *size), run, prediction_marks, hints
    )
    if not drawn:
        return ""
    is_near = networks["error"] <= WITHIN
    is_inside = networks["latency_ms"].between(
        networks["predicted_low_ms"], networks["predicted_high_ms"]
    )
    text = (
        f"Of {len(networks)} measured, {is_near.sum()} within ±{WITHIN:.0%} of the prediction (the "
        f"band), {is_inside.sum()} within the predicted interval; "
        f"mean error {percent(networks['error'].mean())}."
    )
    return section("Was the prediction right?", f"<p>{text}</p>", drawn)


def progress_section(run: RunData, hints: Hints) -> str:
    """Hypervolume over trials."""
    label = "Hypervolume over trials"
    drawn = _chart(
        label, HALF_SIZES, lambda size: hypervolume_plot(run, *size), run, hypervolume_marks, hints
    )
    if not drawn:
        return ""
    text = (
        f"Share of the box from 0 to {number(run.reference_ms, 'ms')} and from 0 to 100 % accuracy "
        f"that the trials so far dominate, by predicted latency and accuracy after short "
        f"training. A flat end says that more trials would have brought little."
    )
    return section("Did the search still gain?", f"<p>{text}</p>", drawn)


def others_section(run: RunData) -> str:
    """Networks that were trained to the end and not delivered, and why."""
    others = pd.concat([run.baselines, run.removed])
    if others.empty:
        return ""
    rows = [
        (row["name"], row["verdict"] or "–", *network_cells(run, row)[:-2])
        for row in records(others)
    ]
    return section(
        "Trained to the end, but not on the front",
        table(
            "Baselines are hand-made networks, trained by the same recipe.",
            ("Network", "Why", *NETWORK_COLUMNS[:-2]),  # of the rest there is no room
            rows,
            n_text=2,
        ),
    )


def failures_section(run: RunData) -> str:
    """Failed trials by reason, the most frequent first; and finalists that were left out."""
    return _failed_trials(run) + _left_out(run)


def _failed_trials(run: RunData) -> str:
    if run.failed.empty:
        return ""
    failed = run.failed.assign(failure=run.failed["failure"].replace("", "no reason recorded"))
    groups = sorted(failed.groupby("failure", sort=False), key=lambda group: -len(group[1]))
    rows = [
        (str(reason), f"{len(trials)}", percent(len(trials) / len(run.trials)), _numbers(trials))
        for reason, trials in groups[:N_REASONS_SHOWN]
    ]
    if len(groups) > N_REASONS_SHOWN:
        n = sum(len(trials) for _, trials in groups[N_REASONS_SHOWN:])
        rows.append(("other reasons, see trials.csv", f"{n}", percent(n / len(run.trials)), "–"))
    return section(
        f"Failed trials: {len(run.failed)}",
        table(
            "A failed trial ends itself, not the search.",
            ("Reason", "Trials", "Of all", "Numbers"),
            rows,
        ),
    )


def _left_out(run: RunData) -> str:
    if not run.left_out:
        return ""
    return section(
        f"Finalists left out: {len(run.left_out)}",
        table(
            "They could not be trained to the end, or their model cannot be used.",
            ("Network", "Reason"),
            list(run.left_out.items()),
            n_text=2,
        ),
    )


def _numbers(trials: pd.DataFrame) -> str:
    """The first numbers of some trials."""
    shown = [f"{number:.0f}" for number in trials["number"].head(N_NUMBERS_SHOWN)]
    return ", ".join(shown + ["…"] * (len(trials) > N_NUMBERS_SHOWN))


def record_section(run: RunData) -> str:
    """What was spent, asked and used: the tables of `config.toml`."""
    space = run.table("space")
    spans = [
        (name.removesuffix("_ms"), number(value, "ms"))
        for name, value in run.table("budget").items()
        if name in ("fastest_ms", "median_ms", "slowest_ms")
    ]
    tables = (
        ("Target", _plain(run.table("target"))),
        ("Search", _plain(run.table("search"))),
        ("Versions", _plain(run.table("versions"))),
        ("Search space", [(key.removeprefix("choices."), text) for key, text in _plain(space)]),
        ("Latency of the space's sampled networks", spans),
    )
    boxes = [section(title, table("", (), rows)) for title, rows in tables if rows]
    return side_by_side([part for part in (_spent_section(run), *boxes) if part])


def reproduce_section(run: RunData) -> str:
    """The command, if the run recorded it."""
    command = run.table("reproduce").get("command")
    if not isinstance(command, str):
        return ""
    return section(
        "How to repeat it",
        f"<pre><code>{escape(command)}</code></pre>",
        '<p class="soft">All options are in config.toml, all trials in trials.csv, all measured '
        "networks in candidates.csv. Latencies are those of this machine.</p>",
    )


def trials_section(run: RunData) -> str:
    """The numbers of the charts' trials, folded away."""
    if run.trials.empty:
        return ""
    volume_of: dict[float, float] = {}
    if run.reference_ms is not None:
        volumes = hypervolume_by_trial(run.complete, run.reference_ms)
        volume_of = dict(zip(run.complete["number"], volumes, strict=True))
    rows = [
        (
            f"{row['number']:.0f}",
            row["state"],
            percent(row["share"]),
            ", ".join(f"{k}={v}" for k, v in run.options(row["genotype"]).items()),
            percent(row["val_accuracy"]),
            with_interval(row),
            integer(row["params"]),
            integer(row["macs"]),
            number(row["train_seconds"]),
            percent(volume_of.get(row["number"])),
        )
        for row in records(run.trials.head(N_TRIALS_SHOWN))
    ]
    shown = "" if len(run.trials) <= N_TRIALS_SHOWN else f", the first {N_TRIALS_SHOWN} here"
    content = table(
        f"{len(run.trials)} trials{shown}; accuracy on validation data after short training.",
        (
            "Trial",
            "State",
            "Of the training",
            "Choices",
            "Val. accuracy",
            "Predicted (ms) [low, high]",
            "Params",
            "MACs",
            "Training (s)",
            "Hypervolume so far",
        ),
        rows,
        n_text=3,
    )
    return (
        f'<section><details class="whole"><summary>All trials, as a table</summary>'
        f"{content}</details></section>"
    )


def _spent_section(run: RunData) -> str:
    """Time by step with its share of the whole, then counts."""
    spent = run.table("spent")
    seconds = {k: as_number(v) or 0.0 for k, v in spent.items() if k.endswith("_seconds")}
    counts = {
        _words(key.removeprefix("n_")): value for key, value in spent.items() if key not in seconds
    }
    if not spent:
        return ""
    whole = sum(seconds.values())
    steps = [
        Bar(
            _words(key.removesuffix("_seconds")),
            (value / (whole or 1.0),),
            duration(value),
            f"{value / (whole or 1.0):.0%}",
        )
        for key, value in seconds.items()
    ]
    text = f"<p>{escape(duration(whole))} in all.</p>" if steps else ""
    listed = table("", (), _plain(counts)) if counts else ""
    return section("What was spent", text, bars(steps), listed)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _plain(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Values as text: counts with their digits grouped (a seed is no count), lists joined."""
    rows = []
    for key, value in values.items():
        is_count = isinstance(value, int) and (key == "size" or key.startswith("n_"))
        text = f"{value:,}" if is_count else str(value)
        if isinstance(value, list):
            text = ", ".join(map(str, value))
        if text:
            rows.append((key, text))
    return rows
