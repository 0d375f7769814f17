"""What this machine is: the record that goes with every measurement, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from profilers.energy import RaplCounter
from profilers.errors import TargetError
from profilers.nvidia import Gpu, read_gpus
from profilers.timing import LatencySamples, sample_latency

# Instruction sets that decide which kernels a runtime picks.
ISA_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8",
    "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
SYSCTL_TIMEOUT_S = 5.0
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "openvino", "torch")


_CACHE_FILES = ("level", "type", "size")

# What can change on a device that stays the same one, and is worth a word when it does.
_SETTINGS = {
    "governor": "CPU governor",
    "os": "operating system",
    "has_rapl": "CPU energy counter",
}
_GPU_SETTINGS = {
    "driver": "driver",
    "max_sm_clock_mhz": "highest clock in MHz",
    "power_limit_watts": "power limit in watts",
    "compute_mode": "compute mode",
    "has_mig": "partition (MIG)",
}
_IDENTITY = {
    "cpu": "CPU",
    "architecture": "architecture",
    "cores": "number of usable cores",
    "isa": "instruction sets",
    "cache_bytes": "caches",
    "gpus": "GPUs",
}


@dataclass(frozen=True)
class NoiseFloor:
    """How steady this machine is at this moment.

    Attributes:
        relative_spread: Interquartile range over the median of the clean samples.
        contended_share: Share of samples in which the thread was disturbed.
    """

    relative_spread: float
    contended_share: float


@dataclass(frozen=True)
class Device:
    """What decides how long a kernel takes on this machine. None: could not be read.

    The CPU, its cores, instruction sets and caches and the GPUs' models say which device it is; all
    else is the state that it is in.

    Attributes:
        cpu: Its model.
        architecture: As `x86_64`.
        cores: That this process may use.
        isa: Those of `ISA_FLAGS` that it has.
        cache_bytes: By level; of data.
        governor: That sets the first core's clock.
        memory_bytes: Of the machine.
        gpus: NVIDIA's that CUDA may use, its first one first.
        os: With the kernel's version.
        runtimes: Versions of those installed, by package.
        has_rapl: Whether the CPU's energy counter can be read.
        noise: How steady it was, if that was measured.
    """

    cpu: str
    architecture: str
    cores: int
    isa: tuple[str, ...]
    cache_bytes: dict[str, int]
    governor: str | None
    memory_bytes: int | None
    gpus: tuple[Gpu, ...]
    os: str
    runtimes: dict[str, str]
    has_rapl: bool
    noise: NoiseFloor | None = None

    @property
    def fingerprint(self) -> str:
        """Short hash of the parts that change latencies: CPU, cores, ISA, caches, GPUs.

        The governor, the driver and the runtimes are recorded, but a device stays the same device
        when they are updated; the runtime's version is part of the target.
        """
        text = json.dumps(list(self._identity.values()), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def fingerprint_for(self, accelerator: str | None) -> str:
        """The fingerprint of the part that a target uses; `Target.device` is this one.

        A GPU's latencies are not those of another GPU of the same machine, and on the CPU no GPU
        matters, nor which of them `CUDA_VISIBLE_DEVICES` shows.

        Args:
            accelerator: `cuda`: the first GPU and the CPU beside it. None: the CPU alone.
        """
        return replace(self, gpus=self.gpus[:1] if accelerator == "cuda" else ()).fingerprint

    @property
    def _identity(self) -> dict[str, Any]:
        names = [gpu.name for gpu in self.gpus]
        return {name: getattr(self, name) for name in _IDENTITY} | {"gpus": names}

    def to_dict(self) -> dict[str, object]:
        """As plain data, the fingerprint included; `from_dict` is its inverse."""
        return {"fingerprint": self.fingerprint} | asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Device:
        """Rebuild what `to_dict` wrote, JSON's lists for tuples included.

        Fields that an older version did not write are taken as not read, those that a newer one
        has added are left out.
        """
        noise = data.get("noise")
        gpus = [_known(Gpu, gpu) for gpu in data["gpus"]]
        for gpu in gpus:
            if gpu.get("throttle_reasons") is not None:
                gpu["throttle_reasons"] = tuple(gpu["throttle_reasons"])
        return cls(**_known(cls, data) | {
            "isa": tuple(data["isa"]),
            "gpus": tuple(Gpu(**gpu) for gpu in gpus),
            "noise": None if noise is None else NoiseFloor(**_known(NoiseFloor, noise)),
        })  # fmt: skip


def _known(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    names: Mapping[str, object] = cls.__dataclass_fields__  # type: ignore[attr-defined]
    return {name: value for name, value in data.items() if name in names}


def changes(before: Device | Mapping[str, Any], now: Device) -> tuple[str, ...]:
    """What is not as it was, a sentence for each; empty if nothing that matters is.

    The first sentence says so if it is another device, whose latencies are not these. What moves
    from moment to moment (clocks, temperature, noise) is left out.

    Args:
        before: As recorded, `Device.to_dict` or read from a database.
        now: Of this moment.

    Example:
        >>> from dataclasses import replace
        >>> old = Device("X", "x86_64", 2, (), {}, "performance", None, (), "Linux 6", {}, False)
        >>> changes(old.to_dict(), replace(old, governor="powersave", runtimes={"torch": "2.6"}))
        ('the CPU governor changed from performance to powersave', 'torch 2.6 is new')
    """
    old = before if isinstance(before, Device) else Device.from_dict(before)
    found = _different(old._identity, now._identity, _IDENTITY, "")
    if found:
        found.insert(
            0, f"this is another device: its fingerprint was {old.fingerprint} and is "
            f"{now.fingerprint}"
        )  # fmt: skip
    found += _different(asdict(old), asdict(now), _SETTINGS, "")
    for i, (old_gpu, gpu) in enumerate(zip(old.gpus, now.gpus, strict=False)):
        found += _different(asdict(old_gpu), asdict(gpu), _GPU_SETTINGS, f"GPU {i}: ")
    for name in sorted(old.runtimes.keys() | now.runtimes.keys()):
        was, version = old.runtimes.get(name), now.runtimes.get(name)
        if was is None:
            found.append(f"{name} {version} is new")
        elif version is None:
            found.append(f"{name} {was} is gone")
        elif was != version:
            found.append(f"{name} changed from {was} to {version}")
    return tuple(found)


def _different(
    old: Mapping[str, Any], now: Mapping[str, Any], names: Mapping[str, str], prefix: str
) -> list[str]:
    return [
        f"{prefix}the {text} changed from {_words(old[name])} to {_words(now[name])}"
        for name, text in names.items()
        if old[name] != now[name]
    ]


def _words(value: object) -> str:
    if value is None:
        return "not readable"
    if isinstance(value, bool):
        return "there" if value else "not there"
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    # A block for each core, the first one holds; Arm boards name themselves in one of their own.
    pairs = [line.split(":", 1) for line in text.splitlines() if ":" in line]
    return {key.strip().lower(): value.strip() for key, value in reversed(pairs)}


def _board() -> str:
    """Name of an Arm board, empty where there is none."""
    try:
        return Path("/proc/device-tree/model").read_text(encoding="utf-8").strip("\0 \n")
    except (OSError, UnicodeDecodeError):
        return ""


def _mac_cpu() -> str:
    """The CPU's model on a Mac, as `Apple M3`; empty elsewhere. The processor is only `arm`."""
    if platform.system() != "Darwin":
        return ""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SYSCTL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def data_cache_bytes(caches: Iterable[Sequence[str]]) -> dict[str, int]:
    """Sizes by level of the caches that hold data, from what Linux says of each.

    Args:
        caches: Of each its level, type and size, the texts of `/sys/devices/system/cpu`. A size
            that is no such text is left out.

    Example:
        >>> data_cache_bytes([("1", "Data", "48K"), ("1", "Instruction", "32K")])
        {'L1': 49152}
    """
    found = {}
    for level, kind, size in caches:
        match = re.fullmatch(r"(\d{1,9})([KM]?)", size)
        if match and kind != "Instruction":
            found[f"L{level}"] = int(match[1]) * {"": 1, "K": 2**10, "M": 2**20}[match[2]]
    return found


def _cache_bytes() -> dict[str, int]:
    caches = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            caches.append([(index / name).read_text().strip() for name in _CACHE_FILES])
        except OSError:
            continue
    return data_cache_bytes(caches)


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _has_rapl() -> bool:
    try:
        RaplCounter(Path("/sys/class/powercap"))
    except TargetError:
        return False
    return True


def _runtimes() -> dict[str, str]:
    found = {}
    for name in RUNTIMES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def this_device() -> Device:
    """Read the record of the machine that this runs on; its noise is not measured."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("features") or "").split())
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    affinity = getattr(os, "sched_getaffinity", None)
    return Device(
        cpu=info.get("model name")
        or _board()
        or info.get("model")
        or info.get("hardware")
        or _mac_cpu()
        or platform.processor()
        or platform.machine(),
        architecture=platform.machine(),
        cores=len(affinity(0)) if affinity else os.cpu_count() or 1,
        isa=tuple(flag for flag in ISA_FLAGS if flag in flags),
        cache_bytes=_cache_bytes(),
        governor=governor.read_text().strip() if governor.exists() else None,
        memory_bytes=_memory_bytes(),
        gpus=read_gpus(),
        os=f"{platform.system()} {platform.release()}",
        runtimes=_runtimes(),
        has_rapl=_has_rapl(),
    )


def noise_floor(*, seconds: float = 1.0) -> NoiseFloor:
    """Time a fixed piece of work (about a millisecond) for `seconds`."""
    work = np.ones((192, 192), dtype=np.float32)
    scratch = np.empty_like(work)

    def run() -> None:
        for _ in range(16):
            np.multiply(work, work, out=scratch)
            np.sqrt(scratch, out=scratch)

    run()
    stop = time.perf_counter() + seconds
    samples: LatencySamples = sample_latency(run, n_samples=20)
    while time.perf_counter() < stop:
        samples = samples.extended(sample_latency(run, n_samples=20))
    clean = samples.wall_ms[~samples.is_contended]
    kept = clean if len(clean) else samples.wall_ms
    q1, median, q3 = np.percentile(kept, [25, 50, 75])
    return NoiseFloor(float((q3 - q1) / median), samples.contended_share)


def observed_device(*, seconds: float = 0.5) -> Device:
    """The record of this machine with its noise at this moment, as measurements are stored with."""
    return replace(this_device(), noise=noise_floor(seconds=seconds))
