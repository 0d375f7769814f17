"""The charts of a network's page: time by kernel, time against size, memory, and raw samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from hwnas.profile_parts import Part, mean_rate, si, slow_for_size, time_by_kind, time_text
from hwnas.report.data import number, percent
from hwnas.report.figures import (
    AXIS,
    BASELINE_COLOR,
    BUDGET_COLOR,
    FRONT_COLOR,
    TRIAL_COLOR,
)
from profilers.timing import LatencySamples

KIND_COLORS = (
    FRONT_COLOR, "#d97706", "#2a8c5f", "#7a3e9d", "#0e8fb0", "#b8406f", "#8a6a1f", "#4c5bd4",
)  # fmt: skip
OTHERS_COLOR = TRIAL_COLOR
LINE_COLOR = "#5a6778"
OTHERS = "other kinds"
MAX_POINTS = 2500  # of raw samples: the page stays quick to open
MIN_BINS, MAX_BINS = 16, 70
MIN_GAP_SHARE = 0.015  # of the time: a narrower bar would vanish between white lines
TOP_SHARE = 1.35  # of the latency: where the chart of samples ends, unless most lie above


def kind_colors(parts: Sequence[Part]) -> dict[str, str]:
    """A colour for each kind; those that take least share the last one."""
    kinds = list(time_by_kind(parts))
    n = len(KIND_COLORS)
    return dict(zip(kinds, (*KIND_COLORS, *[OTHERS_COLOR] * len(kinds[n:])), strict=False))


def timeline_figure(
    parts: Sequence[Part], timeline_bytes: Sequence[int] | None, peak_bytes: int | None
) -> go.Figure:
    """Kernels end to end in running order, a lane for each kind; below, the memory in use."""
    colors = kind_colors(parts)
    lanes = [kind for kind, color in colors.items() if color != OTHERS_COLOR]
    if len(lanes) < len(colors):
        lanes.append(OTHERS)
    figure = _figure()
    for lane in lanes:
        rows = [p for p in parts if (p.kind if p.kind in lanes else OTHERS) == lane]
        color = colors.get(lane, OTHERS_COLOR)
        figure.add_bar(
            orientation="h",
            y=[plain(lane)] * len(rows),
            base=[p.start_ms for p in rows],
            x=[p.latency_ms for p in rows],
            # A gap between neighbours, where it leaves something of the bar.
            marker={
                "color": color,
                "line": {
                    "width": 0.7,
                    "color": ["white" if p.share > MIN_GAP_SHARE else color for p in rows],
                },
            },
            width=0.78,
            hovertext=[hover(p) for p in rows],
            hoverinfo="text",
            showlegend=False,
        )
    end_ms = parts[-1].start_ms + parts[-1].latency_ms
    has_memory = timeline_bytes is not None
    figure.update_layout(
        barmode="overlay",
        bargap=0.1,
        xaxis=AXIS
        | {"range": [0, end_ms], "title": {"text": "Time (ms)"}}
        | ({"anchor": "y2"} if has_memory else {}),
        yaxis=AXIS
        | {
            "autorange": False,
            "range": [len(lanes) - 0.5, -0.5],
            "domain": [0.4, 1] if has_memory else [0, 1],
            "ticks": "",
            "showgrid": False,
            "fixedrange": True,
        },
    )
    if timeline_bytes is not None:
        _add_memory(figure, parts, timeline_bytes, peak_bytes)
    return figure


def _add_memory(
    figure: go.Figure,
    parts: Sequence[Part],
    timeline_bytes: Sequence[int],
    peak_bytes: int | None,
) -> None:
    in_mb = [n / 1e6 for n in timeline_bytes]
    top = int(np.argmax(in_mb))
    figure.add_scatter(
        x=[*(p.start_ms for p in parts), parts[-1].start_ms + parts[-1].latency_ms],
        y=[*in_mb, in_mb[-1]],
        yaxis="y2",
        mode="lines",
        line={"shape": "hv", "color": FRONT_COLOR, "width": 1.5},
        fill="tozeroy",
        fillcolor="rgba(21, 88, 176, 0.16)",
        hovertext=[
            f"<b>{number(mb)} MB</b> in use<br>while {_title(p)} runs"
            for p, mb in zip(parts, in_mb, strict=True)
        ],
        hoverinfo="text",
        showlegend=False,
    )
    highest = max(in_mb[top], 0 if peak_bytes is None else peak_bytes / 1e6)
    figure.update_layout(
        yaxis2=AXIS
        | {
            "domain": [0, 0.3],
            "range": [0, 1.25 * highest or 1],
            "title": {"text": "In use (MB)", "standoff": 8},
            "fixedrange": True,
            "nticks": 4,
        }
    )
    if peak_bytes is not None:
        figure.add_shape(
            type="line", xref="x domain", x0=0, x1=1, yref="y2", y0=peak_bytes / 1e6,
            y1=peak_bytes / 1e6, line={"color": BUDGET_COLOR, "dash": "dash", "width": 1.3},
        )  # fmt: skip
        _note(figure, f"measured peak {number(peak_bytes / 1e6)} MB", "x domain", 1,
              "y2", peak_bytes / 1e6, color=BUDGET_COLOR, xanchor="right")  # fmt: skip


def treemap_figure(parts: Sequence[Part]) -> go.Figure:
    """Time as area: kinds, and in each its kernels."""
    colors, total_ms = kind_colors(parts), sum(p.latency_ms for p in parts)
    kinds = time_by_kind(parts)
    counts = {kind: sum(p.kind == kind for p in parts) for kind in kinds}
    ids = {kind: f"kind {i}" for i, kind in enumerate(kinds)}
    figure = _figure()
    figure.add_treemap(
        ids=[*ids.values(), *(f"kernel {p.number}" for p in parts)],
        labels=[*map(plain, kinds), *(f"#{p.number}" for p in parts)],
        parents=["" for _ in kinds] + [ids[p.kind] for p in parts],
        values=[*kinds.values(), *(p.latency_ms for p in parts)],
        text=[
            *(f"{percent(ms / total_ms)} of the time, {counts[k]}×" for k, ms in kinds.items()),
            *(time_text(p.latency_ms) for p in parts),
        ],
        hovertext=[
            *(
                f"<b>{plain(k)}</b><br>{counts[k]} kernels, {time_text(ms)}"
                for k, ms in kinds.items()
            ),
            *(hover(p) for p in parts),
        ],
        hoverinfo="text",
        textinfo="label+text",
        branchvalues="total",
        # Leaves a little paler than the frame of their kind.
        marker={
            "colors": [*colors.values(), *(_paler(colors[p.kind]) for p in parts)],
            "line": {"width": 1, "color": "white"},
            "pad": {"t": 24, "l": 3, "r": 3, "b": 3},
        },
        textfont={"color": "white", "size": 13},
        pathbar={"visible": False},
        tiling={"pad": 2, "packing": "squarify"},
        sort=True,
    )
    figure.update_layout(
        margin={"l": 0, "r": 0, "t": 30, "b": 0}, uniformtext={"minsize": 11, "mode": "hide"}
    )
    return figure


def size_figure(parts: Sequence[Part], size: str, colors: Mapping[str, str]) -> go.Figure:
    """Time over size, both on logarithmic axes, with the line of the mean rate.

    Args:
        parts: Of one sort: all with MACs, or all without.
        size: What their size is, `MACs` or `bytes`.
        colors: Of each kind, as in the page's other charts.
    """
    rate = mean_rate(parts)
    figure = _figure()
    ends = np.array([0.7 * min(p.size for p in parts), 1.4 * max(p.size for p in parts)])
    figure.add_scatter(
        x=ends, y=ends / rate * 1e6, mode="lines", showlegend=False, hoverinfo="skip",
        line={"color": LINE_COLOR, "width": 1.5, "dash": "dot"},
    )  # fmt: skip
    named = [kind for kind in time_by_kind(parts) if colors[kind] != OTHERS_COLOR]
    for kind in (*named, OTHERS):
        rows = [p for p in parts if (p.kind if p.kind in named else OTHERS) == kind]
        if not rows:
            continue
        figure.add_scatter(
            x=[p.size for p in rows],
            y=[1e3 * p.latency_ms for p in rows],
            mode="markers",
            name=plain(kind),
            marker={"color": colors.get(kind, OTHERS_COLOR), "size": 9, "opacity": 0.8,
                    "line": {"color": "white", "width": 1}},
            hovertext=[hover(p) for p in rows],
            hoverinfo="text",
        )  # fmt: skip
    for part in slow_for_size(parts):
        _note(figure, f"#{part.number}", "x", math.log10(part.size), "y",
              math.log10(1e3 * part.latency_ms), color=BUDGET_COLOR, yshift=5)  # fmt: skip
    log = {"type": "log", "dtick": 1}
    times_us = [1e3 * p.latency_ms for p in parts]
    seen_us = [math.log10(0.6 * min(times_us)), math.log10(2.2 * max(times_us))]
    unit = "MACs" if size == "MACs" else "Bytes read and written"
    figure.update_layout(
        showlegend=True,
        xaxis=AXIS | log | {"title": {"text": unit, "standoff": 8}, "exponentformat": "SI"},
        yaxis=AXIS
        | log
        | {"title": {"text": "Time (µs)", "standoff": 6}, "tickformat": ",~r", "range": seen_us},
    )
    return figure


def samples_figure(samples: LatencySamples) -> go.Figure:
    """Every end-to-end run, in the order of time, with those coloured that were disturbed."""
    n = len(samples.wall_ms)
    order = np.unique(np.linspace(0, n - 1, MAX_POINTS).round().astype(int))
    low_ms, high_ms = sample_range_ms(samples)
    shown_ms = np.minimum(samples.wall_ms, high_ms)
    n_bins = int(np.clip(n // 8, MIN_BINS, MAX_BINS))
    edges = np.linspace(low_ms, high_ms, n_bins + 1)
    figure = _figure()
    for name, (color, mask) in sample_groups(samples).items():
        chosen = order[mask[order]]
        figure.add_scatter(
            x=chosen + 1,
            y=shown_ms[chosen],
            mode="markers",
            name=f"{name} ({int(mask.sum()):,})",
            marker={"color": color, "size": 5, "opacity": 0.65},
            hovertext=[f"{name}<br>run {i + 1}: {time_text(samples.wall_ms[i])}" for i in chosen],
            hoverinfo="text",
        )
        figure.add_bar(
            orientation="h",
            y=(edges[:-1] + edges[1:]) / 2,
            x=np.histogram(samples.wall_ms[mask], bins=edges)[0],
            width=np.diff(edges),
            marker={"color": color, "line": {"width": 0}},
            xaxis="x2",
            showlegend=False,
            hovertemplate=f"%{{x}} runs<extra>{name}</extra>",
        )
    figure.add_shape(
        type="line", xref="x domain", x0=0, x1=1, yref="y", y0=samples.latency_ms,
        y1=samples.latency_ms, line={"color": "#1c2430", "width": 1.3, "dash": "dot"},
    )  # fmt: skip
    _note(figure, f"latency {time_text(samples.latency_ms)}", "x domain", 1, "y",
          samples.latency_ms, xanchor="right")  # fmt: skip
    figure.update_layout(
        showlegend=True,
        barmode="stack",
        bargap=0,
        xaxis=AXIS | {"title": {"text": "Run", "standoff": 8}, "domain": [0, 0.8]},
        xaxis2=AXIS | {"title": {"text": "Runs", "standoff": 8}, "domain": [0.83, 1], "nticks": 3},
        yaxis=AXIS | {"title": {"text": "Time of a run (ms)"}, "range": [low_ms, high_ms]},
    )
    return figure


def sample_groups(samples: LatencySamples) -> dict[str, tuple[str, NDArray[np.bool_]]]:
    """Name, colour and members of what is told apart; every sample is in one of them."""
    contended, lost_core = samples.is_contended, samples.switches > 0
    return {
        "undisturbed": (FRONT_COLOR, ~contended),
        "lost the core": (BUDGET_COLOR, contended & lost_core),
        "disturbed otherwise": (BASELINE_COLOR, contended & ~lost_core),
    }


def sample_range_ms(samples: LatencySamples) -> tuple[float, float]:
    """From below the fastest to where the undisturbed runs can still be told apart."""
    lowest = min(samples.min_ms, samples.latency_ms)
    highest = max(TOP_SHARE * samples.latency_ms, 1.05 * samples.percentile_ms(25))
    highest = min(highest, samples.percentile_ms(100))
    margin = 0.06 * max(highest - lowest, 0.01 * lowest)
    return lowest - margin, highest + margin


def hover(part: Part) -> str:
    """What is known of a kernel, as lines for plotly."""
    rate = f"{si(part.rate)}{'MAC' if part.macs else 'B'}/s"
    lines = [
        f"<b>{_title(part)}</b>",
        f"{time_text(part.latency_ms)}, {percent(part.share)} of the kernels' time",
        *_wrapped(part.kernel.describe()),
        f"{f'{si(part.macs)}MAC, ' if part.macs else ''}{si(part.kernel.n_bytes)}B, {rate}",
    ]
    return "<br>".join(lines)


def plain(text: str) -> str:
    """Text that plotly must not read as its own tags; it knows no `&quot;`."""
    return escape(text, quote=False)


def _title(part: Part) -> str:
    name = part.name if len(part.name) <= 48 else f"…{part.name[-47:]}"
    return f"#{part.number} {plain(part.kind)}</b>  {plain(name)}<b>"


def _wrapped(text: str, width: int = 56) -> list[str]:
    """Lines of about `width` characters, broken between words; escaped."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return [plain(line) for line in lines[:6]]


def _paler(color: str) -> str:
    """The colour with a seventh of white in it."""
    mixed = [round(int(color[i : i + 2], 16) * 6 / 7 + 255 / 7) for i in (1, 3, 5)]
    return "#" + "".join(f"{value:02x}" for value in mixed)


def _note(
    figure: go.Figure,
    text: str,
    xref: str,
    x: float,
    yref: str,
    y: float,
    *,
    color: str = "#1c2430",
    xanchor: str = "center",
    yshift: int = 0,
) -> None:
    """Text above a point."""
    figure.add_annotation(
        text=text, xref=xref, x=x, yref=yref, y=y, xanchor=xanchor, yanchor="bottom",
        showarrow=False, yshift=yshift, font={"color": color, "size": 12},
    )  # fmt: skip


def _figure() -> go.Figure:
    return go.Figure(
        layout={
            "template": "none",
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#2b3442"},
            "margin": {"l": 12, "r": 14, "t": 34, "b": 12},
            "legend": {
                "orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0,
                "xanchor": "left",
                "itemsizing": "constant", "traceorder": "normal",
            },
            "hoverlabel": {"bgcolor": "white", "align": "left", "font": {"color": "#1c2430"}},
        }
    )  # fmt: skip
