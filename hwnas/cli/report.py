"""`hwnas report`: the page of a run, written again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.output import AsJson, DataPath, Trust, print_json

RunStorage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar="HWNAS_STORAGE",
        help="Database that the search was given for its trials; while it goes on, they are there.",
    ),
]


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Also draw the Pareto front as an SVG file.")
    ] = None,
    measurements: Annotated[
        Path | None,
        typer.Option(
            "--measurements",
            help="Database of the run: also explain again which choices cost what and where the "
            "time goes, on the machine of the run.",
        ),
    ] = None,
    data_path: DataPath = None,
    trust: Trust = False,
    storage: RunStorage = None,
    as_json: AsJson = False,
) -> None:
    """Write report.html of a run again, from the files of its folder and its database, if any.

    Works on runs that are going on, were interrupted or killed, too.

    Example: [bold]hwnas report runs/demo --svg front.svg[/bold]
    """
    from hwnas.report.pareto_svg import write_pareto_svg
    from hwnas.report.write import write_report

    written = []
    if measurements is not None:
        from hwnas.report.explain import explain_again
        from hwnas.report.explanation import write_explanation

        explanation = explain_again(run, measurements, data_path=data_path, trust=trust)
        written.append(write_explanation(run, explanation))
    written.append(write_report(run, storage=storage))
    if svg is not None:
        written.append(write_pareto_svg(run, svg, storage=storage))
    if as_json:
        print_json({"written": [str(path) for path in written]})
    else:
        typer.echo("\n".join(str(path) for path in written))
