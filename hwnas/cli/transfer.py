"""`hwnas transfer`: latency on a new device or target from a few measurements of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwnas.cli.output import AsJson, ConsoleProgress, print_json, print_table, write_text

if TYPE_CHECKING:
    from hwnas.transfer_tables import Measured
    from predictors.transfer import TransferPrediction, TransferPredictor

N_SHOWN = 10
N_MEASURED = 10  # measurements of the new one
# By mode, what it reads; what is given besides would be ignored: it is refused.
_OUTPUT = {"samples", "level", "seed", "out", "predictions", "as_json"}
_READ_BY = {
    "--table": _OUTPUT | {"table", "sources", "measured", "train_samples"},
    "--predictor": {"predictor", "measured", "samples", "out", "predictions", "as_json"},
    "--measurements": _OUTPUT | {"measurements", "sources", "target", "measure", "seconds"},
}


def transfer(
    ctx: typer.Context,
    table: Annotated[
        Path | None, typer.Option("--table", help="Parquet file: columns op* and <device>_ms.")
    ] = None,
    predictor: Annotated[
        Path | None, typer.Option("--predictor", help="What --out wrote: nothing is fitted again.")
    ] = None,
    measurements: Annotated[
        Path | None,
        typer.Option("--measurements", help="Database in which a target's networks are."),
    ] = None,
    sources: Annotated[
        str | None,
        typer.Option("--from", help="Devices of the table to learn from: a,b,c. Or a target."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", help="New target, as openvino-cpu or torch-cpu/fp32/threads=2."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            min=2,
            help="Measurements of the new one, in all: 10, or what the predictor was fitted for.",
        ),
    ] = None,
    measured: Annotated[
        str | None,
        typer.Option("--measured", help="What it took: CSV (row, latency_ms) or column of it."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the chosen networks here, now.")
    ] = False,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="For one network, with --measure.")
    ] = 1.0,
    train_samples: Annotated[
        int, typer.Option("--train-samples", min=10, help="Rows used of each device, at most.")
    ] = 900,
    level: Annotated[
        float, typer.Option("--level", help="Share of rows that intervals are to cover.")
    ] = 0.9,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the rows drawn.")] = 0,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="CSV of all predictions.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where the predictor goes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what to measure on a new device, and predict all the rest from it.

    Examples:

    [bold]hwnas transfer --table latency.parquet --from a,b --samples 10 --out t.npz[/bold]

    then, with those rows measured: [bold]hwnas transfer --predictor t.npz --measured new.csv
    --predictions all.csv[/bold]

    [bold]hwnas transfer --measurements runs/measurements.db --from onnxruntime-cpu
    --target openvino-cpu --measure[/bold]
    """
    if not 0 < level < 1:
        raise typer.BadParameter(f"{level} is not between 0 and 1", param_hint="--level")
    mode = _mode(ctx, table=table, predictor=predictor, measurements=measurements)
    names: list[str]
    if mode == "--measurements":
        assert measurements is not None
        fitted, known, names, from_what = _between_targets(
            measurements,
            sources,
            target,
            samples or N_MEASURED,
            level,
            seed,
            seconds if measure else None,
        )
    else:
        fitted, known, names, from_what = _over_rows(
            table, predictor, sources, measured, samples or N_MEASURED, train_samples, level, seed
        )
    n_missing = (samples or fitted.n_measured) - len(known.rows)
    to_measure = [int(row) for row in fitted.choose(n_missing, measured=known.rows)] if (
        n_missing > 0
    ) else []  # fmt: skip
    record: dict[str, Any] = {
        "from": from_what,
        "n_rows": len(names),
        "n_measured": len(known.rows),
        "to_measure": [{"row": row, "name": names[row]} for row in to_measure],
        "level": fitted.level,
        "predictions": None,
        "out": str(out) if out else None,
    }
    if len(known.rows) >= 2:
        fitted.adapt(known.rows, known.latency_ms)
        answer = fitted.predict_adapted()
        record["predictions"] = _columns(answer, known, len(names))
        if predictions is not None:
            write_text(predictions, _csv(record["predictions"], names))
    elif predictions is not None:
        raise typer.BadParameter(
            "there is nothing to predict from yet: measure the rows first",
            param_hint="--predictions",
        )
    if out is not None:
        from predictors.files import save_predictor

        save_predictor(fitted, out)
    if as_json:
        print_json(record)
    else:
        _show(record, names)


def _mode(ctx: typer.Context, **given: Path | None) -> str:
    modes = [f"--{name}" for name, path in given.items() if path is not None]
    if len(modes) != 1:
        raise typer.BadParameter(
            f"one of --table, --predictor and --measurements is needed, got "
            f"{' and '.join(modes) or 'none'}"
        )
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        is_given = source is not None and source.name != "DEFAULT"
        if is_given and parameter.name not in _READ_BY[modes[0]]:
            raise typer.BadParameter(
                f"is not used with {modes[0]}: leave it out", param_hint=parameter.opts[0]
            )
    return modes[0]


def _over_rows(
    table: Path | None,
    predictor: Path | None,
    sources: str | None,
    measured: str | None,
    samples: int,
    train_samples: int,
    level: float,
    seed: int,
) -> tuple[TransferPredictor, Measured, list[str], list[str]]:
    """Of a table, or of the file of a predictor that was fitted on one."""
    from hwnas.transfer_tables import NOTHING, Measured, fit_on_table, read_measured

    if predictor is not None:
        from predictors.files import load_predictor
        from predictors.transfer import TransferPredictor

        fitted = load_predictor(predictor, TransferPredictor)
        names = [str(row) for row in range(len(fitted.features))]
    else:
        assert table is not None
        devices = [name.strip() for name in (sources or "").split(",") if name.strip()]
        if not devices:
            raise typer.BadParameter("name the devices to learn from: a,b,c", param_hint="--from")
        with ConsoleProgress().task("learning from the other devices", None):
            read, fitted = fit_on_table(
                table, devices, n_measured=samples, n_rows=train_samples, level=level, seed=seed
            )
        names = [", ".join(options) for options in zip(*read.choices.values(), strict=True)]
    known = NOTHING
    if measured is not None:
        known = read_measured(measured, table, len(names))
    elif fitted.measured_ is not None:
        known = Measured(*fitted.measured_)
    return fitted, known, names, list(fitted.devices_)


def _between_targets(
    path: Path,
    sources: str | None,
    target: str | None,
    samples: int,
    level: float,
    seed: int,
    seconds: float | None,
) -> tuple[TransferPredictor, Measured, list[str], list[str]]:
    """From a target of a database to another one; measures there if `seconds` says how long."""
    from hwnas.cli.output import open_measurements
    from hwnas.transfer_targets import (
        find_target,
        measure_there,
        measured_there,
        one_each,
        target_here,
        to_measure_there,
    )
    from predictors.transfer_networks import transfer_between_targets
    from profilers.errors import StoreError
    from profilers.isolation import IsolatedProfiler
    from profilers.measurement import EXCERPT_FAMILY, FAMILY_TAG

    if not sources or not target:
        raise typer.BadParameter("--from and --target are needed with --measurements")
    if not path.exists():
        raise StoreError(f"there is no measurement database {path}: name one, or measure")
    progress = ConsoleProgress()
    with open_measurements(path, progress) as store:
        found: dict[Any, list[Any]] = {}
        for m in store.networks():
            if m.tags.get(FAMILY_TAG) != EXCERPT_FAMILY:  # no networks, parts of some
                found.setdefault(m.target, []).append(m)
        source = find_target(sources, list(found))
        others = [known for known in found if known != source]
        new = target_here(target, batch=source.batch) if seconds else find_target(target, others)
        if new == source:
            raise typer.BadParameter(
                f"{new.key} is what is transferred from", param_hint="--target"
            )
        networks = list(one_each(found[source]).values())
        fitted = transfer_between_targets(networks, n_measured=samples, level=level, seed=seed)
        fitted.target_ = new
        known = measured_there(networks, one_each(store.networks(new)))
        if seconds is not None and len(known.rows) < samples:
            chosen = to_measure_there(fitted, networks, known, n=samples)
            with IsolatedProfiler(new, references_ms=store.references_ms(new)) as profiler:
                measure_there(chosen, profiler, store, seconds=seconds, progress=progress)
            known = measured_there(networks, one_each(store.networks(new)))
    return fitted, known, [m.name for m in networks], [source.describe()]


def _columns(answer: TransferPrediction, known: Measured, n: int) -> dict[str, list[Any]]:
    measured: list[float | None] = [None] * n
    for row, ms in zip(known.rows, known.latency_ms, strict=True):
        measured[int(row)] = float(ms)
    return {
        "latency_ms": answer.latency_ms.tolist(),
        "low_ms": answer.low_ms.tolist(),
        "high_ms": answer.high_ms.tolist(),
        "score": answer.score.tolist(),
        "measured_ms": measured,
    }


def _csv(columns: dict[str, list[Any]], names: Sequence[str]) -> str:
    import pandas as pd

    frame = pd.DataFrame({"name": names, **columns})
    return str(frame.to_csv(index_label="row", float_format="%.6g"))


def _show(record: dict[str, Any], names: Sequence[str]) -> None:
    if record["to_measure"]:
        print_table(
            f"Measure these on the new device, the most telling first "
            f"({record['n_measured']} are known)",
            ("row", "network"),
            [(each["row"], each["name"]) for each in record["to_measure"]],
        )
    found = record["predictions"]
    if found is not None:
        order = sorted(range(len(names)), key=lambda row: found["latency_ms"][row])
        print_table(
            f"Fastest of {len(names):,}, from {record['n_measured']} measurements",
            ("row", "network", "ms", "low", "high", "measured"),
            [(row, names[row], *(found[name][row] for name in
                                 ("latency_ms", "low_ms", "high_ms", "measured_ms")))
             for row in order[:N_SHOWN]],
        )  # fmt: skip
        typer.echo(
            f"{100 * record['level']:g} % of rows are expected between low and high; "
            f"--predictions FILE writes them all"
        )
    if record["out"]:
        typer.echo(f"written to {record['out']}")
