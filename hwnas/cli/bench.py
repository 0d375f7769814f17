"""`hwnas bench …`: figures as ratios against a named baseline, taken in turns in the same run."""

from __future__ import annotations

from typing import Annotated

import typer

from hwnas.cli.measure import DEFAULT_MEASUREMENTS
from hwnas.cli.output import (
    AsJson,
    ConsoleProgress,
    DataName,
    DataPath,
    Measurements,
    print_json,
    print_table,
)

app = typer.Typer(
    no_args_is_help=True, help="Measure hwnas itself, as ratios against a named baseline."
)


@app.callback()
def _bench() -> None:
    """Measure hwnas itself, as ratios against a named baseline."""


@app.command("cost")
def cost(
    space: Annotated[str, typer.Option("--space", help="Search space.")] = "mobile",
    data: DataName = "digits",
    data_path: DataPath = None,
    genotypes: Annotated[
        int, typer.Option("--genotypes", min=1, help="Random genotypes a round.")
    ] = 100_000,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds, in turns.")] = 5,
    measurements: Measurements = DEFAULT_MEASUREMENTS,
    as_json: AsJson = False,
) -> None:
    """Genotypes a second that the cached cost model predicts, on one core.

    Against exporting each network and asking the runtime for its kernels, the way without cache.

    Example: [bold]hwnas bench cost --json[/bold]
    """
    from hwnas.bench import bench_cost

    record = bench_cost(
        space,
        data,
        data_path,
        n_genotypes=genotypes,
        n_rounds=rounds,
        measurements=measurements,
        progress=ConsoleProgress(),
    )
    if as_json:
        print_json(record)
    else:
        print_table("Cost model", ("", ""), list(record.items()))
