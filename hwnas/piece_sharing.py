"""Work that blocks share, on walks over many networks: it is paid for once.

A tensor that several blocks read has one activation, however many of them begin with it; and if
nothing else reads it, the runtime fuses that into the convolution that the tensor comes from. So
what is done to a tensor has its price when all of its readers are known. And two blocks may hand on
the same tensor, sums of the same two without weights, whose readers then are readers of one.

One thing is left out: where a sum is all that reads the output of a convolution in another block,
ONNX Runtime adds in that convolution, and here it is a kernel of its own. Of random networks of
`darts` a few in a hundred have one such sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hwnas.piece_graph import CLOSED, Border
from hwnas.piece_library import PieceLibrary
from hwnas.piece_values import Chain, Use
from hwnas.pieces import Piece, PieceKernels
from hwnas.spaces.base import Shape
from profilers.kernels import Kernel

Indices = NDArray[np.intp]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"Relu": nn.ReLU}  # that may be fused
_NONE, _NEW, _UNKNOWN = -2, -1, -1
_HASH = 1_000_003


@dataclass(frozen=True)
class Activation:
    """A block of one activation."""

    kind: str

    def build(self, in_shape: Shape) -> nn.Module:
        """Any shape to itself."""
        return _ACTIVATIONS[self.kind]()


@dataclass(frozen=True)
class GivenTensor:
    """A tensor that several blocks may read, and what those so far did to it.

    Attributes:
        shape: Without the batch.
        border: Over which it was handed on first.
        chains: As in `Use`.
        is_read_otherwise: As in `Use`.
    """

    shape: Shape
    border: Border
    chains: frozenset[Chain] = frozenset()
    is_read_otherwise: bool = False

    def after(self, use: Use) -> GivenTensor:
        """The tensor with one more reader."""
        chains = self.chains.union(use.chains)
        otherwise = self.is_read_otherwise or use.is_read_otherwise
        return replace(self, chains=chains, is_read_otherwise=otherwise)

    def kernels(self, library: PieceLibrary) -> tuple[tuple[Kernel, ...], tuple[Kernel, ...]]:
        """What the runtime makes of all that is done to it, if no reader is to come.

        Returns:
            Kernels in running order; and those of the block before, whose work they do.
        """
        chains = sorted(self.chains, key=lambda chain: [kernel.key for kernel in chain])
        direct = [chain for chain in chains if len(chain) == 1]
        is_closed = self.is_read_otherwise or self.border.tail in (None, CLOSED)
        if is_closed or len(direct) != 1 or direct[0][0].kind not in _ACTIVATIONS:
            return tuple(chain[-1] for chain in chains), ()
        (fused,) = library.find([Piece(Activation(direct[0][0].kind), self.shape, self.border)])
        rest = tuple(chain[-1] for chain in chains if chain != direct[0])
        return (*fused.kernels, *rest), fused.replaced


@dataclass(frozen=True)
class _Plan:
    """One piece in numbers.

    Attributes:
        uses: By tensor that it takes.
        sources: By tensor that it hands on: the index of the one that it takes, or `_NEW`.
        tensors: By tensor that it hands on, its number if it is new.
        joins: Numbers, indices of the tensors that are joined, index of what is handed on or -1.
        enters: Whether it takes one tensor, over a border like any other.
    """

    uses: tuple[int, ...]
    sources: tuple[int, ...]
    tensors: tuple[int, ...]
    joins: tuple[tuple[int, tuple[int, ...], int], ...]
    enters: bool


class Sharing:
    """Which pieces share what. All tables grow as pieces and tensors are met."""

    def __init__(self) -> None:
        self.tensors: list[GivenTensor] = [GivenTensor((), Border(""))]  # 0: none
        self._tensor_ids = {self.tensors[0]: 0}
        self._uses: list[Use] = [Use((), False)]
        self._use_ids = {self._uses[0]: 0}
        self._join_ids: dict[tuple[Kernel, tuple[Chain, ...]], int] = {}
        self._plans: dict[int, _Plan] = {}
        self._tables: _Tables | None = None
        self._after = np.zeros((1, 1), np.intp)  # (tensor, use) -> tensor

    def __bool__(self) -> bool:
        """Whether any piece shares anything."""
        return bool(self._plans)

    def tensor(self, tensor: GivenTensor) -> int:
        """Its number."""
        if tensor not in self._tensor_ids:
            self._tensor_ids[tensor] = len(self.tensors)
            self.tensors.append(tensor)
        return self._tensor_ids[tensor]

    def add(self, index: int, piece: Piece, made: PieceKernels) -> None:
        """Note what piece number `index` shares."""
        if not made.uses:
            return
        uses = tuple(self._use(use) for use in made.uses)
        sources = tuple(part if isinstance(part, int) else _NEW for part in made.parts)
        tensors = tuple(
            0 if isinstance(part, int) else self.tensor(GivenTensor(*part)) for part in made.parts
        )
        joins = []
        for join in made.joins:
            key = join.kernel, tuple(chain for _, chain in join.operands)
            number = self._join_ids.setdefault(key, len(self._join_ids))
            part = -1 if join.part is None else join.part
            joins.append((number, tuple(i for i, _ in join.operands), part))
        enters = len(piece.border.layout.split()) == 1
        self._plans[index] = _Plan(uses, sources, tensors, tuple(joins), enters)
        self._tables = None

    def _use(self, use: Use) -> int:
        if use not in self._use_ids:
            self._use_ids[use] = len(self._uses)
            self._uses.append(use)
        return self._use_ids[use]

    @property
    def tables(self) -> _Tables:
        """What is known of the pieces, as arrays."""
        if self._tables is None:
            self._tables = _Tables(self._plans)
        return self._tables

    def after(self, tensors: Indices, uses: Indices) -> Indices:
        """What becomes of `(n,)` tensors by a use of each, by number."""
        rows, columns = (size - had for size, had in zip(
            (len(self.tensors), len(self._uses)), self._after.shape, strict=True))  # fmt: skip
        if rows or columns:
            self._after = np.pad(self._after, ((0, rows), (0, columns)), constant_values=_UNKNOWN)
        found = self._after[tensors, uses]
        is_new = found == _UNKNOWN
        if is_new.any():
            pairs = np.unique(np.stack([tensors[is_new], uses[is_new]], axis=1), axis=0)
            for tensor, use in pairs.tolist():
                after = self.tensors[tensor].after(self._uses[use])
                self._after[tensor, use] = self.tensor(after)
            found = self._after[tensors, uses]
        return found


class _Tables:
    """What is known of pieces, as arrays by number of the piece.

    Attributes:
        n_parts: Most tensors that one takes or hands on.
        is_met: Whether a piece is among them.
        enters: Whether it takes one tensor, over a border like any other.
        uses: By tensor that it takes: number of the use; 0 is none.
        sources: By tensor that it hands on: index of the one that it takes, `_NEW` or `_NONE`.
        tensors: By tensor that it hands on: number of a new one.
        joins: Number of each of its joins; `_NONE` if it has fewer.
        operands: Of each join, the indices of the tensors that are joined, or `_NONE`.
        results: Of each join, the index of the tensor that is handed on, or `_NONE`.
    """

    def __init__(self, plans: Mapping[int, _Plan]) -> None:
        n = max(plans) + 1
        self.n_parts = max(max(len(p.uses), len(p.sources)) for p in plans.values())
        n_joins = max(len(plan.joins) for plan in plans.values())
        n_operands = max((len(o) for plan in plans.values() for _, o, _ in plan.joins), default=0)
        self.is_met, self.enters = np.zeros((2, n), dtype=bool)
        self.uses, self.tensors = np.zeros((2, n, self.n_parts), np.intp)
        self.sources = np.full((n, self.n_parts), _NONE)
        self.joins, self.results = np.full((2, n, n_joins), _NONE)
        self.operands = np.full((n, n_joins, n_operands), _NONE)
        for i, plan in plans.items():
            self.is_met[i], self.enters[i] = True, plan.enters
            self.uses[i, : len(plan.uses)] = plan.uses
            self.sources[i, : len(plan.sources)] = plan.sources
            self.tensors[i, : len(plan.tensors)] = plan.tensors
            for k, (number, operands, result) in enumerate(plan.joins):
                self.joins[i, k], self.results[i, k] = number, result
                self.operands[i, k, : len(operands)] = operands


class SharingWalk:
    """The tensors of n networks, while their pieces are met in order.

    A tensor has a *place*: the same in all networks for those that pieces of one slot make.

    Args:
        sharing: What pieces share.
        n: Networks.
    """

    def __init__(self, sharing: Sharing, n: int) -> None:
        self._sharing = sharing
        # By place: number of the tensor, as far as it was read; what it is the join of.
        self._tensors = np.zeros((1, n), np.intp)
        self._joined = np.full((1, n), _NONE)
        self._n_places = 1  # place 0 is of no tensor
        self._places = np.zeros((0, n), np.intp)  # of the parts that the next piece is given

    @property
    def tensors(self) -> Indices:
        """Numbers of the tensors, `(n_tensors, n)`, each with all that was done to it."""
        return self._tensors[1 : self._n_places]

    def step(self, pieces: Indices, given: Indices) -> Indices:
        """Go through one slot.

        Args:
            pieces: `(n,)`, those met there.
            given: `(n,)`, numbers of the tensors that come over a border, of pieces that enter.

        Returns:
            `(n,)` bits: which of its joins a piece need not compute, since another has.
        """
        tables = self._sharing.tables
        done = np.zeros(len(pieces), np.intp)
        rows = np.flatnonzero(
            (pieces < len(tables.is_met)) & tables.is_met.take(pieces, mode="clip")
        )
        if not len(rows):
            return done
        p = pieces[rows]
        before = np.zeros((tables.n_parts, len(rows)), np.intp)
        before[: len(self._places)] = self._places[:, rows]
        enters = tables.enters[p]
        if enters.any():
            place = self._new_place()
            self._tensors[place, rows[enters]] = given[rows[enters]]
            before[0, enters] = place
        self._read(rows, before, tables.uses[p])
        after = self._handed_on(rows, before, tables.sources[p], tables.tensors[p])
        for k in range(tables.joins.shape[1]):
            joins = tables.joins[p, k], tables.operands[p, k], tables.results[p, k]
            done[rows] |= self._join(rows, before, after, *joins).astype(np.intp) << k
        if len(self._places) < len(after):
            missing = len(after) - len(self._places)
            self._places = np.pad(self._places, ((0, missing), (0, 0)))
        self._places[:, rows] = after
        return done

    def _new_place(self) -> int:
        if self._n_places == len(self._tensors):
            more = ((0, len(self._tensors)), (0, 0))
            self._tensors = np.pad(self._tensors, more)
            self._joined = np.pad(self._joined, more, constant_values=_NONE)
        self._n_places += 1
        return self._n_places - 1

    def _read(self, rows: Indices, before: Indices, uses: Indices) -> None:
        for places, use in zip(before, uses.T, strict=True):
            if use.any():
                tensors = self._tensors[places, rows]
                self._tensors[places, rows] = self._sharing.after(tensors, use)

    def _handed_on(
        self, rows: Indices, before: Indices, sources: Indices, tensors: Indices
    ) -> Indices:
        """Places of what pieces hand on."""
        after = np.zeros_like(before)
        for part, (source, tensor) in enumerate(zip(sources.T, tensors.T, strict=True)):
            passes = np.flatnonzero(source >= 0)
            after[part, passes] = before[source[passes], passes]
            is_new = np.flatnonzero(source == _NEW)
            if len(is_new):
                place = self._new_place()
                self._tensors[place, rows[is_new]] = tensor[is_new]
                after[part, is_new] = place
        return after

    def _join(
        self,
        rows: Indices,
        before: Indices,
        after: Indices,
        numbers: Indices,
        operands: Indices,
        results: Indices,
    ) -> NDArray[np.bool_]:
        """Whether each piece's join was made before; then it is what `after` hands on."""
        columns = np.arange(len(rows))
        made = numbers.copy()
        for operand in operands.T:
            places = np.where(operand == _NONE, 0, before[operand, columns])
            made = made * _HASH + places
        made[numbers == _NONE] = _NONE
        found = np.zeros(len(rows), np.intp)
        for places in before:
            is_same = (self._joined[places, rows] == made) & (made != _NONE)
            found[is_same] = places[is_same]
        is_handed_on = results != _NONE
        was_made = found > 0
        repeated = np.flatnonzero(was_made & is_handed_on)
        after[results[repeated], repeated] = found[repeated]
        first = np.flatnonzero(~was_made & is_handed_on & (made != _NONE))
        self._joined[after[results[first], first], rows[first]] = made[first]
        return was_made
