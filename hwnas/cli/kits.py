"""Kits on the command line: what `hwnas profile --export-kit` and `--import` do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hwnas.cli.output import print_json, print_table

if TYPE_CHECKING:
    from hwnas.spaces.base import SearchSpace
    from profilers.onnx_models import OnnxModel

N_NETWORKS_OF_A_KIT = 20


def check_kit_target(target: str) -> None:
    """Make sure that a kit can measure on that target.

    Raises:
        typer.BadParameter: It is another runtime than the one that kits are for.
    """
    from profilers.targets import DEFAULT_RUNTIME

    if target != DEFAULT_RUNTIME:
        raise typer.BadParameter(
            f"a kit runs {DEFAULT_RUNTIME} on the other device, not {target}",
            param_hint="--target",
        )


def space_models(
    space: SearchSpace, n: int, seed: int, batch: int
) -> list[tuple[OnnxModel, dict[str, str]]]:
    """`n` networks of a space as models, each with its tags."""
    import numpy as np

    from hwnas.network_choice import random_networks
    from hwnas.profiling import network_tags, untrained_model

    found = []
    for genotype in random_networks(space, np.random.default_rng(seed), n):
        architecture = space.architecture(genotype)
        found.append((untrained_model(architecture, batch=batch), network_tags(space, genotype)))
    return found


def surveyed_models(n: int, seed: int, batch: int) -> list[tuple[OnnxModel, dict[str, str]]]:
    """The first `n` networks of the survey as models, each with its tags."""
    from hwnas.survey import TAGS, survey_models

    return [(model, TAGS) for model in survey_models(seed, n, batch=batch)]


def export_models(
    models: list[tuple[OnnxModel, dict[str, str]]],
    folder: Path,
    threads: int,
    precision: str,
    seconds: float | None,
    as_json: bool,
) -> None:
    """Write a kit and say how it is used."""
    from profilers.kit import SECONDS_PER_MODEL, write_kit

    write_kit(
        [model for model, _ in models],
        folder,
        threads=threads,
        precision=precision,
        seconds=seconds or SECONDS_PER_MODEL,
        tags=[tags for _, tags in models],
    )
    if as_json:
        print_json({"folder": str(folder), "n_models": len(models)})
        return
    typer.echo(
        f"wrote {folder} with {len(models)} model(s). On the device, which needs onnxruntime and "
        f"numpy only: python {folder.name}/measure.py\nThen here: hwnas profile --import {folder}"
    )


def import_results(folder: Path, measurements: Path, as_json: bool) -> None:
    """Write what a kit measured to the database and show it."""
    from profilers.kit_results import add_results, read_kit
    from profilers.store import MeasurementStore

    results = read_kit(folder)
    with MeasurementStore(measurements) as store:
        new = add_results(results, store)
    record = {
        "device": results.device.cpu,
        "fingerprint": results.device.fingerprint,
        "n_measured": len(results.measurements),
        "n_new": len(new),
        "n_failed": len(results.failures),
        "n_missing": results.n_missing,
        "networks": [
            {"model": m.name, "latency_ms": m.latency_ms, "warning": m.samples.warning}
            for m in results.measurements
        ],
    }
    if as_json:
        print_json(record)
        return
    print_table(
        f"measured on {results.device.cpu}, {len(new)} of {len(results.measurements)} new",
        ("model", "latency_ms", "kernels", "kernel_sum_ms"),
        [(m.name, m.latency_ms, len(m.kernels), m.kernel_sum_ms) for m in results.measurements],
    )
    for failure in results.failures:
        typer.echo(f"{failure.name} could not be measured there: {failure.reason}", err=True)
    for m in results.measurements:
        if m.samples.warning:
            typer.echo(f"warning: {m.name}: {m.samples.warning}", err=True)
    if results.n_missing:
        typer.echo(f"{results.n_missing} model(s) have no result yet: run measure.py again there")
