"""Files of supernets: weights, and of an unfinished training all that it needs to go on.

A file is what `torch.save` writes of plain data: `version`, `space` (its fingerprint), `data` (that
of what it was trained on; None: not told), `weights` (by name) and `training`, which is None or
holds `identity`, `step` (steps done), `losses` (since the last check) and `optimizer`. It is read
with `weights_only=True`: nothing in it is executed.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from hwnas.errors import RunFolderError
from hwnas.spaces.base import SearchSpace
from hwnas.supernet.supernet import Supernet

VERSION = 1
# All of these were seen when torch reads a file with bytes changed or missing.
_DAMAGED = (EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError, UnpicklingError)


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands.

    Attributes:
        identity: Tells trainings apart: by data, recipe, seed and subnets.
        step: Steps done.
        losses: Of the steps since the loss was last checked.
        optimizer: Its `state_dict`.
    """

    identity: str
    step: int
    losses: list[float]
    optimizer: dict[str, Any]


def save_supernet(
    supernet: Supernet,
    path: Path,
    *,
    data: str | None = None,
    training: TrainingState | None = None,
) -> None:
    """Write the weights, whole or not at all; `data` is the fingerprint of what they know.

    Raises:
        RunFolderError: The file cannot be written.
    """
    table = {
        "version": VERSION,
        "space": supernet.space.fingerprint,
        "data": data,
        "weights": supernet.state_dict(),
        "training": None if training is None else dict(vars(training)),
    }
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(table, part)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch raises the latter on a full disk
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise RunFolderError(f"cannot write {path}: {error}") from None


def load_supernet(space: SearchSpace, path: Path, *, data: str | None = None) -> Supernet:
    """The supernet of `space` with the weights of a file, finished or not.

    Args:
        space: Of the supernet.
        path: Of the file.
        data: Fingerprint of the data that it should have been trained on; None: of any.

    Raises:
        RunFolderError: The file cannot be read, or is of another space or other data.
    """
    supernet = Supernet(space)
    restore(supernet, path, data=data)
    return supernet


def restore(supernet: Supernet, path: Path, *, data: str | None = None) -> TrainingState | None:
    """Give `supernet` the weights of a file; returns the state of its training, if it has one.

    Raises:
        RunFolderError: The file cannot be read, or is of another space or other data.
    """
    try:
        table = torch.load(path, map_location=supernet.device, weights_only=True)
        version, space = table["version"], table["space"]
        weights, training = table["weights"], table["training"]
    except _DAMAGED as error:
        raise RunFolderError(
            f"cannot read the supernet {path}: it is missing or damaged ({type(error).__name__})"
        ) from None
    if version != VERSION or space != supernet.space.fingerprint:
        raise RunFolderError(
            f"{path} holds the weights of another space than {supernet.space.name!r} for this "
            f"data, or was written by another version; train again, into another file"
        )
    if data is not None and table.get("data") not in (data, None):
        raise RunFolderError(
            f"{path} holds weights that were trained on other data than these; train again, into "
            f"another file"
        )
    try:
        supernet.load_state_dict(weights)
        return None if training is None else TrainingState(**training)
    except (RuntimeError, TypeError) as error:
        raise RunFolderError(f"{path} does not fit the space's blocks: {error}") from None
