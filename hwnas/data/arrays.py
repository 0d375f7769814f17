"""Data sets of arrays: NPZ files, and what a user's function returns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hwnas import user_code
from hwnas.data.folders import PARTS, check_parts
from hwnas.data.kinds import WHAT_IS_NEEDED
from hwnas.data.sizes import max_array_bytes
from hwnas.data.splits import DataSet, Split, check_split, three_splits
from hwnas.errors import DataError


def to_inputs(where: str, array: NDArray[Any]) -> torch.Tensor:
    """Examples of one of the kinds from an array of them; copied.

    Four axes are images. Three are signals `(n, channels, length)`, but grey images
    `(n, height, width)` if they hold bytes or are square. Two are token ids if they hold integers,
    rows of a table if floats.

    Raises:
        DataError: Beginning with `where`: it is none of those.
    """
    # In C order: what a user's function returned may be read-only, or change later.
    values = np.array(array, order="C")
    if values.ndim == 3 and (values.dtype == np.uint8 or values.shape[1] == values.shape[2]):
        values = values[:, None]
    if values.ndim == 4 and values.shape[3] in (1, 3) and values.shape[1] not in (1, 3):
        raise DataError(
            f"{where}: images of shape {values.shape} look like (n, H, W, C); return "
            f"(n, C, H, W), that is images.transpose(0, 3, 1, 2)"
        )
    is_integer = np.issubdtype(values.dtype, np.integer)
    if np.issubdtype(values.dtype, np.floating) or (values.ndim == 3 and is_integer):
        values = values.astype(np.float32, copy=False)  # integer signals are samples of a recorder
    elif values.ndim == 2 and is_integer:
        values = values.astype(np.int64, copy=False)
    elif values.ndim == 4 and values.dtype != np.uint8:
        raise DataError(f"{where}: images must be uint8 or floats, got {values.dtype}")
    elif values.dtype != np.uint8:
        raise DataError(f"{where}: expected {WHAT_IS_NEEDED}; got {values.shape}, {values.dtype}")
    return torch.from_numpy(values)


def to_labels(where: str, array: NDArray[Any]) -> torch.Tensor:
    """Class numbers `(n,)`, int64, copied.

    Raises:
        DataError: Beginning with `where`: they are no integers.
    """
    labels = np.array(array, order="C")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{where}: labels must be integers, got {labels.dtype}")
    return torch.from_numpy(labels.astype(np.int64, copy=False))


def load_npz(name: str, path: Path) -> DataSet:
    """Arrays of a file of `numpy.savez`; nothing in it is unpickled.

    Either `inputs` and `labels`, or for train, test and, optional, validation `PART_inputs` and
    `PART_labels`. `classes`, optional, are the names of the classes.
    """
    try:
        # Opened here: numpy leaves a file that is no archive open.
        with path.open("rb") as raw:
            loaded = np.load(raw, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("it holds a single array without a name")
            n_bytes = sum(member.file_size for member in loaded.zip.infolist())
            if n_bytes > max_array_bytes():  # a small file may unpack to anything
                raise ValueError(
                    f"it unpacks to {n_bytes:,} bytes, but no more than {max_array_bytes():,} are "
                    f"read with the memory of this machine"
                )
            arrays = {key: loaded[key] for key in loaded.files}
    except Exception as error:  # of zipfile, zlib and NumPy: they share no other base
        raise DataError(
            f"{name}: cannot read {path}: {error}; write it by numpy.savez, with arrays of numbers"
        ) from None
    classes = arrays.pop("classes", None)
    parts: dict[str, dict[str, NDArray[Any]]] = {}
    for key, array in arrays.items():
        stem, _, what = key.rpartition("_")
        if what not in ("inputs", "labels") or (stem and stem not in PARTS):
            raise DataError(
                f"{name}: unknown array {key!r}; expected inputs and labels, or train_inputs, "
                f"train_labels, test_inputs, ..."
            )
        part = PARTS[stem or "train"]
        parts.setdefault(part, {})[what] = array
    splits = {}
    for part, found in parts.items():
        if found.keys() != {"inputs", "labels"}:
            raise DataError(f"{name}: {part} has {', '.join(found)}; both inputs and labels needed")
        splits[part] = _split(f"{name}, {part}", found["inputs"], found["labels"])
    if set(splits) != {"train"}:
        check_parts(path, set(splits), "arrays")
    return _data_set(name, splits, classes)


def _split(where: str, inputs: NDArray[Any], labels: NDArray[Any]) -> Split:
    split = Split(to_inputs(where, inputs), to_labels(where, labels))
    check_split(where, split)
    return split


def _data_set(name: str, splits: Mapping[str, Split], classes: Any) -> DataSet:
    if classes is None:
        classes = range(int(splits["train"].labels.max()) + 1)
    train, validation, test = three_splits(splits)
    return DataSet(name, train, validation, test, tuple(map(str, classes)))


def load_function(name: str) -> DataSet:
    """What the function that `name` refers to returns: see `load_data`."""
    function = user_code.load_function(name, DataError)
    with user_code.user_errors(name, DataError):
        returned = function()
        if isinstance(returned, DataSet):
            return returned
        if not isinstance(returned, (tuple, list)) or len(returned) not in (2, 3):
            raise DataError(
                f"{name}: must return (train, test) or (train, validation, test), "
                f"got {_describe(returned)}"
            )
        splits = [_to_split(f"{name}, part {i}", part) for i, part in enumerate(returned)]
    names = getattr(returned[0], "classes", None)  # torchvision's data sets have it
    parts = ("train", "test") if len(splits) == 2 else ("train", "validation", "test")
    return _data_set(name, dict(zip(parts, splits, strict=True)), names)


def _describe(value: object) -> str:
    length = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    return f"{type(value).__name__}{length}"


def _to_split(where: str, part: Any) -> Split:
    """Read a pair of arrays, or every item of a torch `Dataset`."""
    if isinstance(part, (tuple, list)) and len(part) == 2:
        return _split(where, *part)
    if not (hasattr(part, "__getitem__") and hasattr(part, "__len__")):
        raise DataError(
            f"{where}: expected a torch Dataset of (input, label) with a length, or a pair of "
            f"arrays (inputs, labels), got {_describe(part)}"
        )
    items = [part[i] for i in range(len(part))]
    examples = [_example(value) for value, _ in items]
    shapes = sorted({example.shape for example in examples})
    if len(shapes) != 1:
        raise DataError(f"{where}: needs examples of one shape, got {shapes[:5] or 'none'}")
    return _split(where, np.stack(examples), np.array([int(label) for _, label in items]))


def _example(value: Any) -> NDArray[Any]:
    """An item's input as an array; Pillow's images come channels last."""
    array = np.asarray(value)
    return np.moveaxis(array, 2, 0) if hasattr(value, "getbands") and array.ndim == 3 else array
