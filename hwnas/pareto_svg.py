"""The Pareto front as one static SVG without scripts or fonts of its own, for a README."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from pathlib import Path

from hwnas.errors import RunFolderError
from hwnas.report_data import RunData, View, number, pareto_view, percent, read_run, records

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 742, 64, 404  # the plot's edges within the picture

# The white ground is part of the picture: it stays readable on a dark page.
STYLE = """
  text { font: 13px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #2b3442 }
  .small { font-size: 12px } .strong { font-weight: 600 } .end { text-anchor: end }
  .middle { text-anchor: middle }
  .grid { stroke: #e6eaf0 } .axis { stroke: #9aa5b5 }
  .trial { fill: #8a97a8; fill-opacity: .4 }
  .front { fill: #1558b0; stroke: #fff; stroke-width: 1.5 }
  .steps { fill: none; stroke: #1558b0; stroke-width: 2 }
  .removed { stroke: #7a3e9d; stroke-width: 2 }
  .interval { stroke: #1558b0; stroke-opacity: .5; stroke-width: 1.5 }
  .baseline { fill: #d97706; stroke: #fff }
  .budget { stroke: #c62828; stroke-width: 1.5; stroke-dasharray: 6 4 } text.red { fill: #c62828 }
"""


def write_pareto_svg(folder: Path, out: Path) -> Path:
    """Draw the Pareto front of a run folder to the file `out`.

    Raises:
        RunFolderError: If it is no run folder, or nothing was trained in it yet.
    """
    drawing = pareto_svg(read_run(folder))
    if drawing is None:
        raise RunFolderError(f"{folder} has nothing to draw yet: no complete trial, no network")
    try:
        out.write_text(drawing, encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"cannot write the drawing {out}: {error}") from error
    return out


def pareto_svg(run: RunData) -> str | None:
    """The drawing; None where there is nothing to show."""
    view = pareto_view(run)
    if view is None:
        return None
    title = f"Pareto front: accuracy over latency on {run.device}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(title)}">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#fff"/>',
            *_axes(run, view),
            *_points(run, view),
            *_legend(run),
            "</svg>\n",
        ]
    )


def ticks(low: float, high: float, n: int = 6) -> list[float]:
    """Round numbers within `[low, high]`, about `n` of them.

    Example:
        >>> ticks(0.07, 0.36)
        [0.1, 0.15, 0.2, 0.25, 0.3, 0.35]
    """
    raw = (high - low) / n
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _x(view: View, latency_ms: float) -> float:
    share = (latency_ms - view.low_ms) / (view.high_ms - view.low_ms)
    return round(LEFT + share * (RIGHT - LEFT), 1)


def _y(view: View, accuracy: float) -> float:
    share = (accuracy - view.low_accuracy) / (view.high_accuracy - view.low_accuracy)
    return round(BOTTOM - share * (BOTTOM - TOP), 1)


def _text(x: float, y: float, text: str, classes: str = "") -> str:
    return f'<text x="{x}" y="{y}" class="{classes}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="{classes}"/>'


def _star(x: float, y: float) -> str:
    angles = [(math.pi * i / 5, 9 if i % 2 == 0 else 4) for i in range(10)]
    corners = (f"{x + r * math.sin(a):.1f},{y - r * math.cos(a):.1f}" for a, r in angles)
    return f'<polygon points="{" ".join(corners)}" class="baseline"/>'


def _cross(x: float, y: float) -> str:
    return f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8" class="removed"/>'


def _axes(run: RunData, view: View) -> Iterable[str]:
    for tick in ticks(view.low_ms, view.high_ms):
        x = _x(view, tick)
        yield _line(x, TOP, x, BOTTOM, "grid")
        yield _text(x, BOTTOM + 19, f"{tick:g}", "small middle")
    for tick in ticks(100 * view.low_accuracy, 100 * view.high_accuracy):
        y = _y(view, tick / 100)
        yield _line(LEFT, y, RIGHT, y, "grid")
        yield _text(LEFT - 8, y + 4, f"{tick:g}", "small end")
    yield _line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis")
    yield _line(LEFT, TOP, LEFT, BOTTOM, "axis")
    yield _text((LEFT + RIGHT) / 2, HEIGHT - 16, f"latency (ms), {run.device}", "middle")
    yield _text(LEFT, HEIGHT - 16, "← better", "small")
    yield (
        f'<text transform="translate(20 {(TOP + BOTTOM) / 2}) rotate(-90)" class="middle">'
        "validation accuracy (%)  better →</text>"
    )
    if run.budget_ms is not None:
        x = _x(view, run.budget_ms)
        yield _line(x, TOP, x, BOTTOM, "budget")
        side, at = ("end", x - 6) if x > RIGHT - 130 else ("", x + 6)
        yield _text(at, BOTTOM - 8, f"budget {number(run.budget_ms, 'ms')}", f"small red {side}")


def _points(run: RunData, view: View) -> Iterable[str]:
    for row in records(run.complete):
        x, y = _x(view, row["predicted_latency_ms"]), _y(view, row["val_accuracy"])
        if y <= BOTTOM:
            yield f'<circle cx="{x}" cy="{y}" r="3" class="trial"/>'
    for row in records(run.removed.dropna(subset=["latency_ms", "val_accuracy"])):
        yield _cross(_x(view, row["latency_ms"]), _y(view, row["val_accuracy"]))
    front = run.front.dropna(subset=["latency_ms", "val_accuracy"])
    if not front.empty:
        yield from _front(run, view, front["latency_ms"].tolist(), front["val_accuracy"].tolist())
    for row in records(run.baselines.dropna(subset=["latency_ms", "val_accuracy"])):
        x, y = _x(view, row["latency_ms"]), _y(view, row["val_accuracy"])
        yield _star(x, y)
        side, at = ("end", x - 13) if x > (LEFT + RIGHT) / 2 else ("", x + 13)
        yield _text(at, y + 18, f"{row['name']} (hand-made)", f"small {side}")


def _front(
    run: RunData, view: View, latency_ms: list[float], accuracy: list[float]
) -> Iterable[str]:
    xs = [_x(view, value) for value in latency_ms]
    ys = [_y(view, value) for value in accuracy]
    end = xs[-1] if run.budget_ms is None else max(xs[-1], _x(view, run.budget_ms))
    steps = "".join(f"H{x}V{y}" for x, y in zip(xs[1:], ys[1:], strict=True))
    yield f'<path d="M{xs[0]} {ys[0]}{steps}H{end}" class="steps"/>'
    for row in records(run.front.dropna(subset=["predicted_low_ms", "predicted_high_ms"])):
        y = _y(view, row["val_accuracy"])
        low, high = _x(view, row["predicted_low_ms"]), _x(view, row["predicted_high_ms"])
        yield _line(low, y, high, y, "interval")
    for x, y in zip(xs, ys, strict=True):
        yield f'<circle cx="{x}" cy="{y}" r="6" class="front"/>'
    best = max(range(len(xs)), key=lambda i: accuracy[i])
    label = f"{percent(accuracy[best])} at {number(latency_ms[best], 'ms')}"
    yield _text(xs[best], ys[best] - 12, label, "strong end")


def _legend(run: RunData) -> Iterable[str]:
    """Two lines above the plot, of what is drawn only."""
    bar = '<line x1="-8" x2="8" class="interval"/>'
    x, y = LEFT + 8.0, 20
    for rows, mark, label in (
        (run.front, '<circle r="6" class="front"/>', "Pareto front, measured"),
        (run.front, bar, "its predicted interval"),
        (run.baselines, _star(0, 0), "hand-made baseline, measured"),
        (run.removed, _cross(0, 0), "measured, not on the front"),
        (
            run.complete,
            '<circle r="3" class="trial"/>',
            "search trials: predicted, trained briefly",
        ),
    ):
        if not rows.empty:
            if x + 7 * len(label) > RIGHT:
                x, y = LEFT + 8.0, y + 22
            yield f'<g transform="translate({x:.0f} {y})">{mark}{_text(14, 4, label, "small")}</g>'
            x += 38 + 6.7 * len(label)
