"""What every network of a space costs, without building any: the block-level cost cache.

A block's kernels depend only on the block, its input's shape, and the memory layout in which its
neighbour hands it that input. So a space with 10^11 networks has some hundred distinct pieces.
Each is exported once, many in one model, and the runtime is asked what it makes of them. A
network is then a walk over its slots: the piece is looked up by the state (shape and layout) that
the walk is in, its cost is added, and it leads to the next state. The walk is vectorised over
genotypes: no torch, no ONNX in it. A piece that no walk has met is exported when one does.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hwnas.errors import BudgetError, ConfigError
from hwnas.export import to_onnx
from hwnas.networks import BlockCounts, count
from hwnas.spaces.base import Block, Genotype, GenotypeArray, SearchSpace, Shape
from hwnas.strategies.base import Costs
from predictors.network_latency import NetworkLatencyPredictor
from profilers.isolation import AnyProfiler
from profilers.kernels import Kernel
from profilers.measurement import KernelNode
from profilers.onnx_models import make_model
from profilers.store import MeasurementStore

PREDICTABLE = ("latency_ms", "params", "macs")
PLAIN, BLOCKED = "plain", "blocked"
PIECES_PER_EXPORT = 64
_BLOCKED_DOMAIN = "com.microsoft.nchwc:"
_REORDER_INPUT = "com.microsoft.nchwc:ReorderInput"
_REORDER_OUTPUT = "com.microsoft.nchwc:ReorderOutput"
_REORDERS = (_REORDER_INPUT, _REORDER_OUTPUT)
# Runtimes that show the kernels of every block.
_COSTED = ("onnxruntime-cpu", "openvino-cpu", "torch-cpu", "torch-cuda")
_UNKNOWN, _EMPTY = -1, 0
_VERSION = 4  # of the stored pieces; raise it when the cutting below changes


@cache
def _source_hash(block: type) -> str:
    """Tells versions of a block's module apart: an edited `build` must be exported again."""
    try:
        source = inspect.getsource(inspect.getmodule(block) or block)
    except (OSError, TypeError):  # typed into a console
        source = ""
    return hashlib.sha256(source.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Piece:
    """A block where it stands: with its input's shape and layout."""

    block: Block
    in_shape: Shape
    in_layout: str

    @property
    def key(self) -> str:
        """Stable text under which the piece is kept on disk."""
        kind = f"{type(self.block).__module__}.{type(self.block).__qualname__}"
        fields = asdict(self.block)  # type: ignore[call-overload]
        made_by = [_VERSION, torch.__version__, _source_hash(type(self.block))]
        return json.dumps([made_by, kind, fields, self.in_shape, self.in_layout])


@dataclass(frozen=True)
class PieceKernels:
    """What the runtime makes of a piece, and in which shape and layout it hands on its output."""

    kernels: tuple[Kernel, ...]
    out_layout: str
    counts: BlockCounts

    def to_data(self) -> list[Any]:
        """As the store keeps it."""
        counts = self.counts
        return [
            self.out_layout,
            [kernel.to_dict() for kernel in self.kernels],
            [list(counts.out_shape), counts.params, counts.macs],
        ]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> PieceKernels:
        """Rebuild from `to_data`."""
        layout, kernels, (shape, params, macs) = data
        return cls(
            tuple(Kernel.from_dict(kernel) for kernel in kernels),
            layout,
            BlockCounts(tuple(shape), params, macs),
        )


class _Pieces(nn.Module):
    """Blocks side by side, each between two 1×1 convolutions that stand for its neighbours.

    The one before hands over its output in the runtime's blocked layout; without it the block
    meets the plain layout of the model's input. The one after accepts either.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        super().__init__()
        before, blocks, after = [], [], []
        for piece in pieces:
            shape = count(piece.block, piece.in_shape).out_shape
            channels = piece.in_shape[0]
            before.append(
                nn.Conv2d(channels, channels, 1) if piece.in_layout == BLOCKED else nn.Identity()
            )
            blocks.append(piece.block.build(piece.in_shape))
            after.append(nn.Conv2d(shape[0], 16, 1) if len(shape) == 3 else nn.Identity())
        self.before, self.blocks, self.after = map(nn.ModuleList, (before, blocks, after))

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = zip(self.before, self.blocks, self.after, inputs, strict=True)
        return tuple(after(block(before(x))) for before, block, after, x in rows)


def export_pieces(pieces: Sequence[Piece], profiler: AnyProfiler) -> list[PieceKernels]:
    """Export pieces in one model and cut the runtime's graph of it into theirs.

    Raises:
        ConfigError: The target's runtime does not show which kernels a piece has.
    """
    if len(pieces) == 1:  # whether kernels reach across pieces shows only beside another
        return export_pieces([*pieces, *pieces], profiler)[:1]
    batch = profiler.target.batch
    examples = [torch.zeros((batch, *piece.in_shape)) for piece in pieces]
    inputs = [f"x{i}_" for i in range(len(pieces))]
    outputs = [f"y{i}_" for i in range(len(pieces))]
    with torch.random.fork_rng(devices=()):
        module = _Pieces(pieces)
    proto = to_onnx(module, examples, input_names=inputs, output_names=outputs)
    nodes = profiler.kernels(make_model(proto, name=f"pieces-{len(pieces)}"))
    _check_apart(nodes, inputs, profiler.target.runtime)
    counts = [count(piece.block, piece.in_shape) for piece in pieces]
    return [
        PieceKernels(*_cut(nodes, x, y), counts=counted)
        for x, y, counted in zip(inputs, outputs, counts, strict=True)
    ]


def _check_apart(nodes: Sequence[KernelNode], inputs: Sequence[str], runtime: str) -> None:
    """Make sure that no kernel is of two pieces, each of which starts at one of `inputs`."""
    owner = {x: x for x in inputs}
    is_apart = True
    for node in nodes:  # in running order
        owners = {owner[tensor] for tensor in node.reads if tensor in owner}
        is_apart = is_apart and len(owners) <= 1
        for x in owners:
            owner.update(dict.fromkeys(node.writes, x))
    if not is_apart or len(owner) == len(inputs):  # or nothing reads the pieces' inputs
        raise ConfigError(
            f"target {runtime} shows whole models only, or kernels across blocks, so a space "
            f"cannot be costed on it: use {', '.join(_COSTED[:-1])} or {_COSTED[-1]}"
        )


def _cut(nodes: Sequence[KernelNode], x: str, y: str) -> tuple[tuple[Kernel, ...], str]:
    """The kernels between the neighbours of the piece from `x` to `y`, and its output's layout."""
    # Pieces share no tensor that is computed, so walking from x finds exactly this one's nodes.
    tensors, own = {x}, []
    blocked: set[str] = set()  # tensors in the runtime's blocked layout
    for node in nodes:  # in running order
        if tensors.intersection(node.reads):
            tensors.update(node.writes)
            own.append(node)
            if _writes_blocked(node, blocked):
                blocked.update(node.writes)
    before = next((node for node in own if node.name.startswith("/before.")), None)
    after = next(
        (
            node
            for node in own
            if node.kernel.kind not in _REORDERS
            and (node.name.startswith("/after.") or node.name.startswith(y))
        ),
        None,
    )
    inside = {x} if before is None else set(before.writes)
    piece = []
    for node in own:
        if node is not before and node is not after and inside.intersection(node.reads):
            inside.update(node.writes)
            piece.append(node)
    layout = PLAIN
    if after is not None:
        source = next((node for node in piece if after.reads[0] in node.writes), None)
        if source is None:  # the block does nothing
            layout = PLAIN if before is None else BLOCKED
        else:
            readers = [n for n in piece if set(source.writes).intersection(n.reads)]
            if source.kernel.kind in _REORDERS and not readers:
                piece.remove(source)  # the neighbour asked for it, and it is counted there
            handed_on = source.reads if source.kernel.kind in _REORDERS else source.writes
            layout = PLAIN if blocked.isdisjoint(handed_on) else BLOCKED
    return tuple(node.kernel for node in piece), layout


def _writes_blocked(node: KernelNode, blocked: Set[str]) -> bool:
    """Whether the node's output is in the blocked layout, given which tensors before it are."""
    kind = node.kernel.kind
    if kind in _REORDERS:
        return kind == _REORDER_INPUT
    # What stands in no domain of its own (adding, joining channels) keeps the layout it is given.
    return kind.startswith(_BLOCKED_DOMAIN) or not blocked.isdisjoint(node.reads)


@dataclass(frozen=True)
class Counts:
    """What can be counted on n networks, each `(n,)`."""

    params: NDArray[np.int64]
    macs: NDArray[np.int64]


def check_predictable(metric: str) -> None:
    """Make sure that a budget on `metric` can be checked before anything is trained.

    Raises:
        BudgetError: The cost table has no such value.
    """
    if metric not in PREDICTABLE:
        raise BudgetError(
            f"{metric} cannot be predicted on this target yet, so there can be no "
            f"budget on it (available: {', '.join(PREDICTABLE)})"
        )


class CostTable:
    """Predicted costs of the genotypes of one space on one target, 10^5 and more a second.

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
        self._store = store
        self._predictor: NetworkLatencyPredictor | None = None
        self._pieces: list[Piece | None] = [None]  # 0: no block at this slot
        self._kernels: list[tuple[Kernel, ...]] = [()]
        self._piece_ids: dict[Piece, int] = {}
        self._states: list[tuple[Shape, str]] = []
        self._state_ids: dict[tuple[Shape, str], int] = {}
        inputs = space.input_table.values
        self._first_state = np.array([self._state(shape, PLAIN) for shape in inputs])
        # By slot: (state, value of the slot) -> piece; by piece: the state that it leads to.
        self._piece_of = [np.zeros((0, len(t.values)), np.int64) for t in space.slot_tables]
        self._next_state: list[int] = [_UNKNOWN]
        self._counts: list[tuple[int, int, int]] = [(0, 0, 0)]  # kernels, params, macs
        # By piece: ms of kernels, ms of known kernels, kernels, params, macs.
        self._rows = np.zeros((1, 5))

    @property
    def n_pieces(self) -> int:
        """Distinct pieces met so far."""
        return len(self._pieces) - 1

    def use(self, predictor: NetworkLatencyPredictor) -> None:
        """Price all pieces, those to come too, by `predictor`.

        Raises:
            WrongTargetError: It speaks about another target than the profiler's.
        """
        predictor.check_target(self._profiler.target)
        self._predictor = predictor
        self._rows = np.zeros((0, 5))
        self._price()

    def warm(
        self,
        rng: np.random.Generator,
        *,
        n: int = 20_000,
        on_progress: Callable[[int], object] = lambda n_pieces: None,
    ) -> None:
        """Walk `n` random genotypes, so that hardly a piece is left to be met later."""
        self._walk(self.space.sample(rng, n), on_progress)

    def predict(self, genotypes: GenotypeArray) -> Costs:
        """Costs of `(n, len(choices))` genotypes; `use` must have been called."""
        assert self._predictor is not None, "CostTable.predict before CostTable.use"
        sums = self._walk(genotypes)
        latency = self._predictor.predict_sums(sums[:, 0], sums[:, 2], sums[:, 1])
        return Costs(
            latency.latency_ms, latency.low_ms, latency.high_ms, latency.known_share,
            params=sums[:, 3].astype(np.int64), macs=sums[:, 4].astype(np.int64),
        )  # fmt: skip

    def counts(self, genotypes: GenotypeArray) -> Counts:
        """Parameters and MACs of `(n, len(choices))` genotypes; needs no predictor."""
        sums = self._walk(genotypes)
        return Counts(sums[:, 3].astype(np.int64), sums[:, 4].astype(np.int64))

    def kernels(self, genotype: Genotype) -> tuple[Kernel, ...]:
        """The kernels of one network, in the order of its blocks."""
        row = np.array([self.space.check(genotype)], dtype=np.int64)
        self._walk(row)
        state = self._first_state[self.space.input_table.lookup(row)][0]
        kernels: list[Kernel] = []
        for table, piece_of in zip(self.space.slot_tables, self._piece_of, strict=True):
            piece = piece_of[state, table.lookup(row)[0]]
            kernels += self._kernels[piece]
            state = state if piece == _EMPTY else self._next_state[piece]
        return tuple(kernels)

    def _walk(
        self, genotypes: GenotypeArray, on_progress: Callable[[int], object] = lambda n_pieces: None
    ) -> NDArray[np.float64]:
        """Sums of the pieces' rows over each genotype's network, `(n, 5)`."""
        columns = np.asfortranarray(genotypes)  # the tables read it by column
        state = self._first_state[self.space.input_table.lookup(columns)]
        path = []
        for slot, table in enumerate(self.space.slot_tables):
            value = table.lookup(columns)
            piece = self._look_up(slot, state, value)
            if (piece == _UNKNOWN).any():
                self._meet(slot, state[piece == _UNKNOWN], value[piece == _UNKNOWN], on_progress)
                piece = self._look_up(slot, state, value)
            path.append(piece)
            state = np.where(piece == _EMPTY, state, np.asarray(self._next_state)[piece])
        self._price()
        return np.asarray(sum(self._rows[piece] for piece in path))

    def _look_up(
        self, slot: int, state: NDArray[np.int64], value: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        table = self._piece_of[slot]
        if len(table) < len(self._states):
            new = np.full((len(self._states) - len(table), table.shape[1]), _UNKNOWN)
            empty = [v is None for v in self.space.slot_tables[slot].values]
            new[:, empty] = _EMPTY
            table = self._piece_of[slot] = np.vstack([table, new])
        return np.asarray(table[state, value])

    def _meet(
        self,
        slot: int,
        state: NDArray[np.int64],
        value: NDArray[np.int64],
        on_progress: Callable[[int], object],
    ) -> None:
        """Add the pieces of these (state, value) pairs of a slot."""
        pairs = np.unique(np.stack([state, value], axis=1), axis=0)
        pieces = []
        for s, v in pairs:
            block = self.space.slot_tables[slot].values[v]
            assert block is not None
            pieces.append(Piece(block, *self._states[s]))
        new = list(dict.fromkeys(p for p in pieces if p not in self._piece_ids))
        for part in self._load(new):
            for piece, made in part.items():
                counted = made.counts
                self._piece_ids[piece] = len(self._pieces)
                self._pieces.append(piece)
                self._kernels.append(made.kernels)
                self._next_state.append(self._state(counted.out_shape, made.out_layout))
                self._counts.append((len(made.kernels), counted.params, counted.macs))
            on_progress(self.n_pieces)
        for (s, v), piece in zip(pairs, pieces, strict=True):
            self._piece_of[slot][s, v] = self._piece_ids[piece]

    def _load(self, pieces: Sequence[Piece]) -> Iterator[dict[Piece, PieceKernels]]:
        """Pieces from the store, and the others from the runtime, in parts."""
        target = self._profiler.target
        runtime = f"{target.runtime}-{target.version}/{target.precision}/{target.device}"
        runtime += f"/batch={target.batch}"
        stored = self._store.graphs(runtime, [piece.key for piece in pieces])
        yield {p: PieceKernels.from_data(stored[p.key]) for p in pieces if p.key in stored}
        missing = [piece for piece in pieces if piece.key not in stored]
        for start in range(0, len(missing), PIECES_PER_EXPORT):
            part = missing[start : start + PIECES_PER_EXPORT]
            made = dict(zip(part, export_pieces(part, self._profiler), strict=True))
            self._store.add_graphs(runtime, {p.key: m.to_data() for p, m in made.items()})
            yield made

    def _state(self, shape: Shape, layout: str) -> int:
        state = (shape, layout)
        if state not in self._state_ids:
            self._state_ids[state] = len(self._states)
            self._states.append(state)
        return self._state_ids[state]

    def _price(self) -> None:
        """Fill the rows of pieces that have none yet."""
        new = self._kernels[len(self._rows) :]
        if not new:
            return
        rows = np.zeros((len(new), 5))
        rows[:, 2:] = self._counts[len(self._rows) :]
        if self._predictor is not None:
            assert self._predictor.kernels_ is not None
            flat = [kernel for kernels in new for kernel in kernels]
            ms, known = self._predictor.kernels_.predict(flat)
            owner = np.repeat(np.arange(len(new)), [len(kernels) for kernels in new])
            rows[:, 0] = np.bincount(owner, ms, minlength=len(new))
            rows[:, 1] = np.bincount(owner, ms * known, minlength=len(new))
        self._rows = np.vstack([self._rows, rows])
