"""`hwnas profile`: what networks cost on this machine, or on one that has no toolkit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwnas.cli.campaigns import load_space, measure_space, measure_survey
from hwnas.cli.kits import (
    N_NETWORKS_OF_A_KIT,
    check_kit_target,
    export_models,
    import_results,
    space_models,
    surveyed_models,
)
from hwnas.cli.output import (
    DEFAULT_MEASUREMENTS,
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
    open_measurements,
    parse_shapes,
    print_json,
    print_table,
    write_text,
)

if TYPE_CHECKING:
    from profilers.measurement import NetworkMeasurement
    from profilers.onnx_models import OnnxModel
    from profilers.overhead import Overhead
    from profilers.targets import Target

SPACE_PREFIX, SURVEY = "space:", "survey"
N_KERNELS_SHOWN = 15
SECONDS_FOR_A_MODEL = 3.0

# What is given besides would be ignored: it is refused.
_RUN = {"model", "target", "threads", "precision", "batch", "seconds", "as_json"}
_DRAWN = {"networks", "seed"}
_OF_SPACE = _DRAWN | {"data", "data_path"}
_READ_BY = {
    "a model": _RUN | {"shape", "html", "measurements"},
    "space:NAME": _RUN | _OF_SPACE | {"minutes", "measurements"},
    "survey": _RUN | _DRAWN | {"minutes", "measurements"},
    "--export-kit of a model": _RUN | {"shape", "export_kit"},
    "--export-kit of space:NAME": _RUN | _OF_SPACE | {"export_kit"},
    "--export-kit of survey": _RUN | _DRAWN | {"export_kit"},
    "--import": {"import_kit", "measurements", "as_json"},
}


def profile(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            help="An ONNX file, or space:NAME to measure a search space, or survey to measure "
            "random networks of all kinds.",
            show_default=False,
        ),
    ] = None,
    target: TargetName = "onnxruntime-cpu",
    threads: Threads = 1,
    precision: Precision = "fp32",
    batch: Batch = None,
    shape: Shapes = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds", min=0.1, help="At most, for one network; 4 times if the machine is slow."
        ),
    ] = None,
    networks: Annotated[
        int | None,
        typer.Option(
            "--networks",
            min=1,
            help="space: and survey only: networks to measure; if nothing is said 80 of a space, "
            "200 of the survey, 20 in a kit.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            min=0.1,
            help="space: and survey only: measure for so long; with --networks, so many at most.",
        ),
    ] = None,
    data: DataName = "digits",
    data_path: DataPath = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="space: and survey only: of the networks drawn.")
    ] = 0,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write a page that shows where the time of a model goes."),
    ] = None,
    export_kit: Annotated[
        Path | None,
        typer.Option(
            "--export-kit", help="Measure nothing here: write a folder that measures elsewhere."
        ),
    ] = None,
    import_kit: Annotated[
        Path | None, typer.Option("--import", help="Read back what such a folder measured.")
    ] = None,
    measurements: Measurements = DEFAULT_MEASUREMENTS,
    as_json: AsJson = False,
) -> None:
    """Measure a model: latency, memory, energy, and every kernel that the runtime makes of it.

    Examples:

    [bold]hwnas profile model.onnx --threads 1 --html model.html[/bold]

    [bold]hwnas profile model.onnx --shape input=1,3,224,224 --target torch-cpu --json[/bold]

    [bold]hwnas profile space:mobile --data digits --minutes 20[/bold]

    [bold]hwnas profile survey --minutes 20[/bold], after which [bold]hwnas fit[/bold] knows the
    kernels of networks of any kind

    [bold]hwnas profile model.onnx --export-kit kit[/bold], run [bold]python kit/measure.py[/bold]
    on the other device, then here [bold]hwnas profile --import kit[/bold]
    """
    from profilers.onnx_models import check_batch, load_model
    from profilers.targets import make_target

    is_space = model is not None and model.startswith(SPACE_PREFIX)
    is_survey = model == SURVEY
    if import_kit is not None:
        what = "--import"
    else:
        what = "space:NAME" if is_space else SURVEY if is_survey else "a model"
        what = what if export_kit is None else f"--export-kit of {what}"
    _check_options(ctx, what)
    if import_kit is not None:
        import_results(import_kit, measurements, as_json)
        return
    if model is None:
        raise typer.BadParameter("an ONNX file, space:NAME or survey is needed", param_hint="MODEL")
    if export_kit is not None:
        check_kit_target(target)
    elif not is_space:
        # A target that cannot be had is said before a model that cannot be read.
        make_target(target, threads=threads, precision=precision)
    if is_space:
        space = load_space(model.removeprefix(SPACE_PREFIX), data, data_path)
    elif not is_survey:
        loaded = load_model(Path(model), batch=batch, shapes=parse_shapes(shape))
        if batch is not None:
            check_batch(loaded, batch)
    if export_kit is not None:
        # Not `make_target`: the other device may have more cores than this one.
        n_of_kit = networks or N_NETWORKS_OF_A_KIT
        if is_space:
            found = space_models(space, n_of_kit, seed, batch or 1)
        elif is_survey:
            found = surveyed_models(n_of_kit, seed, batch or 1)
        else:
            found = [(loaded, {})]
        export_models(found, export_kit, threads, precision, seconds, as_json)
        return
    chosen = make_target(
        target,
        threads=threads,
        precision=precision,
        batch=(batch or 1) if is_space or is_survey else loaded.batch,
    )
    if is_space:
        measure_space(space, chosen, networks, minutes, seconds, seed, measurements, as_json)
    elif is_survey:
        measure_survey(chosen, networks, minutes, seconds, seed, measurements, as_json)
    else:
        seconds = seconds or SECONDS_FOR_A_MODEL
        _profile_model(loaded, chosen, seconds, measurements, html, as_json)


def _check_options(ctx: typer.Context, what: str) -> None:
    """Refuse options that would be ignored.

    Raises:
        typer.BadParameter: One was given that is not for `what`.
    """
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        is_given = source is not None and source.name != "DEFAULT"
        if is_given and parameter.name not in _READ_BY[what]:
            hint = "MODEL" if parameter.name == "model" else parameter.opts[0]
            raise typer.BadParameter(f"is not used by {what}: leave it out", param_hint=hint)


def _profile_model(
    loaded: OnnxModel,
    target: Target,
    seconds: float,
    measurements: Path,
    html: Path | None,
    as_json: bool,
) -> None:
    from hwnas.profile_page import profile_page
    from profilers.devices import observed_device
    from profilers.isolation import IsolatedProfiler
    from profilers.memory import memory_timeline
    from profilers.overhead import calibrate, fit_overhead

    progress = ConsoleProgress()
    with (
        open_measurements(measurements, progress) as store,
        IsolatedProfiler(target, references_ms=store.references_ms(target)) as profiler,
    ):
        with progress.task("calibrating the target (once)", None) as task:
            device = observed_device()
            calibrated = calibrate(profiler, store, device, on_progress=task.update)
        with progress.task(f"measuring {loaded.name}", None):
            measurement = profiler.profile(loaded, seconds=seconds)
        store.add(measurement, device)
        overhead = fit_overhead([m for m in calibrated if m.digest != measurement.digest])
        if html is not None:
            timeline = None
            if measurement.computed_peak_memory_bytes is not None:
                timeline = memory_timeline(profiler.kernels(loaded), loaded, threads=target.threads)
            write_text(html, profile_page(measurement, overhead, timeline_bytes=timeline))
            progress.say(f"wrote {html}")
    if as_json:
        print_json(measurement_record(measurement, overhead))
        return
    _show(measurement, overhead)


def _show(measurement: NetworkMeasurement, overhead: Overhead) -> None:
    kernels = sorted(measurement.kernels, key=lambda k: -k.latency_ms)
    share = 100 / max(measurement.kernel_sum_ms, 1e-12)
    print_table(
        f"{measurement.name} on {measurement.target.describe()}",
        ("kernel", "ms", "share %"),
        [(k.kernel.describe(), k.latency_ms, k.latency_ms * share)
         for k in kernels[:N_KERNELS_SHOWN]],
    )  # fmt: skip
    if len(kernels) > N_KERNELS_SHOWN:
        typer.echo(f"… and {len(kernels) - N_KERNELS_SHOWN} more (--json shows all)")
    samples = measurement.samples
    low_ms, high_ms = samples.interval_ms
    explained_ms = overhead.explain_ms(measurement)
    typer.echo(
        f"latency {measurement.latency_ms:.4g} ms (95 % interval {low_ms:.4g} to {high_ms:.4g}, "
        f"min {samples.min_ms:.4g}, p90 {samples.percentile_ms(90):.4g}, p99 "
        f"{samples.percentile_ms(99):.4g}; {100 * samples.contended_share:.0f} % of "
        f"{len(samples.wall_ms)} samples disturbed; from {samples.basis.value})\n"
        f"{len(kernels)} kernels {measurement.kernel_sum_ms:.4g} ms + overhead "
        f"{explained_ms - measurement.kernel_sum_ms:.4g} ms = {explained_ms:.4g} ms, "
        f"{100 * explained_ms / measurement.latency_ms:.1f} % of the latency\n"
        f"peak memory of tensors: measured {_bytes(measurement.peak_memory_bytes)}, computed "
        f"{_bytes(measurement.computed_peak_memory_bytes)}\n"
        f"energy: {_energy(measurement.energy_mj)}"
    )
    if samples.warning:
        typer.echo(f"warning: {samples.warning}", err=True)


def _bytes(n: int | None) -> str:
    return "not known" if n is None else f"{n:,} bytes"


def _energy(energy_mj: float | None) -> str:
    return "no counter that can be read" if energy_mj is None else f"{energy_mj:.4g} mJ a run"


def measurement_record(m: NetworkMeasurement, overhead: Overhead) -> dict[str, Any]:
    """A measurement as plain data, for `--json`."""
    from profilers.kernels import macs

    explained_ms = overhead.explain_ms(m)
    samples = m.samples
    low_ms, high_ms = samples.interval_ms
    return {
        "model": m.name,
        "target": m.target.to_dict() | {"key": m.target.key},
        "latency_ms": m.latency_ms,
        "basis": samples.basis.value,
        "interval_ms": [low_ms, high_ms] if samples.warning is None else None,
        "min_ms": samples.min_ms,
        "p50_ms": samples.percentile_ms(50),
        "p90_ms": samples.percentile_ms(90),
        "p99_ms": samples.percentile_ms(99),
        "n_samples": len(samples.wall_ms),
        "contended_share": samples.contended_share,
        "disturbances": samples.disturbances,
        "relative_error": samples.relative_error if samples.warning is None else None,
        "warning": samples.warning,
        "peak_memory_bytes": m.peak_memory_bytes,
        "computed_peak_memory_bytes": m.computed_peak_memory_bytes,
        "energy_mj": m.energy_mj,
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
