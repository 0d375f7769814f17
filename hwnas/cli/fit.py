"""`hwnas fit`: from measurements to a predictor, and how good it is on what it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwnas.cli.output import (
    DEFAULT_MEASUREMENTS,
    AsJson,
    Batch,
    ConsoleProgress,
    Precision,
    TargetName,
    Threads,
    print_json,
    print_table,
    vars_of,
    write_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hwnas.held_out import HeldOut
    from predictors.energy import EnergyPredictor
    from predictors.network_latency import NetworkLatencyPredictor
    from profilers.kernels import Kernel
    from profilers.measurement import KernelLatency, NetworkMeasurement
    from profilers.targets import Target

NEW_NETWORKS, NEW_FAMILIES = "a fifth of the networks", "one family"


def fit(
    out: Annotated[Path, typer.Option("--out", help="Where the predictor goes.")] = Path(
        "predictor.npz"
    ),
    target: TargetName = "onnxruntime-cpu",
    threads: Threads = 1,
    precision: Precision = "fp32",
    batch: Batch = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Fingerprint, to fit on what another machine measured."),
    ] = None,
    level: Annotated[
        float, typer.Option("--level", help="Share of networks that intervals are to cover.")
    ] = 0.9,
    measurements: Annotated[
        list[Path] | None,
        typer.Option(
            "--measurements",
            help="Database of measurements, or a folder of tables as `hwnas table` writes them; "
            f"repeatable. {DEFAULT_MEASUREMENTS} if nothing is said.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Write a page that shows where the predictions are off."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit a latency predictor on what was measured, and say how good it is on held-out networks.

    Where energies were measured, it learns them, too.

    Examples:

    [bold]hwnas fit --measurements runs/measurements.db --out predictor.npz[/bold]

    [bold]hwnas fit --measurements mine.db --measurements data/cpu-epyc-2core --plot fit.html[/bold]
    """
    from predictors.cost import CostPredictor
    from predictors.energy import EnergyPredictor
    from predictors.files import save_predictor
    from predictors.intervals import min_examples
    from predictors.network_latency import NetworkLatencyPredictor

    if not 0 < level < 1:
        raise typer.BadParameter(f"{level} is not between 0 and 1", param_hint="--level")
    progress = ConsoleProgress()
    with progress.task("reading measurements", None):
        paths = measurements or [DEFAULT_MEASUREMENTS]
        everything = [_read(path) for path in paths]
    found, isolated, chosen = _choose(
        everything, paths, progress, (target, threads, precision, batch or 1, device)
    )
    with progress.task(f"fitting on {len(found)} networks", None) as task:
        predictor = NetworkLatencyPredictor(level=level).fit(
            found, isolated=isolated, on_progress=task.update
        )
        energy = None
        if EnergyPredictor.is_measured(found):
            energy = EnergyPredictor(level=level).fit(found)
        costs = CostPredictor(predictor, energy)
        save_predictor(costs, out, measured_between=_measured_between(paths, chosen))
    splits = _hold_out(predictor, found, progress)
    n_held_out = predictor.held_out_.shape[1]
    if n_held_out < min_examples(level):
        progress.say(
            f"warning: an interval for {100 * level:g} % needs {min_examples(level)} measured "
            f"networks or more, there are {n_held_out}; it was widened"
        )
    if energy is not None and energy.held_out_.shape[1] < min_examples(level):
        progress.say(
            f"warning: an interval of energies for {100 * level:g} % needs {min_examples(level)} "
            f"networks with one, there are {energy.held_out_.shape[1]}; it was widened"
        )
    if plot is not None:
        from hwnas.fit_page import fit_page

        write_text(plot, fit_page(chosen, level, splits))
        progress.say(f"wrote {plot}")
    n_kernels = len({run.kernel for m in found for run in m.kernels} | isolated.keys())
    record = _record(predictor, chosen, n_kernels, splits, out) | {"energy": _energy_record(energy)}
    if as_json:
        print_json(record)
        return
    _show(record, chosen)


def _read(
    path: Path,
) -> tuple[list[NetworkMeasurement], dict[Target, dict[Kernel, KernelLatency]]]:
    """What a database or a folder of tables holds: networks, and kernels measured alone.

    Raises:
        StoreError: There is none, or it is damaged.
    """
    from profilers.errors import StoreError
    from profilers.store import MeasurementStore
    from profilers.tables import load_isolated, load_measurements

    if not path.exists():
        raise StoreError(
            f"there is no database {path}; measure first: "
            f"hwnas profile space:mobile --measurements {path}"
        )
    if path.is_dir():
        found = load_measurements(path)
        targets = dict.fromkeys(m.target for m in found)
        has_isolated = (path / "isolated.parquet").exists()
        return found, {t: load_isolated(path, t) for t in targets if has_isolated}
    with MeasurementStore(path) as store:
        found = store.networks()
        return found, {t: store.isolated(t) for t in dict.fromkeys(m.target for m in found)}


def _measured_between(paths: Sequence[Path], target: Target) -> tuple[float, float] | None:
    """When the first and the last network was measured, Unix seconds; tables do not tell."""
    from profilers.store import MeasurementStore

    moments: list[float] = []
    for path in paths:
        if path.is_file():
            with MeasurementStore(path) as store:
                moments += store.measured_between(target) or ()
    return (min(moments), max(moments)) if moments else None


def _choose(
    everything: Sequence[
        tuple[Sequence[NetworkMeasurement], Mapping[Target, Mapping[Kernel, KernelLatency]]]
    ],
    paths: Sequence[Path],
    progress: ConsoleProgress,
    wanted: tuple[str, int, str, int, str | None],
) -> tuple[list[NetworkMeasurement], dict[Kernel, KernelLatency], Target]:
    """The measurements of one target: of this machine where there are some, else of the only one.

    Raises:
        StoreError: There are none, or of several targets that are not told apart.
        TargetError: There is no such target at all.
    """
    from profilers.errors import StoreError, TargetError
    from profilers.targets import make_target

    runtime, threads, precision, batch, device = wanted
    measured = dict.fromkeys(m.target for found, _ in everything for m in found)
    of_that_kind = [
        t for t in measured
        if (t.runtime, t.threads, t.precision, t.batch) == (runtime, threads, precision, batch)
    ]  # fmt: skip
    names = ", ".join(str(path) for path in paths)
    if device is None:
        try:
            here = make_target(runtime, threads=threads, precision=precision, batch=batch)
        except TargetError:
            if not of_that_kind:
                raise
            here = None
        candidates = [here] if here in of_that_kind else of_that_kind
        if len(candidates) > 1:
            raise StoreError(
                f"{names}: measurements of this machine's {runtime} are not among them, and there "
                f"are several others: choose with --device ("
                f"{'; '.join(f'{t.device}: {t.describe()}' for t in candidates)})"
            )
        missing = "" if here is None else f"{here.describe()} [{here.key}]"
    else:
        candidates = [t for t in of_that_kind if t.device == device][-1:]  # its newest version
        missing = f"{runtime}, {precision}, threads {threads}, batch {batch} on {device}"
    if not candidates:
        there = "; ".join(t.describe() for t in measured) or "nothing"
        raise StoreError(
            f"{names} holds no measurement of {missing}, only of {there}; measure first: "
            f"hwnas profile space:mobile"
        )
    (chosen,) = candidates
    if device is None and chosen != here:
        progress.say(f"note: fitted for another machine than this one: {chosen.describe()}")
    found = [m for part, _ in everything for m in part if m.target == chosen]
    isolated: dict[Kernel, KernelLatency] = {}
    for _, part in everything:
        isolated.update(part.get(chosen, {}))
    return found, isolated, chosen


def _hold_out(
    predictor: NetworkLatencyPredictor,
    found: Sequence[NetworkMeasurement],
    progress: ConsoleProgress,
) -> list[tuple[str, HeldOut]]:
    """Predictions of what was left out: by network, and by family where there are several."""
    from hwnas.held_out import hold_out

    splits = []
    with progress.task("comparing with simpler predictors", None) as task:
        for name, what in ((NEW_NETWORKS, "network"), (NEW_FAMILIES, "family")):
            held_out = hold_out(predictor, found, what, on_group=task.update)
            if held_out is not None:
                splits.append((name, held_out))
    return splits


def _record(
    predictor: NetworkLatencyPredictor,
    target: Target,
    n_kernels: int,
    splits: Sequence[tuple[str, HeldOut]],
    out: Path,
) -> dict[str, Any]:
    """What was fitted and how good it is, as plain data."""
    import numpy as np

    from predictors.metrics import accuracy

    predicted, measured = predictor.held_out_
    typical = predictor.interval_at(float(np.median(measured)))
    return {
        "predictor": str(out),
        "target": target.to_dict(),
        "n_networks": len(measured),
        "n_kernels": n_kernels,
        "level": predictor.level,
        "interval_at_median": {"low": typical[0], "high": typical[1]},
        "held_out": vars_of(accuracy(predicted, measured)),
        "splits": [{"left_out": name, **_split_record(split)} for name, split in splits],
    }


def _energy_record(energy: EnergyPredictor | None) -> dict[str, Any] | None:
    """How good energies are at a known latency, by networks left out."""
    if energy is None or energy.coef_ is None:
        return None
    from predictors.metrics import accuracy

    predicted, measured = energy.held_out_
    watts, *_ = energy.coef_.tolist()
    found = vars_of(accuracy(predicted, measured))
    return {"n_networks": len(measured), "held_out": found, "watts_while_running": watts}


def _split_record(split: HeldOut) -> dict[str, Any]:
    groups = list(dict.fromkeys(split.groups))
    return {
        "n_groups": len(groups),
        "predictors": {name: vars_of(a) for name, a in split.accuracies().items()},
        **_intervals(split),
        "groups": {
            group: vars_of(next(iter(of.accuracies().values()))) | _intervals(of)
            for group in groups
            for of in (split.of_group(group),)
        },
    }


def _intervals(split: HeldOut) -> dict[str, Any]:
    return {
        "covered": float(split.covered.mean()),
        "mean_half_width": float(split.half_width.mean()),
    }


def _show(record: Mapping[str, Any], target: Target) -> None:
    typer.echo(f"Held-out networks on {target.describe()}")
    columns = ("predictor", "networks", "MAPE %", "±5 %", "±10 %", "Spearman", "covered %",
               "interval ± %")  # fmt: skip
    for split in record["splits"]:
        rows = [
            _cells(name, a, split if i == 0 else None)
            for i, (name, a) in enumerate(split["predictors"].items())
        ]
        if split["left_out"] == NEW_FAMILIES:
            rows += [_cells(f"· {group}", a, a) for group, a in split["groups"].items()]
        print_table(f"{split['left_out'].capitalize()} left out at a time", columns, rows)
    if record["energy"] is not None:
        held_out, n = record["energy"]["held_out"], record["energy"]["n_networks"]
        typer.echo(
            f"Energy of {n} networks, a fifth left out at a time, at a known latency: "
            f"{100 * held_out['mape']:.1f} % off, "
            f"{100 * held_out['within_10']:.0f} % within 10 %"
        )
    low, high = record["interval_at_median"]["low"], record["interval_at_median"]["high"]
    typer.echo(
        f"{100 * record['level']:g} % of networks like the median lie between {low:.3f} and "
        f"{high:.3f} times the prediction\nwritten to {record['predictor']}"
    )


def _cells(
    name: str, a: Mapping[str, Any], intervals: Mapping[str, Any] | None
) -> tuple[object, ...]:
    shares = [a["mape"], a["within_5"], a["within_10"]]
    covered, half_width = (
        (intervals["covered"], intervals["mean_half_width"]) if intervals else (None, None)
    )
    mape, within_5, within_10, covered, half_width = (
        None if share is None else f"{100 * share:.1f}" for share in (*shares, covered, half_width)
    )
    return (name, a["n"], mape, within_5, within_10, a["spearman"], covered, half_width)
