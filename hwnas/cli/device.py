"""`hwnas device`: what this machine is, what state it is in, and how quiet it is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from hwnas.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from profilers.devices import Device
    from profilers.nvidia import Gpu


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

    found = replace(this_device(), noise=noise_floor(seconds=seconds))
    targets = available_targets()
    if as_json:
        fingerprints = {"cpu": found.fingerprint_for(None)}
        if found.gpus:
            fingerprints["cuda"] = found.fingerprint_for("cuda")
        print_json(found.to_dict() | {"targets": targets, "target_fingerprints": fingerprints})
    else:
        print_table("This machine", ("", ""), [*_rows(found), ("targets", ", ".join(targets))])


def _rows(found: Device) -> list[tuple[str, str]]:
    caches = ", ".join(f"{level} {size // 1024} KiB" for level, size in found.cache_bytes.items())
    rows = [
        ("fingerprint", found.fingerprint_for(None)),
        ("CPU", f"{found.cpu}, {found.cores} cores, {found.architecture}"),
        ("instruction sets", ", ".join(found.isa) or "–"),
        ("caches", caches or "–"),
        ("governor", found.governor or "not readable"),
        ("memory", "–" if found.memory_bytes is None else f"{found.memory_bytes / 2**30:.1f} GiB"),
        ("energy of the CPU", "counted (RAPL)" if found.has_rapl else "no readable counter"),
    ]
    for i, gpu in enumerate(found.gpus):
        rows += [
            (f"GPU {i}", _gpu(gpu)),
            *([("  fingerprint", found.fingerprint_for("cuda"))] if i == 0 else []),
            ("  clocks", _clocks(gpu)),
            ("  state", _state(gpu)),
            ("  energy", "counted (NVML)" if gpu.has_energy_counter else "no counter"),
        ]
    if not found.gpus:
        rows.append(("GPUs", "none"))
    rows += [
        ("system", found.os),
        ("runtimes", ", ".join(f"{name} {v}" for name, v in found.runtimes.items()) or "–"),
    ]
    if found.noise is not None:
        rows.append((
            "noise now",
            f"spread {100 * found.noise.relative_spread:.1f} %, "
            f"{100 * found.noise.contended_share:.0f} % of samples disturbed",
        ))  # fmt: skip
    return rows


def _gpu(gpu: Gpu) -> str:
    parts = [gpu.name]
    if gpu.memory_bytes is not None:
        parts.append(f"{gpu.memory_bytes / 2**30:.1f} GiB")
    if gpu.compute_capability is not None:
        parts.append(f"compute capability {gpu.compute_capability}")
    return ", ".join([*parts, f"driver {gpu.driver}"])


def _clocks(gpu: Gpu) -> str:
    if gpu.sm_clock_mhz is None or gpu.max_sm_clock_mhz is None:
        return "not readable"
    text = f"{gpu.sm_clock_mhz} of {gpu.max_sm_clock_mhz} MHz"
    if gpu.throttle_reasons is None:
        return text
    return f"{text}, held by: {', '.join(gpu.throttle_reasons) or 'nothing'}"


def _state(gpu: Gpu) -> str:
    parts = []
    if gpu.temperature_celsius is not None:
        parts.append(f"{gpu.temperature_celsius} °C")
    if gpu.power_limit_watts is not None:
        parts.append(f"power limit {gpu.power_limit_watts:.0f} W")
    if gpu.compute_mode is not None:
        parts.append(f"{gpu.compute_mode} use")
    if gpu.has_mig is not None:
        parts.append("parted (MIG)" if gpu.has_mig else "not parted (MIG)")
    return ", ".join(parts) or "not readable"
