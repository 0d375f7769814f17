"""How long and how much memory an evaluation may take, and what a process has taken."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Limits", "TimeLimit", "default_memory_bytes", "machine_memory_bytes", "resident_bytes"]

LARGE_FACTOR = 20.0  # a training that takes so many times the usual has hung
FLOOR_S = 300.0
PATIENCE_S = 3600.0  # without a sign of life, as long as nobody knows what is usual
N_USUAL = 3  # trainings that tell what is usual
MEMORY_SHARE = 0.8  # of the machine's, for all workers together
_CGROUPS = (
    Path("/sys/fs/cgroup/memory.max"),  # version 2
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),  # version 1
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one evaluation may take.

    Attributes:
        seconds: Of the wall clock; None: see `TimeLimit`.
        memory_bytes: Of one worker process, all that it holds; None: see `default_memory_bytes`.
    """

    seconds: float | None = None
    memory_bytes: int | None = None


class TimeLimit:
    """After which time an evaluation has hung.

    What was asked for, if something was; else 20 times the median of the evaluations that ended,
    and at least five minutes. As long as fewer than three have ended there is no such limit, only
    patience: an hour without progress is a hang.

    Args:
        seconds: What was asked for.
        past_s: What whole evaluations took in earlier calls of the same search.

    Example:
        >>> limit = TimeLimit(past_s=[30.0, 20.0, 40.0])
        >>> limit.seconds(1.0), limit.seconds(0.1)
        (600.0, 300.0)
        >>> print(TimeLimit().seconds(1.0))
        None
    """

    def __init__(self, seconds: float | None = None, *, past_s: Iterable[float] = ()) -> None:
        self._asked_s = seconds
        self._past_s = list(past_s)

    def note(self, seconds: float, share: float) -> None:
        """Take note of an evaluation with a share of the training that ended well."""
        self._past_s.append(seconds / share)

    def seconds(self, share: float) -> float | None:
        """For an evaluation with a share of the training; None: patience decides."""
        if self._asked_s is not None:
            return self._asked_s
        if len(self._past_s) < N_USUAL:
            return None
        return max(FLOOR_S, LARGE_FACTOR * share * statistics.median(self._past_s))


def default_memory_bytes(n_workers: int) -> int | None:
    """What one of so many workers may hold: its part of 80 % of the machine's memory.

    None: this system does not say how much it has.
    """
    total = machine_memory_bytes()
    return None if total is None else int(MEMORY_SHARE * total / n_workers)


def machine_memory_bytes() -> int | None:
    """Memory of the machine, or of the container that this process is in; None: not known."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return None
    for path in _CGROUPS:
        try:
            total = min(total, int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total


def resident_bytes(pid: int) -> int | None:
    """Memory that a process holds and does not share with a file; None: not known, or it ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    sizes = [fields[name] for name in ("RssAnon", "RssShmem") if name in fields]
    return sum(1024 * int(size.split()[0]) for size in sizes) if sizes else None
