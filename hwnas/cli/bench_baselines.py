"""`hwnas bench baselines`: searched networks against those made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hwnas.cli.output import (
    AsJson,
    ConsoleProgress,
    DataName,
    DataPath,
    TargetName,
    print_json,
    print_table,
)


def baselines(
    out: Annotated[
        Path, typer.Option("--out", help="Models and results; the same one resumes.")
    ] = Path("runs/bench-baselines"),
    data: DataName = "fashion-mnist",
    data_path: DataPath = None,
    space: Annotated[str, typer.Option("--space", help="What is searched.")] = "vgg",
    epochs: Annotated[
        float, typer.Option("--epochs", min=0.0, help="Of every training, also of the hand-made.")
    ] = 2.0,
    recipe: Annotated[
        list[str] | None,
        typer.Option("--recipe", help="Of every training, such as 'flip=true'; repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=2, help="Trainings of each network.")] = 3,
    evaluations: Annotated[
        int,
        typer.Option("--evaluations", min=1, help="Candidates of each search, trained briefly."),
    ] = 60,
    candidates: Annotated[
        int, typer.Option("--candidates", min=1, help="Trained to the end, to choose one.")
    ] = 3,
    networks: Annotated[
        int, typer.Option("--networks", min=1, help="Networks measured to fit the predictor.")
    ] = 60,
    predictor: Annotated[
        Path | None, typer.Option("--predictor", help="A fitted one, instead of measuring.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", help="lenet-5, resnet-8 or mobilenet-v3-small; repeatable; all."),
    ] = None,
    target: TargetName = "onnxruntime-cpu",
    as_json: AsJson = False,
) -> None:
    """LeNet-5, ResNet-8 and MobileNetV3-Small against the best searched network that is as fast.

    The default strategy searches below each one's measured latency; what it finds is chosen on
    validation by longer and longer trainings. Both networks are trained by one recipe with equal
    epochs, and measured in turns. Ctrl-C at any time: the same command goes on.

    Example: [bold]hwnas bench baselines --epochs 3 --against lenet-5 --json[/bold]
    """
    from hwnas.bench.against_hand_made import HandMadeStudy, bench_hand_made

    study = HandMadeStudy(
        data=data,
        space=space,
        epochs=epochs,
        recipe=tuple(recipe or ()),
        n_seeds=seeds,
        n_evaluations=evaluations,
        n_candidates=candidates,
        n_networks=networks,
        target=target,
        against=tuple(against or ()),
    )
    record = bench_hand_made(
        study,
        out,
        data_path=data_path,
        predictor=predictor,
        progress=ConsoleProgress(),
    )
    if as_json:
        print_json(record)
        return
    print_table(
        f"Trained for {epochs:g} epochs, {seeds} seeds: mean test accuracy (largest minus least)",
        ("", "ms", "test %", "searched ms", "its test %", "beaten"),
        [_row(name, found) for name, found in record["against"].items()],
    )


def _row(name: str, found: dict[str, Any]) -> list[object]:
    if found["searched"] is None:
        return [name, None, None, None, found["reason"], "no"]
    cells: list[object] = [name]
    for side in (found["hand_made"], found["searched"]):
        accuracy = f"{100 * side['test_accuracy']:.2f} ({100 * side['test_spread']:.2f})"
        cells += [side["latency_ms"], accuracy]
    return [*cells, "yes" if found["is_beaten"] else "no"]
