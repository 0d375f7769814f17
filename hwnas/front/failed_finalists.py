"""Finalists that could not be trained: `weights/NAME.failed` in a run folder holds the reason."""

from __future__ import annotations

from pathlib import Path

from profilers.limited import TEXT_BYTES, read_bytes

__all__ = ["WEIGHTS", "failure_path", "read_failure", "read_failures"]

WEIGHTS, ENDING = "weights", ".failed"


def failure_path(folder: Path, name: str) -> Path:
    """Where a run folder says why a network could not be trained."""
    return folder / WEIGHTS / f"{name}{ENDING}"


def read_failure(path: Path) -> str | None:
    """Why a network could not be trained; None: nobody tried, or it was."""
    try:
        return read_bytes(path, TEXT_BYTES).decode("utf-8", "replace")
    except OSError:
        return None


def read_failures(folder: Path) -> dict[str, str]:
    """The reasons by name of the network, sorted; empty where all were trained."""
    found = {
        path.name.removesuffix(ENDING): read_failure(path)
        for path in sorted((folder / WEIGHTS).glob(f"*{ENDING}"))
    }
    return {name: reason for name, reason in found.items() if reason is not None}
