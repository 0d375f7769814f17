"""What every network of a space costs, without building any: the block-level cost cache.

A block's kernels depend only on the block, its input's shape, and the border to the block before it
(`hwnas/pieces.py`). So a space with 10^11 networks has some hundred distinct pieces. A network is
then a walk over its slots: the piece is looked up by the state (shape and border) that the walk is
in, its cost is added, and it leads to the next state. The walk is vectorised over genotypes: no
torch, no ONNX in it. A piece that no walk has met is exported when one does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import BudgetError
from hwnas.piece_library import PieceLibrary
from hwnas.piece_sharing import GivenTensor, Sharing, SharingWalk
from hwnas.piece_table import COUNTED, PieceTable
from hwnas.piece_values import Join
from hwnas.pieces import PLAIN, TOKENS, Border, Piece, PieceKernels
from hwnas.spaces.base import Genotype, GenotypeArray, SearchSpace, Shape
from hwnas.strategies.base import Costs
from predictors.cost import CostPredictor
from predictors.network_latency import N_TERMS
from profilers.energy import energy_counter
from profilers.isolation import AnyProfiler
from profilers.kernels import Kernel
from profilers.store import MeasurementStore
from profilers.targets import Target

# Pieces that looks at a whole space may meet, together. Most spaces have fewer altogether; of cells
# every one is a piece, and so many are exported in about a minute.
SURVEY_PIECES = 4096
N_LEAST = 64  # genotypes that any look gets to see
CHUNK = 8192  # genotypes walked at once: what is in between stays in the processor's cache
LATENCY_ONLY = ("latency_ms",)
# Runtimes that say how much memory a run takes.
_MEMORY_RUNTIMES = ("onnxruntime-cpu", "torch-cpu", "torch-cuda")
_UNKNOWN, _EMPTY = -1, 0

Indices = NDArray[np.intp]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Counts:
    """What can be counted on n networks, each `(n,)`."""

    params: NDArray[np.int64]
    macs: NDArray[np.int64]


def check_measurable(metric: str, target: Target) -> None:
    """Make sure, before anything is measured, that a budget's metric can be on this target.

    Raises:
        BudgetError: It cannot; what to do instead.
    """
    reason = None
    if metric == "energy_mj" and energy_counter(target) is None:
        reason = "has no energy counter that can be read"
    if metric == "peak_memory_bytes" and target.runtime not in _MEMORY_RUNTIMES:
        reason = f"does not say how much memory a run takes ({', '.join(_MEMORY_RUNTIMES)} do)"
    if reason is not None:
        raise BudgetError(
            f"{target.describe()} {reason}, so there can be no budget on {metric}: leave it out, "
            f"or use another target"
        )


def check_predictable(metric: str, costs: CostPredictor) -> None:
    """Make sure that a budget on `metric` can be checked before anything is trained.

    Raises:
        BudgetError: `costs` does not predict it.
    """
    available = (*costs.metrics, *COUNTED)
    if metric not in available:
        raise BudgetError(
            f"the predictor says nothing about {metric}, so there can be no budget on it "
            f"(available: {', '.join(available)}). Let the search fit its own predictor, without "
            f"--predictor, and if it did, measure more networks of the space with `hwnas profile`"
        )


class CostTable:
    """Predicted costs of the genotypes of one space on one target, 10^6 and more a second.

    Pieces that the walk meets for the first time are exported, or read from the store; call
    `warm` to do that for nearly all of them at once.

    Args:
        space: Where the genotypes come from.
        profiler: Asked what the target's runtime makes of a piece.
        store: Keeps the pieces between runs.
    """

    def __init__(self, space: SearchSpace, profiler: AnyProfiler, store: MeasurementStore) -> None:
        self.space = space
        self._profiler = profiler
        self._library = PieceLibrary(profiler, store)
        self._costs: CostPredictor | None = None
        # Whether states tell how blocks end: where no block asks, there are fewer of them.
        self._tells_tails = False
        self._begin()

    def _begin(self) -> None:
        """Forget all states, and the pieces met in them."""
        self._pieces: dict[Piece, int] = {}  # 0: no block at this slot
        self._table = PieceTable()
        self._table.use(self._costs)
        self._states: list[tuple[Shape, Border]] = []
        self._state_ids: dict[tuple[Shape, Border], int] = {}
        border = Border(TOKENS if self.space.input_type == "int64" else PLAIN)
        shapes = self.space.input_table.values
        self._first_state = np.array([self._state(shape, border) for shape in shapes])
        tables = self.space.slot_tables
        # By slot: (state, value of the slot) -> piece, and the state that it leads to.
        self._piece_of = [np.zeros((0, len(t.values)), np.intp) for t in tables]
        self._next_of = [np.zeros((0, len(t.values)), np.intp) for t in tables]
        self._next_state: dict[Piece, int] = {}
        # What pieces share stands in the table, too: a tensor's price, and pieces without joins.
        self._sharing = Sharing()
        self._joins: dict[int, tuple[Join, ...]] = {}  # by piece
        self._without: dict[tuple[int, int], int] = {}
        self._given = np.zeros(0, np.intp)  # by state, the tensor that is handed on in it
        self._prices = np.zeros(0, np.intp)  # by tensor

    @property
    def n_pieces(self) -> int:
        """Distinct pieces met so far."""
        return len(self._pieces)

    def use(self, costs: CostPredictor, *, metrics: Collection[str] = LATENCY_ONLY) -> None:
        """Price all pieces, those to come too, by `costs`.

        Args:
            costs: What predicts them.
            metrics: Which of `costs.metrics` to predict beside the latency; the peak memory takes
                twice as long as all the rest.

        Raises:
            WrongTargetError: It speaks about another target than the profiler's.
        """
        costs.check_target(self._profiler.target)
        costs = CostPredictor(
            costs.latency,
            costs.energy if "energy_mj" in metrics else None,
            costs.peak_memory if "peak_memory_bytes" in metrics else None,
        )
        self._costs = costs
        self._table.use(costs)
        self._table.price()

    def warm(
        self,
        rng: np.random.Generator,
        *,
        n: int = 20_000,
        on_progress: Callable[[int], object] = lambda n_pieces: None,
    ) -> None:
        """Meet the pieces of `n` random genotypes, so that hardly one is left to be met later.

        Of a space that has too many, some `SURVEY_PIECES`.
        """
        self.affordable(self.space.sample(rng, n), on_progress=on_progress)
        self._table.price()

    def affordable(
        self,
        genotypes: GenotypeArray,
        *,
        n_least: int = N_LEAST,
        on_progress: Callable[[int], object] = lambda n_pieces: None,
    ) -> BoolArray:
        """Which of `(n, len(choices))` genotypes need no piece to be exported any more, `(n,)`.

        Before the answer, pieces are met for one genotype after the other: until the table has some
        `SURVEY_PIECES`, and in any case for `n_least` genotypes. Of most spaces that is all that
        there are. But of cells every one is a piece, and then a look at the space, or at a
        strategy's candidates, must do with a part. The answer depends on what was asked before, not
        on what is stored or how fast the machine is.
        """
        columns = np.asfortranarray(genotypes)
        while True:
            are_met = self._are_met(columns)
            n_left = (SURVEY_PIECES - self.n_pieces) // max(1, len(self.space.slots))
            n_next = max(n_left, n_least - int(are_met.sum()))
            if are_met.all() or n_next <= 0:
                return are_met
            self._paths(genotypes[np.flatnonzero(~are_met)[:n_next]], on_progress)

    def predict(self, genotypes: GenotypeArray) -> Costs:
        """Costs of `(n, len(choices))` genotypes; `use` must have been called."""
        starts = range(0, max(len(genotypes), 1), CHUNK)
        return Costs.joined([self._predict(genotypes[i : i + CHUNK]) for i in starts])

    def _predict(self, genotypes: GenotypeArray) -> Costs:
        assert self._costs is not None, "CostTable.predict before CostTable.use"
        paths = self._paths(genotypes)
        sums = self._table.sums(paths)
        latency = self._costs.latency.predict_sums(sums[:N_TERMS].T, family=self.space.key)
        found = Costs(
            latency.latency_ms, latency.low_ms, latency.high_ms, latency.known_share,
            params=sums[-2].astype(np.int64), macs=sums[-1].astype(np.int64),
        )  # fmt: skip
        if self._costs.energy is not None:
            terms = sums[N_TERMS : -len(COUNTED)].T
            energy = self._costs.energy.predict_sums(latency, terms)
            found = replace(found, energy_mj=energy.energy_mj, high_energy_mj=energy.high_mj)
        if self._costs.peak_memory is not None:
            memory = self._costs.peak_memory.predict(self._peak_bytes(paths))
            found = replace(
                found,
                peak_memory_bytes=memory.peak_memory_bytes,
                high_peak_memory_bytes=memory.high_bytes,
            )
        return found

    def counts(self, genotypes: GenotypeArray) -> Counts:
        """Parameters and MACs of `(n, len(choices))` genotypes; needs no predictor."""
        sums = self._table.sums(self._paths(genotypes))
        return Counts(sums[-2].astype(np.int64), sums[-1].astype(np.int64))

    def estimated_peak_bytes(self, genotypes: GenotypeArray) -> NDArray[np.float64]:
        """What the tensors of `(n, len(choices))` genotypes take, `(n,)`; NaN: not known."""
        return self._peak_bytes(self._paths(genotypes))

    def _peak_bytes(self, paths: Indices) -> NDArray[np.float64]:
        """Of the pieces at the slots, which count what is shared, too."""
        return self._table.peak_bytes(paths[: len(self.space.slot_tables)])

    def kernels(self, genotype: Genotype) -> tuple[Kernel, ...]:
        """The kernels of one network, in the order of its blocks."""
        row = np.array([self.space.check(genotype)], dtype=np.int64)
        found: list[Kernel] = []
        for (piece,) in self._paths(row):
            for kernel in self._table.replaced[piece]:  # of the block before, or one before that
                del found[len(found) - 1 - found[::-1].index(kernel)]
            found += self._table.kernels[piece]
        return tuple(found)

    def _paths(
        self, genotypes: GenotypeArray, on_progress: Callable[[int], object] = lambda n_pieces: None
    ) -> Indices:
        """The piece of each genotype at each slot, `(n_slots, n)`; then what slots share."""
        try:
            return self._walk(genotypes, on_progress)
        except _TailsMatterError:
            self._tells_tails = True
            self._begin()
            return self._walk(genotypes, on_progress)

    def _walk(self, genotypes: GenotypeArray, on_progress: Callable[[int], object]) -> Indices:
        columns = np.asfortranarray(genotypes)  # the tables read it by column
        state = self._first_state[self.space.input_table.lookup(columns)]
        paths = np.empty((len(self.space.slot_tables), len(columns)), dtype=np.intp)
        sharing = SharingWalk(self._sharing, len(columns))
        for slot, table in enumerate(self.space.slot_tables):
            self._grow(slot)
            value = table.lookup(columns)
            key = state * len(table.values)
            key += value
            piece = self._piece_of[slot].take(key, out=paths[slot], mode="clip")
            if len(piece) and piece.min() == _UNKNOWN:
                is_new = piece == _UNKNOWN
                self._meet(slot, state[is_new], value[is_new], on_progress)
                self._piece_of[slot].take(key, out=piece, mode="clip")
            if self._sharing:
                done = sharing.step(piece, self._given_tensors().take(state))
                repeats = np.flatnonzero(done)
                piece[repeats] = self._without_joins(piece[repeats], done[repeats])
            state = self._next_of[slot].take(key, mode="clip")
        if not self._sharing:
            return paths
        return np.concatenate([paths, self._priced(sharing.tensors)])

    def _are_met(self, columns: GenotypeArray) -> BoolArray:
        """Whether all pieces of each genotype are known, `(n,)`."""
        are_met = np.ones(len(columns), dtype=bool)
        state = self._first_state[self.space.input_table.lookup(columns)]
        for slot, table in enumerate(self.space.slot_tables):
            self._grow(slot)
            key = state * len(table.values) + table.lookup(columns)
            are_met &= self._piece_of[slot].take(key) != _UNKNOWN
            state = self._next_of[slot].take(key)  # behind an unknown one it means nothing
        return are_met

    def _grow(self, slot: int) -> None:
        """Give the slot's tables a row for every state."""
        piece_of, next_of = self._piece_of[slot], self._next_of[slot]
        first, n_values = piece_of.shape
        if first == len(self._states):
            return
        states = np.arange(first, len(self._states))
        new = np.full((len(states), n_values), _UNKNOWN)
        new[:, [value is None for value in self.space.slot_tables[slot].values]] = _EMPTY
        self._piece_of[slot] = np.vstack([piece_of, new])
        # No block leaves the state as it is; the others are filled in when their piece is met.
        self._next_of[slot] = np.vstack([next_of, np.repeat(states[:, None], n_values, axis=1)])

    def _meet(
        self,
        slot: int,
        state: Indices,
        value: Indices,
        on_progress: Callable[[int], object],
    ) -> None:
        """Add the pieces of these (state, value) pairs of a slot."""
        pairs = np.unique(np.stack([state, value], axis=1), axis=0)
        pieces = []
        for s, v in pairs:
            block = self.space.slot_tables[slot].values[v]
            assert block is not None
            pieces.append(Piece(block, *self._states[s]))
        n_before = self.n_pieces
        new = [piece for piece in dict.fromkeys(pieces) if piece not in self._pieces]
        found = self._library.find(new, lambda n: on_progress(max(n, n_before)))
        for piece, made in zip(new, found, strict=True):
            asks = made.is_open or bool(made.uses)
            if asks and piece.border.layout != TOKENS and not self._tells_tails:
                raise _TailsMatterError
            self._add(piece, made)
        on_progress(self.n_pieces)
        for (s, v), piece in zip(pairs, pieces, strict=True):
            self._piece_of[slot][s, v] = self._pieces[piece]
            self._next_of[slot][s, v] = self._next_state[piece]

    def _add(self, piece: Piece, made: PieceKernels) -> None:
        assert made.border is not None
        border = made.border if self._tells_tails else Border(made.border.layout)
        counts = made.counts.params, made.counts.macs
        index = self._table.add(made.kernels, made.replaced, made.memory, counts)
        self._pieces[piece] = index
        self._next_state[piece] = self._state(made.counts.out_shape, border)
        self._sharing.add(index, piece, made)
        self._joins[index] = made.joins

    def _without_joins(self, pieces: Indices, done: Indices) -> Indices:
        """`(n,)` pieces without those joins of which a bit of `done` is set."""
        found = []
        for piece, bits in zip(pieces.tolist(), done.tolist(), strict=True):
            if (piece, bits) not in self._without:
                joins = [j.kernel for k, j in enumerate(self._joins[piece]) if bits >> k & 1]
                self._without[piece, bits] = self._table.add_without(piece, joins)
            found.append(self._without[piece, bits])
        return np.array(found, np.intp)

    def _given_tensors(self) -> Indices:
        """By state, the number of the tensor that is handed on in it."""
        new = self._states[len(self._given) :]
        if new:
            numbers = [self._sharing.tensor(GivenTensor(*state)) for state in new]
            self._given = np.concatenate([self._given, numbers])
        return self._given

    def _priced(self, tensors: Indices) -> Indices:
        """What is done to `(n_tensors, n)` tensors, as pieces."""
        n_new = len(self._sharing.tensors) - len(self._prices)
        self._prices = np.pad(self._prices, (0, n_new), constant_values=_UNKNOWN)
        found = self._prices.take(tensors)
        if (found == _UNKNOWN).any():
            for number in np.unique(tensors[found == _UNKNOWN]).tolist():
                kernels, replaced = self._sharing.tensors[number].kernels(self._library)
                self._prices[number] = self._table.add(kernels, replaced) if kernels else _EMPTY
            found = self._prices.take(tensors)
        return found

    def _state(self, shape: Shape, border: Border) -> int:
        state = (shape, border)
        if state not in self._state_ids:
            self._state_ids[state] = len(self._states)
            self._states.append(state)
        return self._state_ids[state]


class _TailsMatterError(Exception):
    """A block was met whose kernels depend on how the block before ends."""
