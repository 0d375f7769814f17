"""A target: a device, a runtime and how the runtime is run. Every measurement carries one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from typing import Any

from profilers.devices import Device, this_device
from profilers.errors import TargetError, unknown_name

# name -> distribution whose version is part of the target
RUNTIMES = {"onnxruntime-cpu": "onnxruntime"}
PRECISIONS = ("fp32",)
DEFAULT_RUNTIME = "onnxruntime-cpu"


@dataclass(frozen=True)
class Target:
    """Where a latency holds: not on another device, runtime version, thread count or batch.

    Attributes:
        runtime: One of `RUNTIMES`.
        version: The runtime's version.
        precision: Type of the activations; `fp32`.
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
    if precision not in PRECISIONS:
        raise TargetError(unknown_name("precision", precision, PRECISIONS))
    if threads < 1 or batch < 1:
        raise TargetError(f"threads and batch must be at least 1, got {threads=}, {batch=}")
    try:
        version = metadata.version(RUNTIMES[runtime])
    except metadata.PackageNotFoundError:
        raise TargetError(
            f"target {runtime!r} needs the package {RUNTIMES[runtime]!r}, which is not installed: "
            f"pip install {RUNTIMES[runtime]}"
        ) from None
    device = _device()
    if threads > device.cores:
        raise TargetError(
            f"{threads=} asked for, but this machine has {device.cores} cores; more "
            f"threads than cores measure the scheduler"
        )
    return Target(
        runtime,
        version,
        precision,
        threads,
        batch,
        device.fingerprint,
        f"{device.cpu} ({device.cores} cores)",
    )
