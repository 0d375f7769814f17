"""The sections of the report, each from the record of a run to HTML; "": nothing to show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import quote

import pandas as pd

from hwnas.pareto_svg import pareto_svg
from hwnas.report_data import (
    RunData,
    as_number,
    duration,
    hypervolume_by_trial,
    number,
    pareto_view,
    percent,
    records,
    with_interval,
)
from hwnas.report_figures import WITHIN, hypervolume_figure, pareto_figure, prediction_figure
from hwnas.report_html import Markup, chart, section, side_by_side, table

N_TRIALS_SHOWN = 500  # the page stays quick to open; trials.csv has them all

NETWORK_COLUMNS = (
    "Val. accuracy",
    "Test accuracy",
    "Measured (ms)",
    "Predicted (ms) [low, high]",
    "Slack to budget",
    "Params",
    "MACs",
    "Peak memory (kB), predicted",
    "ONNX − PyTorch, max",
)


def pareto_section(run: RunData) -> str:
    """The chart that the page is about, and how to read it."""
    figure, view = pareto_figure(run), pareto_view(run)
    if figure is None or view is None:
        return section("Accuracy and latency", "<p>Nothing was trained yet.</p>")
    text = "Up and to the left is better. "
    if not run.networks.empty:
        text += (
            "Filled dots, crosses and stars are finished networks at the latency measured on the "
            "target; the thin bar behind a dot is what was predicted before. "
        )
    text += (
        "Grey dots are trials of the search: predicted latency, accuracy after a short training, "
        "so they lie lower than the same network trained to the end. Validation accuracy was used "
        "for choosing; test accuracy is only reported, and chose nothing."
    )
    n_below = int((run.complete["val_accuracy"] < view.low_accuracy).sum())
    if n_below:
        text += (
            f" {n_below} trial{'s lie' if n_below > 1 else ' lies'} below the part that is shown; "
            f"“Autoscale” in the chart's menu shows all."
        )
    drawing = f"<noscript>{pareto_svg(run)}</noscript>"
    return section(
        "Accuracy and latency", f"<p>{text}</p>", chart(figure, "pareto", "tall"), drawing
    )


def front_section(run: RunData) -> str:
    """The members of the front: numbers, files, choices."""
    if run.front.empty:
        return ""
    links = [
        # "./" and quoting: whatever the text says, it is a file below the run folder.
        Markup(f'<a href="./{quote(row["onnx"])}">{escape(row["name"])}</a>')
        if row["onnx"]
        else row["name"]
        for row in records(run.front)
    ]
    rows = [
        (link, *_network_cells(run, row))
        for link, row in zip(links, records(run.front), strict=True)
    ]
    options = [run.options(genotype) for genotype in run.front["genotype"]]
    names = list(dict.fromkeys(name for chosen in options for name in chosen))
    choices = [
        (name, *(chosen.get(key, "–") for key in names))
        for name, chosen in zip(run.front["name"], options, strict=True)
    ]
    return section(
        "The front",
        table(
            "Members by rising latency; the name opens the ONNX file. Slack is the part of the "
            "latency budget that is left. Last column: largest difference of the outputs.",
            ("Network", *NETWORK_COLUMNS),
            rows,
        ),
        "<h3>What they are made of</h3>" if names else "",
        table("The option of each choice.", ("Network", *names), choices) if names else "",
    )


def prediction_section(run: RunData) -> str:
    """How far the measured latencies lie from what was predicted."""
    figure, networks = prediction_figure(run), run.predicted
    if figure is None:
        return ""
    is_near = networks["error"] <= WITHIN
    is_inside = networks["latency_ms"].between(
        networks["predicted_low_ms"], networks["predicted_high_ms"]
    )
    text = (
        f"Of {len(networks)} measured, {is_near.sum()} within ±{WITHIN:.0%} of the prediction, "
        f"{is_inside.sum()} within the predicted interval; "
        f"mean error {percent(networks['error'].mean())}."
    )
    return section(
        "Was the prediction right?", f"<p>{text}</p>", chart(figure, "prediction", "low")
    )


def progress_section(run: RunData) -> str:
    """Hypervolume over trials."""
    figure = hypervolume_figure(run)
    if figure is None:
        return ""
    text = (
        f"Share of the box from 0 to {number(run.reference_ms, 'ms')} and from 0 to 100 % accuracy "
        f"that the trials so far dominate, by predicted latency and accuracy after short "
        f"training. A flat end says that more trials would have brought little."
    )
    return section(
        "Did the search still gain?", f"<p>{text}</p>", chart(figure, "hypervolume", "low")
    )


def others_section(run: RunData) -> str:
    """Networks that were trained to the end and not delivered, and why."""
    others = pd.concat([run.baselines, run.removed])
    if others.empty:
        return ""
    rows = [
        (row["name"], row["verdict"] or "–", *_network_cells(run, row)[:-1])
        for row in records(others)
    ]
    return section(
        "Trained to the end, but not on the front",
        table(
            "Baselines are hand-made networks, trained by the same recipe.",
            ("Network", "Why", *NETWORK_COLUMNS[:-1]),  # nothing exported: no parity
            rows,
            n_text=2,
        ),
    )


def failures_section(run: RunData) -> str:
    """Failed trials by reason, the most frequent first."""
    if run.failed.empty:
        return ""
    counts = run.failed["failure"].replace("", "no reason recorded").value_counts()
    rows = [(str(reason), f"{n}") for reason, n in counts.items()]
    return section(
        f"Failed trials: {len(run.failed)}",
        table("A failed trial ends itself, not the search.", ("Reason", "Trials"), rows),
    )


def record_section(run: RunData) -> str:
    """What was spent, asked and used: the tables of `config.toml`."""
    space = run.table("space")
    spans = [
        (name.removesuffix("_ms"), number(value, "ms"))
        for name, value in run.table("budget").items()
        if name in ("fastest_ms", "median_ms", "slowest_ms")
    ]
    tables = (
        ("What was spent", _spent(run.table("spent"))),
        ("Target", _plain(run.table("target"))),
        ("Search", _plain(run.table("search"))),
        ("Versions", _plain(run.table("versions"))),
        ("Search space", [(key.removeprefix("choices."), text) for key, text in _plain(space)]),
        ("Latency of the space's sampled networks", spans),
    )
    return side_by_side([section(title, table("", (), rows)) for title, rows in tables if rows])


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
            _integer(row["params"]),
            _integer(row["macs"]),
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
        f"<section><details><summary>All trials, as a table</summary>{content}</details></section>"
    )


def _network_cells(run: RunData, row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of `NETWORK_COLUMNS`."""
    slack = None if run.budget_ms is None else 1 - row["latency_ms"] / run.budget_ms
    parity = row["parity_max_abs_error"]
    return (
        percent(row["val_accuracy"]),
        percent(row["test_accuracy"]),
        number(row["latency_ms"]),
        with_interval(row),
        percent(slack).replace("-", "−"),
        _integer(row["params"]),
        _integer(row["macs"]),
        _peak_memory(row),
        "–" if math.isnan(parity) else f"{parity:.1e}",
    )


def _peak_memory(row: Mapping[str, Any]) -> str:
    """Measured, and in brackets what the search had predicted, if it did; kB."""
    measured = number(row["peak_memory_bytes"] / 1e3)
    predicted = row["predicted_peak_memory_bytes"]
    return measured if math.isnan(predicted) else f"{measured} ({number(predicted / 1e3)})"


def _integer(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}"


def _spent(spent: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Durations with their share of the whole, then counts."""
    seconds = {k: as_number(v) or 0.0 for k, v in spent.items() if k.endswith("_seconds")}
    whole = sum(seconds.values()) or math.inf
    rows = [
        (_words(key.removesuffix("_seconds")), f"{duration(value)} ({value / whole:.0%})")
        for key, value in seconds.items()
    ]
    counts = {key: value for key, value in spent.items() if key not in seconds}
    return rows + [(_words(key.removeprefix("n_")), text) for key, text in _plain(counts)]


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
        rows.append((key, text))
    return rows
