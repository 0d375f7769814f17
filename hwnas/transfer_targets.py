"""Transfer between targets: networks measured on one, a few of them on another."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from hwnas import blocks, spaces
from hwnas.errors import DataError, unknown_name
from hwnas.profiling import ARCHITECTURE_TAG, architecture_digest, untrained_model
from hwnas.progress import Progress
from hwnas.spaces.base import Architecture
from hwnas.transfer_tables import Measured
from predictors.transfer import TransferPredictor
from profilers.devices import observed_device
from profilers.errors import ModelError
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
        built = []
        for block in data["blocks"]:
            fields = {name: _as_tuples(value) for name, value in block.items()}
            built.append(_known_blocks()[fields.pop("block")](**fields))
        input_type = data.get("input_type", "float32")
        architecture = Architecture(tuple(data["input_shape"]), tuple(built), input_type)
        if architecture_digest(architecture) != measurement.digest:
            raise ValueError("another network comes of it")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{measurement.name} cannot be built again here ({error!r}), only networks of a space "
            f"with the blocks of hwnas can. Measure its file: hwnas profile FILE --target …"
        ) from None
    return architecture


def to_measure_there(
    predictor: TransferPredictor,
    networks: Sequence[NetworkMeasurement],
    known: Measured,
    *,
    n: int,
) -> list[NetworkMeasurement]:
    """What to measure on another target for `n` measurements there, the most telling first.

    Args:
        predictor: Its rows are `networks`.
        networks: Measured on the first target; those that cannot be built again are not chosen.
        known: What was measured on the other target before.
        n: In all.

    Raises:
        DataError: Fewer can be built again.
    """
    n_missing = n - len(known.rows)
    rows = [i for i, m in enumerate(networks) if _can_rebuild(m)]
    n_free = len(set(rows).difference(known.rows.tolist()))
    if n_free < n_missing:
        raise DataError(
            f"{n_missing} more networks are to be measured, and {n_free} of the {len(networks)} in "
            f"the database can be built again here: those of a space with the blocks of hwnas. "
            f"Take fewer --samples, or measure more of a space: hwnas profile space:NAME"
        )
    return [networks[row] for row in predictor.choose(n_missing, measured=known.rows, among=rows)]


def _can_rebuild(measurement: NetworkMeasurement) -> bool:
    try:
        rebuild(measurement)
    except DataError:
        return False
    return True


@cache
def _known_blocks() -> dict[str, Any]:
    """The classes of all blocks of this package, by name."""
    names = [info.name for info in pkgutil.iter_modules(spaces.__path__)]
    modules = [blocks, *(import_module(f"{spaces.__name__}.{name}") for name in names)]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if is_dataclass(value) and hasattr(value, "build") and value.__module__ == module.__name__
    }


def _as_tuples(value: Any) -> Any:
    """JSON has lists where fields of blocks have tuples, which can be hashed."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def measure_there(
    networks: Sequence[NetworkMeasurement],
    profiler: AnyProfiler,
    store: MeasurementStore,
    *,
    seconds: float,
    progress: Progress,
) -> None:
    """Measure networks of a space on another target; each is stored as soon as it is measured.

    A network that the target cannot run is told, and the others go on.

    Raises:
        DataError: One cannot be built again; nothing is measured then.
        ModelError: The target can run none of them; what the last error said.
    """
    architectures = [rebuild(m) for m in networks]
    device = observed_device()
    target = profiler.target
    failures: list[ModelError] = []
    with progress.task(f"measuring on {target.runtime}", len(networks)) as task:
        for i, (architecture, m) in enumerate(zip(architectures, networks, strict=True)):
            model = untrained_model(architecture, batch=target.batch)
            try:
                found = profiler.profile(model, seconds=seconds, tags=dict(m.tags))
            except ModelError as error:
                progress.say(f"not measured, the others go on: {error}")
                failures.append(error)
                continue
            store.add(found, device)
            task.update(i + 1, note=f"{found.latency_ms:.3g} ms")
    if len(failures) == len(networks) > 0:
        raise failures[-1]
