"""`hwnas fit`, `hwnas predict`: from measurements to the latency of networks nobody has run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.output import (
    DEFAULT_MEASUREMENTS,
    AsJson,
    Batch,
    Measurements,
    Precision,
    Shapes,
    TargetName,
    Threads,
    parse_shapes,
    print_json,
    print_table,
)

N_UNKNOWN_SHOWN = 10


def fit(
    out: Annotated[Path, typer.Option("--out", help="Where the predictor goes.")] = Path(
        "predictor.npz"
    ),
    target: TargetName = "onnxruntime-cpu",
    threads: Threads = 1,
    precision: Precision = "fp32",
    batch: Batch = None,
    level: Annotated[
        float, typer.Option("--level", help="Share of networks that intervals are to cover.")
    ] = 0.9,
    measurements: Measurements = DEFAULT_MEASUREMENTS,
    as_json: AsJson = False,
) -> None:
    """Fit a latency predictor on what was measured, and say how good it is on held-out networks.

    Example: [bold]hwnas fit --measurements runs/measurements.db --out predictor.npz[/bold]
    """
    import numpy as np

    from predictors.files import save_predictor
    from predictors.intervals import min_examples
    from predictors.metrics import accuracy
    from predictors.network_latency import NetworkLatencyPredictor
    from profilers.errors import StoreError
    from profilers.store import MeasurementStore
    from profilers.targets import make_target

    if not 0 < level < 1:
        raise typer.BadParameter(f"{level} is not between 0 and 1", param_hint="--level")
    chosen = make_target(target, threads=threads, precision=precision, batch=batch or 1)
    if not measurements.exists():
        raise StoreError(
            f"there is no database {measurements}; measure first: "
            f"hwnas profile space:mobile --measurements {measurements}"
        )
    with MeasurementStore(measurements) as store:
        found, isolated = store.networks(chosen), store.isolated(chosen)
    if not found:
        raise StoreError(
            f"{measurements} holds no measurement of {chosen.describe()} "
            f"[{chosen.key}]; measure first: hwnas profile space:mobile"
        )
    predictor = NetworkLatencyPredictor(level=level).fit(found, isolated=isolated)
    save_predictor(predictor, out)
    predicted, measured = predictor.held_out_
    ours = accuracy(predicted, measured)
    typical = predictor.interval_at(float(np.median(measured)))
    constant = accuracy(np.full_like(measured, np.median(measured)), measured)
    assert predictor.kernels_ is not None
    assert predictor.kernels_.measured_ms_ is not None
    record = {
        "predictor": str(out),
        "target": chosen.to_dict(),
        "n_networks": ours.n,
        "n_kernels": len(predictor.kernels_.measured_ms_),
        "level": level,
        "interval_at_median": {"low": typical[0], "high": typical[1]},
        "held_out": vars_of(ours),
        "median_baseline": vars_of(constant),
    }
    if ours.n < min_examples(level):
        typer.echo(
            f"warning: an interval for {100 * level:g} % needs {min_examples(level)} measured "
            f"networks or more, there are {ours.n}; it was widened",
            err=True,
        )
    if as_json:
        print_json(record)
        return
    print_table(
        f"Held-out networks (5 folds) on {chosen.describe()}",
        ("predictor", "networks", "MAPE %", "within ±5 %", "within ±10 %", "Spearman"),
        [(name, a.n, 100 * a.mape, 100 * a.within_5, 100 * a.within_10, a.spearman)
         for name, a in (("kernels + overhead", ours), ("median of all", constant))],
    )  # fmt: skip
    typer.echo(
        f"{100 * level:g} % of networks like the median lie between {typical[0]:.3f} and "
        f"{typical[1]:.3f} times the prediction\nwritten to {out}"
    )


def vars_of(value: object) -> dict[str, object]:
    """Fields of a dataclass by name; NaN becomes None, which JSON has."""
    from dataclasses import asdict

    fields = asdict(value)  # type: ignore[call-overload]
    return {k: None if v != v else v for k, v in fields.items()}


def predict(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")],
    predictor: Annotated[Path, typer.Option("--predictor", help="What `hwnas fit` wrote.")],
    batch: Batch = None,
    shape: Shapes = None,
    as_json: AsJson = False,
) -> None:
    """Predict the latency of a model without timing it, and say how far the answer can be trusted.

    Example: [bold]hwnas predict model.onnx --predictor predictor.npz --json[/bold]
    """
    from predictors.files import load_predictor
    from profilers.onnx_models import check_batch, load_model
    from profilers.profiler import Profiler
    from profilers.targets import make_target

    fitted = load_predictor(predictor)
    there = fitted.target_
    assert there is not None
    assert fitted.kernels_ is not None
    loaded = load_model(model, batch=batch, shapes=parse_shapes(shape))
    here = make_target(
        there.runtime, threads=there.threads, precision=there.precision, batch=there.batch
    )
    fitted.check_target(here)  # the kernels are asked of this machine's runtime
    check_batch(loaded, there.batch)
    kernels = [node.kernel for node in Profiler(here).kernels(loaded)]
    answer = fitted.predict([kernels])
    ms, known = fitted.kernels_.predict(kernels)
    unknown: dict[str, float] = {}
    for kernel, kernel_ms, is_known in zip(kernels, ms, known, strict=True):
        if not is_known:
            text = kernel.describe()
            unknown[text] = unknown.get(text, 0.0) + float(kernel_ms)
    record = {
        "model": str(model),
        "target": there.to_dict(),
        "latency_ms": float(answer.latency_ms[0]),
        "low_ms": float(answer.low_ms[0]),
        "high_ms": float(answer.high_ms[0]),
        "level": fitted.level,
        "known_share": float(answer.known_share[0]),
        "n_kernels": len(kernels),
        "unknown_kernels": [{"kernel": k, "predicted_ms": v} for k, v in
                            sorted(unknown.items(), key=lambda item: -item[1])],
    }  # fmt: skip
    if as_json:
        print_json(record)
        return
    typer.echo(
        f"{loaded.name} on {there.describe()}: {record['latency_ms']:.4g} ms, "
        f"{100 * fitted.level:g} % interval {record['low_ms']:.4g} to {record['high_ms']:.4g} ms\n"
        f"{100 * float(answer.known_share[0]):.0f} % of it rests on kernels like those measured"
    )
    if unknown:
        print_table(
            "Kernels not like any that was measured",
            ("kernel", "predicted ms"),
            sorted(unknown.items(), key=lambda item: -item[1])[:N_UNKNOWN_SHOWN],
        )
