"""How large files of data may be: what is read lies in memory, some of it twice."""

from __future__ import annotations

from hwnas.executors.limits import machine_memory_bytes

__all__ = ["max_array_bytes", "max_text_bytes"]

# Of the memory: arrays are copied, numbers as text grow when they are read.
ARRAY_SHARE, TEXT_SHARE = 0.25, 0.1
UNKNOWN_BYTES = 2**34  # taken for the memory of a machine that does not tell


def max_array_bytes() -> int:
    """Most bytes of the arrays of one file, unpacked."""
    return int(ARRAY_SHARE * _memory_bytes())


def max_text_bytes() -> int:
    """Most bytes of a file of texts, or of numbers as text, unpacked."""
    return int(TEXT_SHARE * _memory_bytes())


def _memory_bytes() -> int:
    return machine_memory_bytes() or UNKNOWN_BYTES
