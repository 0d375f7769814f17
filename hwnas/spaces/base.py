"""Search spaces: choices, and slots that turn them into blocks.

A space is data. Its `choices` are what a genotype decides; its `slots` are ordinary functions from
those decisions to one block each (or None: no block there); its `constraints` say which decisions
may stand together. Everything else — sampling, variation, canonical form, JSON, the torch network,
ONNX, the cost table — is derived.

Which choices a slot reads is found by running it, not declared: `SlotTable` records the names.
So a choice that no slot reads, given the others (the kernel size of a block that a smaller depth
removed), is inactive, and genotypes that differ only there share one canonical form.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from hwnas.spaces import genotype_json, variation
from hwnas.spaces.architecture import Architecture, Block, InputType, Shape, Slot
from hwnas.spaces.choices import (
    BoolArray,
    Choice,
    Constraint,
    Genotype,
    GenotypeArray,
    Option,
    SlotTable,
    SpaceError,
    distinct_rows,
    tabulate,
)
from hwnas.spaces.fingerprint import space_fingerprint

__all__ = [
    "MAX_LISTED",
    "Architecture",
    "Block",
    "Choice",
    "Constraint",
    "Genotype",
    "GenotypeArray",
    "InputType",
    "Option",
    "SearchSpace",
    "Shape",
    "Slot",
    "SlotTable",
    "SpaceError",
    "tabulate",
]

MAX_LISTED = 2**20  # genotypes of a space that can be listed whole
CHUNK = 2**15  # genotypes of such a space that are looked at together
MAX_REDRAWS = 64  # of a genotype that violates a constraint, before choices of it are changed
N_MENDED = 64  # genotypes at least that are tried to be mended: among so many one should be lucky


@dataclass(frozen=True)
class SearchSpace:
    """Choices, and the functions from them to the input's shape and to one block a slot.

    Arrays of genotypes are `(n, len(choices))`, option indices. A genotype is *valid* if it
    violates no constraint; all that is drawn, varied or listed here is.

    Attributes:
        name: What `--space` calls it.
        choices: The decisions; a genotype holds one option index for each.
        input_shape: From the choices to the shape of one example.
        slots: From the choices to a block or None, in the order of the network.
        input_type: Of the examples' values.
        constraints: What the choices of a genotype must have in common.
    """

    name: str
    choices: tuple[Choice, ...]
    input_shape: Callable[[Mapping[str, Any]], Shape]
    slots: tuple[Slot, ...]
    input_type: InputType = field(default="float32", kw_only=True)
    constraints: tuple[Constraint, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        for what, named in (("choices", self.choices), ("constraints", self.constraints)):
            names = [item.name for item in named]
            if len(set(names)) != len(names):
                raise ValueError(f"names of {what} must be distinct, got {names}")

    @cached_property
    def n_options(self) -> tuple[int, ...]:
        """Number of options of each choice; genotypes lie in their product."""
        return tuple(len(choice.options) for choice in self.choices)

    @cached_property
    def size(self) -> int:
        """Number of genotypes; equivalent ones counted each, and those that are not valid too."""
        return math.prod(self.n_options)

    @cached_property
    def n_architectures(self) -> int | None:
        """Number of distinct networks; None if the space is too large to list."""
        if self.size > MAX_LISTED:
            return None
        rows = self.all_genotypes()
        ids: dict[Block, int] = {}
        slots = np.zeros((len(rows), len(self.slots)), dtype=np.int64)  # 0: no block
        for column, table in zip(slots.T, self.slot_tables, strict=True):
            values = [0 if v is None else ids.setdefault(v, len(ids) + 1) for v in table.values]
            column[:] = np.array(values)[table.lookup(rows)]
        # The same blocks in the same order are one network, whichever slots they come from.
        order = np.argsort(slots == 0, axis=1, kind="stable")
        blocks = np.take_along_axis(slots, order, axis=1)
        inputs = self.input_table.lookup(rows)
        return len(np.unique(np.column_stack([inputs, blocks]), axis=0))

    @cached_property
    def fingerprint(self) -> str:
        """Tells spaces apart by all that they can make, not by name; as `space_fingerprint`."""
        return space_fingerprint(self)

    @cached_property
    def key(self) -> str:
        """Tells measurements of its networks from those of a space of that name for other data."""
        described: list[object] = [
            [[choice.name, choice.options] for choice in self.choices],
            list(self.input_table.values),
        ]
        if self.input_type != "float32":
            described.append(self.input_type)
        return f"{self.name}-{hashlib.sha256(json.dumps(described).encode()).hexdigest()[:12]}"

    @cached_property
    def input_table(self) -> SlotTable:
        """`input_shape` for every combination of the choices that it reads."""
        return tabulate(self.input_shape, self.choices, reader="input_shape")

    @cached_property
    def slot_tables(self) -> tuple[SlotTable, ...]:
        """Each slot for every combination of the choices that it reads."""
        # A function that fills several slots (a cell that is repeated) is run through once.
        tables: dict[Slot, SlotTable] = {}
        for i, slot in enumerate(self.slots):
            if slot not in tables:
                tables[slot] = tabulate(slot, self.choices, reader=f"slot {i}")
        return tuple(tables[slot] for slot in self.slots)

    @cached_property
    def constraint_tables(self) -> tuple[SlotTable, ...]:
        """Each constraint for every combination of the choices that it reads."""
        return tuple(
            tabulate(partial(_holds, c), self.choices, reader=f"constraint {c.name!r}")
            for c in self.constraints
        )

    def options(self, genotype: Genotype) -> dict[str, Option]:
        """The chosen options by name."""
        return self._named(self.check(genotype))

    def _named(self, genotype: Genotype) -> dict[str, Option]:
        return {c.name: c.options[i] for c, i in zip(self.choices, genotype, strict=True)}

    def check(self, genotype: Genotype) -> Genotype:
        """Return `genotype` as plain integers.

        Raises:
            SpaceError: It has a wrong length or index, or violates a constraint; which.
        """
        if len(genotype) != len(self.choices) or not all(
            0 <= int(i) < n for i, n in zip(genotype, self.n_options, strict=False)
        ):
            raise SpaceError(
                f"a genotype of {self.name!r} has {len(self.choices)} indices below "
                f"{self.n_options}, got {tuple(genotype)}"
            )
        checked = tuple(int(i) for i in genotype)
        row = np.array([checked], dtype=np.int64)
        violated = self.violations(row)[0]
        if violated.any():
            first = int(violated.argmax())
            table = self.constraint_tables[first]
            columns = np.array(table.columns, dtype=np.int64)[table.reads_of(row)[0]]
            named = list(self._named(checked).items())
            told = ", ".join(f"{name}={option!r}" for name, option in (named[c] for c in columns))
            raise SpaceError(
                f"a genotype of {self.name!r} must meet the constraint "
                f"{self.constraints[first].name!r}, got {told}"
            )
        return checked

    def architecture(self, genotype: Genotype) -> Architecture:
        """The network that the genotype describes."""
        options = self.options(genotype)
        blocks = (slot(options) for slot in self.slots)
        present = tuple(block for block in blocks if block is not None)
        return Architecture(self.input_shape(options), present, self.input_type)

    def to_json(self, genotype: Genotype) -> str:
        """The options of the active choices by name, as `{"depth": 2, …}`."""
        options = self.options(genotype)
        is_active = self.active(np.array([genotype], dtype=np.int64))[0]
        return genotype_json.written(options, is_active)

    def from_json(self, text: str) -> Genotype:
        """The canonical genotype of such JSON; inactive choices may be missing.

        Raises:
            SpaceError: It is no such JSON; names a choice or an option that does not exist, leaves
                out an active choice, or violates a constraint.
        """
        genotype, is_missing = genotype_json.read(text, self.choices)
        row = np.array([genotype], dtype=np.int64)
        genotype_json.check_complete(self.choices, is_missing & self.active(row)[0])
        return self.check(tuple(self.canonical(row)[0].tolist()))

    def active(self, genotypes: GenotypeArray) -> BoolArray:
        """Which choices the input's shape or a block depends on, `(n, len(choices))`."""
        active = np.zeros(genotypes.shape, dtype=bool)
        for table in (self.input_table, *self.slot_tables):
            reads = table.reads_of(genotypes)
            for j, column in enumerate(table.columns):
                active[:, column] |= reads[:, j]
        return active

    def canonical(self, genotypes: GenotypeArray) -> GenotypeArray:
        """Set the choices that are not read to 0, `(n, len(choices))`.

        Genotypes with equal rows afterwards describe the same architecture.
        """
        return np.where(self.active(genotypes), genotypes, 0)

    def violations(self, genotypes: GenotypeArray) -> BoolArray:
        """Which constraints each genotype violates, `(n, len(constraints))`.

        Equivalent genotypes violate the same: see `Constraint` on inactive choices.
        """
        violated = np.zeros((len(genotypes), len(self.constraints)), dtype=bool)
        for i, table in enumerate(self.constraint_tables):
            holds = np.array(table.values, dtype=bool)
            violated[:, i] = ~holds[table.lookup(genotypes)]
            # Where it does not hold, whether it applies.
            rows = np.flatnonzero(violated[:, i])
            reads = table.reads_of(genotypes[rows])
            for j, column in enumerate(table.columns):
                is_absent = reads[:, j] & ~self._is_active(column, genotypes[rows])
                violated[rows[is_absent], i] = False
        return violated

    def _is_active(self, column: int, genotypes: GenotypeArray) -> BoolArray:
        """Whether the input's shape or a block depends on one of the choices, `(n,)`."""
        is_active = np.full(len(genotypes), column in self._always_active)
        if column not in self._always_active:
            for table in (self.input_table, *self.slot_tables):
                if column in table.columns:
                    is_active |= table.reads_of(genotypes)[:, table.columns.index(column)]
        return is_active

    @cached_property
    def _always_active(self) -> frozenset[int]:
        """The choices that are active in every genotype."""
        return frozenset(
            column
            for table in (self.input_table, *self.slot_tables)
            for j, column in enumerate(table.columns)
            if table.reads[..., j].all()
        )

    def is_valid(self, genotypes: GenotypeArray) -> BoolArray:
        """Which genotypes violate no constraint, `(n,)`."""
        is_valid: BoolArray = np.logical_not(self.violations(genotypes).any(axis=1))
        return is_valid

    def sample(self, rng: np.random.Generator, n: int) -> GenotypeArray:
        """Draw valid genotypes uniformly, `(n, len(choices))`; not in canonical form.

        Where valid ones are so rare that redrawing finds too few, choices of the others are changed
        until they are valid (`repair`): then some are likelier than others.

        Raises:
            SpaceError: No valid genotype was found; of a small space: there is none.
        """
        drawn = self._draw(rng, n)
        invalid = np.flatnonzero(~self.is_valid(drawn))
        for _ in range(MAX_REDRAWS):
            if not len(invalid):
                return drawn
            drawn[invalid] = self._draw(rng, len(invalid))
            invalid = invalid[~self.is_valid(drawn[invalid])]
        if len(invalid):
            found = self._found_by_repair(rng, len(invalid))
            drawn[invalid] = found[np.arange(len(invalid)) % len(found)]
        return drawn

    def _draw(self, rng: np.random.Generator, n: int) -> GenotypeArray:
        return rng.integers(0, self.n_options, size=(n, len(self.choices)), dtype=np.int64)

    def _found_by_repair(self, rng: np.random.Generator, n: int) -> GenotypeArray:
        """Some valid genotypes, `(k, len(choices))`, 0 < k; k < n where they are hard to find."""
        drawn = self._draw(rng, max(n, N_MENDED))
        mended, is_valid = self.repair(drawn, rng)
        if is_valid.any():
            return mended[is_valid]
        is_small = self.size <= MAX_LISTED
        listed = self.all_genotypes() if is_small else drawn[:0]
        if len(listed):
            return listed
        shares = self.violations(drawn).mean(axis=0)
        worst = int(shares.argmax())
        tried = (
            f"none of its {self.size:,} genotypes" if is_small else f"none of {len(drawn)} tried"
        )
        raise SpaceError(
            f"the space {self.name!r} has no valid genotype, or hardly any: {tried} meets its "
            f"constraints ({', '.join(c.name for c in self.constraints)}). Loosen "
            f"{self.constraints[worst].name!r}, which {100 * shares[worst]:.0f} % violate"
        )

    def repair(
        self, genotypes: GenotypeArray, rng: np.random.Generator
    ) -> tuple[GenotypeArray, BoolArray]:
        """Change few choices of those that are not valid so that they are, where that succeeds.

        Returns:
            `(n, len(choices))`, and which of them are valid now, `(n,)`.
        """
        return variation.repair(genotypes, self.n_options, self.violations, self._allowed, rng)

    @cached_property
    def _allowed(self) -> list[variation.Allowed]:
        """What each constraint allows the choices that it reads to be together."""
        return [
            (table.columns, np.argwhere(np.array(table.values, dtype=bool)[table.index]))
            for table in self.constraint_tables
        ]

    def mutate(self, genotypes: GenotypeArray, rng: np.random.Generator) -> GenotypeArray:
        """Children of valid genotypes, valid again: about two choices of each are changed.

        Half of the changes go to a neighbour in the order of the options; the other half to any
        option. A child that cannot be made valid by changing few more choices is its parent.
        """
        children = variation.mutate(genotypes, self.n_options, rng)
        return self._valid_children(children, genotypes, rng)

    def crossover(
        self, first: GenotypeArray, second: GenotypeArray, rng: np.random.Generator
    ) -> GenotypeArray:
        """Children of pairs of valid genotypes, valid again: each choice is from one of the two.

        A child that is not valid is changed as `repair` does, or else is its first parent.
        """
        return self._valid_children(variation.crossover(first, second, rng), first, rng)

    def _valid_children(
        self, children: GenotypeArray, parents: GenotypeArray, rng: np.random.Generator
    ) -> GenotypeArray:
        if not self.constraints:
            return children
        mended, is_valid = self.repair(children, rng)
        return np.where(is_valid[:, None], mended, parents)

    def neighbours(self, genotype: Genotype) -> GenotypeArray:
        """All other valid networks one option away, `(n, len(choices))`, canonical and distinct.

        Choices that become active (of layers that a larger depth adds) have their first option.
        """
        own = self.canonical(np.array([self.check(genotype)], dtype=np.int64))
        variants = np.repeat(own, sum(self.n_options), axis=0)
        columns = np.repeat(np.arange(len(self.choices)), self.n_options)
        options = [option for n in self.n_options for option in range(n)]
        variants[np.arange(len(variants)), columns] = options
        found = self.canonical(variants)
        return distinct_rows(found[(found != own).any(axis=1) & self.is_valid(found)])

    def all_genotypes(self) -> GenotypeArray:
        """The canonical valid genotypes, each once, in lexicographic order, `(n, len(choices))`.

        Raises:
            SpaceError: The space is too large to be listed.
        """
        if self.size > MAX_LISTED:
            raise SpaceError(
                f"the space {self.name!r} has {self.size:,} genotypes, too many to list (more than "
                f"{MAX_LISTED:,}); draw from it by `sample`"
            )
        parts = []
        for start in range(0, self.size, CHUNK):
            rest = np.arange(start, min(start + CHUNK, self.size))
            rows = np.empty((len(rest), len(self.choices)), dtype=np.int64)
            for column in reversed(range(len(self.choices))):
                rest, rows[:, column] = np.divmod(rest, self.n_options[column])
            rows = rows[(self.canonical(rows) == rows).all(axis=1)]
            parts.append(rows[self.is_valid(rows)])
        return np.concatenate(parts)


def _holds(constraint: Constraint, options: Mapping[str, Any]) -> bool:
    return bool(constraint.holds(options))
