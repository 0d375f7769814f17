"""`hwnas bench predictor`: how good predicted latencies are, and what they are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hwnas.cli.output import (
    DEFAULT_MEASUREMENTS,
    AsJson,
    ConsoleProgress,
    DataName,
    DataPath,
    Measurements,
    TargetName,
    Threads,
    print_json,
    print_table,
)

_SCORES = (
    ("networks", "n", 1), ("MAPE %", "mape", 100), ("within 5 %", "within_5", 100),
    ("within 10 %", "within_10", 100), ("Spearman", "spearman", 1), ("bias %", "bias", 100),
    ("covered %", "coverage", 100), ("± %", "half_width", 100), ("known %", "known_share", 100),
)  # fmt: skip
_COLUMNS = ("", *(title for title, _, _ in _SCORES))


def predictor(
    part: Annotated[
        str | None,
        typer.Option("--part", help="space, families, zoo, kinds, speed, joined by commas."),
    ] = None,
    space: Annotated[str, typer.Option("--space", help="Search space.")] = "mobile",
    data: DataName = "digits",
    data_path: DataPath = None,
    target: TargetName = "onnxruntime-cpu",
    threads: Threads = 1,
    train_minutes: Annotated[
        float, typer.Option("--train-minutes", help="Of measuring the space, in all runs.")
    ] = 20.0,
    survey_minutes: Annotated[
        float, typer.Option("--survey-minutes", help="Of measuring random operators.")
    ] = 15.0,
    held_out: Annotated[
        int, typer.Option("--held-out", help="Networks of the space to predict.")
    ] = 300,
    chosen: Annotated[
        int, typer.Option("--chosen", help="Networks that a search would choose, to predict.")
    ] = 100,
    per_family: Annotated[
        int, typer.Option("--per-family", help="Networks of each of eight families.")
    ] = 12,
    seconds: Annotated[
        float, typer.Option("--seconds", help="For one network; 4 times if disturbed.")
    ] = 1.0,
    measure: Annotated[
        bool, typer.Option(help="Predict again after measuring kernels that are not known.")
    ] = True,
    measure_seconds: Annotated[
        float, typer.Option("--measure-seconds", help="For the kernels of one network.")
    ] = 60.0,
    new: Annotated[
        bool, typer.Option("--new/--no-new", help="Measure what the databases do not hold yet.")
    ] = True,
    models_folder: Annotated[
        Path | None,
        typer.Option("--models-folder", help="Exported networks; beside the measurements."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything drawn.")] = 0,
    measurements: Measurements = DEFAULT_MEASUREMENTS,
    as_json: AsJson = False,
) -> None:
    """How good predicted latencies and their intervals are, on networks that were never measured.

    space: held-out networks of the space, their measurements' own repeat error, and intervals.
    families: each of eight families by what the others say, with and without --measure.
    zoo: the networks that the onnx package brings, and fifteen from transformers.
    kinds: other kinds of predictors on the same networks.
    speed: genotypes a second, and seconds for an ONNX file.

    Everything measured is kept beside --measurements: the same command goes on after a stop.

    Example: [bold]hwnas bench predictor --part space --json[/bold]
    """
    from hwnas.bench.predictor import PARTS, bench_predictor
    from hwnas.bench.predictor_setup import PredictorBench
    from hwnas.cli.campaigns import load_space
    from profilers.targets import make_target

    bench = PredictorBench(
        target=make_target(target, threads=threads),
        space=load_space(space, data, data_path),
        measurements=measurements,
        train_minutes=train_minutes,
        survey_minutes=survey_minutes,
        n_held_out=held_out,
        n_chosen=chosen,
        n_per_family=per_family,
        seconds=seconds,
        measure_seconds=measure_seconds if measure else None,
        seed=seed,
        is_new=new,
        models_folder=models_folder,
        progress=ConsoleProgress(),
    )
    parts = [name.strip() for name in part.split(",")] if part else list(PARTS)
    record = bench_predictor(bench, parts)
    if as_json:
        print_json(record)
        return
    typer.echo(f"{record['target']} on {record['device']}")
    show = {"space": _show_space, "families": _show_families, "zoo": _show_zoo,
            "kinds": _show_kinds, "speed": _show_speed}  # fmt: skip
    for name in PARTS:
        found = record.get(name, {})
        if "error" in found:
            typer.echo(f"{name}: {found['error']}")
        elif found:
            show[name](found)


def _scores(name: str, found: dict[str, Any]) -> tuple[object, ...]:
    cells = [None if found.get(key) is None else found[key] * scale for _, key, scale in _SCORES]
    return name, *cells


def _show_space(found: dict[str, Any]) -> None:
    training, held_out, splits = found["training"], found["held_out"], found["splits"]
    rows = [_scores("held out", held_out)]
    for i, quarter in enumerate(held_out.get("by_quarter", ())):
        rows.append(_scores(f"quarter {i + 1}, to {quarter['to_ms']:.3g} ms", quarter))
    rows.append(_scores("chosen as a search would", found["chosen"]))
    rows.append(_scores("measured again", held_out.get("repeats", {})))
    minutes, n = training["minutes"], training["n_networks"]
    print_table(f"In the space: fitted on {n} networks, {minutes:.1f} minutes", _COLUMNS, rows)
    if splits["n"]:
        typer.echo(
            f"intervals over {splits['n']} random splits of {splits['n_test']} networks: "
            f"{100 * splits['coverage']:.1f} % covered ({100 * splits['coverage_min']:.1f} to "
            f"{100 * splits['coverage_max']:.1f}), ± {100 * splits['half_width']:.1f} %"
        )


def _show_families(found: dict[str, Any]) -> None:
    for name, title in _BOTH:
        if name in found:
            rows = [_scores(family, each) for family, each in found[name]["by_family"].items()]
            rows.append(_scores("all families", found[name]))
            print_table(f"Families left out, {title}", _COLUMNS, rows)


def _show_zoo(found: dict[str, Any]) -> None:
    for name, title in _BOTH:
        if name not in found:
            continue
        columns = ("", "kernels", "predicted ms", "from", "to", "known %", "measured ms", "error %")
        rows = [
            (each["name"], each["n_kernels"], each["predicted_ms"], each["low_ms"], each["high_ms"],
             100 * each["known_share"], each["measured_ms"], 100 * each["error"])
            for each in found[name]["networks"]
        ]  # fmt: skip
        print_table(f"Networks of strangers, {title}", columns, rows)
        print_table("All of them", _COLUMNS, [_scores(title, found[name])])
    for name, reason in found["not_asked"].items():
        typer.echo(f"{name}: {reason}")


def _show_kinds(found: dict[str, Any]) -> None:
    rows = [
        (kind, of, 100 * scores["mape"], 100 * scores["within_5"], 100 * scores["within_10"],
         scores["spearman"], each["fit_seconds"])
        for kind, each in found["kinds"].items() for of, scores in each["accuracy"].items()
    ]  # fmt: skip
    columns = ("kind", "on", "MAPE %", "within 5 %", "within 10 %", "Spearman", "fit s")
    print_table("Kinds of predictors, fitted on the same networks", columns, rows)


def _show_speed(found: dict[str, Any]) -> None:
    rows: list[tuple[object, ...]] = [
        ("genotypes a second, one core", found["costing"]["genotypes_per_second"])
    ]
    for each in found["answering"]:
        name = f"{each['model']}, {each['n_nodes']} nodes"
        rows.append((f"{name}: seconds to answer", each["median_s"]))
        rows.append((f"{name}: whole command, seconds", each["process_s"]))
    print_table("Speed", ("", ""), rows)


_BOTH = (
    ("unmeasured", "nothing of them measured"),
    ("measured", "unknown kernels measured"),
)
