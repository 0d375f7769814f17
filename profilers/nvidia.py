"""NVIDIA GPUs by NVML: what they are, what state they are in, and what they have used.

Everything is only read. The library is opened when it is first asked and stays open, so that a
reading takes microseconds; a machine without it, without a driver or without a GPU has no GPUs.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

# What holds the clocks down, by bit; NVML calls them clocks event reasons.
REASONS = {
    0x001: "idle",
    0x002: "clocks set by the user",
    0x004: "power limit",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "thermal slowdown by software",
    0x040: "thermal slowdown by hardware",
    0x080: "power brake",
    0x100: "display clocks",
}
# While one of these holds, a timing says nothing about the GPU.
SLOWDOWN_BITS = 0x008 | 0x020 | 0x040 | 0x080
COMPUTE_MODES = ("shared", "exclusive thread", "prohibited", "exclusive process")


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as NVML describes it. None: could not be read.

    Attributes:
        name: Its model.
        memory_bytes: Of its own; None for GPUs that share the memory of the CPU.
        driver: Version.
        sm_clock_mhz: Of the multiprocessors at this moment; low while idle.
        max_sm_clock_mhz: Highest that they may reach.
        has_energy_counter: Whether it counts what it uses.
        power_limit_watts: That is enforced now.
        temperature_celsius: At this moment.
        throttle_reasons: Why its clocks are not higher at this moment, in words of `REASONS`.
        compute_mode: Who may use it, one of `COMPUTE_MODES`.
        has_mig: Whether it is parted into instances.
        compute_capability: As `9.0`; decides which kernels a runtime has for it.
    """

    name: str
    memory_bytes: int | None
    driver: str
    sm_clock_mhz: int | None
    max_sm_clock_mhz: int | None
    has_energy_counter: bool
    power_limit_watts: float | None = None
    temperature_celsius: int | None = None
    throttle_reasons: tuple[str, ...] | None = None
    compute_mode: str | None = None
    has_mig: bool | None = None
    compute_capability: str | None = None


_best_clocks_mhz: dict[int, int] = {}  # of each GPU, by CUDA's number, while it was watched


@cache
def _library() -> Any:
    """NVML, opened; None: not to be had."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver: a machine without an NVIDIA GPU
        return None
    return pynvml


def read_gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA may use here, in the order of `CUDA_VISIBLE_DEVICES`, else NVML's."""
    handles = _visible_handles()
    if not handles:
        return ()
    nvml = _library()
    try:
        driver = str(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError:
        return ()
    return tuple(_describe(handle, driver) for handle in handles)


def gpu_names() -> tuple[str, ...]:
    """What `CUDA_VISIBLE_DEVICES` may name the GPUs of `read_gpus` by, one each, in that order."""
    nvml, handles = _library(), _visible_handles()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(","))[: len(handles)]
    try:  # numbers would not do: CUDA counts by speed, NVML by slot
        return tuple(str(nvml.nvmlDeviceGetUUID(handle)) for handle in handles)
    except nvml.NVMLError:
        return ()


def _describe(handle: Any, driver: str) -> Gpu:
    nvml = _library()
    limit_mw = _read(handle, "nvmlDeviceGetEnforcedPowerLimit")
    mode = _read(handle, "nvmlDeviceGetComputeMode")
    mig = _read(handle, "nvmlDeviceGetMigMode")
    capability = _read(handle, "nvmlDeviceGetCudaComputeCapability")
    bits = _reason_bits(handle)
    return Gpu(
        name=str(_read(handle, "nvmlDeviceGetName") or "unknown"),
        memory_bytes=getattr(_read(handle, "nvmlDeviceGetMemoryInfo"), "total", None),
        driver=driver,
        sm_clock_mhz=_read(handle, "nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        max_sm_clock_mhz=_read(handle, "nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        has_energy_counter=_read(handle, "nvmlDeviceGetTotalEnergyConsumption") is not None,
        power_limit_watts=None if limit_mw is None else limit_mw / 1000,
        temperature_celsius=_read(handle, "nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        throttle_reasons=None if bits is None else decode_reasons(bits),
        compute_mode=COMPUTE_MODES[mode] if mode in range(len(COMPUTE_MODES)) else None,
        has_mig=None if mig is None else bool(mig[0]),
        compute_capability=None if capability is None else ".".join(map(str, capability)),
    )


def _read(handle: Any, function: str, *arguments: Any) -> Any:
    """What NVML answers; None: this GPU, driver or user does not have it."""
    nvml = _library()
    try:
        return getattr(nvml, function)(handle, *arguments)
    except nvml.NVMLError:
        return None


def _reason_bits(handle: Any) -> int | None:
    bits = _read(handle, "nvmlDeviceGetCurrentClocksEventReasons")
    if bits is None:  # drivers before 535 know it by its old name
        bits = _read(handle, "nvmlDeviceGetCurrentClocksThrottleReasons")
    return None if bits is None else int(bits)


def decode_reasons(bits: int) -> tuple[str, ...]:
    """Words for the reasons that hold the clocks down.

    Example:
        >>> decode_reasons(0x44)
        ('power limit', 'thermal slowdown by hardware')
        >>> decode_reasons(0x800)
        ('unknown reason 0x800',)
    """
    known = tuple(text for bit, text in REASONS.items() if bits & bit)
    rest = bits & ~sum(REASONS)
    return (*known, f"unknown reason {rest:#x}") if rest else known


def gpu_slowdown(index: int = 0) -> float:
    """How much slower the GPU's clock is now than the best that this process has seen, 1 at best.

    Not than the highest that NVML names: a GPU with locked clocks or a low power limit never
    reaches that, and is as fast as it gets. To be read right after work: an idle GPU lowers its
    clocks. Infinite while it slows down for heat or by a power brake, whatever the clock shows; 1
    where NVML does not tell. It takes some microseconds.

    Args:
        index: Of the GPU as CUDA counts them: `CUDA_VISIBLE_DEVICES` is followed.
    """
    handle = _visible_handle(index)
    if handle is None:
        return 1.0
    if (_reason_bits(handle) or 0) & SLOWDOWN_BITS:
        return math.inf
    nvml = _library()
    clock_mhz = _read(handle, "nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)
    if not clock_mhz:
        return 1.0
    best_mhz = max(clock_mhz, _best_clocks_mhz.get(index, 0))
    _best_clocks_mhz[index] = best_mhz
    return float(best_mhz / clock_mhz)


def total_energy_mj(index: int = 0) -> float | None:
    """Millijoules that a GPU has used since its driver was loaded; None: it does not count them.

    The counter moves in steps of 20 to 100 ms. `index` is as in `gpu_slowdown`.
    """
    handle = _visible_handle(index)
    if handle is None:
        return None
    energy_mj = _read(handle, "nvmlDeviceGetTotalEnergyConsumption")
    return None if energy_mj is None else float(energy_mj)


def _visible_handle(index: int) -> Any:
    """The GPU that CUDA calls `index`; None: there is none that can be opened."""
    handles = _visible_handles()
    return handles[index] if index < len(handles) else None


def _visible_handles() -> list[Any]:
    """The GPUs as CUDA counts them: it stops at the first that cannot be opened."""
    nvml = _library()
    handles: list[Any] = []
    if nvml is None:
        return handles
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    with suppress(nvml.NVMLError):  # no such GPU, one that is lost, or not this user's
        if visible is None:
            names = [str(i) for i in range(nvml.nvmlDeviceGetCount())]
        else:
            names = [name.strip() for name in visible.split(",")]
        for name in names:
            if name.isdecimal():
                handles.append(nvml.nvmlDeviceGetHandleByIndex(int(name)))
            else:
                handles.append(nvml.nvmlDeviceGetHandleByUUID(name))
    return handles
