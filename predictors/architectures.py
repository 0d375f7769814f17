"""What a table says about architectures, as numbers, and how alike two of them are.

Nothing is assumed of the columns' meaning: neither a graph nor which choices matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from predictors.errors import PredictorError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

KERNELS = ("totals", "choices", "smooth totals", "all choices")
MAX_CATEGORIES, N_BINS = 32, 8
MAX_OPTIONS = 256  # of a column of text
MIN_OVERLAP = 0.5  # shared options over all options, from which on two columns count together
LIKENESS = 3.0  # architectures that differ in every column are alike by exp(-3)


@dataclass(frozen=True)
class ArchitectureFeatures:
    """n architectures as arrays; the order of rows is the order of the table.

    Attributes:
        totals: How often each option is chosen over the columns that offer it, and the counts
            that the table gives, such as macs; centred, mean squared length 1. `(n, p)`.
        choices: Every column one-hot, centred, mean squared length 1. `(n, q)`.
        codes: Every column one-hot, 0 or 1. `(n, q)`.
        n_columns: Columns that were given as choices.
    """

    totals: FloatArray
    choices: FloatArray
    codes: FloatArray
    n_columns: int

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def from_columns(
        cls, choices: Mapping[str, ArrayLike], given: Mapping[str, ArrayLike] | None = None
    ) -> ArchitectureFeatures:
        """Read columns of equal length n.

        Args:
            choices: By name, the option chosen: text or numbers; a missing one is an option, too. A
                column of numbers with more than `MAX_CATEGORIES` values is taken as a quantity: in
                bins, and as it is.
            given: By name, counts that are known of each architecture, such as macs and params.

        Raises:
            PredictorError: There is no column of choices, a count is missing, or a column of text
                has more than `MAX_OPTIONS` values, as one that names each row does.
        """
        if not choices:
            raise PredictorError("at least one column of choices is needed to tell rows apart")
        columns, quantities, offered = [], [], []
        for name, values in choices.items():
            names, codes, quantity = _options(name, pd.Series(np.asarray(values)))
            if quantity is not None:
                quantities.append(quantity)
            columns.append(np.asarray(codes[:, None] == np.arange(len(names)), np.float64))
            offered.append(names)
        totals = _count(columns, offered)
        unit = float(totals.std(axis=0).mean()) if totals.size else 1.0
        for name, values in (given or {}).items():
            quantities.append(_finite(name, values))
        for quantity in quantities:
            spread = float(quantity.std())
            if spread > 0:
                scaled = (quantity - quantity.mean()) / spread * (unit or 1.0)
                totals = np.column_stack([totals, scaled])
        one_hot: FloatArray = np.concatenate(columns, axis=1)
        return cls(_normalised(totals), _normalised(one_hot), one_hot, len(columns))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What `from_arrays` needs; `n_columns` is told apart."""
        return {"totals": self.totals, "codes": self.codes.astype(np.uint8)}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], *, n_columns: int
    ) -> ArchitectureFeatures:
        """Rebuild from `to_arrays`, bit for bit.

        Raises:
            KeyError, ValueError: The arrays were not written by it.
        """
        totals = np.asarray(arrays["totals"], np.float64)
        codes = np.asarray(arrays["codes"], np.float64)
        if totals.ndim != 2 or codes.ndim != 2 or len(totals) != len(codes) or n_columns < 1:
            raise ValueError("the arrays do not describe architectures")
        if not np.isin(codes, (0.0, 1.0)).all() or (codes.sum(axis=1) != n_columns).any():
            raise ValueError("a row does not have one choice in each column")
        return cls(totals, _normalised(codes), codes, n_columns)

    def kernels(self, rows_a: IntArray, rows_b: IntArray) -> FloatArray:
        """How alike architectures are in the senses of `KERNELS`, `(4, a, b)`, about 1 for equal.

        Linear in totals; linear in single choices; any smooth function of totals; any function of
        all choices together, nearer for architectures that share more of them.
        """
        a, b = self.totals[rows_a], self.totals[rows_b]
        linear = a @ b.T
        squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1)
        differ = self.n_columns - self.codes[rows_a] @ self.codes[rows_b].T
        return np.stack([
            linear,
            self.choices[rows_a] @ self.choices[rows_b].T,
            np.exp(linear - squares / 2),
            np.exp(differ * (-LIKENESS / self.n_columns)),
        ])  # fmt: skip

    def self_kernels(self) -> FloatArray:
        """Of every architecture with itself: the diagonals of `kernels`, `(4, n)`."""
        ones = np.ones(len(self))
        squares = (np.square(self.totals).sum(1), np.square(self.choices).sum(1))
        return np.stack([*squares, ones, ones])


def _options(name: str, values: pd.Series[Any]) -> tuple[list[str], IntArray, FloatArray | None]:
    """Of one column the options, which of them each row has, and the quantity if it is one."""
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > MAX_CATEGORIES:
        known = values.dropna()
        quantity = _finite(name, values.fillna(known.mean()))
        values = pd.qcut(values, N_BINS, labels=False, duplicates="drop")
    else:
        quantity = None
        if not pd.api.types.is_numeric_dtype(values):
            values = values.where(values.isna(), values.astype(str))
    codes, found = pd.factorize(values, sort=True, use_na_sentinel=False)
    if len(found) > MAX_OPTIONS:
        raise PredictorError(
            f"column {name!r} has {len(found):,} different values, {MAX_OPTIONS} at most are "
            f"options of a choice; rename it if it describes whole architectures"
        )
    return [_text(option) for option in found], np.asarray(codes, np.int64), quantity


def _text(option: Any) -> str:
    """The same for 3, and for 3.0 of a column in which others are missing."""
    if pd.isna(option):
        return "missing"
    is_whole = isinstance(option, float) and option.is_integer()
    return str(int(option) if is_whole else option)


def _finite(name: str, values: ArrayLike) -> FloatArray:
    quantity = np.asarray(values, dtype=np.float64)
    if not np.isfinite(quantity).all():
        raise PredictorError(f"column {name!r} has missing or infinite values")
    return quantity


def _count(columns: Sequence[FloatArray], offered: Sequence[Sequence[str]]) -> FloatArray:
    """Per set of columns that offer much the same options: how often each is chosen, `(n, p)`."""
    sets: list[tuple[set[str], list[int]]] = []
    for i, options in enumerate(offered):
        for known, members in sets:
            if len(known & set(options)) > MIN_OVERLAP * len(known | set(options)):
                known.update(options)
                members.append(i)
                break
        else:
            sets.append((set(options), [i]))
    totals = []
    for known, members in sets:
        if len(members) < 2:
            continue  # a count over one column is the column itself
        for option in sorted(known):
            chosen = [columns[i][:, offered[i].index(option)] for i in members
                      if option in offered[i]]  # fmt: skip
            totals.append(np.sum(chosen, axis=0))
    return np.column_stack(totals) if totals else np.zeros((len(columns[0]), 0))


def _normalised(features: FloatArray) -> FloatArray:
    """Centred, with a mean squared length of 1."""
    centred: FloatArray = features - features.mean(axis=0)
    length = float(np.square(centred).sum(axis=1).mean()) if centred.size else 0.0
    return centred / np.sqrt(length) if length > 0 else centred
