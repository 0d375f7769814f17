"""Files that may be anyone's, read no further than a limit, whatever they announce.

What is too large is an `OSError` (`errno.EFBIG`), like a file that cannot be read for another
reason: whoever reports the one reports the other.
"""

from __future__ import annotations

import errno
import gzip
import zlib
from pathlib import Path

__all__ = ["TABLE_BYTES", "TEXT_BYTES", "check_size", "read_bytes", "read_text", "too_large"]

TEXT_BYTES = 64 * 2**20  # of what is read as JSON or TOML, by a parser that is slow
TABLE_BYTES = 2**30  # of a table, unpacked
_MIB = 2**20
_PART_BYTES = 2**22


def read_bytes(path: Path, limit: int) -> bytes:
    """What a file holds, unpacked if its name ends with `.gz`.

    Args:
        path: Of the file.
        limit: Most bytes that are taken.

    Raises:
        OSError: It cannot be read, is gzipped and damaged, or holds more.
    """
    content = bytearray()
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            # In parts: asked for all at once, Python makes room for all of the limit.
            while part := file.read(min(_PART_BYTES, limit + 1 - len(content))):
                content += part
    except (EOFError, zlib.error) as error:
        raise OSError(errno.EINVAL, f"what is packed in it is damaged: {error}") from None
    if len(content) > limit:
        raise too_large(limit)
    return bytes(content)


def read_text(path: Path, limit: int) -> str:
    """The same as text.

    Raises:
        OSError: As `read_bytes`.
        UnicodeDecodeError: It is no UTF-8.
    """
    return read_bytes(path, limit).decode("utf-8")


def check_size(path: Path, limit: int) -> None:
    """Make sure that a file which others will read is no larger.

    Raises:
        OSError: It is, or it is not there.
    """
    if path.stat().st_size > limit:
        raise too_large(limit)


def too_large(limit: int) -> OSError:
    """What is raised for a file that holds more than so many bytes."""
    size = f"{limit / _MIB:,.0f} MiB" if limit >= _MIB else f"{limit:,} bytes"
    return OSError(errno.EFBIG, f"it holds more than the {size} that are read of such a file")
