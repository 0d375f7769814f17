"""Which blocks can stand at each slot of a space, and on which input: without listing genotypes.

The slots are walked with a set of states: the shape that has come so far, and the options of those
choices that a later slot reads too. So only what can stand together is met: a block of width 1.0
never on the output of one of width 0.5, where one choice decides both. Constraints between choices
are not looked at: then some of what is met may stand in no valid network.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations as pairs_of
from itertools import product

import numpy as np
import torch

from hwnas.networks import example
from hwnas.spaces.base import Block, InputType, SearchSpace, Shape, SlotTable, SpaceError
from hwnas.supernet.shared_weights import Layout, layouts

# Of slots that can hold more blocks, only so many are looked at that every option is met beside
# every option of each other choice.
MAX_BLOCKS = 200
MAX_STEPS = 10_000  # a slot: of more, some states are left out

_Options = tuple[tuple[int, int], ...]  # (position in the genotype, option), sorted


@dataclass(frozen=True, slots=True)
class Site:
    """A block and what it is given there.

    Attributes:
        block: What stands there.
        in_shape: Of one example.
        input_type: Of its values.
    """

    block: Block
    in_shape: Shape
    input_type: InputType


@dataclass(frozen=True, slots=True)
class Probe:
    """What a block's module is at a site.

    Attributes:
        out_shape: Of one example.
        parameters: Name, class of the layer, and layout of each.
    """

    out_shape: Shape
    parameters: tuple[tuple[str, str, Layout], ...]


@dataclass(frozen=True)
class Reach:
    """What a walk over a space has met.

    Attributes:
        sites: Of each slot, in the order in which they were met.
        keeping: Choices by position of which no option changes the shape that any slot hands on,
            and that no constraint reads.
        is_complete: False: the space was too large to look at everything.
    """

    sites: tuple[tuple[Site, ...], ...]
    keeping: frozenset[int]
    is_complete: bool


@lru_cache(maxsize=100_000)
def probe(site: Site) -> Probe:
    """Build the block, and run one example of zeros through it.

    That is faster than on the meta device, where each operation is traced in Python.

    Raises:
        SpaceError: The block does not fit what it is given.
    """
    try:
        with torch.random.fork_rng(devices=()), torch.inference_mode():
            module = site.block.build(site.in_shape).eval()
            y = module(example(site.in_shape, site.input_type))
    except RuntimeError as error:
        raise SpaceError(
            f"{site.block} does not fit an input of shape {site.in_shape}: {error}"
        ) from error
    return Probe(tuple(y.shape[1:]), tuple(layouts(module)))


def reach(space: SearchSpace) -> Reach:
    """Walk the slots of `space`.

    Raises:
        SpaceError: A block does not fit what it is given.
    """
    tables = space.slot_tables
    read_later: list[frozenset[int]] = [frozenset()]
    for table in reversed(tables):
        read_later.insert(0, read_later[0] | set(table.columns))
    states, changing, is_complete = _inputs(space, read_later[0])
    met = []
    for table, later in zip(tables, read_later[1:], strict=True):
        sites: dict[Site, None] = {}
        after: dict[_State, None] = {}
        handed_on: dict[tuple[Shape, InputType, tuple[int, ...]], _Value] = {}
        states, are_all = _thinned(states, table)
        is_complete = is_complete and are_all
        for state in states:
            combinations, are_all = _combinations(table, dict(state.options))
            is_complete = is_complete and are_all
            for combination in combinations:
                block = table.values[table.index[combination]]
                value = _Value(state.shape, state.input_type)
                if block is not None:
                    site = Site(block, state.shape, state.input_type)
                    try:
                        value = _Value(probe(site).out_shape, "float32")
                    except ValueError:
                        if space.constraints:  # it may be what they rule out
                            continue
                        raise
                    sites[site] = None
                handed_on[state.shape, state.input_type, combination] = value
                options = dict(state.options) | dict(zip(table.columns, combination, strict=True))
                kept = tuple(sorted((c, o) for c, o in options.items() if c in later))
                after[_State(kept, value.shape, value.input_type)] = None
        if not is_complete:
            sites |= dict.fromkeys(_missed(table, states))
        met.append(tuple(sites))
        changing |= _changing(table, handed_on)
        states = list(after)
    for table in space.constraint_tables:
        changing.update(table.columns)
    return Reach(tuple(met), frozenset(range(len(space.choices))) - changing, is_complete)


@dataclass(frozen=True, slots=True)
class _Value:
    shape: Shape
    input_type: InputType


@dataclass(frozen=True, slots=True)
class _State:
    options: _Options
    shape: Shape
    input_type: InputType


def _inputs(space: SearchSpace, later: frozenset[int]) -> tuple[list[_State], set[int], bool]:
    """The states before the first slot, and the choices that change the input's shape."""
    table = space.input_table
    combinations, are_all = _combinations(table, {})
    states: dict[_State, None] = {}
    for combination in combinations:
        shape = table.values[table.index[combination]]
        options = zip(table.columns, combination, strict=True)
        kept = tuple(sorted((c, o) for c, o in options if c in later))
        states[_State(kept, shape, space.input_type)] = None
    changing = {
        column for axis, column in enumerate(table.columns) if np.ptp(table.index, axis=axis).any()
    }
    return list(states), changing, are_all


def _combinations(
    table: SlotTable, fixed: Mapping[int, int]
) -> tuple[Iterable[tuple[int, ...]], bool]:
    """Option indices of the table's choices that agree with `fixed`; whether those are all."""
    ranges: list[Sequence[int]] = [
        (fixed[column],) if column in fixed else range(size)
        for column, size in zip(table.columns, table.sizes, strict=True)
    ]
    n_free = sum(len(options) > 1 for options in ranges)
    if len(table.values) <= MAX_BLOCKS or n_free <= 1:
        return product(*ranges), True
    return _covering(ranges), False


def _missed(table: SlotTable, states: Iterable[_State]) -> Iterator[Site]:
    """What may stand on the shapes that have come, where not all states could be kept.

    Not all of it has to fit: choices that depend on each other are taken apart.
    """
    for shape, input_type in dict.fromkeys((s.shape, s.input_type) for s in states):
        for combination in _covering([range(size) for size in table.sizes]):
            block = table.values[table.index[combination]]
            if block is None:
                continue
            site = Site(block, shape, input_type)
            with contextlib.suppress(ValueError):
                probe(site)
                yield site


def _covering(ranges: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """All first options, all last ones, and all pairs of options beside random other ones."""
    rng = np.random.default_rng(0)
    found = dict.fromkeys([tuple(r[0] for r in ranges), tuple(r[-1] for r in ranges)])
    for i, j in pairs_of(range(len(ranges)), 2):
        for first, second in product(ranges[i], ranges[j]):
            options = [int(rng.choice(r)) for r in ranges]
            options[i], options[j] = first, second
            found[tuple(options)] = None
    return list(found)


def _thinned(states: list[_State], table: SlotTable) -> tuple[list[_State], bool]:
    """As many as can be looked at, with every option and shape that is among them; whether all."""
    combinations, _ = _combinations(table, dict(states[0].options))
    n_kept = max(1, MAX_STEPS // sum(1 for _ in combinations))
    if len(states) <= n_kept:
        return states, True
    order = np.random.default_rng(0).permutation(len(states) - 2) + 1
    known: set[object] = set()
    needed: list[_State] = []
    others: list[_State] = []
    for state in (states[0], states[-1], *(states[i] for i in order)):
        found: set[object] = {state.shape, *state.options}
        if found <= known:
            others.append(state)
        else:
            needed.append(state)
            known |= found
    return [*needed, *others][: max(n_kept, len(needed))], False


def _changing(
    table: SlotTable, handed_on: Mapping[tuple[Shape, InputType, tuple[int, ...]], _Value]
) -> set[int]:
    """The choices of a slot of which some option changes what it hands on."""
    changing = set()
    for axis, column in enumerate(table.columns):
        found: dict[tuple[object, ...], set[_Value]] = defaultdict(set)
        for (shape, input_type, options), value in handed_on.items():
            others = (*options[:axis], *options[axis + 1 :])
            found[shape, input_type, others].add(value)
        if any(len(values) > 1 for values in found.values()):
            changing.add(column)
    return changing
