"""How far a fitted predictor is off, as a page that opens without a network: `hwnas fit --plot`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from hwnas.held_out import OURS, HeldOut
from hwnas.profile_figures import KIND_COLORS, LINE_COLOR, OTHERS, OTHERS_COLOR, plain
from hwnas.profile_parts import kind_of
from hwnas.report.data import number, percent
from hwnas.report.figures import AXIS, FRONT_COLOR
from hwnas.report.html import chart, page, section, side_by_side, table
from profilers.measurement import FAMILY_TAG, NetworkMeasurement
from profilers.targets import Target

FloatArray = NDArray[np.float64]

UNNAMED = "networks"  # of no family
N_WORST = 20
BAND_COLOR = "rgba(21, 88, 176, 0.10)"
N_BAND = 24  # points of the band: the typical interval near each latency


def fit_page(target: Target, level: float, splits: Sequence[tuple[str, HeldOut]]) -> str:
    """A predictor's errors on networks held out, as a self-contained HTML page.

    Args:
        target: Where the networks were measured.
        level: Share of networks that the intervals are to cover.
        splits: What was left out together, in words, and the predictions; one at least.
    """
    name, first = splits[0]
    ours = first.accuracies()[OURS]
    title = (
        f"{percent(ours.within_10)} of {ours.n} networks that the fit did not see are predicted "
        f"within ±10 %"
    )
    body = [
        '<header><p class="eyebrow">hwnas · a latency predictor on networks it has not seen</p>'
        f'<h1>{escape(title)}</h1><p class="soft">{escape(target.describe())}</p></header>',
        _cards(first, level),
        section("How good it is", accuracy_table(splits)),
    ]
    for i, (name, held_out) in enumerate(splits):
        body += [
            section(
                f"Left out: {name}",
                "<p>Every network is predicted by a model that saw none of its group.</p>",
                chart(prediction_figure(held_out), f"predicted{i}", "tall"),
            ),
            side_by_side(
                [
                    section(
                        "Relative error over latency",
                        f"<p>The band is the typical {level:.0%} interval near that latency; "
                        f"{percent(held_out.covered.mean())} of the networks lie within their "
                        f"own.</p>",
                        chart(error_figure(held_out), f"errors{i}", "low"),
                    ),
                    section(
                        "Relative error over what the time goes into",
                        "<p>Each network stands at the kind of kernel that takes most of its "
                        "time, and at that kind’s share.</p>",
                        chart(share_figure(held_out), f"shares{i}", "low"),
                    ),
                ]
            ),
            section("Furthest off", _worst_table(held_out)),
        ]
    return page(title, "\n".join(body))


def accuracy_table(splits: Sequence[tuple[str, HeldOut]]) -> str:
    """Ours and the baselines on every split, as HTML."""
    rows = []
    for name, held_out in splits:
        for predictor, a in held_out.accuracies().items():
            is_ours = predictor == OURS
            rows.append(
                (
                    name,
                    predictor,
                    f"{a.n}",
                    percent(a.mape),
                    percent(a.within_5),
                    percent(a.within_10),
                    number(a.spearman),
                    percent(held_out.covered.mean()) if is_ours else "–",
                    f"±{percent(held_out.half_width.mean())}" if is_ours else "–",
                )
            )
    columns = ("Left out", "Predictor", "Networks", "MAPE", "Within ±5 %", "Within ±10 %",
               "Spearman", "Covered", "Interval")  # fmt: skip
    return table("", columns, rows, n_text=2)


def prediction_figure(held_out: HeldOut) -> go.Figure:
    """Predicted over measured latency, both on logarithmic axes, with every interval."""
    figure = _figure("Measured (ms)", "Predicted (ms)")
    measured = held_out.measured_ms
    both = np.concatenate([measured, held_out.latency_ms])
    ends = np.array([0.8 * both.min(), 1.25 * both.max()])
    figure.add_scatter(
        x=[*ends, *ends[::-1]], y=[*(1.1 * ends), *(0.9 * ends[::-1])], mode="lines",
        fill="toself", fillcolor=BAND_COLOR, line={"width": 0}, name="within ±10 %",
        hoverinfo="skip",
    )  # fmt: skip
    for family, rows, color in _families(held_out):
        figure.add_scatter(
            x=measured[rows],
            y=held_out.latency_ms[rows],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": (held_out.high_ms - held_out.latency_ms)[rows],
                "arrayminus": (held_out.latency_ms - held_out.low_ms)[rows],
                "thickness": 1,
                "width": 0,
                "color": color,
            },
            mode="markers",
            name=plain(family),
            marker={"color": color, "size": 7, "opacity": 0.75},
            hovertext=[_hover(held_out, i) for i in np.flatnonzero(rows).tolist()],
            hoverinfo="text",
        )
    figure.add_scatter(
        x=ends, y=ends, mode="lines", showlegend=False, hoverinfo="skip",
        line={"color": LINE_COLOR, "width": 1.5, "dash": "dot"},
    )  # fmt: skip
    seen = [float(np.log10(end)) for end in ends]
    figure.update_xaxes(type="log", range=seen, tickformat=",~r", dtick=1 if _is_wide(both) else 0)
    figure.update_yaxes(type="log", range=seen, tickformat=",~r", dtick=1 if _is_wide(both) else 0)
    return figure


def error_figure(held_out: HeldOut) -> go.Figure:
    """Relative error over the measured latency, with the band of the typical interval."""
    figure = _figure("Measured (ms)", "Predicted against measured (%)")
    low, high = _interval_percent(held_out)
    order = np.argsort(held_out.measured_ms)
    parts = np.array_split(order, min(N_BAND, len(order)))
    x = [float(np.median(held_out.measured_ms[part])) for part in parts]
    figure.add_scatter(
        x=[*x, *x[::-1]],
        y=[*(float(np.median(high[p])) for p in parts),
           *(float(np.median(low[p])) for p in parts[::-1])],
        mode="lines", fill="toself", fillcolor=BAND_COLOR, line={"width": 0}, name="interval",
        hoverinfo="skip",
    )  # fmt: skip
    errors = _error_percent(held_out)
    for family, rows, color in _families(held_out):
        figure.add_scatter(
            x=held_out.measured_ms[rows],
            y=errors[rows],
            mode="markers",
            name=plain(family),
            marker={"color": color, "size": 7, "opacity": 0.75},
            hovertext=[_hover(held_out, i) for i in np.flatnonzero(rows).tolist()],
            hoverinfo="text",
        )
    figure.update_xaxes(type="log", tickformat=",~r")
    return figure


def share_figure(held_out: HeldOut) -> go.Figure:
    """Relative error over the share of the kind of kernel that takes most of a network's time."""
    figure = _figure("Share of the network’s time (%)", "Predicted against measured (%)")
    top = [_top_kind(m) for m in held_out.networks]
    shares = np.array([100 * share for _, share in top])
    kinds = [kind for kind, _ in top]
    ranked = sorted(set(kinds), key=lambda kind: (-kinds.count(kind), kind))
    colors = dict(zip(ranked, KIND_COLORS, strict=False))
    errors = _error_percent(held_out)
    for kind in (*colors, OTHERS):
        rows = np.array([(k if k in colors else OTHERS) == kind for k in kinds])
        if rows.any():
            figure.add_scatter(
                x=shares[rows],
                y=errors[rows],
                mode="markers",
                name=plain(kind),
                marker={"color": colors.get(kind, OTHERS_COLOR), "size": 7, "opacity": 0.75},
                hovertext=[_hover(held_out, i) for i in np.flatnonzero(rows).tolist()],
                hoverinfo="text",
            )
    return figure


def _cards(held_out: HeldOut, level: float) -> str:
    ours = held_out.accuracies()[OURS]
    cards = (
        (percent(ours.mape), "mean error"),
        (percent(ours.within_5), "within ±5 % of what was measured"),
        (number(ours.spearman), "rank correlation (Spearman)"),
        (
            percent(held_out.covered.mean()),
            f"within their {level:.0%} interval, ±{percent(held_out.half_width.mean())} on average",
        ),
    )
    boxes = (
        f'<div class="card"><b>{escape(value)}</b><span class="soft">{escape(text)}</span></div>'
        for value, text in cards
    )
    return f'<div class="cards">{"".join(boxes)}</div>'


def _worst_table(held_out: HeldOut) -> str:
    errors = _error_percent(held_out)
    rows = [
        (
            held_out.networks[i].name,
            _family(held_out.networks[i]),
            _top_kind(held_out.networks[i])[0],
            number(held_out.measured_ms[i]),
            number(held_out.latency_ms[i]),
            f"{errors[i]:+.1f} %".replace("-", "−"),
            "yes" if held_out.covered[i] else "no",
        )
        for i in np.argsort(-np.abs(errors))[:N_WORST]
    ]
    columns = ("Network", "Family", "Most of its time", "Measured (ms)", "Predicted (ms)", "Error",
               "In its interval")  # fmt: skip
    return table("", columns, rows, n_text=3)


def _families(held_out: HeldOut) -> list[tuple[str, NDArray[np.bool_], str]]:
    """Name, members and colour, the largest first; many small ones share the last."""
    families = [_family(m) for m in held_out.networks]
    ranked = sorted(set(families), key=lambda name: (-families.count(name), name))
    colors = dict(zip(ranked, (FRONT_COLOR, *KIND_COLORS[1:]), strict=False))
    rest = [name for name in ranked if name not in colors]
    shown = [(name, {name}) for name in colors] + ([("other families", set(rest))] if rest else [])
    return [
        (name, np.array([f in members for f in families]), colors.get(name, OTHERS_COLOR))
        for name, members in shown
    ]


def _family(m: NetworkMeasurement) -> str:
    return m.tags.get(FAMILY_TAG) or UNNAMED


def _top_kind(m: NetworkMeasurement) -> tuple[str, float]:
    """The kind of kernel that takes most of a network's time, and its share."""
    by_kind: dict[str, float] = {}
    for run in m.kernels:
        kind = kind_of(run.kernel)
        by_kind[kind] = by_kind.get(kind, 0.0) + run.latency_ms
    if not by_kind:
        return "no kernel", 0.0
    kind = max(by_kind, key=lambda name: by_kind[name])
    return kind, by_kind[kind] / max(m.kernel_sum_ms, 1e-12)


def _error_percent(held_out: HeldOut) -> FloatArray:
    return np.asarray(100 * (held_out.latency_ms / held_out.measured_ms - 1))


def _interval_percent(held_out: HeldOut) -> tuple[FloatArray, FloatArray]:
    """Errors at which a measurement would lie at the ends of its interval, in per cent."""
    low = 100 * (held_out.latency_ms / held_out.high_ms - 1)
    high = 100 * (held_out.latency_ms / held_out.low_ms - 1)
    return low, high


def _hover(held_out: HeldOut, i: int) -> str:
    m = held_out.networks[i]
    kind, share = _top_kind(m)
    return "<br>".join(
        (
            f"<b>{plain(m.name)}</b> ({plain(_family(m))})",
            f"measured {number(m.latency_ms, 'ms')}",
            f"predicted {number(held_out.latency_ms[i], 'ms')} "
            f"({number(held_out.low_ms[i])} to {number(held_out.high_ms[i])})",
            f"{percent(share)} of its kernels' time in {plain(kind)}",
        )
    )


def _is_wide(values: FloatArray) -> bool:
    return bool(values.max() > 30 * values.min())


def _figure(x_title: str, y_title: str) -> go.Figure:
    return go.Figure(
        layout={
            "template": "none",
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#2b3442"},
            "margin": {"l": 12, "r": 14, "t": 14, "b": 12},
            "xaxis": AXIS | {"title": {"text": x_title, "standoff": 10}},
            "yaxis": AXIS | {"title": {"text": y_title, "standoff": 8}},
            "showlegend": True,
            "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom",
                       "x": 0, "xanchor": "left"},
            "hoverlabel": {"bgcolor": "white", "align": "left", "font": {"color": "#1c2430"}},
        }
    )  # fmt: skip
