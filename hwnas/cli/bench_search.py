"""`hwnas bench search`: how many evaluations strategies need, on tables with a known front."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hwnas.cli.output import AsJson, ConsoleProgress, print_json, print_table, write_text


def search(
    table: Annotated[
        Path,
        typer.Option("--table", help="Parquet file: columns op*, accuracies, latencies."),
    ],
    accuracy: Annotated[
        str, typer.Option("--accuracy", help="Column of accuracies, shares or percent.")
    ],
    latency: Annotated[str, typer.Option("--latency", help="Column of latencies.")],
    strategies: Annotated[
        str,
        typer.Option(
            "--strategies",
            help="Names, as a,b,c. `default` is ours; pymoo-nsga2, optuna-nsga2, optuna-tpe and "
            "optuna-gp are those of other packages (pymoo is installed apart).",
        ),
    ] = "default,evolution,random",
    evaluations: Annotated[
        int, typer.Option("--evaluations", min=1, help="Architectures that each may evaluate.")
    ] = 200,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Repeats, with seeds 0, 1, …")] = 10,
    latency_known: Annotated[
        bool,
        typer.Option("--latency-known", help="Latency is predicted for free, as in a search."),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the curves with bands, as HTML.")
    ] = None,
    overhead: Annotated[
        int | None,
        typer.Option(
            "--overhead", min=1, help="Instead: time ask and tell when so many trials are known."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluations that each strategy needs to 99, 99.5 and 99.9 % of the true hypervolume.

    An architecture that is not in the table is invalid and costs no evaluation, and neither does
    one that was evaluated before. Strategies see the columns op* only.

    Example: [bold]hwnas bench search --table search.parquet --accuracy cifar10_accuracy
    --latency fpga_ms --strategies default,random --latency-known[/bold]
    """
    from hwnas.bench.search import bench_search, draw_curves
    from hwnas.errors import ConfigError

    names = [name.strip() for name in strategies.split(",") if name.strip()]
    if overhead is not None:
        _overhead(table, accuracy, latency, names, overhead, latency_known, as_json)
        return
    if plot is not None and (plot.is_dir() or not plot.parent.is_dir()):
        what = "is a folder" if plot.is_dir() else "lies in a folder that does not exist"
        raise ConfigError(f"--plot {plot} {what}: name a file to write")
    record = bench_search(
        table,
        accuracy=accuracy,
        latency=latency,
        strategies=names,
        n_evaluations=evaluations,
        n_seeds=seeds,
        latency_is_known=latency_known,
        progress=ConsoleProgress(),
    )
    for name, reason in record["not_available"].items():
        typer.echo(f"{name}: {reason}", err=True)
    if as_json:
        print_json(record)
    else:
        print_table(
            f"{accuracy} × {latency} of {table.name}: evaluations to a share of the true "
            f"hypervolume, median of {seeds} seeds (quartiles)",
            ("", "99 %", "99.5 %", "99.9 %", f"after {evaluations}", "s a search", "ms ask + tell"),
            [_row(name, found) for name, found in record["strategies"].items()],
        )
    for name, found in record["strategies"].items():
        if n := found["n_ended_early"]:
            typer.echo(
                f"{name} ended early with {n} of {seeds} seeds, after {found['n_evaluated']:g} "
                f"evaluations in the median: it proposed known or missing architectures only",
                err=True,
            )
    if latency_known and any(not f["latency_is_known"] for f in record["strategies"].values()):
        typer.echo("latency was predicted for strategies of hwnas, others evaluated it", err=True)
    if plot is not None and record["strategies"]:
        write_text(plot, draw_curves(record))


def _overhead(
    table: Path,
    accuracy: str,
    latency: str,
    names: list[str],
    n_told: int,
    latency_known: bool,
    as_json: bool,
) -> None:
    from hwnas.bench.overhead import bench_overhead

    record = bench_overhead(
        table,
        accuracy=accuracy,
        latency=latency,
        strategies=names,
        n_told=n_told,
        latency_is_known=latency_known,
        progress=ConsoleProgress(),
    )
    for name, reason in record["not_available"].items():
        typer.echo(f"{name}: {reason}", err=True)
    if as_json:
        print_json(record)
        return
    print_table(
        f"ask and tell with {n_told:,} known trials of {table.name}",
        ("", "ms, median", "longest", "ms of the CPU", "candidates a second of it"),
        [
            [
                name,
                f"{1e3 * found['ask_tell_s']:.1f}",
                f"{1e3 * found['ask_tell_longest_s']:.1f}",
                f"{1e3 * found['ask_tell_cpu_s']:.1f}",
                "" if (rate := found["candidates_per_cpu_s"]) is None else f"{rate:,.0f}",
            ]
            for name, found in record["strategies"].items()
        ],
    )


def _row(name: str, found: dict[str, Any]) -> list[object]:
    last = list(found["hypervolume_at"].values())[-1]["median"]
    shares = [_with_quartiles(q) for q in found["evaluations_to"].values()]
    last_s = found["ask_tell_last_tenth_s"]
    return [(found["version"] and f"{name} ({found['version']})") or name, *shares,
            f"{100 * last:.2f} %", found["seconds"],
            "" if last_s is None else f"{1e3 * last_s:.1f}"]  # fmt: skip


def _with_quartiles(found: dict[str, float | None]) -> str:
    q1, median, q3 = ("more" if v is None else f"{v:g}" for v in found.values())
    return f"{median} ({q1} to {q3})" if found["q1"] is not None else "more"
