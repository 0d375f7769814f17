"""The pieces of a space: kept in the store, exported when they are asked for the first time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from hwnas.piece_graph import CONV, activated, conv_of
from hwnas.pieces import BLOCKED, Border, Lead, Piece, PieceKernels, export_pieces
from hwnas.spaces.base import Shape
from profilers.isolation import AnyProfiler
from profilers.store import MeasurementStore

PIECES_PER_EXPORT = 64
# What is missing, or cannot be understood, is made anew.
_NOT_STORED = (LookupError, TypeError, ValueError, AttributeError)


class PieceLibrary:
    """What a target's runtime makes of pieces.

    A piece is exported once for each layout. Only a block that begins with something that may be
    fused into what stands before is exported again for each end of a block that it meets there.

    Args:
        profiler: Asked what the runtime makes of a piece.
        store: Keeps the pieces between runs.
    """

    def __init__(self, profiler: AnyProfiler, store: MeasurementStore) -> None:
        self._profiler = profiler
        self._store = store
        target = profiler.target
        self._runtime = f"{target.runtime}-{target.version}/{target.precision}/{target.device}"
        self._runtime += f"/batch={target.batch}/threads={target.threads}"
        self._made: dict[Piece, PieceKernels] = {}
        self._leads: dict[tuple[Shape, Border], Lead] = {}

    def find(
        self, pieces: Sequence[Piece], on_made: Callable[[int], object] = lambda n: None
    ) -> list[PieceKernels]:
        """What the runtime makes of `pieces`, whose borders come from this library.

        Args:
            pieces: Those at the input of a network have a border without a tail.
            on_made: Told how many pieces there are, each time some were read or exported.

        Raises:
            ConfigError: The target's runtime does not show which kernels a piece has.
        """
        self._load(map(_by_layout, pieces), on_made)
        self._load((_exported(p) for p in pieces if self._depends(p)), on_made)
        return [self._in_place(piece) for piece in pieces]

    def _depends(self, piece: Piece) -> bool:
        """Whether the piece's kernels depend on how the block before ends."""
        return piece.border.tail is not None and self._made[_by_layout(piece)].is_open

    def _in_place(self, piece: Piece) -> PieceKernels:
        alone = made = self._made[_by_layout(piece)]
        if self._depends(piece):
            made = replace(self._made[_exported(piece)], is_open=True, memory=alone.memory)
            conv = conv_of(piece.border.tail or "")[1] if piece.border.layout == BLOCKED else None
            if conv is not None and made.replaced:
                changed = activated(conv, made.replaced[0], made.kernels[0])
                made = replace(made, kernels=(changed, *made.kernels[1:]), replaced=(conv,))
        made = replace(made, border=made.border or piece.border)
        assert made.border is not None
        key = made.counts.out_shape, made.border
        if _needs_lead(made.border) and key not in self._leads:
            self._leads[key] = self._lead(piece, alone, made)
        return made

    def _lead(self, piece: Piece, alone: PieceKernels, made: PieceKernels) -> Lead:
        """The fewest blocks up to this one that end as it does in its place."""
        if self._depends(piece) and piece.border.layout == BLOCKED:
            piece = _exported(piece)
            alone = self._made[piece]
        else:
            piece = _by_layout(piece) if alone.border == made.border else piece
        before = self._leads.get((piece.in_shape, piece.border))
        if before is not None:
            return before.followed_by(piece.block, made)
        return Lead((piece.block,), piece.in_shape, piece.border, alone.kernels, alone.replaced)

    def _load(self, pieces: Iterable[Piece], on_made: Callable[[int], object]) -> None:
        """Take pieces from the store, and export the others."""
        new = [piece for piece in dict.fromkeys(pieces) if piece not in self._made]
        stored = self._store.graphs(self._runtime, [piece.key for piece in new])
        missing = []
        for piece in new:
            try:
                self._made[piece] = PieceKernels.from_data(stored[piece.key])
            except _NOT_STORED:
                missing.append(piece)
        if len(missing) < len(new):
            on_made(len(self._made))
        for start in range(0, len(missing), PIECES_PER_EXPORT):
            part = missing[start : start + PIECES_PER_EXPORT]
            leads = {p: self._leads[p.in_shape, p.border] for p in part if _needs_lead(p.border)}
            found = dict(zip(part, export_pieces(part, self._profiler, leads), strict=True))
            self._store.add_graphs(self._runtime, {p.key: m.to_data() for p, m in found.items()})
            self._made |= found
            on_made(len(self._made))


def _by_layout(piece: Piece) -> Piece:
    return replace(piece, border=Border(piece.border.layout))


def _exported(piece: Piece) -> Piece:
    """The piece whose kernels are those of this one, but for those of the block before."""
    border = piece.border
    if border.layout != BLOCKED or border.tail is None:
        return piece
    kind = conv_of(border.tail)[0]
    return replace(piece, border=Border(BLOCKED, None if kind == CONV else kind))


def _needs_lead(border: Border) -> bool:
    return border.layout != BLOCKED and border.tail is not None
