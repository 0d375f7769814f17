"""`hwnas bench workers`: trials a minute of several workers against one."""

from __future__ import annotations

from typing import Annotated

import typer

from hwnas.cli.output import (
    AsJson,
    ConsoleProgress,
    DataName,
    DataPath,
    print_json,
    print_table,
)


def workers(
    data: DataName = "digits",
    data_path: DataPath = None,
    space: Annotated[str, typer.Option("--space", help="Search space.")] = "mobile",
    workers: Annotated[int, typer.Option("--workers", help="Against one.")] = 2,
    trials: Annotated[int, typer.Option("--trials", help="Of each search.")] = 16,
    rounds: Annotated[int, typer.Option("--rounds", help="Rounds, in turns.")] = 3,
    epochs: Annotated[
        float | None, typer.Option("--epochs", help="Of a training, else those of a search.")
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="For a measurement after each search.")
    ] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Trials a minute of several workers against one, in turns, with one thread each.

    After each search one network is measured, to see that none is disturbed.

    Example: [bold]hwnas bench workers --workers 2 --json[/bold]
    """
    from hwnas.bench.workers import bench_workers

    record = bench_workers(
        data,
        data_path,
        space,
        n_workers=workers,
        n_trials=trials,
        n_rounds=rounds,
        epochs=epochs,
        seconds=seconds,
        progress=ConsoleProgress(),
    )
    if as_json:
        print_json(record)
    else:
        print_table("Workers", ("", ""), list(record.items()))
