"""Before anything is trained: can the space meet the budget, and what does it offer?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hwnas.budget import Budget
from hwnas.errors import InfeasibleBudgetError
from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.base import FloatArray, Problem

N_SAMPLE = 20_000
N_STARTS = 16
MAX_SWEEPS = 20

# Which of n genotypes can be costed, `(n,)`: `CostTable.affordable`.
Affordable = Callable[[GenotypeArray], NDArray[np.bool_]]


def _all(genotypes: GenotypeArray) -> NDArray[np.bool_]:
    return np.ones(len(genotypes), dtype=bool)


@dataclass(frozen=True)
class Overview:
    """What a space costs on one metric: of a random sample, and the least that was found.

    Attributes:
        metric: Such as `latency_ms`.
        fastest: Least value found by descent from the best of the sample.
        fastest_upper: Upper end of its interval, what a budget is compared with.
        genotype: The network that has it.
        median: Of the sample.
        slowest: Of the sample.
        values: Of the sample, `(n,)`; NaN: not known.
    """

    metric: str
    fastest: float
    fastest_upper: float
    genotype: Genotype
    median: float
    slowest: float
    values: FloatArray = field(compare=False, repr=False)


def overview(
    problem: Problem, metric: str, rng: np.random.Generator, *, affordable: Affordable = _all
) -> Overview:
    """Sample the space, and descend to its cheapest network.

    By the upper end of the prediction, which budgets are compared with. Every choice of the best
    few genotypes is set to each of its options in turn, and the best is kept, until nothing gets
    cheaper. Where not all networks are affordable, the sample is of those that are, some hundreds,
    and the descent begins from one of them.
    """
    drawn = problem.space.sample(rng, N_SAMPLE)
    sample = drawn[affordable(drawn)]
    n_starts = N_STARTS if len(sample) == len(drawn) else 1
    sampled = problem.predict(sample)
    best = sample[np.argsort(sampled.upper(metric), kind="stable")[:n_starts]]
    for _ in range(MAX_SWEEPS):
        before = best.copy()
        for column, n_options in enumerate(problem.space.n_options):
            variants = np.repeat(best, n_options, axis=0)
            variants[:, column] = np.tile(np.arange(n_options), len(best))
            is_priced = problem.space.is_valid(variants)
            is_priced[is_priced] = affordable(variants[is_priced])
            upper = np.full(len(variants), np.inf)
            upper[is_priced] = _upper(problem, variants[is_priced], metric)
            best[:, column] = upper.reshape(len(best), n_options).argmin(axis=1)
        if (best == before).all():
            break
    costs = problem.predict(best)
    values = np.asarray(getattr(sampled, metric), dtype=np.float64)
    cheapest = int(_upper(problem, best, metric).argmin())
    return Overview(
        metric,
        float(getattr(costs, metric)[cheapest]),
        float(costs.upper(metric)[cheapest]),
        tuple(int(i) for i in problem.space.canonical(best)[cheapest]),
        float(np.nanmedian(values)),
        float(np.nanmax(values)),
        values,
    )


def _upper(problem: Problem, genotypes: GenotypeArray, metric: str) -> FloatArray:
    """What a budget is compared with, `(n,)`; what is not known is above all that is."""
    return np.nan_to_num(problem.predict(genotypes).upper(metric), nan=np.inf)


def resolve_budgets(
    problem: Problem,
    budgets: tuple[Budget, ...],
    rng: np.random.Generator,
    *,
    affordable: Affordable = _all,
) -> tuple[Problem, dict[str, Overview]]:
    """Turn shares and percentiles into numbers, and refuse what no network can meet.

    Returns:
        The problem with budgets that are numbers, and an overview of each metric.

    Raises:
        InfeasibleBudgetError: Even the cheapest network misses a budget.
    """
    overviews: dict[str, Overview] = {}
    resolved = []
    for budget in budgets:
        found = overviews.get(budget.metric) or overview(
            problem, budget.metric, rng, affordable=affordable
        )
        overviews[budget.metric] = found
        number = budget.resolve(found.values)
        assert number.limit is not None
        if found.fastest_upper > number.limit:
            raise InfeasibleBudgetError(
                f"no network of the space meets {number}: the cheapest needs {budget.metric} "
                f"{found.fastest:.4g}, up to {found.fastest_upper:.4g} with the prediction's "
                f"interval (median of the space {found.median:.4g}, largest {found.slowest:.4g}). "
                f"Raise the budget above {found.fastest_upper:.4g}, or add smaller options to the "
                f"space. The cheapest: {problem.space.to_json(found.genotype)}"
            )
        resolved.append(number)
    return replace(problem, budgets=tuple(resolved)), overviews
