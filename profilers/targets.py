"""A target: a device, a runtime and how the runtime is run. Every measurement carries one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from typing import Any

from profilers.devices import Device, this_device
from profilers.errors import TargetError, unknown_name
from profilers.runtimes.catalog import RUNTIMES, RuntimeSpec

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
DEFAULT_RUNTIME = "onnxruntime-cpu"


@dataclass(frozen=True)
class Target:
    """Where a latency holds: not on another device, runtime version, thread count or batch.

    Attributes:
        runtime: One of `RUNTIMES`.
        version: The runtime's version.
        precision: Of weights and activations, one of `PRECISIONS`.
        threads: Threads within one kernel.
        batch: Examples in one run; latencies are per run.
        device: Fingerprint of the device.
        device_name: For people.
    """

    runtime: str
    version: str
    precision: str
    threads: int
    batch: int
    device: str
    device_name: str

    @property
    def key(self) -> str:
        """Text that is equal for equal targets and readable in a database."""
        return (
            f"{self.runtime}-{self.version}/{self.precision}/threads={self.threads}"
            f"/batch={self.batch}/{self.device}"
        )

    def describe(self) -> str:
        """One line for people."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return (
            f"{self.runtime} {self.version}, {self.precision}, {threads}, batch {self.batch}, "
            f"{self.device_name}"
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Target:
        """Rebuild what `to_dict` wrote."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__})


@cache
def _device() -> Device:
    return this_device()


def make_target(
    runtime: str = DEFAULT_RUNTIME, *, threads: int = 1, precision: str = "fp32", batch: int = 1
) -> Target:
    """The target of that runtime on this machine.

    Raises:
        TargetError: The runtime is unknown or not installed, or cannot be run this way.
    """
    if runtime not in RUNTIMES:
        raise TargetError(unknown_name("target", runtime, RUNTIMES))
    spec = RUNTIMES[runtime]
    if precision not in PRECISIONS:
        raise TargetError(unknown_name("precision", precision, PRECISIONS))
    if precision not in spec.precisions:
        raise TargetError(
            f"target {runtime!r} has no precision {precision!r}, only {', '.join(spec.precisions)}"
        )
    if threads < 1 or batch < 1:
        raise TargetError(f"threads and batch must be at least 1, got {threads=}, {batch=}")
    version = _version(runtime, spec)
    device = _device()
    if threads > device.cores:
        raise TargetError(
            f"{threads=} asked for, but this machine has {device.cores} cores; more "
            f"threads than cores measure the scheduler"
        )
    name = f"{device.cpu} ({device.cores} cores)"
    if spec.accelerator == "cuda":
        if not device.gpus:
            raise TargetError(
                f"target {runtime!r} needs an NVIDIA GPU, and NVML shows none here: check "
                f"`nvidia-smi`, or use another target"
            )
        name = device.gpus[0].name
    return Target(runtime, version, precision, threads, batch, device.fingerprint, name)


def available_targets() -> tuple[str, ...]:
    """Names of the runtimes that can be measured on this machine now."""
    found = []
    for name in RUNTIMES:
        with suppress(TargetError):
            found.append(make_target(name).runtime)
    return tuple(found)


def _version(runtime: str, spec: RuntimeSpec) -> str:
    for distribution in spec.distributions:
        with suppress(metadata.PackageNotFoundError):
            version = metadata.version(distribution)
            break
    else:
        raise TargetError(
            f"target {runtime!r} needs the package {spec.distributions[0]!r}, which is not "
            f"installed: pip install {spec.distributions[0]}"
        )
    if spec.provider is not None:
        import onnxruntime

        listed = onnxruntime.get_available_providers()
        if spec.provider not in listed:
            raise TargetError(
                f"target {runtime!r} needs {spec.provider}, which this ONNX Runtime {version} does "
                f"not have (it lists {', '.join(listed)}): pip install {spec.distributions[0]}"
            )
    return version
