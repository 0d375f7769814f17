"""Networks drawn, and bred on predicted objectives: whole generations, since nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hwnas.evaluators.learned import LearnedAccuracy
from hwnas.pareto import best_first
from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.base import FloatArray, Problem, SpaceExhaustedError
from hwnas.strategies.proposals import Proposals
from hwnas.strategies.random_search import RandomSearch

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


def bred_from(
    problem: Problem, known: Sequence[Genotype], errors: FloatArray, *, seed: int
) -> tuple[GenotypeArray, FloatArray]:
    """Networks bred on an accuracy predictor that learns from known ones.

    Args:
        problem: Its budgets are met by all networks, known and bred.
        known: n networks, at least `hwnas.evaluators.learned.MIN_NETWORKS`.
        errors: Of the known ones, `(n,)`.
        seed: Of the evolution.

    Returns:
        What `evolve` gives, and the errors predicted for it, `(k,)`.
    """
    accuracy = LearnedAccuracy(problem).fit(known, errors)
    found = evolve(
        problem,
        lambda rows: accuracy.predict(rows).error,
        np.array(known, dtype=np.int64),
        rng=np.random.default_rng([seed, 1]),
    )
    return found, accuracy.predict(found).error


def distinct(problem: Problem, n: int, *, seed: int) -> list[Genotype]:
    """Up to `n` networks that meet the budgets, drawn uniformly, each once.

    Raises:
        InfeasibleBudgetError: None was found.
    """
    strategy = RandomSearch(problem, seed=seed)
    found: list[Genotype] = []
    try:
        for _ in range(n):
            found.append(strategy.ask())
    except SpaceExhaustedError:
        pass
    return found
