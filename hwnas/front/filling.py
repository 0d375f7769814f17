"""Networks near the budget: latency that is left unused is accuracy that is lost.

References:
    Tan, Le, EfficientNet, ICML 2019 (an accurate small network, scaled up, is an accurate one).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from hwnas.errors import InfeasibleBudgetError
from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.base import Costs, Problem, Proposal, SpaceExhaustedError, Trial
from hwnas.strategies.guided import Guided
from hwnas.strategies.proposals import ENUMERABLE_SIZE

__all__ = [
    "MAX_SLACK",
    "expected_errors",
    "grown_to_budget",
    "latency_limit",
    "near_budget",
    "proposals_near_budget",
]

MAX_SLACK = 0.15  # share of the latency budget that may stay unused
AIMS = (0.11, MAX_SLACK)  # of proposals; the next where there are none, or predictions are unsure
MAX_CHANGES, N_KEPT = 8, 8  # of a network that grows; of the ways to grow that go on
SMALLEST = 1e-4  # error, to take logs
DOUBT = 0.5  # added to the sum of squared logarithms: few short trainings are believed less


def latency_limit(problem: Problem) -> float | None:
    """The smallest budget on the latency in ms; None: there is none."""
    limits = [b.limit for b in problem.budgets if b.metric == "latency_ms" and b.limit is not None]
    return min(limits, default=None)


def near_budget(problem: Problem, *, slack: float = MAX_SLACK) -> Problem:
    """The problem in which only what leaves at most `slack` of the latency budget is feasible.

    Any strategy then proposes nothing else.
    """
    limit_ms = latency_limit(problem)
    assert limit_ms is not None

    def predict(genotypes: GenotypeArray) -> Costs:
        costs = problem.predict(genotypes)
        is_near = costs.latency_ms >= (1 - slack) * limit_ms
        return replace(costs, high_ms=np.where(is_near, costs.high_ms, np.inf))

    return replace(problem, predict=predict)


def proposals_near_budget(
    problem: Problem,
    trials: Sequence[Trial],
    errors: Mapping[Genotype, float],
    tried: Collection[Genotype],
    n: int,
    *,
    seed: int,
) -> list[Genotype]:
    """New networks near the latency budget that promise most by what is known of others.

    Args:
        problem: With a budget on the latency, and predictions that are to be believed.
        trials: Of the search, trained shortly.
        errors: Of networks that were trained to the end.
        tried: Genotypes that are not to be proposed, whatever is known of them.
        n: How many.
        seed: Of what is random.

    Returns:
        At most `n`; fewer where no more were found.
    """
    believed = expected_errors(trials, errors)
    known = _with_latencies(problem, believed)
    found: list[Genotype] = []
    for slack in AIMS:
        near = near_budget(problem, slack=slack)
        space = near.space
        if space.size <= ENUMERABLE_SIZE and not near.is_feasible(space.all_genotypes()).any():
            continue
        strategy = Guided(near, seed=seed)
        others = [(g, None) for g in sorted({*tried, *found} - set(believed))]
        for number, (genotype, objectives) in enumerate([*known, *others]):
            strategy.tell(Trial(number, genotype, objectives))
        with suppress(InfeasibleBudgetError, SpaceExhaustedError):
            while len(found) < n:
                found.append(Proposal.of(strategy.ask()).genotype)
    return found


def grown_to_budget(
    problem: Problem, parent: Genotype, tried: Collection[Genotype], rng: np.random.Generator
) -> Genotype | None:
    """A network near the latency budget that differs from `parent` in as few choices as can be.

    Of those with equally many the one with the most multiply-accumulates.

    Args:
        problem: With a budget on the latency, and predictions that are to be believed.
        parent: A faster network, or one that is a little over the budget.
        tried: Genotypes that are not to be proposed.
        rng: Decides which ways to grow go on, where there are many.

    Returns:
        None: none was found.
    """
    space = problem.space
    for slack in AIMS:
        near = near_budget(problem, slack=slack)
        growing = np.array([parent], dtype=np.int64)
        for _ in range(MAX_CHANGES):
            found = [space.neighbours(tuple(row)) for row in growing.tolist()]
            children = np.unique(np.concatenate(found), axis=0)
            costs = near.predict(children)
            is_new = np.array([tuple(row) not in tried for row in children.tolist()], dtype=bool)
            fits = np.flatnonzero((near.excess(costs) <= 0) & is_new)
            if len(fits):
                return tuple(children[fits[costs.macs[fits].argmax()]].tolist())
            slower = children[
                problem.is_feasible(children)
                & (costs.latency_ms > problem.predict(growing).latency_ms.min())
            ]
            if not len(slower):
                break
            growing = slower[rng.permutation(len(slower))[:N_KEPT]]
    return None


def expected_errors(
    trials: Sequence[Trial], errors: Mapping[Genotype, float]
) -> dict[Genotype, float]:
    """What networks reach when they are trained to the end, by genotype, in a fixed order.

    A short training says what those that had both say that it does: a line between the logarithms.

    Args:
        trials: Trained shortly.
        errors: Of some of them, and maybe of others, trained to the end.
    """
    short = {t.genotype: np.log(max(t.objectives[0], SMALLEST)) for t in trials if t.objectives}
    long = {genotype: np.log(max(error, SMALLEST)) for genotype, error in errors.items()}
    both = [genotype for genotype in short if genotype in long]
    slope, x_mean, y_mean = 1.0, 0.0, 0.0
    if both:
        x, y = (np.array([table[genotype] for genotype in both]) for table in (short, long))
        x_mean, y_mean = float(x.mean()), float(y.mean())
        covariance = float(((x - x_mean) * (y - y_mean)).sum())
        slope = float(np.clip(covariance / (((x - x_mean) ** 2).sum() + DOUBT), 0.0, 1.0))
    expected = {g: float(np.exp(y_mean + slope * (v - x_mean))) for g, v in short.items()}
    return expected | {genotype: float(np.exp(value)) for genotype, value in long.items()}


def _with_latencies(
    problem: Problem, errors: Mapping[Genotype, float]
) -> list[tuple[Genotype, tuple[float, ...] | None]]:
    """Genotypes and their objectives."""
    if not errors:
        return []
    costs = problem.predict(np.array(list(errors), dtype=np.int64))
    objectives = problem.objectives(list(errors.values()), costs).tolist()
    return [(g, tuple(pair)) for g, pair in zip(errors, objectives, strict=True)]
