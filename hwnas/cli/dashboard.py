"""`hwnas dashboard`: the study of a run in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from hwnas.cli.report import RunStorage


def dashboard(
    run: Annotated[
        str, typer.Argument(help="A run folder, or the URL of the database given as --storage.")
    ],
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Where it listens.")] = 8080,
    storage: RunStorage = None,
) -> None:
    """Open optuna-dashboard on the study of a run, on this machine alone, until Ctrl-C.

    Needs: pip install 'hwnas\\[dashboard]'. The search may be running: its record is opened for
    reading only, so no button can change it.

    Example: [bold]hwnas dashboard runs/demo --port 8080[/bold]
    """
    from hwnas.dashboard import HOST, serve_dashboard

    typer.echo(f"http://{HOST}:{port}/dashboard  (Ctrl-C ends it)", err=True)
    serve_dashboard(run, port=port, storage=storage)
