"""Read back what a kit's script measured on another device. Nothing in the folder is run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from profilers import kit_script
from profilers.devices import ISA_FLAGS, Device, data_cache_bytes
from profilers.kernel_times import kernel_latencies_ms
from profilers.kit import KIT_FORMAT, KitError
from profilers.limited import read_bytes
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.memory import computed_peak_bytes
from profilers.onnx_models import OnnxModel
from profilers.profiler import GOOD_MOMENTS_PERCENTILE
from profilers.runtimes.base import KernelTrace
from profilers.runtimes.onnx_profile import read_trace
from profilers.store import MeasurementStore
from profilers.targets import DEFAULT_RUNTIME, Target
from profilers.timing import SLOW_REFERENCE, LatencySamples

MAX_KIT_BYTES, MAX_RESULT_BYTES = 16 * 2**20, 64 * 2**20
MAX_PROFILED_RUNS = 1_000_000
MAX_PROFILE_BYTES, MAX_GRAPH_BYTES = 256 * 2**20, 64 * 2**20
# What damaged or made-up results raise when they are decoded.
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, DecodeError)


@dataclass(frozen=True)
class KitFailure:
    """A model that the device could not measure, and why."""

    name: str
    digest: str
    target: Target
    reason: str


@dataclass(frozen=True)
class KitResults:
    """What a device measured.

    Attributes:
        device: As it described itself.
        measurements: In the order of the kit's models.
        failures: Models that failed or crashed there.
        n_missing: Models that have no result yet.
    """

    device: Device
    measurements: tuple[NetworkMeasurement, ...]
    failures: tuple[KitFailure, ...]
    n_missing: int


def read_kit(folder: Path) -> KitResults:
    """Read what the script measured; nothing in the folder is run.

    Raises:
        KitError: It is no kit, has no result yet, or a file is damaged or of another device.
    """
    kit_path = folder / "kit.json"
    kit = _read_json(kit_path, MAX_KIT_BYTES)
    try:
        if kit["format"] != KIT_FORMAT:
            raise KitError(
                f"{kit_path} has format {kit['format']!r}, and this version reads {KIT_FORMAT}: "
                f"update hwnas, or write the kit again"
            )
        entries = {str(entry["id"]): entry for entry in kit["models"]}
        threads, precision = int(kit["threads"]), str(kit["precision"])
        n_warmup = int(kit["warmup"])
    except _DAMAGE:
        raise _damaged(kit_path, "it is no kit that hwnas wrote") from None
    if not all(re.fullmatch(r"[A-Za-z0-9_-]+", key) for key in entries):
        raise _damaged(kit_path, "a model's id is no plain name")
    results = {}
    for key, entry in entries.items():
        path = folder / "results" / key / "result.json"
        if path.exists():
            results[key] = _checked(path, _read_json(path, MAX_RESULT_BYTES), entry)
    if not results:
        raise KitError(f"{folder} has no results yet: run `python measure.py` there on the device")
    device = _one_device(folder, results)
    usual_ns = _usual_reference_ns(folder, results.values())
    measurements, failures = [], []
    for key, result in results.items():
        entry, path = entries[key], folder / "results" / key
        try:
            target = Target(
                DEFAULT_RUNTIME, str(result["onnxruntime"]), precision, threads,
                int(entry["batch"]), device.fingerprint, f"{device.cpu} ({device.cores} cores)",
            )  # fmt: skip
            name, digest = str(entry["name"]), str(entry["digest"])
            if "failure" in result:
                failures.append(KitFailure(name, digest, target, str(result["failure"])))
                continue
            samples = _samples(result["rounds"], usual_ns)
            profiled_runs = [int(taken["profiled_runs"]) for taken in result["rounds"]]
            if max(profiled_runs) > MAX_PROFILED_RUNS:
                raise ValueError(f"{max(profiled_runs)} profiled runs in a round")
            is_steady = np.repeat(samples.chunk_slowdowns <= SLOW_REFERENCE, profiled_runs)
            tags = {str(k): str(v) for k, v in entry["tags"].items()}
        except _DAMAGE as error:
            raise _damaged(path / "result.json", repr(error)) from None
        trace, proto = _trace(path)
        kernels = _kernels(path, trace, n_warmup, is_steady)
        # The runtime keeps the names of outputs, and of the model only those are asked for.
        optimized = OnnxModel(name, proto, (), digest, {})
        measurements.append(
            NetworkMeasurement(
                name,
                digest,
                target,
                samples,
                kernels,
                trace.peak_memory_bytes,
                computed_peak_bytes(trace.nodes, optimized, threads=threads),
                tags=tags,
            )
        )
    return KitResults(device, tuple(measurements), tuple(failures), len(entries) - len(results))


def add_results(results: KitResults, store: MeasurementStore) -> list[NetworkMeasurement]:
    """Write results to a database; those that are in it already, by their samples, are left out.

    Returns:
        The measurements that were new.
    """
    targets = {m.target.key: m.target for m in results.measurements}
    known = {_identity(m) for target in targets.values() for m in store.networks(target)}
    new = [m for m in results.measurements if _identity(m) not in known]
    for measurement in new:
        store.add(measurement, results.device)
    for failure in results.failures:
        if failure.digest not in store.failures(failure.target):
            store.add_failure(failure.target, failure.digest, failure.name, failure.reason)
    return new


def _identity(measurement: NetworkMeasurement) -> tuple[str, str, bytes]:
    return measurement.digest, measurement.target.key, measurement.samples.wall_ms.tobytes()


def _damaged(path: Path, why: str) -> KitError:
    return KitError(
        f"{path} is damaged ({why}): remove its folder and run `python measure.py` on the device "
        f"again, or copy it from there once more"
    )


def _read(path: Path, limit: int) -> bytes:
    """Bytes of a file from elsewhere, unpacked, no more than `limit`."""
    try:
        return read_bytes(path, limit)
    except OSError as error:
        raise KitError(f"cannot read {path}: {error}. Is the kit's folder complete?") from None


def _read_json(path: Path, limit: int) -> Any:
    try:
        return json.loads(_read(path, limit))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"no JSON: {error}") from None


def _checked(path: Path, result: Any, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A result that is of the kit's model."""
    if not isinstance(result, dict) or result.get("format") != kit_script.RESULT_FORMAT:
        raise _damaged(path, "it is no result of this version's script")
    if result.get("digest") != entry.get("digest"):
        raise _damaged(path, "it is of another model than the kit's")
    return result


def _one_device(folder: Path, results: Mapping[str, dict[str, Any]]) -> Device:
    """The device of the last result; all must be of the same."""
    found: Device | None = None
    for key, result in results.items():
        path = folder / "results" / key / "result.json"
        try:
            device = _device(result["device"], str(result["onnxruntime"]))
        except _DAMAGE as error:
            raise _damaged(path, repr(error)) from None
        if found is not None and found.fingerprint != device.fingerprint:
            raise KitError(
                f"{path} is of {device.cpu} ({device.cores} cores), others are of {found.cpu} "
                f"({found.cores} cores): give every device a copy of the kit of its own"
            )
        found = device
    assert found is not None
    return found


def _device(record: Mapping[str, Any], version: str) -> Device:
    """The record of the script by the rules of `profilers/devices.py`; its GPUs are not used."""
    cpuinfo = record["cpuinfo"]
    first = [cpuinfo[name][0] for name in ("flags", "Features") if cpuinfo.get(name)]
    flags = set(" ".join(first).split())
    memory_bytes = record["memory_bytes"]
    return Device(
        cpu=_cpu_name(record),
        architecture=str(record["architecture"]),
        cores=int(record["cores"]),
        isa=tuple(flag for flag in ISA_FLAGS if flag in flags),
        cache_bytes=data_cache_bytes(record["caches"]),
        governor=str(record["governor"]) or None,
        memory_bytes=int(memory_bytes) if memory_bytes is not None else None,
        gpus=(),
        os=str(record["os"]),
        runtimes={"onnxruntime": version},
        has_rapl=False,
    )


def _cpu_name(record: Mapping[str, Any]) -> str:
    """What the system calls the CPU; ARM boards call only the board by a name."""
    cpuinfo = record["cpuinfo"]
    names = [*cpuinfo.get("model name", ()), record["board"], *cpuinfo.get("Model", ())]
    names += [*cpuinfo.get("Hardware", ()), record["processor"], record["architecture"]]
    return next(str(name) for name in names if name)


def _usual_reference_ns(folder: Path, results: Iterable[Mapping[str, Any]]) -> float:
    """Time of the reference network in good moments, over all that the device measured."""
    try:
        found = [taken["reference_ns"] for result in results for taken in result.get("rounds", ())]
        return float(np.percentile(found, GOOD_MOMENTS_PERCENTILE)) if found else 1.0
    except _DAMAGE as error:
        raise _damaged(folder / "results", repr(error)) from None


def _samples(rounds: Sequence[Mapping[str, Any]], usual_ns: float) -> LatencySamples:
    """The rounds as samples; a round is a chunk.

    Raises:
        ValueError: Lengths differ, or a time is not positive.
    """
    counts = [len(taken["wall_ns"]) for taken in rounds]

    def column(name: str) -> NDArray[np.int64]:
        parts = [np.array(taken[name], dtype=np.int64) for taken in rounds]
        if [part.shape for part in parts] != [(n,) for n in counts]:
            raise ValueError(f"lengths of {name} differ")
        return np.concatenate(parts)

    wall_ms = column("wall_ns") / 1e6
    references_ns = np.array([taken["reference_ns"] for taken in rounds], dtype=np.float64)
    if not (wall_ms > 0).all() or not (references_ns > 0).all():
        raise ValueError("a time is not positive")
    has_cpu = all(taken["cpu_ns"] is not None for taken in rounds)
    return LatencySamples(
        wall_ms,
        column("cpu_ns") / 1e6 if has_cpu else np.full(len(wall_ms), np.nan),
        column("switches"),
        column("faults"),
        np.repeat(np.arange(len(rounds)), counts),
        np.repeat(references_ns / usual_ns, counts),
    )


def _trace(folder: Path) -> tuple[KernelTrace, onnx.ModelProto]:
    """The runtime's profile, and the graph that it made of the model."""
    path = folder / "profile.json.gz"
    events = _read_json(path, MAX_PROFILE_BYTES)
    data = _read(folder / "optimized.onnx", MAX_GRAPH_BYTES)
    try:
        proto = onnx.load_model_from_string(data)
        trace = read_trace(events, proto.graph)
        if not trace.nodes and proto.graph.node:
            raise ValueError("it shows no kernel")
    except _DAMAGE as error:
        raise _damaged(path, repr(error)) from None
    return trace, proto


def _kernels(
    folder: Path, trace: KernelTrace, n_warmup: int, is_steady: NDArray[np.bool_]
) -> tuple[KernelLatency, ...]:
    """Kernels with their latencies."""
    try:
        n_runs = len(trace.duration_us)
        if trace.nodes and n_runs != n_warmup + len(is_steady):
            raise ValueError(f"{n_runs} runs, not {n_warmup} + {len(is_steady)}")
        latencies_ms, n_samples = kernel_latencies_ms(trace.without_first(n_warmup), is_steady)
        if not np.isfinite(latencies_ms).all():
            raise ValueError("a time is not finite")
    except _DAMAGE as error:
        raise _damaged(folder / "profile.json.gz", repr(error)) from None
    return tuple(
        KernelLatency(node.name, node.kernel, float(ms), n_samples)
        for node, ms in zip(trace.nodes, latencies_ms, strict=True)
    )
