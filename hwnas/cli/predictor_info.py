"""`hwnas predictor`: what a predictor's file says of itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.output import AsJson, print_json


def predictor(
    file: Annotated[Path, typer.Argument(help="A file that `hwnas fit` or `transfer` wrote.")],
    as_json: AsJson = False,
) -> None:
    """Tell what a predictor was fitted on, for which target, and how good it was.

    The predictor itself is not built. A file that is damaged or was changed is refused.

    Example: [bold]hwnas predictor predictor.npz --json[/bold]
    """
    from predictors.files import describe_predictor

    summary = describe_predictor(file)
    if as_json:
        print_json({"file": str(file), **summary.to_dict()})
        return
    training = summary.training
    target = summary.target.describe() if summary.target else "no target of its own"
    lines = [
        f"{file}: {summary.kind}, format {summary.format_version}, "
        f"by hwnas {summary.hwnas_version}",
        f"target: {target}",
        f"devices: {', '.join(training.devices) or 'not told'}",
        f"networks: {_or_not_told(training.n_networks)}",
        f"kernels: {_or_not_told(training.n_kernels)}",
    ]
    if training.measured_between is not None:
        first, last = (_day(moment) for moment in training.measured_between)
        lines.append(f"measured: {first}" + (f" to {last}" if last != first else ""))
    if training.held_out is not None:
        found = training.held_out
        lines.append(
            f"held out: {found.n} networks, MAPE {100 * found.mape:.1f} %, within ±5 % "
            f"{100 * found.within_5:.1f} %, within ±10 % {100 * found.within_10:.1f} %, "
            f"Spearman {found.spearman:.4f}"
        )
    lines.append(f"intervals: {100 * training.level:g} %")
    typer.echo("\n".join(lines))


def _or_not_told(count: int | None) -> str:
    return "not told" if count is None else f"{count:,}"


def _day(moment: float) -> str:
    try:
        return datetime.fromtimestamp(moment, UTC).date().isoformat()
    except (OverflowError, OSError, ValueError):  # no moment that calendars know
        return "not told"
