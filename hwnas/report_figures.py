"""The charts of the report: Pareto front, predicted against measured, hypervolume."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hwnas.report_data import (
    RunData,
    hypervolume_by_trial,
    number,
    pareto_view,
    percent,
    records,
    with_interval,
)

FRONT_COLOR = "#1558b0"
TRIAL_COLOR = "#8a97a8"
BASELINE_COLOR = "#d97706"
REMOVED_COLOR = "#7a3e9d"
BUDGET_COLOR = "#c62828"
GRID_COLOR = "#e6eaf0"
WITHIN = 0.10  # the band of the chart of predictions; the share within it is reported


AXIS = {
    "gridcolor": GRID_COLOR,
    "linecolor": "#9aa5b5",
    "zeroline": False,
    "showline": True,
    "ticks": "outside",
    "tickcolor": "#9aa5b5",
    "automargin": True,
}


def pareto_figure(run: RunData) -> go.Figure | None:
    """Accuracy over latency: front, budget, baselines, trials; None: there is nothing to show."""
    view = pareto_view(run)
    if view is None:
        return None
    figure = _figure("Latency (ms)    ← better", "Validation accuracy (%)   better →")
    figure.update_xaxes(range=[view.low_ms, view.high_ms])
    figure.update_yaxes(range=[100 * view.low_accuracy, 100 * view.high_accuracy])
    trials, front = run.complete, run.front
    if not trials.empty:
        figure.add_scatter(
            x=trials["predicted_latency_ms"],
            y=100 * trials["val_accuracy"],
            mode="markers",
            name="search trials (predicted latency, short training)",
            marker={"color": TRIAL_COLOR, "size": 6, "opacity": 0.45},
            hovertext=[_trial_hover(run, row) for row in records(trials)],
            hoverinfo="text",
        )
    if not front.empty:
        end_ms = run.budget_ms if run.budget_ms is not None else view.high_ms
        reach = [*front["latency_ms"], max(end_ms, front["latency_ms"].max())]
        figure.add_scatter(
            x=reach,
            y=[*(100 * front["val_accuracy"].cummax()), 100 * front["val_accuracy"].max()],
            mode="lines",
            line={"color": FRONT_COLOR, "width": 2, "shape": "hv"},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=front["predicted_latency_ms"],
            y=100 * front["val_accuracy"],
            mode="markers",
            name="predicted latency with its interval",
            marker={
                "symbol": "line-ns-open",
                "size": 9,
                "color": FRONT_COLOR,
                "line": {"width": 1.5},
            },
            error_x=_interval(front) | {"color": FRONT_COLOR, "thickness": 1.2, "width": 3},
            opacity=0.55,
            hoverinfo="skip",
        )
    for rows, name, marker in (
        (
            run.removed,
            "trained and measured, not on the front",
            {"symbol": "x-thin-open", "color": REMOVED_COLOR, "size": 9, "line": {"width": 2}},
        ),
        (
            front,
            "Pareto front (measured latency)",
            {"color": FRONT_COLOR, "size": 11, "line": {"color": "white", "width": 1.5}},
        ),
        (
            run.baselines,
            "hand-made baseline (measured latency)",
            {
                "symbol": "star",
                "color": BASELINE_COLOR,
                "size": 16,
                "line": {"color": "white", "width": 1},
            },
        ),
    ):
        if not rows.empty:
            figure.add_scatter(
                x=rows["latency_ms"],
                y=100 * rows["val_accuracy"],
                mode="markers",
                name=name,
                marker=marker,
                hovertext=[_network_hover(run, row) for row in records(rows)],
                hoverinfo="text",
            )
    if run.budget_ms is not None:
        figure.add_vline(
            x=run.budget_ms,
            line={"color": BUDGET_COLOR, "dash": "dash", "width": 1.5},
            annotation={
                "text": f"budget {number(run.budget_ms, 'ms')}",
                "font": {"color": BUDGET_COLOR},
                "y": 0.0,
                "yanchor": "bottom",
                # Turned inwards where the line is near the right edge.
                "xanchor": "left" if run.budget_ms < 0.75 * view.high_ms else "right",
            },
        )
    return figure


def prediction_figure(run: RunData) -> go.Figure | None:
    """Predicted over measured latency; None: no network has both."""
    networks = run.predicted
    if networks.empty:
        return None
    figure = _figure("Measured latency (ms)", "Predicted latency (ms)")
    both = networks[["latency_ms", "predicted_latency_ms"]]
    ends = np.array([0.85 * both.min().min(), 1.12 * both.max().max()])
    figure.add_scatter(
        x=[*ends, *ends[::-1]],
        y=[*(ends * (1 + WITHIN)), *(ends[::-1] * (1 - WITHIN))],
        mode="lines",
        fill="toself",
        fillcolor="rgba(21, 88, 176, 0.09)",
        line={"width": 0},
        name=f"within ±{WITHIN:.0%}",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"color": TRIAL_COLOR, "width": 1.5, "dash": "dot"},
        name="predicted = measured",
        hoverinfo="skip",
    )
    is_baseline = networks["kind"] == "baseline"
    for rows, name, color, symbol in (
        (networks[~is_baseline], "network, predicted interval", FRONT_COLOR, "circle"),
        (networks[is_baseline], "hand-made baseline", BASELINE_COLOR, "star"),
    ):
        if not rows.empty:
            figure.add_scatter(
                x=rows["latency_ms"],
                y=rows["predicted_latency_ms"],
                mode="markers",
                marker={"color": color, "size": 10, "symbol": symbol},
                error_y=_interval(rows) | {"color": color, "thickness": 1.2, "width": 3},
                name=name,
                hovertext=[_network_hover(run, row) for row in records(rows)],
                hoverinfo="text",
            )
    figure.update_xaxes(range=list(ends))
    figure.update_yaxes(range=list(ends))
    return figure


def hypervolume_figure(run: RunData) -> go.Figure | None:
    """Hypervolume of the trials so far; None: no trial is complete."""
    trials = run.complete
    if trials.empty or run.reference_ms is None:
        return None
    figure = _figure("Trial", "Hypervolume (% of the box)   better →")
    figure.add_scatter(
        x=trials["number"],
        y=100 * hypervolume_by_trial(trials, run.reference_ms),
        mode="lines+markers" if len(trials) == 1 else "lines",
        line={"color": FRONT_COLOR, "width": 2, "shape": "hv"},
        hovertemplate="after trial %{x}: %{y:.2f} %<extra></extra>",
        showlegend=False,
    )
    return figure


def _figure(x_title: str, y_title: str) -> go.Figure:
    return go.Figure(
        layout={
            "template": "none",
            "showlegend": True,  # also for one trace: a chart must explain itself
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#2b3442"},
            "margin": {"l": 12, "r": 14, "t": 14, "b": 12},
            "xaxis": AXIS | {"title": {"text": escape(x_title), "standoff": 10}},
            "yaxis": AXIS | {"title": {"text": escape(y_title), "standoff": 8}},
            "legend": {
                "orientation": "h",
                "y": -0.2,
                "yanchor": "top",
                "x": 0,
                "xanchor": "left",
                "itemsizing": "constant",
                "traceorder": "reversed",
            },
            "hoverlabel": {"bgcolor": "white", "align": "left", "font": {"color": "#1c2430"}},
        }
    )


def _interval(rows: pd.DataFrame) -> dict[str, Any]:
    """Plotly's error bars from the predicted interval; 0 long where there is none."""
    predicted = rows["predicted_latency_ms"]
    return {
        "type": "data",
        "symmetric": False,
        "array": (rows["predicted_high_ms"] - predicted).fillna(0),
        "arrayminus": (predicted - rows["predicted_low_ms"]).fillna(0),
    }


def _plain(text: str) -> str:
    """Text that plotly must not read as its own tags; it knows no `&quot;`."""
    return escape(text, quote=False)


def _choices(run: RunData, row: dict[str, Any]) -> list[str]:
    """The architecture's choices, four to a line."""
    options = [f"{name}={option}" for name, option in run.options(row["genotype"]).items()]
    return [_plain(" · ".join(options[i : i + 4])) for i in range(0, len(options), 4)]


def _network_hover(run: RunData, row: dict[str, Any]) -> str:
    lines = [
        f"<b>{_plain(row['name'])}</b>",
        f"measured {number(row['latency_ms'], 'ms')}",
        f"predicted {with_interval(row)} ms",
        f"accuracy {percent(row['val_accuracy'])} validation, {percent(row['test_accuracy'])} test",
        *([_plain(row["verdict"])] if row["verdict"] else []),
        *_choices(run, row),
    ]
    return "<br>".join(lines)


def _trial_hover(run: RunData, row: dict[str, Any]) -> str:
    lines = [
        f"<b>trial {row['number']:.0f}</b>, not measured",
        f"predicted {with_interval(row)} ms",
        f"validation accuracy {percent(row['val_accuracy'])} after short training",
        *_choices(run, row),
    ]
    return "<br>".join(lines)
