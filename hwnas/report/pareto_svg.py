"""The Pareto front as one static SVG without scripts or fonts of its own, for a README."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

from hwnas.errors import RunFolderError
from hwnas.report.charts import pareto_marks, pareto_plot
from hwnas.report.data import RunData, pareto_view
from hwnas.report.read import read_run
from hwnas.report.svg import Plot, cross, star, text

WIDTH, HEIGHT = 760, 460
TOP = 64  # of the plane: the legend stands above it

# The white ground is part of the picture: it stays readable on a dark page.
STYLE = """
  text { font: 13px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #2b3442;
    paint-order: stroke; stroke: #fff; stroke-width: 3px; stroke-linejoin: round }
  .small { font-size: 12px } .strong { font-weight: 600 } .end { text-anchor: end }
  .middle { text-anchor: middle }
  .grid { stroke: #e6eaf0 } .axis { stroke: #9aa5b5 }
  .trial { fill: #8a97a8; fill-opacity: .4 }
  .front { fill: #1558b0; stroke: #fff; stroke-width: 1.5 }
  .twin { fill: #fff; stroke: #1558b0; stroke-width: 2 }
  .steps { fill: none; stroke: #1558b0; stroke-width: 2 }
  .removed { stroke: #7a3e9d; stroke-width: 2 }
  .interval { stroke: #1558b0; stroke-opacity: .5; stroke-width: 1.5 }
  .baseline { fill: #d97706; stroke: #fff }
  .budget { stroke: #c62828; stroke-width: 1.5; stroke-dasharray: 6 4 } text.over { fill: #c62828 }
"""


def write_pareto_svg(folder: Path, out: Path, *, storage: str | None = None) -> Path:
    """Draw the Pareto front of a run folder to the file `out`; `storage` as `read_run` takes it.

    Raises:
        RunFolderError: If it is no run folder, or nothing was trained in it yet.
    """
    drawing = pareto_svg(read_run(folder, storage=storage))
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
    plot = pareto_plot(run, view, WIDTH, HEIGHT, top=TOP)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(title)}">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#fff"/>',
            *pareto_marks(run, plot),
            *_legend(run, plot),
            "</svg>\n",
        ]
    )


def _legend(run: RunData, plot: Plot) -> Iterable[str]:
    """Two lines above the plane, of what is drawn only."""
    bar = '<line x1="-8" x2="8" class="interval"/>'
    x, y = plot.left + 8.0, 20
    for rows, mark, label in (
        (run.front, '<circle r="6" class="front"/>', "Pareto front, measured"),
        (run.front, bar, "its predicted interval"),
        (run.baselines, star(0, 0), "hand-made baseline, measured"),
        (run.removed, cross(0, 0), "measured, not on the front"),
        (run.int8, '<circle r="5" class="twin"/>', "in INT8, measured"),
        (
            run.complete,
            '<circle r="3" class="trial"/>',
            "search trials: predicted, trained briefly",
        ),
    ):
        if not rows.empty:
            if x + 7 * len(label) > plot.right:
                x, y = plot.left + 8.0, y + 22
            yield f'<g transform="translate({x:.0f} {y})">{mark}{text(14, 4, label, "small")}</g>'
            x += 38 + 6.7 * len(label)
