"""Data sets of tables: scikit-learn's, and CSV files."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hwnas.data.folders import PARTS, check_parts
from hwnas.data.sizes import max_text_bytes
from hwnas.data.splits import DataSet, Split, class_names_of, class_numbers, three_splits
from hwnas.errors import DataError
from profilers.limited import read_bytes

if TYPE_CHECKING:
    import pandas as pd

LABEL = "label"
MAX_CLASS_SHARE = 0.5  # of the rows; more distinct labels than that are no classes


def load_bundled(name: str) -> DataSet:
    """A table that scikit-learn brings: `breast-cancer`, `wine` or `iris`."""
    from sklearn import datasets

    loaders: dict[str, Callable[[], Any]] = {
        "breast-cancer": datasets.load_breast_cancer,
        "wine": datasets.load_wine,
        "iris": datasets.load_iris,
    }
    bunch = loaders[name]()
    inputs = torch.from_numpy(bunch.data.astype(np.float32))
    whole = Split(inputs, torch.from_numpy(bunch.target.astype(np.int64)))
    train, validation, test = three_splits({"train": whole})
    return DataSet(name, train, validation, test, tuple(map(str, bunch.target_names)))


def load_csv(name: str, path: Path) -> DataSet:
    """A CSV file with a header, or a folder of `train.csv`, `test.csv`, optional `validation.csv`.

    The class is in the column `label`, or else in the last; all others must hold numbers.
    """
    frames = read_frames(name, path)
    train = frames["train"]
    label = LABEL if LABEL in train.columns else str(train.columns[-1])
    features = [column for column in train.columns if column != label]
    if not features:
        raise DataError(f"{name}: {path} has one column only; features and a class are needed")
    labels = {
        part: labels_of(f"{name}, {part}", frame, label, features, decides=part == "train")
        for part, frame in frames.items()
    }
    class_names = class_names_of(labels["train"])
    splits = {
        part: Split(
            _numbers(f"{name}, {part}", frame, features),
            class_numbers(f"{name}, {part}", labels[part], class_names),
        )
        for part, frame in frames.items()
    }
    return DataSet(name, *three_splits(splits), class_names)


def read_frames(name: str, path: Path) -> Mapping[str, pd.DataFrame]:
    """The CSV files of a source by the split that they hold; only `train`: it has one file.

    Raises:
        DataError: A file is missing or no CSV.
    """

    files = {"train": path}
    if path.is_dir():
        files = {PARTS[p.stem]: p for p in sorted(path.glob("*.csv")) if p.stem in PARTS}
        check_parts(path, set(files), "CSV files")
    frames = {}
    for part, file in files.items():
        try:
            frames[part] = _frame(read_bytes(file, max_text_bytes()))
        except OSError as error:
            raise DataError(f"{name}: cannot read {file}: {error.strerror or error}") from None
        except ValueError as error:  # of pandas: no columns, no CSV, no UTF-8
            reason = " ".join(str(error).split())
            raise DataError(f"{name}: {file} is no CSV file with a header: {reason}") from None
        if frames[part].empty:
            raise DataError(f"{name}: {file} has a header but no rows")
    return frames


def _frame(content: bytes) -> pd.DataFrame:
    """A table in which, among words, only what is empty is missing: None and NA may be classes."""
    import pandas as pd

    frame = pd.read_csv(io.BytesIO(content))
    words = [
        str(name)
        for name, column in frame.items()
        if column.isna().any() and not pd.api.types.is_numeric_dtype(column)
    ]
    if words:
        as_written = pd.read_csv(
            io.BytesIO(content), usecols=words, keep_default_na=False, na_values=[""]
        )
        frame[words] = as_written[words]
    return frame


def labels_of(
    where: str, frame: pd.DataFrame, label: str, others: list[str], *, decides: bool = True
) -> list[str]:
    """The class of each row, as text.

    Args:
        where: What a message names.
        frame: One part of the data.
        label: Column of the classes.
        others: Columns that there must be beside it.
        decides: Whether these rows are enough to tell classes from numbers; a few are not.

    Raises:
        DataError: A column is missing, a label is empty, or they are no classes.
    """
    missing = [column for column in (*others, label) if column not in frame.columns]
    if missing:
        raise DataError(
            f"{where}: no column {missing[0]!r}; there are {', '.join(map(str, frame.columns))}"
        )
    column = frame[label]
    if column.isna().any():
        row = int(np.flatnonzero(column.isna())[0])
        raise DataError(f"{where}: {label!r} is empty in row {row}; every row needs its class")
    is_fraction = column.dtype.kind == "f" and bool((column % 1 != 0).any())
    is_various = decides and column.nunique() > max(2, MAX_CLASS_SHARE * len(column))
    if is_fraction or is_various:
        raise DataError(
            f"{where}: column {label!r} holds {column.nunique()} distinct values in {len(column)} "
            f"rows, which are no classes (values to be predicted as numbers are not supported); "
            f"call the column of the classes {LABEL!r}"
        )
    if column.dtype.kind == "f":
        column = column.astype(np.int64)
    return [str(value) for value in column]


def _numbers(where: str, frame: pd.DataFrame, features: list[str]) -> torch.Tensor:
    table = frame[features]
    for column in features:
        if table[column].dtype.kind not in "biuf":
            raise DataError(
                f"{where}: column {column!r} holds {table[column].iloc[0]!r}, which is no number; "
                f"write numbers in its place, or leave the column out"
            )
        if table[column].isna().any():
            row = int(np.flatnonzero(table[column].isna())[0])
            raise DataError(
                f"{where}: column {column!r} is empty in row {row}; fill it in or remove the row"
            )
    return torch.from_numpy(table.to_numpy(dtype=np.float32, copy=True))
