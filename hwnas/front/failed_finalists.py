"""Finalists that are left out, and why; what a run folder says of them lies beside the weights.

`weights/NAME.failed` holds why a network could not be trained, which is not tried again.
`weights/NAME.unusable` holds why a trained one has no model: its export differs, or the target
cannot run it. That is tried again by the next call, for it may be the target's fault.
"""

from __future__ import annotations

from pathlib import Path

from hwnas.errors import RunFolderError
from profilers.limited import TEXT_BYTES, read_bytes

__all__ = ["WEIGHTS", "failure_path", "note_unusable", "read_failure", "read_failures"]

WEIGHTS = "weights"
FAILED, UNUSABLE = ".failed", ".unusable"


def failure_path(folder: Path, name: str) -> Path:
    """Where a run folder says why a network could not be trained."""
    return folder / WEIGHTS / f"{name}{FAILED}"


def note_unusable(folder: Path, name: str, reason: str | None) -> None:
    """Write down why a trained network has no model; None: it has one.

    Raises:
        RunFolderError: The folder cannot be written.
    """
    path = folder / WEIGHTS / f"{name}{UNUSABLE}"
    try:
        if reason is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(reason, encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from None


def read_failure(path: Path) -> str | None:
    """Why a network is left out; None: nobody said so."""
    try:
        return read_bytes(path, TEXT_BYTES).decode("utf-8", "replace")
    except OSError:
        return None


def read_failures(folder: Path) -> dict[str, str]:
    """The reasons by name of the network, sorted; empty where none is left out."""
    paths = [
        path for ending in (FAILED, UNUSABLE) for path in (folder / WEIGHTS).glob(f"*{ending}")
    ]
    found = {path.stem: read_failure(path) for path in sorted(paths)}
    return {name: reason for name, reason in found.items() if reason is not None}
