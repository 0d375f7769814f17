"""A target: a device, a runtime and how the runtime is run. Every measurement carries one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from typing import Any

from profilers.devices import Device, this_device
from profilers.errors import TargetError, unknown_name
from profilers.runtimes.catalog import RUNTIMES, RuntimeSpec, runtime_names, runtime_spec

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
DEFAULT_RUNTIME = "onnxruntime-cpu"


@dataclass(frozen=True)
class Target:
    """Where a latency holds: not on another device, runtime version, thread count or batch.

    Attributes:
        runtime: One of `profilers.runtimes.catalog.runtime_names()`.
        version: The runtime's version.
        precision: Of weights and activations, one of `PRECISIONS`.
        threads: Threads within one kernel.
        batch: Examples in one run; latencies are per run.
        device: Fingerprint of the part of the device that it uses, `Device.fingerprint_for`.
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
    spec = runtime_spec(runtime)
    if precision not in PRECISIONS:
        raise TargetError(unknown_name("precision", precision, PRECISIONS))
    if precision not in spec.precisions:
        raise TargetError(
            f"target {runtime!r} has no precision {precision!r}, only {', '.join(spec.precisions)}"
        )
    if threads < 1 or batch < 1:
        raise TargetError(f"threads and batch must be at least 1, got {threads=}, {batch=}")
    device = _device()
    if threads > device.cores:
        raise TargetError(
            f"{threads=} asked for, but this machine has {device.cores} cores; more "
            f"threads than cores measure the scheduler"
        )
    needed = spec.isa.get(precision)
    if needed is not None and not set(needed) & set(device.isa):
        raise TargetError(
            f"target {runtime!r} computes in {precision} only on a CPU with {' or '.join(needed)}, "
            f"and {device.cpu} has none of them: fp32 is for every CPU"
        )
    name = f"{device.cpu} ({device.cores} cores)"
    if spec.accelerator == "cuda":
        if not device.gpus:
            raise TargetError(
                f"target {runtime!r} needs an NVIDIA GPU, and NVML shows none here: check "
                f"`nvidia-smi` and CUDA_VISIBLE_DEVICES, or use another target"
            )
        name = device.gpus[0].name
    version = _version(runtime, spec)
    fingerprint = device.fingerprint_for(spec.accelerator)
    return Target(runtime, version, precision, threads, batch, fingerprint, name)


def available_targets() -> tuple[str, ...]:
    """Names of the runtimes that can be measured on this machine now."""
    found = []
    for name in runtime_names():
        with suppress(TargetError):
            found.append(make_target(name).runtime)
    return tuple(found)


def available_precisions(runtime: str) -> tuple[str, ...]:
    """Precisions in which a runtime can be measured on this machine; none if it cannot at all.

    Raises:
        TargetError: There is no such runtime.
    """
    spec = runtime_spec(runtime)
    found = []
    for precision in spec.precisions:
        with suppress(TargetError):
            found.append(make_target(runtime, precision=precision).precision)
    return tuple(found)


def _version(runtime: str, spec: RuntimeSpec) -> str:
    """Version of the package that runs the models, which must be installed."""
    first = spec.distributions[0]
    versions = _installed(spec.distributions)
    if spec.provider is None:
        if not versions:
            raise TargetError(
                f"target {runtime!r} needs the package {first!r}, which is not installed: "
                f"pip install {first}"
            )
        if spec.accelerator == "cuda" and "torch" in versions:
            import torch  # a CPU build is installed under the same name

            if torch.version.cuda is None:
                raise TargetError(
                    f"target {runtime!r} needs a PyTorch built for CUDA, and {torch.__version__} "
                    f"is not: install one from https://pytorch.org/get-started"
                )
        return next(iter(versions.values()))
    try:
        import onnxruntime
    except ImportError:
        raise TargetError(
            f"target {runtime!r} needs ONNX Runtime, which is not installed: pip install {first}"
        ) from None
    version = str(onnxruntime.__version__)
    listed = onnxruntime.get_available_providers()
    if spec.provider not in listed:
        # All packages of ONNX Runtime install the same module, the last one wins.
        others = _installed(RUNTIMES[DEFAULT_RUNTIME].distributions)
        advice = (
            f"{first} has it on other systems only, use another target"
            if first in versions
            else f"pip uninstall {' '.join(others)}, then pip install {first}"
        )
        raise TargetError(
            f"target {runtime!r} needs {spec.provider}, which this ONNX Runtime {version} does not "
            f"have (it lists {', '.join(listed)}): {advice}"
        )
    return version


def _installed(distributions: tuple[str, ...]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    versions = {}
    for distribution in distributions:
        with suppress(metadata.PackageNotFoundError):
            versions[distribution] = metadata.version(distribution)
    return versions
