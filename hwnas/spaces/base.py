"""Search spaces: choices, and slots that turn them into blocks.

A space is data. Its `choices` are what a genotype decides; its `slots` are ordinary functions from
those decisions to one block each (or None: no block there). Everything else — sampling, canonical
form, the torch network, ONNX, the cost table — is derived.

Which choices a slot reads is found by running it, not declared: `SlotTable` records the names.
So a choice that no slot reads, given the others (the kernel size of a block that a smaller depth
removed), is inactive, and genotypes that differ only there share one canonical form.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import product
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Option = int | float | str | bool
Shape = tuple[int, ...]
Genotype = tuple[int, ...]
GenotypeArray = NDArray[np.int64]
MAX_SLOT_COMBINATIONS = 1_000_000


@runtime_checkable
class Block(Protocol):
    """A frozen dataclass that knows how to build its `nn.Module` for a given input shape."""

    def __hash__(self) -> int:
        """Frozen dataclasses have it: equal blocks are built, exported and priced once."""

    def build(self, in_shape: Shape) -> Any:
        """Return the `nn.Module` for an input of `in_shape`, `(channels, height, width)`.

        It must not begin with an activation or a normalisation: runtimes fuse those into whatever
        stands before, and the cost table would not see them.
        """


Slot = Callable[[Mapping[str, Any]], Block | None]


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision: a name and its options, in an order that means something (small to large)."""

    name: str
    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise ValueError(
                f"options of {self.name!r} must be distinct and at least one, got {self.options}"
            )


@dataclass(frozen=True)
class Architecture:
    """What a genotype describes: the input's shape and the blocks in order, nothing else.

    Two genotypes with the same architecture are the same network.
    """

    input_shape: Shape  # (channels, height, width)
    blocks: tuple[Block, ...]

    def to_json(self) -> str:
        """Readable, stable text: the blocks by class name and fields."""
        blocks = [{"block": type(b).__name__} | asdict(b) for b in self.blocks]  # type: ignore[call-overload]
        return json.dumps({"input_shape": self.input_shape, "blocks": blocks})

    def summary(self) -> str:
        """One block a line, the fields that it was built with."""
        lines = [f"input {'×'.join(map(str, self.input_shape))}"]
        for block in self.blocks:
            values = (f"{f.name}={getattr(block, f.name)}" for f in fields(block))  # type: ignore[arg-type]
            lines.append(f"{type(block).__name__}({', '.join(values)})")
        return "\n".join(lines)


class _Recorder(Mapping[str, Any]):
    """A mapping that remembers which of its keys were read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.read: list[str] = []

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            raise KeyError(
                f"a slot reads {name!r}, which is no choice of the space "
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
    reads: NDArray[np.bool_]

    def flat(self, genotypes: GenotypeArray) -> NDArray[np.int64]:
        """Position of each genotype in the flattened `index`, `(n,)`."""
        flat = np.zeros(len(genotypes), dtype=np.int64)
        for column, size in zip(self.columns, self.sizes, strict=True):
            flat = flat * size + genotypes[:, column]
        return flat

    def lookup(self, genotypes: GenotypeArray) -> NDArray[np.int64]:
        """Index into `values` for each genotype, `(n,)`."""
        return self.index.reshape(-1)[self.flat(genotypes)]


def tabulate(
    function: Callable[[Mapping[str, Any]], Any],
    choices: tuple[Choice, ...],
) -> SlotTable:
    """Run `function` for every combination of the choices that it reads.

    The reads are discovered: whenever a run reads a choice not seen before, all of its options
    are tried too, until no run reads anything new.
    """
    names = [choice.name for choice in choices]
    known: list[str] = []
    while True:
        results: list[tuple[Any, list[str]]] = []
        axes = [choices[names.index(name)].options for name in known]
        if math.prod(map(len, axes)) > MAX_SLOT_COMBINATIONS:
            raise ValueError(
                f"a slot depends on {len(known)} choices with more than "
                f"{MAX_SLOT_COMBINATIONS:,} combinations ({', '.join(known)}); "
                f"split it into smaller slots"
            )
        first = {choice.name: choice.options[0] for choice in choices}
        new: list[str] = []
        for values in product(*axes):
            recorder = _Recorder(first | dict(zip(known, values, strict=True)))
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


@dataclass(frozen=True)
class SearchSpace:
    """Choices, and the functions from them to the input's shape and to one block a slot.

    Attributes:
        name: What `--space` calls it.
        choices: The decisions; a genotype holds one option index for each.
        input_shape: From the choices to `(channels, height, width)`.
        slots: From the choices to a block or None, in the order of the network.
    """

    name: str
    choices: tuple[Choice, ...]
    input_shape: Callable[[Mapping[str, Any]], Shape]
    slots: tuple[Slot, ...]

    def __post_init__(self) -> None:
        names = [choice.name for choice in self.choices]
        if len(set(names)) != len(names):
            raise ValueError(f"names of choices must be distinct, got {names}")

    @cached_property
    def n_options(self) -> tuple[int, ...]:
        """Number of options of each choice; genotypes lie in their product."""
        return tuple(len(choice.options) for choice in self.choices)

    @cached_property
    def size(self) -> int:
        """Number of genotypes; equivalent ones counted each."""
        return math.prod(self.n_options)

    @cached_property
    def input_table(self) -> SlotTable:
        """`input_shape` for every combination of the choices that it reads."""
        return tabulate(self.input_shape, self.choices)

    @cached_property
    def slot_tables(self) -> tuple[SlotTable, ...]:
        """Each slot for every combination of the choices that it reads."""
        return tuple(tabulate(slot, self.choices) for slot in self.slots)

    def options(self, genotype: Genotype) -> dict[str, Option]:
        """The chosen options by name."""
        return {
            c.name: c.options[i] for c, i in zip(self.choices, self.check(genotype), strict=True)
        }

    def check(self, genotype: Genotype) -> Genotype:
        """Return `genotype` as plain integers, or raise ValueError with what is wrong."""
        if len(genotype) != len(self.choices) or not all(
            0 <= int(i) < n for i, n in zip(genotype, self.n_options, strict=False)
        ):
            raise ValueError(
                f"a genotype of {self.name!r} has {len(self.choices)} indices below "
                f"{self.n_options}, got {tuple(genotype)}"
            )
        return tuple(int(i) for i in genotype)

    def architecture(self, genotype: Genotype) -> Architecture:
        """The network that the genotype describes."""
        options = self.options(genotype)
        blocks = (slot(options) for slot in self.slots)
        return Architecture(self.input_shape(options), tuple(b for b in blocks if b is not None))

    def sample(self, rng: np.random.Generator, n: int) -> GenotypeArray:
        """Draw genotypes uniformly, `(n, len(choices))`; not in canonical form."""
        return rng.integers(0, self.n_options, size=(n, len(self.choices)), dtype=np.int64)

    def canonical(self, genotypes: GenotypeArray) -> GenotypeArray:
        """Set the choices that are not read to 0, `(n, len(choices))`.

        Genotypes with equal rows afterwards describe the same architecture.
        """
        active = np.zeros(genotypes.shape, dtype=bool)
        for table in (self.input_table, *self.slot_tables):
            reads = table.reads.reshape(table.index.size, len(table.columns))[table.flat(genotypes)]
            for j, column in enumerate(table.columns):
                active[:, column] |= reads[:, j]
        return np.where(active, genotypes, 0)
