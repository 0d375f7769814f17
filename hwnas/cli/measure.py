"""`hwnas device`, `hwnas profile`: what this machine is, and what networks cost on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwnas.cli.output import (
    AsJson,
    Batch,
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
)

if TYPE_CHECKING:
    from profilers.measurement import NetworkMeasurement
    from profilers.onnx_models import OnnxModel
    from profilers.overhead import Overhead
    from profilers.targets import Target

DEFAULT_MEASUREMENTS = Path("runs") / "measurements.db"
SPACE_PREFIX = "space:"
N_KERNELS_SHOWN = 15


def device(
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="How long to listen to the noise.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Show what this machine is: CPU, GPUs, runtimes, targets, and how quiet it is.

    Example: [bold]hwnas device --json[/bold]
    """
    from profilers.devices import noise_floor, this_device
    from profilers.targets import available_targets

    found = this_device()
    noise = noise_floor(seconds=seconds)
    record: dict[str, Any] = found.to_dict() | {
        "noise_floor": {"relative_spread": noise.relative_spread,
                        "contended_share": noise.contended_share},
        "targets": available_targets(),
    }  # fmt: skip
    if as_json:
        print_json(record)
        return
    rows = [
        ("CPU", f"{found.cpu}, {found.cores} cores, {found.architecture}"),
        ("instruction sets", ", ".join(found.isa) or "–"),
        ("caches", ", ".join(f"{k} {v // 1024} KiB" for k, v in found.cache_bytes.items()) or "–"),
        ("governor", found.governor or "not readable"),
        ("memory", f"{(found.memory_bytes or 0) / 2**30:.1f} GiB"),
        ("GPUs", ", ".join(f"{g.name}, driver {g.driver}" for g in found.gpus) or "none"),
        ("energy counters", "RAPL" if found.has_rapl else "none readable on the CPU"),
        ("system", found.os),
        ("runtimes", ", ".join(f"{k} {v}" for k, v in found.runtimes.items())),
        ("targets", ", ".join(record["targets"])),
        ("noise now", f"spread {100 * noise.relative_spread:.1f} %, "
                      f"{100 * noise.contended_share:.0f} % of samples disturbed"),
        ("fingerprint", found.fingerprint),
    ]  # fmt: skip
    print_table("This machine", ("", ""), rows)


def profile(
    model: Annotated[
        str, typer.Argument(help="An ONNX file, or space:NAME to measure a search space.")
    ],
    target: TargetName = "onnxruntime-cpu",
    threads: Threads = 1,
    precision: Precision = "fp32",
    batch: Batch = None,
    shape: Shapes = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="Time for each network.")
    ] = 3.0,
    networks: Annotated[
        int, typer.Option("--networks", min=1, help="space: only: networks to measure.")
    ] = 80,
    data: DataName = "digits",
    data_path: DataPath = None,
    seed: Annotated[int, typer.Option("--seed", help="space: only: of the networks drawn.")] = 0,
    measurements: Measurements = DEFAULT_MEASUREMENTS,
    as_json: AsJson = False,
) -> None:
    """Measure a model: latency, memory, and every kernel that the runtime makes of it.

    Examples:

    [bold]hwnas profile model.onnx --threads 1[/bold]

    [bold]hwnas profile model.onnx --shape input=1,3,224,224 --json[/bold]

    [bold]hwnas profile space:mobile --data digits --networks 48[/bold]
    """
    from profilers.onnx_models import check_batch, load_model
    from profilers.targets import make_target

    if model.startswith(SPACE_PREFIX):
        chosen = make_target(target, threads=threads, precision=precision, batch=batch or 1)
        _profile_space(
            model.removeprefix(SPACE_PREFIX),
            chosen,
            data,
            data_path,
            networks,
            seed,
            measurements,
            as_json,
        )
        return
    make_target(target, threads=threads, precision=precision)  # its errors before the model's
    loaded = load_model(Path(model), batch=batch, shapes=parse_shapes(shape))
    if batch is not None:
        check_batch(loaded, batch)
    chosen = make_target(target, threads=threads, precision=precision, batch=loaded.batch)
    _profile_model(loaded, chosen, seconds, measurements, as_json)


def _profile_model(
    loaded: OnnxModel, target: Target, seconds: float, measurements: Path, as_json: bool
) -> None:
    from profilers.devices import this_device
    from profilers.overhead import calibrate, fit_overhead
    from profilers.profiler import Profiler
    from profilers.store import MeasurementStore

    progress = ConsoleProgress()
    profiler = Profiler(target)
    with MeasurementStore(measurements) as store:
        with progress.task("calibrating the target (once)", None) as task:
            calibrated = calibrate(profiler, store, this_device(), on_progress=task.update)
        with progress.task(f"measuring {loaded.name}", None):
            measurement = profiler.profile(loaded, seconds=seconds)
        store.add(measurement, this_device())
    overhead = fit_overhead([m for m in calibrated if m.digest != measurement.digest])
    record = _measurement_record(measurement, overhead)
    if as_json:
        print_json(record)
        return
    kernels = sorted(measurement.kernels, key=lambda k: -k.latency_ms)
    share = 100 / max(measurement.kernel_sum_ms, 1e-12)
    print_table(
        f"{loaded.name} on {target.describe()}",
        ("kernel", "ms", "share %"),
        [(k.kernel.describe(), k.latency_ms, k.latency_ms * share)
         for k in kernels[:N_KERNELS_SHOWN]],
    )  # fmt: skip
    if len(kernels) > N_KERNELS_SHOWN:
        typer.echo(f"… and {len(kernels) - N_KERNELS_SHOWN} more (--json shows all)")
    typer.echo(
        f"latency {measurement.latency_ms:.4g} ms (min {measurement.samples.min_ms:.4g}, p90 "
        f"{measurement.samples.percentile_ms(90):.4g}; "
        f"{100 * measurement.samples.contended_share:.0f} % of {record['n_samples']} samples "
        f"disturbed)\n{len(kernels)} kernels {measurement.kernel_sum_ms:.4g} ms + overhead "
        f"{record['overhead_ms']:.4g} ms = {record['explained_ms']:.4g} ms, "
        f"{100 * record['explained_share']:.1f} % of the latency\n"
        f"peak memory of tensors {measurement.peak_memory_bytes or 0:,} bytes"
    )
    if measurement.samples.warning:
        typer.echo(f"warning: {measurement.samples.warning}", err=True)


def _measurement_record(m: NetworkMeasurement, overhead: Overhead) -> dict[str, Any]:
    from profilers.kernels import macs

    explained_ms = overhead.explain_ms(m)
    return {
        "model": m.name,
        "target": m.target.to_dict() | {"key": m.target.key},
        "latency_ms": m.latency_ms,
        "min_ms": m.samples.min_ms,
        "p50_ms": m.samples.percentile_ms(50),
        "p90_ms": m.samples.percentile_ms(90),
        "p99_ms": m.samples.percentile_ms(99),
        "n_samples": len(m.samples.wall_ms),
        "contended_share": m.samples.contended_share,
        "relative_error": m.samples.relative_error if m.samples.warning is None else None,
        "warning": m.samples.warning,
        "peak_memory_bytes": m.peak_memory_bytes,
        "energy_mj": None,
        "kernel_sum_ms": m.kernel_sum_ms,
        "n_kernels": len(m.kernels),
        "overhead": {
            "per_run_ms": overhead.per_run_ms,
            "per_kernel_ms": overhead.per_kernel_ms,
            "n_networks": overhead.n_networks,
        },
        "overhead_ms": explained_ms - m.kernel_sum_ms,
        "explained_ms": explained_ms,
        "explained_share": explained_ms / m.latency_ms,
        "kernels": [
            {
                "name": k.name,
                "operator": k.kernel.kind,
                "activation": k.kernel.activation,
                "latency_ms": k.latency_ms,
                "n_samples": k.n_samples,
                "macs": macs(k.kernel),
                "bytes": k.kernel.n_bytes,
                **k.kernel.to_dict(),
            }
            for k in m.kernels
        ],
    }


def _profile_space(
    name: str,
    target: Target,
    data: str,
    data_path: Path | None,
    networks: int,
    seed: int,
    measurements: Path,
    as_json: bool,
) -> None:
    from hwnas.data import load_data
    from hwnas.profiling import SPACE_TAG, profile_space, space_key
    from hwnas.spaces.catalog import make_space
    from profilers.store import MeasurementStore

    loaded = load_data(data, path=data_path)
    space = make_space(name, loaded.input_shape, loaded.n_classes)
    with MeasurementStore(measurements) as store:
        found = profile_space(
            space, target, store, n_networks=networks, seed=seed, progress=ConsoleProgress()
        )
    of_space = [m for m in found if m.tags.get(SPACE_TAG) == space_key(space)]
    kernels = {run.kernel.key for m in of_space for run in m.kernels}
    latencies = sorted(m.latency_ms for m in of_space)
    record = {
        "space": name,
        "target": target.to_dict(),
        "measurements": str(measurements),
        "n_networks": len(of_space),
        "n_kernels": len(kernels),
        "fastest_ms": latencies[0],
        "median_ms": latencies[len(latencies) // 2],
        "slowest_ms": latencies[-1],
    }
    if as_json:
        print_json(record)
    else:
        print_table(
            f"space:{name} on {target.describe()}",
            ("", ""),
            [(k, v) for k, v in record.items() if k not in ("space", "target")],
        )
        typer.echo(f"Next: hwnas fit --measurements {measurements} --out predictor.npz")
