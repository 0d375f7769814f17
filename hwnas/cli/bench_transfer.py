"""`hwnas bench transfer`: latency on a new device from a few measurements, over tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hwnas.cli.output import AsJson, ConsoleProgress, print_json, print_table
from hwnas.number_text import number


def transfer(
    table: Annotated[
        Path, typer.Option("--table", help="Parquet file: columns op* and <device>_ms.")
    ],
    train: Annotated[str, typer.Option("--train", help="Devices to learn from: a,b,c.")],
    test: Annotated[str, typer.Option("--test", help="Devices to transfer to: d,e.")],
    samples: Annotated[
        int, typer.Option("--samples", help="Measurements on a test device; it chooses them.")
    ] = 10,
    train_samples: Annotated[
        int, typer.Option("--train-samples", help="Rows known of a training device, at most.")
    ] = 900,
    seeds: Annotated[int, typer.Option("--seeds", help="Repetitions, with seeds 0, 1, …")] = 20,
    as_json: AsJson = False,
) -> None:
    """Predict a device's latencies from 5 to 20 measurements of it and tables of other devices.

    All rows that were not measured are scored: by rank, in ms, and whether 90 % intervals hold.

    Example: [bold]hwnas bench transfer --table latency.parquet --train a,b --test c[/bold]
    """
    from hwnas.bench.transfer import bench_transfer

    record = bench_transfer(
        table,
        train=_names(train),
        test=_names(test),
        n_samples=samples,
        n_train_samples=train_samples,
        n_seeds=seeds,
        progress=ConsoleProgress(),
    )
    if as_json:
        print_json(record)
        return
    title = (
        f"{samples} samples of a device, {record['n_train_samples']} of each of "
        f"{len(record['train'])} others, mean of {seeds} seeds ({record['seconds']:.0f} s)"
    )
    columns = ("", "Spearman", "worst", "MAPE %", "within 10 %", "covered %", "± %")
    shares = ("mape", "within_10", "coverage", "half_width")
    found = record["devices"]
    print_table(title, columns, [
        (device, number(each["spearman"], digits=4), number(each["spearman_min"], digits=4),
         *(f"{100 * each[share]:.1f}" for share in shares))
        for device, each in found.items()
    ])  # fmt: skip
    print_table("Beside it", ("", "ranked by", "Spearman", "MAPE %, by a line"), [
        (device, *other) for device, each in found.items() for other in _others(each)
    ])  # fmt: skip
    typer.echo("The MAPE beside it is that of a straight line through the same samples.")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _others(found: dict[str, Any]) -> list[tuple[object, ...]]:
    """What ranks the same device otherwise: baselines here, and published figures."""
    rows: list[tuple[object, ...]] = [
        (
            f"{name}, 0 samples",
            number(each["spearman"], digits=4),
            f"{100 * each['mape_with_samples']:.1f}",
        )
        for name, each in found["baselines"].items()
    ]
    for name, spearman in found.get("published_spearman", {}).items():
        rows.append((f"{name} (published)", f"{spearman:.3f}", None))
    return rows
