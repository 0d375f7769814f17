"""How large files of data may be: what is read lies in memory, some of it twice."""

from __future__ import annotations

from pathlib import Path

from hwnas.executors.limits import machine_memory_bytes
from profilers.limited import check_size

__all__ = ["check_text_size", "max_array_bytes"]

ARRAY_SHARE, TEXT_SHARE = 0.5, 0.1  # of the memory; numbers as text grow when they are read
UNKNOWN_BYTES = 2**34  # taken for the memory of a machine that does not tell


def max_array_bytes() -> int:
    """Most bytes of the arrays of one file, unpacked."""
    return int(ARRAY_SHARE * _memory_bytes())


def check_text_size(path: Path) -> None:
    """Make sure that a file of text or of numbers as text fits into memory.

    Raises:
        OSError: It does not, or it is not there.
    """
    check_size(path, int(TEXT_SHARE * _memory_bytes()))


def _memory_bytes() -> int:
    return machine_memory_bytes() or UNKNOWN_BYTES
