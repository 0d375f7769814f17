"""What models read of networks: their choices, predicted costs, and what lies on a cell's ways."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwnas.spaces.base import GenotypeArray
from hwnas.strategies.base import Costs, FloatArray, Problem
from hwnas.strategies.cells import Cell
from hwnas.strategies.encoding import Encoding, Part

__all__ = ["SMALLEST", "Description", "log"]

COST_NAMES = ("latency_ms", "params", "macs", "peak_memory_bytes", "energy_mj")
SMALLEST = 1e-4  # of errors and of other quantities, to take logs


class Description:
    """Networks as rows of numbers, on scales that all networks of the space share.

    A cell can be read in two ways. `used`: an edge that no way through uses is cut, as it changes
    no result. `written`: as the genotype says, since a runtime may compute such an edge all the
    same. For other spaces there is one.

    Args:
        problem: What is searched.
        genotypes: Networks that columns are scaled by, `(n, n_choices)`.
        costs: Of them.

    Attributes:
        encodings: What the columns mean, by the way to read networks.
    """

    def __init__(self, problem: Problem, genotypes: GenotypeArray, costs: Costs) -> None:
        choices = problem.space.choices
        self._cell = Cell.of(choices)
        values = {name: getattr(costs, name) for name in COST_NAMES}
        # Costs that are predicted, and differ between networks.
        self._names = tuple(
            name
            for name, column in values.items()
            if column is not None and np.isfinite(column).all() and np.ptp(column) > 0
        )
        groups = self._columns(genotypes, costs)
        scales = [float(np.sqrt(columns.var(axis=0).sum())) for columns in groups]
        self._means = [columns.mean(axis=0) for columns in groups]
        self._scales = [max(scale, SMALLEST) for scale in scales]
        n_costs = len(self._names)
        sizes = tuple(len(mean) for mean in self._means)
        known = Part(sizes[:n_costs], (1.0,) * n_costs, smooth=0.3, straight=0.2)
        # One operation more or less matters less on a long way than on a short one.
        lengths = tuple(1.5 ** max(i - 1, 0) for i in range(len(sizes) - n_costs))
        ways = Part(sizes[n_costs:], lengths, smooth=0.7, straight=0.15)
        parts = tuple(part for part in (known, ways) if part.sizes)
        as_written = Encoding(choices, parts=parts)
        self.encodings: Mapping[str, Encoding] = {"written": as_written}
        if self._cell is not None:
            as_used = Encoding(choices, parts=parts, is_described=True)
            self.encodings = {"used": as_used, "written": as_written}

    def inputs(self, genotypes: GenotypeArray, costs: Costs, view: str) -> FloatArray:
        """The numbers of networks, `(n, k)`.

        Args:
            genotypes: The networks, `(n, n_choices)`.
            costs: Of them.
            view: The way to read them, one of `encodings`.
        """
        is_cut = self._cell is not None and view == "used"
        choices = self._cell.live(genotypes) if self._cell and is_cut else genotypes
        groups = zip(self._columns(genotypes, costs), self._means, self._scales, strict=True)
        scaled = [(columns - mean) / scale for columns, mean, scale in groups]
        return np.concatenate([self.encodings[view].one_hot(choices), *scaled], axis=1)

    def _columns(self, genotypes: GenotypeArray, costs: Costs) -> list[FloatArray]:
        """Numbers that describe networks beside their choices, in groups of columns."""
        known = [log(np.asarray(getattr(costs, n), dtype=float))[:, None] for n in self._names]
        return known + list(self._cell.descriptors(genotypes) if self._cell else ())


def log(values: FloatArray) -> FloatArray:
    """Logarithms of quantities that are not negative, finite for 0 too.

    Zeros count as `SMALLEST`; or as the least that is none, where that is smaller: in a tiny unit.
    """
    smallest = values.min(where=values > 0, initial=SMALLEST)
    logs: FloatArray = np.log(np.maximum(values, smallest))
    return logs
