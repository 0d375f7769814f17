"""Tables of architectures that somebody evaluated already, as a search problem.

A table has one row per architecture: columns that start with `op` say what was chosen, others hold
an accuracy, as a share or in percent, and a latency. A strategy sees the former only. What is not
in the table does not exist: it is over the only budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwnas import pareto
from hwnas.budget import Budget
from hwnas.errors import ConfigError, DataError, unknown_name
from hwnas.spaces.base import Choice, Genotype, GenotypeArray, SearchSpace, Shape
from hwnas.spaces.choices import BoolArray
from hwnas.strategies.base import Costs, Problem
from hwnas.strategies.proposals import as_genotype
from profilers.limited import TABLE_BYTES
from profilers.parquet import read_parquet

__all__ = ["SearchTable", "TableSpace", "read_search_table"]

FloatArray = NDArray[np.float64]
CHOICE_PREFIX = "op"
COST_SUFFIXES = ("_ms", "_mj")  # a device may be named so that its column begins like a choice
MAX_OPTIONS = 1024  # of a choice; what is all but different in every row describes nothing
REFERENCE = (0.9, 1.0)  # error, and latency scaled to [0, 1] over the table


@dataclass(frozen=True, eq=False)
class TableSpace(SearchSpace):
    """The choices of a table. It consists of the rows of it, and every choice counts.

    Attributes:
        rows: `(n, n_choices)`: the genotypes that exist.
    """

    rows: GenotypeArray

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def all_genotypes(self) -> GenotypeArray:
        """The rows in lexicographic order, `(n, n_choices)`."""
        ordered: GenotypeArray = self.rows[np.lexsort(self.rows.T[::-1])]
        return ordered

    def sample(self, rng: np.random.Generator, n: int) -> GenotypeArray:
        """Draw rows of the table uniformly, `(n, n_choices)`, with repetitions."""
        drawn: GenotypeArray = self.rows[rng.integers(len(self.rows), size=n)]
        return drawn

    def active(self, genotypes: GenotypeArray) -> BoolArray:
        """All choices, `(n, n_choices)`: what one of them does is not known here."""
        return np.ones(genotypes.shape, dtype=bool)


@dataclass(frozen=True, eq=False)
class SearchTable:
    """Architectures, and the two objectives of each.

    Attributes:
        space: Of the table's choices.
        error: 1 - accuracy, `(n,)`.
        latency_ms: In the unit of its column, `(n,)`, > 0.
    """

    space: TableSpace
    error: FloatArray
    latency_ms: FloatArray

    def __len__(self) -> int:
        return len(self.error)

    def row(self, genotype: Genotype) -> int | None:
        """Number of the row of an architecture; None if it is not in the table."""
        return self._index.get(np.array(genotype, dtype=np.int64).tobytes())

    def genotype(self, row: int) -> Genotype:
        """The architecture of a row."""
        return as_genotype(self.space.rows[row])

    def objectives(self, row: int) -> tuple[float, float]:
        """What evaluating a row gives: error and latency."""
        return float(self.error[row]), float(self.latency_ms[row])

    def problem(self, *, latency_is_known: bool) -> Problem:
        """The table as a strategy sees it.

        Args:
            latency_is_known: Predicted latency is the table's. Else it is NaN: not predicted.
        """
        limit_ms = float(self.latency_ms.max()) if latency_is_known else 1.0

        def predict(genotypes: GenotypeArray) -> Costs:
            found = [self._index.get(row.tobytes(), -1) for row in np.ascontiguousarray(genotypes)]
            rows = np.array(found, dtype=np.int64)
            exists = rows >= 0
            nothing = np.full(len(rows), np.nan)
            if latency_is_known:
                latency_ms = high_ms = np.where(exists, self.latency_ms[rows], np.nan)
            else:
                latency_ms, high_ms = nothing, np.where(exists, 0.0, np.nan)
            counts = np.zeros(len(rows), dtype=np.int64)
            return Costs(latency_ms, latency_ms, high_ms, exists.astype(np.float64), counts, counts)

        # NaN meets no budget, so this one leaves out what is not in the table, and nothing else.
        return Problem(self.space, predict, (Budget("latency_ms", limit_ms),))

    def hypervolume(self, rows: NDArray[np.int64]) -> float:
        """Hypervolume of some rows, as a share of that of the whole table."""
        found = pareto.hypervolume(self._scaled[rows], REFERENCE)
        return found / self._whole if found > 0 else 0.0

    def hypervolumes(self, rows: NDArray[np.int64]) -> FloatArray:
        """The same after each of the rows, in order, `(n,)`."""
        curve = np.empty(len(rows))
        front = np.empty(0, dtype=np.int64)
        for i, row in enumerate(rows):
            front = np.append(front, row)
            front = front[pareto.non_dominated(self._scaled[front])]
            is_new = front[-1:] == row
            curve[i] = self.hypervolume(front) if i == 0 or is_new.any() else curve[i - 1]
        return curve

    @cached_property
    def _index(self) -> dict[bytes, int]:
        return {row.tobytes(): i for i, row in enumerate(self.space.rows)}

    @cached_property
    def _scaled(self) -> FloatArray:
        low, high = self.latency_ms.min(), self.latency_ms.max()
        return np.column_stack([self.error, (self.latency_ms - low) / (high - low)])

    @cached_property
    def _whole(self) -> float:
        return pareto.hypervolume(self._scaled, REFERENCE)


def read_search_table(path: Path, *, accuracy: str, latency: str) -> SearchTable:
    """Read a table from Parquet; rows without one of the two values are left out.

    What a column of choices does not say of a row is an option of its own, below all others.
    Columns that say the same of all rows are no choices.

    Args:
        path: The file.
        accuracy: Column of accuracies, in [0, 1] or [0, 100].
        latency: Column of latencies, or of energies: any cost > 0.

    Raises:
        DataError: If the file cannot be read, or does not hold what was asked for.
        ConfigError: If there is no column of such a name, or one is to be both.
    """
    if accuracy == latency:
        raise ConfigError(f"accuracy and latency are two columns, got {accuracy!r} for both")
    try:
        # An index of pandas is a column like others here, and its types know gaps of their own.
        frame = read_parquet(path, TABLE_BYTES).to_pandas(ignore_metadata=True)
    except Exception as reason:  # of Arrow and pandas: they share no other base
        raise DataError(f"cannot read the table {path}: {reason}") from None
    choices = [
        name
        for name in map(str, frame.columns)
        if name.startswith(CHOICE_PREFIX)
        and not name.endswith(COST_SUFFIXES)
        and name not in (accuracy, latency)
    ]
    if not choices:
        raise DataError(
            f"{path} has no column that starts with {CHOICE_PREFIX!r}; those say what an "
            f"architecture is (columns: {', '.join(frame.columns)})"
        )
    others = [name for name in frame.columns if name not in choices]
    for name in (accuracy, latency):
        if name not in others:
            raise ConfigError(unknown_name("column", name, others))
    for name in (accuracy, latency):
        if not pd.api.types.is_numeric_dtype(frame[name]):
            raise DataError(f"column {name!r} of {path} holds {frame[name].dtype}, not numbers")
    frame = frame[[*choices, accuracy, latency]].replace([np.inf, -np.inf], np.nan)
    frame = frame.dropna(subset=[accuracy, latency])
    for name in choices:
        frame[name] = _options(frame[name], path)
    if frame[choices].duplicated().any():
        frame = frame.groupby(choices, as_index=False, sort=False).mean()  # repeated evaluations
    shares = frame[accuracy].to_numpy(np.float64)
    is_percent = len(shares) > 0 and shares.min() >= 0 and 1 < shares.max() <= 100
    error = 1.0 - (shares / 100 if is_percent else shares)
    latency_ms = frame[latency].to_numpy(np.float64)
    if len(frame) < 2 or not latency_ms.max() > latency_ms.min() > 0:
        raise DataError(f"column {latency!r} of {path} must be > 0 and differ between rows")
    if error.min() < 0 or error.max() > 1:
        raise DataError(
            f"column {accuracy!r} of {path} must hold shares in [0, 1] or percent in [0, 100], it "
            f"goes from {shares.min():g} to {shares.max():g}"
        )
    options = {name: sorted(frame[name].unique().tolist()) for name in choices}
    options = {name: values for name, values in options.items() if len(values) > 1} or options
    choices = list(options)
    longest = max(options.values(), key=len)
    is_one = (set(own) <= set(longest) and 2 * len(own) > len(longest) for own in options.values())
    if all(is_one):
        # The same choice at several places, of which a table need not hold every option.
        options = dict.fromkeys(choices, longest)
    spaces = [Choice(name, tuple(values)) for name, values in options.items()]
    columns = [np.searchsorted(np.array(options[n]), frame[n].to_numpy()) for n in choices]
    rows = np.ascontiguousarray(np.column_stack(columns), dtype=np.int64)
    space = TableSpace(path.stem, tuple(spaces), _no_input, (), rows)
    table = SearchTable(space, error, latency_ms)
    if not table.hypervolume(np.arange(len(table))) > 0:
        raise DataError(
            f"{path} has no row with an error below {REFERENCE[0]:g} that is not the slowest: "
            f"there is no front to find"
        )
    return table


def _options(column: pd.Series[Any], path: Path) -> pd.Series[Any]:
    """Values of a choice that can be compared with each other.

    Raises:
        DataError: They are too many for a choice.
    """
    if pd.api.types.is_numeric_dtype(column):
        options = column
        if column.isna().any():  # as floats: small unsigned integers have nothing below 0
            lowest = column.min()
            options = column.astype(np.float64).fillna(-1.0 if np.isnan(lowest) else lowest - 1.0)
    else:
        options = column.astype(object).where(column.notna(), "").map(str)
    if options.nunique() > MAX_OPTIONS:
        raise DataError(
            f"column {column.name!r} of {path} has {options.nunique():,} different values; a "
            f"choice has {MAX_OPTIONS:,} at most: leave it out, or name it otherwise"
        )
    return options


def _no_input(options: Any) -> Shape:
    return (1, 1, 1)
