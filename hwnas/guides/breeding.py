"""Evolution on predicted objectives: whole generations at once, since nothing is trained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hwnas.pareto import best_first
from hwnas.spaces.base import GenotypeArray
from hwnas.strategies.base import FloatArray, Problem
from hwnas.strategies.proposals import Proposals

POPULATION = 128
N_CHILDREN, N_GENERATIONS = 256, 24
MUTATED_SHARE = 0.5  # of the children; the others are crossed first


def evolve(
    problem: Problem,
    predict_error: Callable[[GenotypeArray], FloatArray],
    first: GenotypeArray,
    *,
    rng: np.random.Generator,
) -> GenotypeArray:
    """Networks with the best predicted errors and latencies among some thousands.

    Args:
        problem: Its budgets are met by all that live.
        predict_error: From `(n, len(choices))` to errors, `(n,)`, minimised.
        first: The first generation, `(n, len(choices))`, at least one, feasible.
        rng: Decides all randomness.

    Returns:
        Up to `POPULATION`, distinct, by Pareto rank and crowding, `(k, len(choices))`.

    Reference:
        Deb et al., NSGA-II, IEEE TEC 6(2), 2002: ranks, crowding, tournaments.
    """
    space = problem.space
    proposals = Proposals(problem, seed=0)  # for what is feasible only: it draws nothing

    def survivors(genotypes: GenotypeArray) -> GenotypeArray:
        found, costs = proposals.feasible(genotypes)
        order = best_first(problem.objectives(predict_error(found), costs))
        best: GenotypeArray = found[order[:POPULATION]]
        return best

    population = survivors(first)
    for _ in range(N_GENERATIONS):
        # It is sorted best first, so the winner of a tournament is the lower index.
        rows = rng.integers(len(population), size=(2, N_CHILDREN, 2)).min(axis=2)
        crossed = space.crossover(population[rows[0]], population[rows[1]], rng)
        is_mutated = rng.random((N_CHILDREN, 1)) < MUTATED_SHARE
        children = np.where(is_mutated, space.mutate(crossed, rng), crossed)
        population = survivors(np.concatenate([population, children]))
    return population
