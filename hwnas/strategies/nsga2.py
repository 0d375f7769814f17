"""NSGA-II as in its paper: generations, crowded tournaments, elitism by rank and crowding.

The strategy `evolution` shares its selection, but renews its population after every trial and
looks at predicted latency; this one is the textbook that others are compared with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwnas.pareto import best_first
from hwnas.spaces.base import Genotype
from hwnas.strategies.base import FloatArray, Problem, Trial
from hwnas.strategies.generations import Generations

__all__ = ["Nsga2"]


class Nsga2:
    """The elitist non-dominated sorting genetic algorithm.

    Children that were proposed before or are over the budget are not made: in the paper they
    would be evaluated again, or rank behind all that meet the constraints.

    Args:
        problem: What to search.
        seed: Decides all randomness, together with the number of the proposal.
        population_size: Of the parents, and of each generation of children.

    Reference:
        Deb et al., NSGA-II, IEEE TEC 6(2), 2002. https://doi.org/10.1109/4235.996017
    """

    def __init__(self, problem: Problem, *, seed: int, population_size: int = 12) -> None:
        self._generations = Generations(
            problem, seed=seed, size=population_size, survive=_survive, mate=_tournament
        )

    def ask(self) -> Genotype:
        """Propose a child of the population; any network while the first one is not complete."""
        return self._generations.ask()

    def tell(self, trial: Trial) -> None:
        """Learn a result; failed trials do not become parents."""
        self._generations.tell(trial)


def _survive(objectives: FloatArray, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The best rows by rank and crowding distance, best first."""
    del rng  # nothing is left to chance
    return best_first(objectives)[:size]


def _tournament(n: int, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    """Winners of two each: the lower rows, since the population is sorted best first."""
    rows: NDArray[np.int64] = rng.integers(n, size=(*shape, 2)).min(axis=-1)
    return rows
