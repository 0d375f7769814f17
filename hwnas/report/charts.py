"""The charts of the report as SVG: Pareto front, predicted against measured, hypervolume."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from hwnas.report.data import (
    RunData,
    View,
    hypervolume_by_trial,
    measured_text,
    number,
    pareto_view,
    percent,
    records,
    with_interval,
)
from hwnas.report.svg import Axis, Plot, area, cross, dot, line, star, text

NAME_CHARACTER = 6.6  # width of one in a name, in pixels
WITHIN = 0.10  # the band of the chart of predictions; the share within it is reported
# With wide spaces: several plain ones are shown as one.
LATENCY, ACCURACY = "latency (ms)\u2003← better", "validation accuracy (%)\u2003better →"

Hint = Callable[[str], str]  # from what is told of a mark to attributes that make it be told


def no_hint(words: str) -> str:
    """Marks that tell nothing: a picture that stands alone has no script."""
    return ""


def pareto_plot(run: RunData, view: View, width: int, height: int, *, top: int = 14) -> Plot:
    """The plane of accuracy over latency."""
    return Plot(
        Axis(view.low_ms, view.high_ms, LATENCY),
        Axis(100 * view.low_accuracy, 100 * view.high_accuracy, ACCURACY),
        width,
        height,
        top,
    )


def full_view(run: RunData) -> View | None:
    """A view with every trial in it; None where `pareto_view` has them all."""
    view = pareto_view(run)
    lowest = run.complete["val_accuracy"].min()
    if view is None or not lowest < view.low_accuracy:
        return None
    margin = 0.04 * (view.high_accuracy - lowest)
    return View(view.low_ms, view.high_ms, float(lowest - margin), view.high_accuracy)


def pareto_marks(run: RunData, plot: Plot, hint: Hint = no_hint) -> Iterator[str]:
    """Trials, measured networks, the front with its intervals, baselines and the budget."""
    yield from plot.axes()
    if run.budget_ms is not None:
        x = plot.at_x(run.budget_ms)
        yield line(x, plot.top, x, plot.bottom, "budget")
        side, at = ("end", x - 6) if x > plot.right - 130 else ("", x + 6)
        words = f"budget {number(run.budget_ms, 'ms')}"
        yield text(at, plot.bottom - 8, words, f"small over {side}")
    for row in records(run.complete):
        x_ms, y = row["predicted_latency_ms"], 100 * row["val_accuracy"]
        if plot.holds(x_ms, y):
            yield dot(*plot.at(x_ms, y), 3, "trial", hint(_trial_hint(run, row)))
    for row in records(run.removed.dropna(subset=["latency_ms", "val_accuracy"])):
        place = plot.at(row["latency_ms"], 100 * row["val_accuracy"])
        yield cross(*place, hint(network_hint(run, row)))
    for row in records(run.int8.dropna(subset=["latency_ms", "val_accuracy"])):
        x_ms, y = row["latency_ms"], 100 * row["val_accuracy"]
        if plot.holds(x_ms, y):
            yield dot(*plot.at(x_ms, y), 5, "twin", hint(_twin_hint(row)))
    yield from _front(run, plot, hint)
    yield from _baselines(run, plot, hint)


def _baselines(run: RunData, plot: Plot, hint: Hint) -> Iterator[str]:
    """Stars with their names, each below those that it would cover."""
    taken: list[tuple[float, float, float]] = []  # left, right, y of names
    for row in records(run.baselines.dropna(subset=["latency_ms", "val_accuracy"])):
        x, y = plot.at(row["latency_ms"], 100 * row["val_accuracy"])
        yield star(x, y, hint(network_hint(run, row)))
        words = f"{row['name']} (hand-made)"
        width = NAME_CHARACTER * len(words)
        is_right = x > (plot.left + plot.right) / 2
        left = x - 13 - width if is_right else x + 13
        y += 18
        while any(left < b and a < left + width and abs(y - other) < 14 for a, b, other in taken):
            y += 15
        taken.append((left, left + width, y))
        yield text(x - 13 if is_right else x + 13, y, words, "small end" if is_right else "small")


def _front(run: RunData, plot: Plot, hint: Hint) -> Iterator[str]:
    front = run.front.assign(place=range(len(run.front)))
    front = front.dropna(subset=["latency_ms", "val_accuracy"])
    if front.empty:
        return
    xs = [plot.at_x(ms) for ms in front["latency_ms"]]
    ys = [plot.at_y(100 * accuracy) for accuracy in front["val_accuracy"]]
    reach_ms = plot.x.high if run.budget_ms is None else run.budget_ms
    steps = "".join(f"H{x:g}V{y:g}" for x, y in zip(xs[1:], ys[1:], strict=True))
    path = f"M{xs[0]:g} {ys[0]:g}{steps}H{max(xs[-1], plot.at_x(reach_ms)):g}"
    yield f'<path d="{path}" class="steps"/>'
    for row in records(front.dropna(subset=["predicted_low_ms", "predicted_high_ms"])):
        y = plot.at_y(100 * row["val_accuracy"])
        low, high = plot.at_x(row["predicted_low_ms"]), plot.at_x(row["predicted_high_ms"])
        yield line(low, y, high, y, "interval")
    for row, x, y in zip(records(front), xs, ys, strict=True):
        told = hint(network_hint(run, row))
        chooses = f' data-member="{row["place"]}" tabindex="0"' if told else ""
        yield dot(x, y, 6, "front", chooses + told)
    best = int(np.argmax(front["val_accuracy"]))
    words = f"{percent(front['val_accuracy'].iloc[best])} at "
    words += number(front["latency_ms"].iloc[best], "ms")
    is_left = xs[best] < plot.left + 0.3 * (plot.right - plot.left)
    yield text(xs[best], ys[best] - 12, words, "strong" if is_left else "strong end")


def prediction_plot(run: RunData, width: int, height: int) -> Plot | None:
    """The plane of predicted over measured latency; None: no network has both."""
    if run.predicted.empty:
        return None
    both = run.predicted[["latency_ms", "predicted_latency_ms"]]
    low, high = 0.85 * both.min().min(), 1.12 * both.max().max()
    return Plot(
        Axis(low, high, "measured latency (ms)"),
        Axis(low, high, "predicted latency (ms)"),
        width,
        height,
    )


def prediction_marks(run: RunData, plot: Plot, hint: Hint = no_hint) -> Iterator[str]:
    """The band within which a prediction is right, and each network with its interval."""
    low, high = plot.x.low, plot.x.high
    corners = (
        plot.at(low, low * (1 - WITHIN)),
        plot.at(high, high * (1 - WITHIN)),
        plot.at(high, high * (1 + WITHIN)),
        plot.at(low, low * (1 + WITHIN)),
    )
    clip = f"plane{plot.width}"
    yield (
        f'<clipPath id="{clip}"><rect x="{plot.left}" y="{plot.top}" '
        f'width="{plot.right - plot.left}" height="{plot.bottom - plot.top}"/></clipPath>'
    )
    yield from plot.axes()
    yield f'<g clip-path="url(#{clip})">{area(corners, "band")}'
    yield line(*plot.at(low, low), *plot.at(high, high), "equal")
    rows = records(run.predicted)
    for row in rows:
        x = plot.at_x(row["latency_ms"])
        ends = row["predicted_low_ms"], row["predicted_high_ms"]
        if not any(pd.isna(end) for end in ends):
            kind = "interval other" if row["kind"] == "baseline" else "interval"
            yield line(x, plot.at_y(ends[0]), x, plot.at_y(ends[1]), kind)
    yield "</g>"
    for row in rows:
        place = plot.at(row["latency_ms"], row["predicted_latency_ms"])
        told = hint(network_hint(run, row))
        is_baseline = row["kind"] == "baseline"
        yield star(*place, told) if is_baseline else dot(*place, 4.5, "network", told)


def hypervolume_plot(run: RunData, width: int, height: int) -> Plot | None:
    """The plane of hypervolume over trials; None: no trial is complete."""
    if run.complete.empty or run.reference_ms is None:
        return None
    top = 100 * float(hypervolume_by_trial(run.complete, run.reference_ms).max())
    last = float(run.complete["number"].max())
    return Plot(
        Axis(0.0, max(last, 1.0), "trial"),
        Axis(0.0, 1.08 * top or 1.0, "hypervolume (% of the box)\u2003better →"),
        width,
        height,
    )


def hypervolume_marks(run: RunData, plot: Plot, hint: Hint = no_hint) -> Iterator[str]:
    """The volume as steps, with a dot where it grew."""
    assert run.reference_ms is not None
    yield from plot.axes()
    volumes = 100 * hypervolume_by_trial(run.complete, run.reference_ms)
    numbers = run.complete["number"].tolist()
    grew = np.diff(volumes, prepend=0.0) > 1e-9
    path, marks = "", []
    for trial, volume, has_grown in zip(numbers, volumes.tolist(), grew, strict=True):
        x, y = plot.at(trial, volume)
        path += f"H{x:g}V{y:g}" if path else f"M{x:g} {y:g}"
        if has_grown:
            told = f"after trial {trial:.0f}\n{volume:.2f} % of the box"
            marks.append(dot(x, y, 3.5, "network", hint(told)))
    yield f'<path d="{path}H{plot.right}" class="steps"/>'
    yield from marks


def network_hint(run: RunData, row: dict[str, Any]) -> str:
    """What is told of a finished network; its first line is its name."""
    lines = [
        row["name"],
        f"{measured_text(row)} ms measured",
        f"{with_interval(row)} ms predicted",
        f"{percent(row['val_accuracy'])} validation, {percent(row['test_accuracy'])} test accuracy",
    ]
    if row.get("verdict") and row["verdict"] != "front":
        lines.append(row["verdict"])
    return "\n".join([*lines, *_choices(run, row)])


def _trial_hint(run: RunData, row: dict[str, Any]) -> str:
    lines = [
        f"trial {row['number']:.0f}",
        f"{with_interval(row)} ms predicted",
        f"{percent(row['val_accuracy'])} validation accuracy after short training",
    ]
    return "\n".join([*lines, *_choices(run, row)])


def _twin_hint(row: dict[str, Any]) -> str:
    lines = [
        f"{row['name']} in INT8",
        f"{number(row['latency_ms'], 'ms')} measured",
        f"{number(row['fp32_latency_ms'], 'ms')} in fp32",
        f"{percent(row['val_accuracy'])} validation, {percent(row['test_accuracy'])} test accuracy",
        row["verdict"],
    ]
    return "\n".join(lines)


def _choices(run: RunData, row: dict[str, Any]) -> list[str]:
    """The architecture's choices in one line."""
    options = run.options(row["genotype"])
    return [" · ".join(f"{name} {option}" for name, option in options.items())] if options else []
