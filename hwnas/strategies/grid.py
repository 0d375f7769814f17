"""Grid search: all networks of the space, in an order of which every prefix spreads over it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.base import Problem, Trial
from hwnas.strategies.proposals import Proposals, as_genotype

__all__ = ["Grid"]

N_POINTS = 256  # of the sequence at once; a power of two keeps it balanced
MAX_POINTS = 2**16  # of the sequence in all; what it has not met by then comes in random order


class Grid:
    """Proposes every feasible network once, along a Sobol sequence over the option indices.

    Nested loops would change the last choice first, so a search that ends before the grid does
    would have seen one corner. A scrambled Sobol sequence tries all options of every choice, and of
    every few choices together, about equally often from the start on.

    Args:
        problem: What to search.
        seed: Scrambles the sequence.

    References:
        Sobol', On the distribution of points in a cube, USSR Comp. Math. 7(4), 1967.
        Bergstra and Bengio, Random search for hyper-parameter optimization, JMLR 13, 2012
        (low-discrepancy sequences in the place of grids).
    """

    def __init__(self, problem: Problem, *, seed: int) -> None:
        self.problem = problem
        self._proposals = Proposals(problem, seed=seed)
        self._seed = seed
        # What the sequence brings next; all before it was proposed, told, or never feasible.
        self._ahead: GenotypeArray = np.empty((0, len(problem.space.choices)), dtype=np.int64)
        self._n_points = 0

    def ask(self) -> Genotype:
        """Propose the next network of the sequence; where that ends, any that is left."""
        return self._proposals.ask(self._next() or self._proposals.draw(self._proposals.rng()))

    def tell(self, trial: Trial) -> None:
        """Remember the genotype; the result changes nothing."""
        self._proposals.tell(trial)

    def _next(self) -> Genotype | None:
        """The next network on the sequence that may be proposed; None at its end."""
        while True:
            self._ahead, _ = self._proposals.novel(self._ahead)
            if len(self._ahead):
                return as_genotype(self._ahead[0])
            if self._n_points >= MAX_POINTS:
                return None
            space = self.problem.space
            points = self._sequence.random(N_POINTS)[:, : len(space.choices)]
            self._ahead = (points * space.n_options).astype(np.int64)
            self._n_points += N_POINTS

    @cached_property
    def _sequence(self) -> Any:
        """Points of the unit cube, one coordinate for each choice."""
        from scipy.stats import qmc  # it takes half a second, which other strategies need not pay

        return qmc.Sobol(max(len(self.problem.space.choices), 1), seed=self._seed)
