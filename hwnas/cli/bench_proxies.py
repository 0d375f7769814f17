"""`hwnas bench proxies`: zero-cost proxies against published scores of the same cells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hwnas.cli.output import AsJson, ConsoleProgress, print_json, print_table


def proxies(
    table: Annotated[
        Path,
        typer.Option("--table", help="Parquet file: space, task, arch, val_accuracy, zc_*."),
    ],
    task: Annotated[
        str, typer.Option("--task", help="cifar10, cifar100 or ImageNet16-120.")
    ] = "cifar10",
    cells: Annotated[
        int, typer.Option("--cells", min=3, help="Random ones that are scored.")
    ] = 120,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2, help="Inputs of noise.")] = 32,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of cells, noise and weights.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Score cells of NAS-Bench-201 anew, and compare with published scores and accuracies.

    On noise with random labels: images of the benchmark are not needed. Some seconds a cell; Ctrl-C
    compares what was scored so far.

    Example: [bold]hwnas bench proxies --table zerocost_subset.parquet --json[/bold]
    """
    from hwnas.bench.proxies import bench_proxies

    record = bench_proxies(
        table,
        task=task,
        n_cells=cells,
        batch_size=batch_size,
        seed=seed,
        progress=ConsoleProgress(),
    )
    if as_json:
        print_json(record)
        return
    print_table(
        f"{record['n_cells']} cells of {record['table']}, {task}: Spearman (95 % interval)",
        ("", "with the published score", "with accuracy", "published with accuracy"),
        [
            (name, *(_text(found[column]) for column in _COLUMNS))
            for name, found in record["proxies"].items()
        ],
    )


_COLUMNS = ("with_published", "with_accuracy", "published_with_accuracy")


def _text(found: dict[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return ""
    return f"{found['value']:.3f} ({found['low']:.2f} to {found['high']:.2f})"
