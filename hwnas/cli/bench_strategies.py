"""`hwnas bench strategies`: every strategy on one real task, with the same time for each."""

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


def strategies(
    out: Annotated[
        Path, typer.Option("--out", help="Run folders and what they share; the same one resumes.")
    ] = Path("runs/bench-strategies"),
    strategies: Annotated[
        str, typer.Option("--strategies", help="Names a,b,c that `hwnas search` lists, or all.")
    ] = "all",
    latency_ms: Annotated[
        str, typer.Option("--latency-ms", help="Budget: 5, 40% of the space's median, or p25.")
    ] = "40%",
    minutes: Annotated[
        float, typer.Option("--minutes", help="Of each search, what a guide takes included.")
    ] = 0.75,
    seeds: Annotated[int, typer.Option("--seeds", help="Searches of each strategy.")] = 3,
    jobs: Annotated[
        int, typer.Option("--jobs", help="Searches side by side, each on a core of its own.")
    ] = 1,
    data: DataName = "digits",
    data_path: DataPath = None,
    space: Annotated[str, typer.Option("--space", help="Search space.")] = "mobile",
    search_epochs: Annotated[
        float, typer.Option("--search-epochs", help="Of the training of a candidate.")
    ] = 2.0,
    guide_epochs: Annotated[
        float | None,
        typer.Option(
            "--guide-epochs", help="Of a guide; else what half of the time is enough for."
        ),
    ] = None,
    networks: Annotated[
        int, typer.Option("--networks", help="Networks measured to fit the predictor.")
    ] = 80,
    predictor: Annotated[
        Path | None, typer.Option("--predictor", help="A fitted one, instead of measuring.")
    ] = None,
    target: TargetName = "onnxruntime-cpu",
    threads: Threads = 1,
    measurements: Annotated[
        Path | None,
        typer.Option("--measurements", help="Database of measurements; one in --out if left out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search with every strategy for the same time: hypervolume, accuracy, networks trained.

    Latencies are predicted; nothing is trained longer or exported. `random` is the baseline and
    always takes part. The table is written to strategies.md in --out, too.

    Example: [bold]hwnas bench strategies --minutes 0.75 --seeds 3 --jobs 2[/bold]
    """
    from hwnas.bench.strategies import bench_strategies
    from hwnas.bench.strategies_table import COLUMNS, table_rows
    from hwnas.config import SearchConfig
    from hwnas.strategies import STRATEGIES

    asked = [name.strip() for name in strategies.split(",") if name.strip()]
    config = SearchConfig(
        data=data,
        data_path=str(data_path) if data_path else None,
        space=space,
        budgets=(f"latency_ms<={latency_ms}",),
        minutes=minutes,
        search_epochs=search_epochs,
        guide_epochs=guide_epochs,
        networks=networks,
        target=target,
        threads=threads,
    )
    record = bench_strategies(
        config,
        out,
        strategies=list(STRATEGIES) if asked == ["all"] else asked,
        n_seeds=seeds,
        n_jobs=jobs,
        measurements=measurements or out / "measurements.db",
        predictor=predictor,
        progress=ConsoleProgress(),
    )
    if as_json:
        print_json(record)
        return
    n_over = sum(found["n_over"] for found in record["strategies"].values())
    print_table(
        f"{record['data']}, {record['space']}, {60 * minutes:g} s a search, {seeds} seeds: mean "
        f"(least–largest); {n_over} proposals over {' and '.join(record['budgets'])}",
        COLUMNS,
        table_rows(record),
    )
