"""`hwnas bench front`: whether delivered networks meet their budget later, and how closely."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.output import (
    AsJson,
    ConsoleProgress,
    DataName,
    DataPath,
    TargetName,
    Threads,
    print_json,
    print_table,
)
from hwnas.config import SearchConfig


def front(
    out: Annotated[
        Path, typer.Option("--out", help="Run folders and what they share; the same one resumes.")
    ] = Path("runs/bench-front"),
    budgets: Annotated[
        str, typer.Option("--budgets", help="Percentiles of the space's latency: a,b,c.")
    ] = "10,25,50,75",
    searches: Annotated[
        int, typer.Option("--searches", min=1, help="Of each budget, with seeds 0, 1, …")
    ] = 5,
    data: DataName = "digits",
    data_path: DataPath = None,
    space: Annotated[str, typer.Option("--space", help="Search space.")] = "mobile",
    strategy: Annotated[
        str, typer.Option("--strategy", help="How networks are proposed.")
    ] = SearchConfig.strategy,
    trials: Annotated[int, typer.Option("--trials", help="Networks to train shortly.")] = 16,
    finalists: Annotated[
        int, typer.Option("--finalists", help="Networks to train longer and measure.")
    ] = 6,
    search_epochs: Annotated[
        float, typer.Option("--search-epochs", help="Of the short training.")
    ] = 2.0,
    final_epochs: Annotated[
        float, typer.Option("--final-epochs", help="Of the longer training.")
    ] = 4.0,
    networks: Annotated[
        int, typer.Option("--networks", help="Networks measured to fit the predictor.")
    ] = 80,
    target: TargetName = "onnxruntime-cpu",
    threads: Threads = 1,
    int8: Annotated[
        bool, typer.Option("--int8/--no-int8", help="Deliver quantized networks, too.")
    ] = SearchConfig.int8,
    measurements: Annotated[
        Path | None,
        typer.Option("--measurements", help="Database of measurements; one in --out if left out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search under several budgets, then measure every delivered network again in a new process.

    The share of them that is within its budget then, and how much of the budget the nearest of each
    search leaves unused; how closely their models compute what PyTorch does, and what their INT8
    forms lose and gain. Trainings are short: this is about latency, not accuracy.

    Example: [bold]hwnas bench front --budgets 10,25,50,75 --searches 5 --json[/bold]
    """
    from hwnas.bench.front import bench_front
    from hwnas.bench.front_figures import about_models, error_text, points
    from hwnas.errors import ConfigError

    try:
        percentiles = [float(text) for text in budgets.split(",") if text.strip()]
    except ValueError:
        raise ConfigError(
            f"--budgets takes percentiles such as 10,25,50, got {budgets!r}"
        ) from None
    config = SearchConfig(
        data=data,
        data_path=str(data_path) if data_path else None,
        space=space,
        strategy=strategy,
        trials=trials,
        finalists=finalists,
        search_epochs=search_epochs,
        final_epochs=final_epochs,
        networks=networks,
        target=target,
        threads=threads,
        int8=int8,
    )
    record = bench_front(
        config,
        out,
        percentiles=percentiles,
        n_searches=searches,
        measurements=measurements or out / "measurements.db",
        progress=ConsoleProgress(),
    )
    if as_json:
        print_json(record)
        return
    print_table(
        f"{record['n_within']} of {record['n_members']} networks within their budget when "
        f"measured again; the nearest leaves {100 * record['mean_nearest_slack']:.1f} % unused",
        ("budget", "seed", "limit ms", "trained", "over", "front", "within", "unused %"),
        [
            (
                f"p{row['percentile']:g}",
                row["seed"],
                row["limit_ms"],
                row["n_trained"],
                row["n_over"],
                row["n_members"],
                row["n_within"],
                f"{100 * row['nearest_slack']:.1f}",
            )
            for row in record["searches"]
        ],
    )
    print_table(
        "their parity with PyTorch and their INT8 forms; drops of validation accuracy",
        ("budget", "seed", "parity", "int8", "mean drop", "largest", "flagged", "int8/fp32"),
        [
            (
                f"p{row['percentile']:g}",
                row["seed"],
                error_text(row["largest_parity_error"]),
                row["int8"]["n_twins"],
                points(row["int8"]["mean_drop"]),
                points(row["int8"]["largest_drop"]),
                row["int8"]["n_flagged"],
                row["int8"]["median_latency_ratio"],
            )
            for row in record["searches"]
        ],
    )
    typer.echo("\n".join(about_models(record)))
