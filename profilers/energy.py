"""Energy of a run, by the counters that the hardware keeps.

A counter sees all that its chip uses: what it would use idle, and what other programs do on it
meanwhile. So the energy of a run is that of the whole chip for as long as runs follow each other
without a pause; it is not the run's share above idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from profilers.errors import TargetError
from profilers.nvidia import total_energy_mj
from profilers.runtimes.catalog import runtime_spec

if TYPE_CHECKING:
    from profilers.targets import Target

POWERCAP = Path("/sys/class/powercap")
SECONDS_BETWEEN_READINGS = 0.01  # reading a counter takes time in which nothing runs
MAX_STEP_SECONDS = 2.0  # no counter is known that moves more seldom


class EnergyCounter(Protocol):
    """Counts what a device uses. It moves in steps, and only differences mean something."""

    def read_mj(self) -> float:
        """Millijoules since some moment in the past; never less than before."""


class NvmlCounter:
    """What an NVIDIA GPU has used, its memory included; in steps of 20 to 100 ms.

    Args:
        index: As CUDA counts the GPUs.

    Raises:
        TargetError: The GPU does not count it.
    """

    def __init__(self, index: int = 0) -> None:
        self._index = index
        self.read_mj()

    def read_mj(self) -> float:
        """Millijoules since the driver was loaded."""
        energy_mj = total_energy_mj(self._index)
        if energy_mj is None:
            raise TargetError(
                f"GPU {self._index} has no energy counter that NVML can read: GPUs before Volta "
                f"and instances of a parted GPU have none"
            )
        return energy_mj


class RaplCounter:
    """What the CPU packages have used, their graphics included and the memory not; steps of 1 ms.

    Intel's and AMD's CPUs have it, on Linux, in the same folder. The kernel's counters start again
    from 0 after some minutes at full load, so it must be read more often than that.

    Args:
        folder: Where the kernel shows the counters.

    Raises:
        TargetError: There are none, or this user may not read all of them.
    """

    def __init__(self, folder: Path = POWERCAP) -> None:
        packages = [path for path in sorted(folder.glob("intel-rapl:*")) if _is_package(path)]
        if not packages:
            raise TargetError(
                f"this CPU has no energy counter in {folder}: virtual machines and most ARM "
                f"boards have none"
            )
        self._paths = [path / "energy_uj" for path in packages]
        try:
            self._range_uj = [_read_int(path / "max_energy_range_uj") for path in packages]
            self._last_uj = [_read_int(path) for path in self._paths]
        except (OSError, ValueError) as error:
            raise TargetError(
                f"the CPU's energy counter cannot be read ({error}): it takes root, or "
                f"chmod a+r {folder}/intel-rapl:*/energy_uj"
            ) from None
        self._total_uj = 0

    def read_mj(self) -> float:
        """Millijoules since this object was made, all packages together."""
        now_uj = [_read_int(path) for path in self._paths]
        for now, last, range_uj in zip(now_uj, self._last_uj, self._range_uj, strict=True):
            self._total_uj += now - last if now >= last else now - last + range_uj
        self._last_uj = now_uj
        return self._total_uj / 1000


def _is_package(path: Path) -> bool:
    """Whether it is a socket: cores and memory are below it, `psys` is around it."""
    try:
        return (path / "name").read_text().startswith("package")
    except OSError:
        return False


def _read_int(path: Path) -> int:
    return int(path.read_text())


def energy_counter(target: Target, *, powercap: Path = POWERCAP) -> EnergyCounter | None:
    """The counter of the device that `target` runs on; None: it has none that can be read.

    With a GPU it is the GPU's alone, what the CPU does meanwhile is not in it.
    """
    try:
        if runtime_spec(target.runtime).accelerator == "cuda":
            return NvmlCounter()
        return RaplCounter(powercap)
    except TargetError:
        return None


@dataclass(frozen=True)
class EnergyPerRun:
    """Energy of one run.

    Attributes:
        energy_mj: Median over the repeats; what the device would use idle is in it.
        relative_spread: From the lowest to the highest repeat, over the median.
        n_runs: In all repeats.
    """

    energy_mj: float
    relative_spread: float
    n_runs: int


def measure_energy(
    run: Callable[[], object],
    counter: EnergyCounter,
    *,
    seconds: float = 5.0,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> EnergyPerRun:
    """Energy of one call of `run`, called over and over for about `seconds`.

    Each repeat starts and ends at a step of the counter, so that its coarseness does not show; a
    repeat of 1 s at steps of 100 ms would otherwise be 10 % off. The first step is waited for with
    runs going on, which also brings clocks and temperature to those of continuous work.

    Args:
        run: One inference, finished when it returns.
        counter: Of the device that it runs on.
        seconds: Of all repeats together; below 0.5 s for each, steps begin to show.
        repeats: Parts that the spread is taken over.
        clock: Seconds.

    Raises:
        ValueError: `seconds` is not above 0, or `repeats` is below 1.
        TargetError: The counter does not move.
    """
    if seconds <= 0 or repeats < 1:
        raise ValueError(
            f"seconds must be above 0 and repeats at least 1, got {seconds=}, {repeats=}"
        )
    runs_a_chunk = _runs_in(SECONDS_BETWEEN_READINGS, run, clock)
    start_mj, _ = _run_to_step(run, counter, runs_a_chunk, 0.0, clock)
    energies_mj, n_runs = [], 0
    for _ in range(repeats):
        end_mj, n = _run_to_step(run, counter, runs_a_chunk, seconds / repeats, clock)
        energies_mj.append((end_mj - start_mj) / n)
        start_mj = end_mj
        n_runs += n
    return _summary(energies_mj, n_runs)


def _summary(energies_mj: Sequence[float], n_runs: int) -> EnergyPerRun:
    median_mj = float(np.median(energies_mj))
    return EnergyPerRun(median_mj, (max(energies_mj) - min(energies_mj)) / median_mj, n_runs)


def _runs_in(seconds: float, run: Callable[[], object], clock: Callable[[], float]) -> int:
    """How many runs fill that time, 1 at least."""
    run()
    start, n_runs = clock(), 0
    while clock() - start < seconds:
        run()
        n_runs += 1
    return max(1, n_runs)


def _run_to_step(
    run: Callable[[], object],
    counter: EnergyCounter,
    runs_a_chunk: int,
    seconds: float,
    clock: Callable[[], float],
) -> tuple[float, int]:
    """Run for `seconds`, and on until the counter moves; what it shows then, and the runs."""
    before_mj, start, moved_at, n_runs = counter.read_mj(), clock(), clock(), 0
    while True:
        for _ in range(runs_a_chunk):
            run()
        n_runs += runs_a_chunk
        now_mj, now = counter.read_mj(), clock()
        if now_mj != before_mj:
            if now - start >= seconds:
                return now_mj, n_runs
            before_mj, moved_at = now_mj, now
        elif now - moved_at > MAX_STEP_SECONDS:
            raise TargetError(
                f"the energy counter stood still for {now - moved_at:.1f} s of work: it does not "
                f"count on this machine, so the energy of a run is not known here"
            )
