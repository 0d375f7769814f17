"""Drawing subnets that meet the budgets, and the largest and smallest that do."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from hwnas.networks import counts
from hwnas.spaces.base import Genotype, GenotypeArray, SearchSpace
from hwnas.strategies.base import Problem
from hwnas.strategies.proposals import Proposals, as_genotype

DRAW_SIZES = (1, 16, 256, 4096)  # more each time that none was feasible
N_STARTS = 256
MAX_CLIMB = 1_000

# From genotypes `(n, len(choices))` to what is compared, `(n, 2)`: MACs, then params.
_Sizes = Callable[[GenotypeArray], NDArray[np.int64]]


class Sampler:
    """Draws subnets of a space, uniformly over its feasible genotypes.

    Args:
        space: Where to draw from.
        problem: Whose budgets every subnet meets; None: there are none.
        seed: With it and a step's number comes the same draw again.
    """

    def __init__(self, space: SearchSpace, *, seed: int, problem: Problem | None = None) -> None:
        self.space = space
        self._problem = problem
        self._seed = seed

    def rng(self, *number: int) -> np.random.Generator:
        """The random stream of a step."""
        return np.random.default_rng([self._seed, *number])

    def is_feasible(self, genotypes: GenotypeArray) -> NDArray[np.bool_]:
        """Which of `(n, len(choices))` are valid and meet all budgets, `(n,)`."""
        is_feasible = self.space.is_valid(genotypes)
        if self._problem is not None and self._problem.budgets:
            is_feasible &= self._problem.is_feasible(genotypes)
        return is_feasible

    def draw(self, rng: np.random.Generator) -> Genotype:
        """Draw one.

        Raises:
            InfeasibleBudgetError: No network of the space was found to meet the budgets.
        """
        found = self.draw_beside(rng, {})
        if found is None:
            assert self._problem is not None, "without budgets, every draw is feasible"
            return Proposals(self._problem, seed=self._seed).draw(rng)  # it walks to the budgets
        return found

    def draw_beside(self, rng: np.random.Generator, given: Mapping[int, int]) -> Genotype | None:
        """Draw one that has the `given` options, by position; None if thousands were infeasible."""
        for n in DRAW_SIZES:
            genotypes = self.space.sample(rng, n)
            for column, option in given.items():
                genotypes[:, column] = option
            found = genotypes[self.is_feasible(genotypes)]
            if len(found):
                return as_genotype(found[0])
        return None

    def extreme(self, *, largest: bool) -> Genotype:
        """The feasible subnet of most, or fewest, multiply-accumulates, by climbing.

        From the last, or first, option of every choice, or from the best of some draws where that
        misses the budgets, single choices are changed for as long as that gains.

        Raises:
            InfeasibleBudgetError: No network of the space was found to meet the budgets.
        """
        sign = 1 if largest else -1
        corner = np.array([[n - 1 if largest else 0 for n in self.space.n_options]])
        if not self.is_feasible(corner)[0]:
            rng = self.rng()
            drawn = self.space.sample(rng, N_STARTS)
            corner = drawn[self.is_feasible(drawn)]
            if not len(corner):
                corner = np.array([self.draw(rng)])
            corner = _best(corner, sign * self._sizes(corner))
        for _ in range(MAX_CLIMB):
            changed = _single_changes(corner, self.space.n_options)
            changed = np.vstack([corner, changed[self.is_feasible(changed)]])
            best = _best(changed, sign * self._sizes(changed))
            if np.array_equal(best, corner):
                break
            corner = best
        return as_genotype(corner[0])

    def _sizes(self, genotypes: GenotypeArray) -> NDArray[np.int64]:
        """MACs and params, `(n, 2)`."""
        if self._problem is not None:
            costs = self._problem.predict(genotypes)
            return np.column_stack([costs.macs, costs.params])
        found = [counts(self.space.architecture(as_genotype(row))) for row in genotypes]
        return np.array([(each.macs, each.params) for each in found], dtype=np.int64)


def _single_changes(genotype: GenotypeArray, n_options: tuple[int, ...]) -> GenotypeArray:
    """All that differ from the one genotype, `(1, g)`, in one choice."""
    rows = []
    for column, n in enumerate(n_options):
        for option in range(n):
            if option != genotype[0, column]:
                row = genotype[0].copy()
                row[column] = option
                rows.append(row)
    return np.array(rows, dtype=np.int64).reshape(-1, len(n_options))


def _best(genotypes: GenotypeArray, sizes: NDArray[np.int64]) -> GenotypeArray:
    """The first of the largest, by the first column of `sizes` and then the second, `(1, g)`."""
    order = np.lexsort((np.arange(len(sizes)), -sizes[:, 1], -sizes[:, 0]))
    return genotypes[order[:1]]
