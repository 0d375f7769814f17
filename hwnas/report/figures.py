"""Colours and axes that the charts of all pages with plotly share."""

FRONT_COLOR = "#1558b0"
TRIAL_COLOR = "#8a97a8"
BASELINE_COLOR = "#d97706"
BUDGET_COLOR = "#c62828"

AXIS = {
    "gridcolor": "#e6eaf0",
    "linecolor": "#9aa5b5",
    "zeroline": False,
    "showline": True,
    "ticks": "outside",
    "tickcolor": "#9aa5b5",
    "automargin": True,
}
