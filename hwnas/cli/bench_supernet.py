"""`hwnas bench supernet`: whether inherited weights rank subnets as training alone does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hwnas.cli.output import (
    AsJson,
    ConsoleProgress,
    DataName,
    DataPath,
    Threads,
    print_json,
    print_table,
)


def supernet(
    out: Annotated[
        Path, typer.Option("--out", help="Weights and results; the same one resumes.")
    ] = Path("runs/bench-supernet"),
    data: DataName = "fashion-mnist",
    data_path: DataPath = None,
    space: Annotated[str, typer.Option("--space", help="Search space.")] = "mobile",
    way: Annotated[
        str,
        typer.Option("--way", help="Of training it: single-path, fair, sandwich or shrinking."),
    ] = "fair",
    subnets: Annotated[
        int, typer.Option("--subnets", min=2, help="That are compared, spread over the MACs.")
    ] = 30,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Supernets: seeds 0, 1, …")] = 2,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, help="This one alone, so that several run side by side."),
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.001, help="For training one supernet.")
    ] = 40.0,
    alone_epochs: Annotated[
        float, typer.Option("--alone-epochs", min=0.0, help="Of training one subnet alone.")
    ] = 1.0,
    train_examples: Annotated[
        int | None, typer.Option("--train-examples", help="So many of train; else all.")
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option("--recipe", help="Of subnets alone, such as 'flip=true'; repeatable."),
    ] = None,
    supernet_recipe: Annotated[
        list[str] | None,
        typer.Option("--supernet-recipe", help="Of the supernet, likewise; repeatable."),
    ] = None,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Spearman between the accuracies of subnets with inherited weights and trained alone.

    A supernet for each seed, subnets spread over the MACs, accuracies on validation. Ctrl-C at any
    time: what is done is kept, and the same command goes on. Seeds can run side by side, with
    [bold]--seed 0[/bold] and [bold]--seed 1[/bold]; [bold]--seeds 2[/bold] then puts them together.

    Example: [bold]hwnas bench supernet --data fashion-mnist --minutes 20 --seeds 2[/bold]
    """
    from hwnas.bench.supernet import bench_supernet
    from hwnas.bench.supernet_seed import SupernetStudy

    study = SupernetStudy(
        data=data,
        space=space,
        way=way,
        n_subnets=subnets,
        minutes=minutes,
        alone_epochs=alone_epochs,
        train_examples=train_examples,
        recipe=tuple(recipe or ()),
        supernet_recipe=tuple(supernet_recipe or ()),
        threads=threads,
    )
    record = bench_supernet(
        study,
        out,
        seeds=range(seeds) if seed is None else (seed,),
        data_path=data_path,
        progress=ConsoleProgress(),
    )
    if as_json:
        print_json(record)
        return
    print_table(
        f"{subnets} subnets of {space}, inherited against alone ({alone_epochs:g} epochs)",
        (
            "seed", "Spearman", "95 %", "Kendall", "of MACs", "supernet s", "alone s",
            "largest, through the supernet",
        ),
        [_row(name, found) for name, found in record["seeds"].items()],
    )  # fmt: skip


def _row(seed: str, found: dict[str, Any]) -> list[object]:
    rho, tau = found["spearman"], found["kendall"]
    return [
        seed,
        rho["value"],
        "–" if rho["value"] is None else f"{rho['low']:.2f} to {rho['high']:.2f}",
        tau["value"],
        found["macs_spearman"]["value"],
        f"{found['supernet_seconds']:.0f}",
        f"{found['alone_seconds']:.0f}",
        f"{found['passes']['ratio']:.2f} times",
    ]
