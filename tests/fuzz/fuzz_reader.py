"""What a reader of files from strangers is, and what it must do.

A file may be wrong in any way. Then there is one of our errors with a message; never another
exception, a crash, or a wait of seconds.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hwnas.errors import HwnasError
from predictors.errors import PredictorError
from profilers.errors import ProfilerError

OURS = (HwnasError, ProfilerError, PredictorError)


@dataclass(frozen=True)
class Reader:
    """Something that reads a file.

    Attributes:
        read: Called with its path.
        seeds: Contents of good files.
        suffix: Of the file's name.
        is_slow: It takes tenths of seconds, and is fuzzed with a tenth of the files.
    """

    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    suffix: str = ""
    is_slow: bool = False


def check(reader: Reader, content: bytes, folder: Path) -> bool:
    """Read a file of that content; whether it was taken. Any but our own errors is raised."""
    path = folder / f"file{reader.suffix}"
    path.write_bytes(content)
    try:
        reader.read(path)
    except OURS as error:
        if not str(error).strip():
            raise ValueError("an error that says nothing") from error
        return False
    finally:
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return True
