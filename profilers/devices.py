"""What this machine is: the record that goes with every measurement, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from profilers.timing import LatencySamples, sample_latency

# Instruction sets that decide which kernels a runtime picks.
ISA_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
    "avx512_bf16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8",
    "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "openvino", "torch")


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as NVML describes it. None: could not be read."""

    name: str
    memory_bytes: int | None
    driver: str
    sm_clock_mhz: int | None
    max_sm_clock_mhz: int | None
    has_energy_counter: bool


@dataclass(frozen=True)
class Device:
    """What decides how long a kernel takes on this machine. None: could not be read."""

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

    @property
    def fingerprint(self) -> str:
        """Short hash of the parts that change latencies: CPU, cores, ISA, caches, GPUs.

        The governor, the driver and the runtimes are recorded, but a device stays the same device
        when they are updated; the runtime's version is part of the target.
        """
        gpus = [gpu.name for gpu in self.gpus]
        parts = [self.cpu, self.architecture, self.cores, self.isa, self.cache_bytes, gpus]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, object]:
        """As plain data, the fingerprint included."""
        return {"fingerprint": self.fingerprint} | asdict(self)


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip().lower(): value.strip() for key, value in pairs}


def _cache_bytes() -> dict[str, int]:
    caches: dict[str, int] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        match = re.fullmatch(r"(\d+)([KM]?)", size)
        if match and kind != "Instruction":
            caches[f"L{level}"] = int(match[1]) * {"": 1, "K": 2**10, "M": 2**20}[match[2]]
    return caches


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _gpus() -> tuple[Gpu, ...]:
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver: a machine without an NVIDIA GPU
        return ()
    try:
        return tuple(_gpu(pynvml, i) for i in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:  # a GPU that is lost, or that this user may not open
        return ()
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def read(function: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, function)(handle, *arguments)
        except nvml.NVMLError:  # a counter that this GPU or this user does not have
            return None

    return Gpu(
        name=str(read("nvmlDeviceGetName") or "unknown"),
        # Not there on GPUs that share the memory of the CPU.
        memory_bytes=getattr(read("nvmlDeviceGetMemoryInfo"), "total", None),
        driver=str(nvml.nvmlSystemGetDriverVersion()),
        sm_clock_mhz=read("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        max_sm_clock_mhz=read("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        has_energy_counter=read("nvmlDeviceGetTotalEnergyConsumption") is not None,
    )


def _runtimes() -> dict[str, str]:
    found = {}
    for name in RUNTIMES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def this_device() -> Device:
    """Read the record of the machine that this runs on."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("features") or "").split())
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    affinity = getattr(os, "sched_getaffinity", None)
    return Device(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        cores=len(affinity(0)) if affinity else os.cpu_count() or 1,
        isa=tuple(flag for flag in ISA_FLAGS if flag in flags),
        cache_bytes=_cache_bytes(),
        governor=governor.read_text().strip() if governor.exists() else None,
        memory_bytes=_memory_bytes(),
        gpus=_gpus(),
        os=f"{platform.system()} {platform.release()}",
        runtimes=_runtimes(),
        has_rapl=os.access("/sys/class/powercap/intel-rapl:0/energy_uj", os.R_OK),
    )


@dataclass(frozen=True)
class NoiseFloor:
    """How steady this machine is at this moment.

    Attributes:
        relative_spread: Interquartile range over the median of the clean samples.
        contended_share: Share of samples in which the thread was disturbed.
    """

    relative_spread: float
    contended_share: float


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
