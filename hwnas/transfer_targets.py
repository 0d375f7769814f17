"""Transfer between targets: networks measured on one, a few of them on another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import numpy as np

from hwnas import blocks
from hwnas.errors import DataError, unknown_name
from hwnas.profiling import ARCHITECTURE_TAG, architecture_digest, untrained_model
from hwnas.progress import Progress
from hwnas.spaces.base import Architecture
from hwnas.transfer_tables import Measured
from profilers.devices import observed_device
from profilers.isolation import AnyProfiler
from profilers.measurement import NetworkMeasurement
from profilers.store import MeasurementStore
from profilers.targets import PRECISIONS, Target, make_target


def find_target(text: str, targets: Sequence[Target]) -> Target:
    """The only one of `targets` that a text speaks of.

    Args:
        text: Parts of a target's key, as `onnxruntime-cpu/fp32/threads=2`; the runtime's version
            may be left out, and any part.
        targets: Those that there are.

    Raises:
        DataError: There is none, or there are several.
    """
    wanted = {part.strip() for part in text.split("/") if part.strip()}
    found = [
        target
        for target in targets
        if wanted and wanted <= {target.runtime, *target.key.split("/")}
    ]
    if len(found) == 1:
        return found[0]
    keys = [target.key for target in found or targets]
    if not found:
        raise DataError(unknown_name("target", text, keys))
    raise DataError(
        f"{text!r} may be any of {', '.join(sorted(keys))}: say more of it, as in "
        f"{found[0].runtime}/{found[0].precision}/threads={found[0].threads}"
    )


def target_here(text: str, *, batch: int) -> Target:
    """The target of this machine that a text speaks of, as `openvino-cpu/fp32/threads=2`.

    Raises:
        DataError: A part of it cannot be read.
        TargetError: This machine does not have it.
    """
    runtime, *parts = (part.strip() for part in text.split("/"))
    precision, threads = "fp32", 1
    for part in parts:
        name, equals, value = part.partition("=")
        if part in PRECISIONS:
            precision = part
        elif name == "threads" and equals and value.isdecimal():
            threads = int(value)
        else:
            raise DataError(
                f"{part!r} in {text!r} is neither a precision ({', '.join(PRECISIONS)}) nor "
                f"threads=N"
            )
    return make_target(runtime, threads=threads, precision=precision, batch=batch)


def one_each(measurements: Sequence[NetworkMeasurement]) -> dict[str, NetworkMeasurement]:
    """By digest, the steadiest measurement of each network, in the order of first measurement."""
    best: dict[str, NetworkMeasurement] = {}
    for m in measurements:
        held = best.get(m.digest)
        if held is None or (held.samples.warning is not None and m.samples.warning is None):
            best[m.digest] = m
    return best


def measured_there(
    networks: Sequence[NetworkMeasurement], there: Mapping[str, NetworkMeasurement]
) -> Measured:
    """Rows of `networks` that were measured on another target as well, and what they took there."""
    rows = [i for i, m in enumerate(networks) if m.digest in there]
    latency_ms = [there[networks[i].digest].latency_ms for i in rows]
    return Measured(np.array(rows, np.int64), np.array(latency_ms, np.float64))


def rebuild(measurement: NetworkMeasurement) -> Architecture:
    """The architecture of a measured network of a space, from the tag that it carries.

    Raises:
        DataError: It carries none, or one of other blocks than this package's.
    """
    try:
        data = json.loads(measurement.tags[ARCHITECTURE_TAG])
        known: dict[str, Any] = {
            name: value for name, value in vars(blocks).items() if is_dataclass(value)
        }
        built = []
        for block in data["blocks"]:
            block = dict(block)
            built.append(known[block.pop("block")](**block))
        architecture = Architecture(tuple(data["input_shape"]), tuple(built))
        if architecture_digest(architecture) != measurement.digest:
            raise ValueError("another network comes of it")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{measurement.name} cannot be built again here ({error!r}), only networks of a space "
            f"with the blocks of hwnas can. Measure its file: hwnas profile FILE --target …"
        ) from None
    return architecture


def measure_there(
    networks: Sequence[NetworkMeasurement],
    profiler: AnyProfiler,
    store: MeasurementStore,
    *,
    seconds: float,
    progress: Progress,
) -> None:
    """Measure networks of a space on another target; each is stored as soon as it is measured.

    Raises:
        DataError: One cannot be built again; nothing is measured then.
        ModelError: The target cannot run one.
    """
    architectures = [rebuild(m) for m in networks]
    device = observed_device()
    target = profiler.target
    with progress.task(f"measuring on {target.runtime}", len(networks)) as task:
        for i, (architecture, m) in enumerate(zip(architectures, networks, strict=True)):
            model = untrained_model(architecture, batch=target.batch)
            store.add(profiler.profile(model, seconds=seconds, tags=dict(m.tags)), device)
            task.update(i + 1)
