"""`hwnas search`, `export`, `evaluate`, `report`: the main job and what comes after it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.output import (
    DEFAULT_MEASUREMENTS,
    AsJson,
    ConsoleProgress,
    DataName,
    DataPath,
    Measurements,
    Precision,
    Shapes,
    TargetName,
    Threads,
    parse_shapes,
    print_json,
    print_table,
    vars_of,
)


def search(
    out: Annotated[Path, typer.Option("--out", help="Run folder; the same one resumes.")],
    data: DataName = "digits",
    data_path: DataPath = None,
    space: Annotated[
        str,
        typer.Option(
            "--space", help="A name that `hwnas space` lists, FILE.py:FUNCTION or MODULE:FUNCTION."
        ),
    ] = "mobile",
    latency_ms: Annotated[
        str | None,
        typer.Option("--latency-ms", help="Latency budget: 5, or 40% of the space's median."),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option("--budget", help="Such as 'params<=2e6'; repeatable."),
    ] = None,
    strategy: Annotated[
        str, typer.Option("--strategy", help="How networks are proposed; see below.")
    ] = "evolution",
    trials: Annotated[int, typer.Option("--trials", help="Networks to train shortly.")] = 64,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Start no trial after so long.")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", min=1, help="End after so many trials without a better front."),
    ] = None,
    finalists: Annotated[
        int, typer.Option("--finalists", help="Networks to train to the end and measure.")
    ] = 24,
    search_epochs: Annotated[
        float | None, typer.Option("--search-epochs", help="Of the short training.")
    ] = None,
    final_epochs: Annotated[
        float | None, typer.Option("--final-epochs", help="Of the long training.")
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option("--recipe", help="Of both trainings, such as 'flip=true'; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of everything random.")] = 0,
    target: TargetName = "onnxruntime-cpu",
    threads: Threads = 1,
    precision: Precision = "fp32",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Examples in one run.")] = 1,
    networks: Annotated[
        int, typer.Option("--networks", help="Networks measured to fit the predictor.")
    ] = 80,
    level: Annotated[
        float, typer.Option("--level", help="Share of networks that intervals are to cover.")
    ] = 0.9,
    predictor: Annotated[
        Path | None, typer.Option("--predictor", help="A fitted one, instead of measuring.")
    ] = None,
    measurements: Measurements = DEFAULT_MEASUREMENTS,
    as_json: AsJson = False,
) -> None:
    """Find, train, verify and export networks that meet a budget on this machine.

    Ctrl-C at any time: what is done is kept, and the same command goes on.

    Examples:

    [bold]hwnas search --data digits --latency-ms 40% --out runs/demo[/bold]

    [bold]hwnas search --data fashion-mnist --latency-ms 0.5 --budget 'params<=1e6'
    --out runs/fashion[/bold]

    [bold]hwnas search --data breast-cancer --space mlp --out runs/table[/bold]

    [bold]hwnas search --data mymodule:load --latency-ms 2 --trials 100 --out runs/mine[/bold]

    [bold]hwnas search --data digits --space my_space.py:space --out runs/own[/bold]

    Strategies:

    guided: what promises the most new hypervolume, by Gaussian processes.

    evolution: NSGA-II renewed after every trial, spread over predicted latency.

    bananas: an ensemble of neural networks and Thompson sampling.

    regularized_evolution: mutates the best of the latest trials; the oldest dies.

    local_search: neighbours of the front, with restarts.

    nsga2, nsga3: generations, by rank and crowding or by reference points.

    reinforce, dqn: reinforcement learning, by policy gradient or by Q-learning.

    successive_halving, hyperband: many short trainings, longer ones for the best.

    tpe, gp: Optuna's Parzen estimator and Gaussian processes (seconds a proposal).

    grid, random: every network evenly spread; uniform draws.
    """
    from hwnas.config import SearchConfig
    from hwnas.run import run_search
    from hwnas.verify import DOMINATED

    budgets = [f"latency_ms<={latency_ms}"] if latency_ms is not None else []
    config = SearchConfig(
        data=data,
        data_path=str(data_path) if data_path else None,
        space=space,
        budgets=(*budgets, *(budget or ())),
        strategy=strategy,
        trials=trials,
        minutes=minutes,
        patience=patience,
        finalists=finalists,
        search_epochs=search_epochs,
        final_epochs=final_epochs,
        recipe=tuple(recipe or ()),
        seed=seed,
        target=target,
        threads=threads,
        precision=precision,
        batch=batch,
        networks=networks,
        level=level,
    )
    command = shlex.join(["hwnas", *sys.argv[1:]])
    result = run_search(
        config,
        out,
        measurements=measurements,
        predictor=predictor,
        command=command,
        progress=ConsoleProgress(),
    )
    if as_json:
        print_json({
            "run": str(out),
            "is_complete": result.is_complete,
            "front": [vars_of(member) for member in result.front],
        })  # fmt: skip
    elif result.is_complete:
        ordered = sorted(result.candidates, key=lambda c: c.latency_ms)
        shown = [c for c in ordered if not c.verdict.startswith(DOMINATED)]
        print_table(
            f"{len(result.front)} networks on the front, in {out}",
            ("name", "val %", "test %", "measured ms", "predicted ms", "params", "verdict"),
            [
                (
                    c.name,
                    f"{100 * c.val_accuracy:.2f}",
                    f"{100 * c.test_accuracy:.2f}",
                    c.latency_ms,
                    f"{c.predicted_latency_ms:.3g} ({c.predicted_low_ms:.3g}–"
                    f"{c.predicted_high_ms:.3g})",
                    c.params,
                    c.verdict,
                )
                for c in shown
            ],
        )
        typer.echo(
            f"{len(ordered) - len(shown)} more are dominated, see {out / 'candidates.csv'}\n"
            f"{out / 'front.csv'}, {out / 'front'}/*.onnx, {out / 'report.html'}"
        )
    if not result.is_complete:
        typer.echo(
            f"interrupted: what was done is kept in {out}; the same command goes on", err=True
        )
        raise typer.Exit(130)
    if not result.front:
        typer.echo(
            "no network held in verification: raise the budget or give it more trials", err=True
        )
        raise typer.Exit(1)


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    name: Annotated[str, typer.Argument(help="A network of its candidates.csv, such as t017.")],
    out: Annotated[Path, typer.Option("--out", help="Where the model goes.")],
    batch: Annotated[int, typer.Option("--batch", min=1, help="Examples in one run.")] = 1,
    data_path: DataPath = None,
    as_json: AsJson = False,
) -> None:
    """Export a trained network of a run again, for another batch size, checked against PyTorch.

    Example: [bold]hwnas export runs/demo t017 --batch 8 --out t017-b8.onnx[/bold]
    """
    from hwnas.finalists import export_again

    error = export_again(run, name, out, batch=batch, data_path=data_path)
    if as_json:
        print_json({"onnx": str(out), "batch": batch, "parity_max_abs_error": error})
    else:
        typer.echo(f"{out}: differs from PyTorch by {error:.2g} at most on real examples")


def evaluate(
    model: Annotated[Path, typer.Argument(help="An ONNX classifier.")],
    data: DataName = "digits",
    data_path: DataPath = None,
    split: Annotated[str, typer.Option("--split", help="test or validation.")] = "test",
    shape: Shapes = None,
    as_json: AsJson = False,
) -> None:
    """Score an exported model on data, with ONNX Runtime.

    Example: [bold]hwnas evaluate runs/demo/front/t017.onnx --data digits --json[/bold]
    """
    from hwnas.data import load_data
    from hwnas.evaluation import evaluate_onnx

    loaded = load_data(data, path=data_path)
    scores = evaluate_onnx(model, loaded, split=split, shapes=parse_shapes(shape))
    record = {
        "model": str(model),
        "data": data,
        "split": split,
        f"{split}_accuracy": scores.accuracy,
    } | vars_of(scores)
    if as_json:
        print_json(record)
    else:
        print_table(
            f"{model} on {data}, {split} split",
            ("metric", "value"),
            [(k, v) for k, v in vars_of(scores).items()],
        )


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Also draw the Pareto front as an SVG file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write report.html of a run again, from the files of its folder.

    Example: [bold]hwnas report runs/demo --svg front.svg[/bold]
    """
    from hwnas.pareto_svg import write_pareto_svg
    from hwnas.report import write_report

    written = [write_report(run)]
    if svg is not None:
        written.append(write_pareto_svg(run, svg))
    if as_json:
        print_json({"written": [str(path) for path in written]})
    else:
        typer.echo("\n".join(str(path) for path in written))
