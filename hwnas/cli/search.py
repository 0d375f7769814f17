"""`hwnas search`, `export`, `evaluate`: the main job and what comes after it."""

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
    Trust,
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
            "--space",
            help="A name that `hwnas space` lists, FILE.py:FUNCTION or MODULE:FUNCTION.",
            show_default="the first that is for such data",
        ),
    ] = "",
    latency_ms: Annotated[
        str | None,
        typer.Option("--latency-ms", help="Latency budget: 5, 40% of the space's median, or p25."),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            help="METRIC<=LIMIT of latency_ms, params, macs, peak_memory_bytes or energy_mj, "
            "such as 'params<=2e6'; repeatable.",
        ),
    ] = None,
    strategy: Annotated[
        str, typer.Option("--strategy", help="How networks are proposed; see above.")
    ] = "guided",
    trials: Annotated[int, typer.Option("--trials", help="Networks to train shortly.")] = 64,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Start no trial after so long.")
    ] = None,
    guide_epochs: Annotated[
        float | None,
        typer.Option("--guide-epochs", help="Of what is learned before the first trial."),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", min=1, help="End after so many trials without a better front."),
    ] = None,
    finalists: Annotated[
        int,
        typer.Option(
            "--finalists",
            help="Networks that shall hold when trained to the end and measured; for those that "
            "miss the budgets, more are.",
        ),
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
    evaluator: Annotated[
        str,
        typer.Option(
            "--evaluator",
            help="Scores a network: training, supernet:FILE, FILE.py:FUNCTION or MODULE:FUNCTION.",
        ),
    ] = "training",
    executor: Annotated[
        str, typer.Option("--executor", help="Where networks are trained: processes, or ray.")
    ] = "processes",
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address", envvar="RAY_ADDRESS", help="Of the cluster; else one on this machine."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            help="Trainings at once, else 1, or what fits on a cluster; 0: in this process, "
            "without limits.",
        ),
    ] = None,
    gpus_per_trial: Annotated[
        float | None,
        typer.Option("--gpus-per-trial", help="Of a cluster; else 1 where it has GPUs."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            envvar="HWNAS_STORAGE",
            help="Database for the trials, postgresql+psycopg://USER@HOST/NAME; else a file.",
        ),
    ] = None,
    trial_seconds: Annotated[
        float | None,
        typer.Option("--trial-seconds", help="A training that takes longer has hung."),
    ] = None,
    trial_memory_mb: Annotated[
        float | None,
        typer.Option("--trial-memory-mb", help="Memory that one training may hold."),
    ] = None,
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
    int8: Annotated[
        bool, typer.Option("--int8/--no-int8", help="Deliver quantized networks, too.")
    ] = True,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Deliver models for any batch, too.")
    ] = False,
    raw_input: Annotated[
        bool, typer.Option("--raw-input", help="Deliver models that preprocess by themselves, too.")
    ] = False,
    predictor: Annotated[
        Path | None, typer.Option("--predictor", help="A fitted one, instead of measuring.")
    ] = None,
    measurements: Measurements = DEFAULT_MEASUREMENTS,
    as_json: AsJson = False,
) -> None:
    """Find, train, verify and export networks that meet a budget on this machine.

    Ctrl-C at any time: what is done is kept, and the same command goes on, also after a kill.
    Networks are trained in processes of their own: one that crashes, hangs or takes all memory is
    one failed trial.

    Examples:

    [bold]hwnas search --data digits --latency-ms 40% --out runs/demo[/bold]

    [bold]hwnas search --data fashion-mnist --latency-ms 0.5 --budget 'params<=1e6'
    --out runs/fashion[/bold]

    [bold]hwnas search --data breast-cancer --space mlp --out runs/table[/bold]

    [bold]hwnas search --data mymodule:load --latency-ms 2 --trials 100 --out runs/mine[/bold]

    [bold]hwnas search --data digits --space my_space.py:space --out runs/own[/bold]

    [bold]hwnas search --data fashion-mnist --latency-ms 40% --workers 4 --out runs/four[/bold]

    Strategies:

    guided: what promises the most new hypervolume, by Gaussian processes.

    evolution: NSGA-II renewed after every trial, spread over predicted latency.

    bananas: an ensemble of neural networks and Thompson sampling.

    regularized_evolution: mutates the best of the latest trials; the oldest dies.

    local_search: neighbours of the front, with restarts.

    nsga2, nsga3: generations, by rank and crowding or by reference points.

    reinforce, dqn: reinforcement learning, by policy gradient or by Q-learning.

    successive_halving, hyperband: many short trainings, longer ones for the best.

    tpe, gp: Optuna's Parzen estimator; its Gaussian processes (seconds a proposal).

    grid, random: every network evenly spread; uniform draws.

    Strategies that learn from the data before the first trial, see --guide-epochs:

    darts, fbnet, proxylessnas: distributions over the options, by gradients.

    spos, ofa: a supernet, then evolution by inherited or by learned accuracy.

    enas: a policy and shared weights in turns.

    zero_cost: untrained networks by the votes of zero-cost proxies.
    """
    from hwnas.config import SearchConfig
    from hwnas.front.verify import DOMINATED
    from hwnas.record_place import without_password
    from hwnas.run import run_search

    budgets = [f"latency_ms<={latency_ms}"] if latency_ms is not None else []
    config = SearchConfig(
        data=data,
        data_path=str(data_path) if data_path else None,
        space=space,
        budgets=(*budgets, *(budget or ())),
        strategy=strategy,
        trials=trials,
        minutes=minutes,
        guide_epochs=guide_epochs,
        patience=patience,
        finalists=finalists,
        search_epochs=search_epochs,
        final_epochs=final_epochs,
        recipe=tuple(recipe or ()),
        seed=seed,
        evaluator=evaluator,
        executor=executor,
        workers=workers,
        gpus_per_trial=gpus_per_trial,
        trial_seconds=trial_seconds,
        trial_memory_mb=trial_memory_mb,
        target=target,
        threads=threads,
        precision=precision,
        batch=batch,
        networks=networks,
        level=level,
        int8=int8,
        dynamic_batch=dynamic_batch,
        raw_input=raw_input,
    )
    command = shlex.join(["hwnas", *map(without_password, sys.argv[1:])])
    result = run_search(
        config,
        out,
        measurements=measurements,
        predictor=predictor,
        command=command,
        progress=ConsoleProgress(),
        storage=storage,
        ray_address=ray_address,
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
            f"{out / 'front.csv'}, {out / 'front'}/*.onnx, {out / 'forms.csv'}, "
            f"{out / 'report.html'}"
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
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Export a trained network of a run again, for another batch size, checked against PyTorch.

    Example: [bold]hwnas export runs/demo t017 --batch 8 --out t017-b8.onnx[/bold]
    """
    from hwnas.front.finalists import export_again

    error = export_again(run, name, out, batch=batch, data_path=data_path, trust=trust)
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
