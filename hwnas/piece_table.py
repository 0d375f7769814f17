"""What pieces of networks cost, as rows of numbers that are summed over each network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from hwnas.piece_graph import cancelled
from predictors.cost import CostPredictor
from predictors.energy import N_ENERGY_TERMS
from predictors.network_latency import N_TERMS
from predictors.peak_memory import PartTable
from profilers.kernels import Kernel
from profilers.memory import PartMemory

COUNTED = ("params", "macs")
NOTHING = PartMemory(0, ())

Indices = NDArray[np.intp]
FloatArray = NDArray[np.float64]


class PieceTable:
    """Pieces by number; 0 is none.

    Attributes:
        kernels: By piece.
        replaced: By piece, kernels of those before it that are not run, because it does their work.
    """

    def __init__(self) -> None:
        self.kernels: list[tuple[Kernel, ...]] = [()]
        self.replaced: list[tuple[Kernel, ...]] = [()]
        self._memory: list[PartMemory | None] = []  # from piece 1 on
        self._counts: list[tuple[int, int]] = [(0, 0)]  # params, macs
        self._part_table: PartTable | None = None
        self.use(None)

    def use(self, costs: CostPredictor | None) -> None:
        """Price all pieces, those to come too, by `costs`; None: count only."""
        self._costs = costs
        n_terms = N_TERMS if costs is None or costs.energy is None else N_TERMS + N_ENERGY_TERMS
        # By piece: the terms of its kernels, then params, macs; a row for each of them.
        self._rows = np.zeros((n_terms + len(COUNTED), 0))

    def add(
        self,
        kernels: Iterable[Kernel],
        replaced: Iterable[Kernel] = (),
        memory: PartMemory | None = NOTHING,
        counts: tuple[int, int] = (0, 0),
    ) -> int:
        """Add a piece; returns its number."""
        self.kernels.append(tuple(kernels))
        self.replaced.append(tuple(replaced))
        self._memory.append(memory)
        self._counts.append(counts)
        return len(self.kernels) - 1

    def add_without(self, piece: int, kernels: Sequence[Kernel]) -> int:
        """Add a piece that is another but for some of its kernels; returns its number."""
        rest, _ = cancelled(self.kernels[piece], kernels)
        return self.add(rest, self.replaced[piece], self._memory[piece - 1], self._counts[piece])

    def sums(self, paths: Indices) -> FloatArray:
        """Sums of the pieces' rows over each network, `(n_rows, n)`.

        Args:
            paths: `(n_slots, n)`: the piece that each network has at each place.
        """
        self.price()
        sums = np.zeros((len(self._rows), paths.shape[1]))
        taken = np.empty(paths.shape[1])
        for row, total in zip(self._rows, sums, strict=True):
            for piece in paths:
                total += row.take(piece, out=taken, mode="clip")
        return sums

    def peak_bytes(self, paths: Indices) -> FloatArray:
        """Peak memory of each network, `(n,)`, as ONNX Runtime plans it; NaN: not known."""
        if self._part_table is None or self._part_table.n_parts < len(self._memory):
            self._part_table = PartTable(self._memory)
        return self._part_table.estimate(paths)

    def price(self) -> None:
        """Fill the rows of pieces that have none yet."""
        n_priced = self._rows.shape[1]
        new = self.kernels[n_priced:]
        if not new:
            return
        rows = np.zeros((len(new), len(self._rows)))
        rows[:, -len(COUNTED) :] = self._counts[n_priced:]
        if self._costs is not None:
            terms = _terms(new, self._costs) - _terms(self.replaced[n_priced:], self._costs)
            rows[:, : -len(COUNTED)] = terms
        self._rows = np.hstack([self._rows, rows.T])


def _terms(pieces: Sequence[tuple[Kernel, ...]], costs: CostPredictor) -> FloatArray:
    """Sums of the predictor's terms over the kernels of each piece, `(n, n_terms)`."""
    flat = [kernel for kernels in pieces for kernel in kernels]
    owner = np.repeat(np.arange(len(pieces)), [len(kernels) for kernels in pieces])
    terms = costs.latency.terms(flat)
    if costs.energy is not None:
        terms = np.hstack([terms, costs.energy.terms(flat)])
    sums = np.zeros((len(pieces), terms.shape[1]))
    np.add.at(sums, owner, terms)
    return sums
