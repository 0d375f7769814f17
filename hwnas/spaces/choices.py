"""Choices, what may be chosen together, and functions of choices as arrays.

A function of the choices is run for every combination of those that it reads, once; after that it
is an array, and a million genotypes are a look-up. Which choices it reads is found by running it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import HwnasError

__all__ = [
    "BoolArray",
    "Choice",
    "Constraint",
    "Genotype",
    "GenotypeArray",
    "Option",
    "SlotTable",
    "SpaceError",
    "distinct_rows",
    "tabulate",
]

Option = int | float | str | bool
Genotype = tuple[int, ...]
GenotypeArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
MAX_SLOT_COMBINATIONS = 1_000_000


class SpaceError(HwnasError, ValueError):
    """A genotype is none of the space, or the space has none (or too many) to give."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision: a name and its options, in an order that means something (small to large).

    Raises:
        ValueError: There is no option, two are equal, or numbers do not ascend.
    """

    name: str
    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise ValueError(
                f"options of {self.name!r} must be distinct and at least one, got {self.options}"
            )
        numbers = [o for o in self.options if isinstance(o, int | float)]
        if len(numbers) == len(self.options) and numbers != sorted(numbers):
            raise ValueError(
                f"options of {self.name!r} are numbers and must ascend, so that neighbours are "
                f"alike: {tuple(sorted(numbers))}, got {self.options}"
            )

    def index(self, option: object) -> int | None:
        """Position of `option`; None if it is no option (`true` is not 1, but 1.0 is)."""
        is_bool = isinstance(option, bool)
        for i, known in enumerate(self.options):
            if known == option and isinstance(known, bool) == is_bool:
                return i
        return None


@dataclass(frozen=True, slots=True)
class Constraint:
    """What choices must have in common, by a name that messages can use.

    A constraint that reads an inactive choice does not apply to that genotype: what does not exist
    breaks no rule. So "every layer is at least as wide as the one before" may simply read the
    layers that there are, and need not know what an absent one is set to.

    Attributes:
        name: Such as `widths never shrink`.
        holds: From the options by name to whether they may stand together.
    """

    name: str
    holds: Callable[[Mapping[str, Any]], bool]


class _Recorder(Mapping[str, Any]):
    """A mapping that remembers which of its keys were read."""

    def __init__(self, values: Mapping[str, Any], reader: str) -> None:
        self._values = values
        self._reader = reader
        self.read: list[str] = []

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            raise KeyError(
                f"{self._reader} reads {name!r}, which is no choice of the space "
                f"(choices: {', '.join(self._values)})"
            )
        if name not in self.read:
            self.read.append(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class SlotTable:
    """All that a function of the choices can return, as an array over the choices that it reads.

    Attributes:
        columns: Positions in the genotype of the choices that are read, `(k,)`.
        sizes: Number of options of each, `(k,)`.
        values: The distinct results.
        index: Which result each combination gives, shape `sizes`.
        reads: Whether column j was read for that combination, shape `sizes + (k,)`.
    """

    columns: tuple[int, ...]
    sizes: tuple[int, ...]
    values: tuple[Any, ...]
    index: NDArray[np.int64]
    reads: BoolArray

    def flat(self, genotypes: GenotypeArray) -> NDArray[np.int64]:
        """Position of each genotype in the flattened `index`, `(n,)`."""
        flat = np.zeros(len(genotypes), dtype=np.int64)
        for column, size in zip(self.columns, self.sizes, strict=True):
            flat = flat * size + genotypes[:, column]
        return flat

    def lookup(self, genotypes: GenotypeArray) -> NDArray[np.int64]:
        """Index into `values` for each genotype, `(n,)`."""
        return self.index.reshape(-1)[self.flat(genotypes)]

    def reads_of(self, genotypes: GenotypeArray) -> BoolArray:
        """Which of `columns` were read for each genotype, `(n, k)`."""
        return self.reads.reshape(self.index.size, len(self.columns))[self.flat(genotypes)]


def tabulate(
    function: Callable[[Mapping[str, Any]], Any],
    choices: tuple[Choice, ...],
    *,
    reader: str = "a slot",
) -> SlotTable:
    """Run `function` for every combination of the choices that it reads.

    The reads are discovered: whenever a run reads a choice not seen before, all of its options
    are tried too, until no run reads anything new.

    Args:
        function: From the options by name to anything hashable.
        choices: All of the space.
        reader: What messages call the function.

    Raises:
        KeyError: It reads what is no choice.
        ValueError: It reads too much to be run for every combination.
    """
    names = [choice.name for choice in choices]
    known: list[str] = []
    while True:
        results: list[tuple[Any, list[str]]] = []
        axes = [choices[names.index(name)].options for name in known]
        if math.prod(map(len, axes)) > MAX_SLOT_COMBINATIONS:
            raise ValueError(
                f"{reader} depends on {len(known)} choices with more than "
                f"{MAX_SLOT_COMBINATIONS:,} combinations ({', '.join(known)}); "
                f"split it into several"
            )
        first = {choice.name: choice.options[0] for choice in choices}
        new: list[str] = []
        for values in product(*axes):
            recorder = _Recorder(first | dict(zip(known, values, strict=True)), reader)
            results.append((function(recorder), recorder.read))
            new += [name for name in recorder.read if name not in known and name not in new]
        if not new:
            break
        known += new
    sizes = tuple(len(axis) for axis in axes)
    distinct: dict[Any, int] = {}
    index = [distinct.setdefault(value, len(distinct)) for value, _ in results]
    reads = [[name in read for name in known] for _, read in results]
    return SlotTable(
        columns=tuple(names.index(name) for name in known),
        sizes=sizes,
        values=tuple(distinct),
        index=np.array(index, dtype=np.int64).reshape(sizes),
        reads=np.array(reads, dtype=bool).reshape((*sizes, len(known))),
    )


def distinct_rows(genotypes: GenotypeArray) -> GenotypeArray:
    """The rows without repetitions, in the order of their first occurrence."""
    first: dict[bytes, int] = {}
    for i, row in enumerate(genotypes):
        first.setdefault(row.tobytes(), i)
    return genotypes[list(first.values())]
