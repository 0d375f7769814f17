"""Files of supernets: weights, and of an unfinished training all that it needs to go on.

A file is one of `hwnas/weight_files.py`. It says of its tensors: `version`, `space` (its
fingerprint), `data` (that of what it was trained on; None: not told) and `training`, which is None
or holds `identity`, `step` (steps done) and `losses` (since the last check). Tensors of the
optimizer are named `optimizer/PARAMETER/WHAT`, averages of weights `average/NAME`; the others are
the supernet's weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hwnas.errors import RunFolderError
from hwnas.spaces.base import SearchSpace
from hwnas.supernet.supernet import Supernet
from hwnas.weight_files import WeightFileError, pack_weights, read_weights

VERSION = 2
OPTIMIZER, AVERAGE = "optimizer/", "average/"


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands.

    Attributes:
        identity: Tells trainings apart: by data, recipe, seed and subnets.
        step: Steps done.
        losses: Of the steps since the loss was last checked.
        optimizer: Its state of each parameter, by the parameter's name and by what it is.
        average: Of the weights, by name; empty where none is kept.
    """

    identity: str
    step: int
    losses: list[float]
    optimizer: dict[str, dict[str, torch.Tensor]]
    average: dict[str, torch.Tensor]


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
    tensors, told = dict(supernet.state_dict()), None
    if training is not None:
        tensors |= _named(training.optimizer)
        tensors |= {f"{AVERAGE}{name}": mean for name, mean in training.average.items()}
        told = {
            "identity": training.identity,
            "step": training.step,
            "losses": training.losses,
        }
    about = {
        "version": VERSION,
        "space": supernet.space.fingerprint,
        "data": data,
        "training": told,
    }
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(pack_weights(tensors, about))
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise RunFolderError(f"cannot write {path}: {error}") from None


def load_supernet(space: SearchSpace, path: Path, *, data: str | None = None) -> Supernet:
    """The supernet of `space` with the weights of a file, or where it averages them the average.

    The training may be finished or not.

    Args:
        space: Of the supernet.
        path: Of the file.
        data: Fingerprint of the data that it should have been trained on; None: of any.

    Raises:
        RunFolderError: The file cannot be read, or is of another space or other data.
    """
    supernet = Supernet(space)
    training = restore(supernet, path, data=data)
    if training is not None and training.average:
        try:
            supernet.load_state_dict(supernet.state_dict() | training.average)
        except (RuntimeError, TypeError) as error:
            raise RunFolderError(f"{path} does not fit the space's blocks: {error}") from None
    return supernet


def restore(supernet: Supernet, path: Path, *, data: str | None = None) -> TrainingState | None:
    """Give `supernet` the weights of a file; returns the state of its training, if it has one.

    Raises:
        RunFolderError: The file cannot be read, or is of another space or other data.
    """
    try:
        tensors, about = read_weights(path)
    except OSError as error:
        raise RunFolderError(
            f"cannot read the supernet {path}: {error.strerror or error}"
        ) from None
    except WeightFileError as error:
        raise RunFolderError(f"cannot read the supernet {path}: {error}") from None
    if about.get("version") != VERSION or about.get("space") != supernet.space.fingerprint:
        raise RunFolderError(
            f"{path} holds the weights of another space than {supernet.space.name!r} for this "
            f"data, or was written by another version; train again, into another file"
        )
    if data is not None and about.get("data") not in (data, None):
        raise RunFolderError(
            f"{path} holds weights that were trained on other data than these; train again, into "
            f"another file"
        )
    try:
        training = _training(about.get("training"), tensors)
        supernet.load_state_dict(
            {k: value for k, value in tensors.items() if not k.startswith((OPTIMIZER, AVERAGE))}
        )
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        raise RunFolderError(f"{path} does not fit the space's blocks: {error}") from None
    return training


def _named(optimizer: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The tensors of an optimizer's state by name."""
    return {
        f"{OPTIMIZER}{parameter}/{what}": value
        for parameter, values in optimizer.items()
        for what, value in values.items()
    }


def _training(
    told: Mapping[str, Any] | None, tensors: Mapping[str, torch.Tensor]
) -> TrainingState | None:
    """Where the training stands; None: it is over.

    Raises:
        LookupError, TypeError, ValueError: That was never written.
    """
    if told is None:
        return None
    optimizer: dict[str, dict[str, torch.Tensor]] = {}
    average: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        if name.startswith(OPTIMIZER):
            parameter, _, what = name.removeprefix(OPTIMIZER).rpartition("/")
            optimizer.setdefault(parameter, {})[what] = value
        elif name.startswith(AVERAGE):
            average[name.removeprefix(AVERAGE)] = value
    losses = [float(loss) for loss in told["losses"]]
    return TrainingState(str(told["identity"]), int(told["step"]), losses, optimizer, average)
