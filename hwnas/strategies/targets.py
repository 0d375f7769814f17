"""Latency targets: how a strategy that maximises one number learns a whole front.

Every proposal aims at a latency of its own, drawn log-uniformly between the fastest network and the
slowest that meets the budgets. What it learns from a result is MnasNet's reward for that target:
the accuracy, times (latency / target) ** exponent where the latency is above the target. Below it,
latency is free: with one exponent on both sides, the paper's soft constraint, the target would
scale the rewards of all networks alike, and one network would be the best at every target.

Reference:
    Tan et al., MnasNet, CVPR 2019, equations 2 and 3: alpha = 0, beta = -1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.base import FloatArray, Trial
from hwnas.strategies.proposals import Proposals, as_genotype

__all__ = ["KNOTS", "N_FEATURES", "Targets", "features", "nearest_new"]

N_DRAWS = 4096  # to find the range of latencies
KNOTS = np.linspace(0.0, 1.0, 4)
N_FEATURES = 1 + len(KNOTS)
EXPONENT = -1.0
MAX_ROUNDS = 8  # of mutation, before any network is taken


class Targets:
    """The targets of one search, and what a result is worth at one of them.

    A target is given as its position between the ends of the range, 0 to 1 on a log scale. The
    ends are predicted; where latency is known by evaluating only, they are those of the trials so
    far.
    """

    def __init__(self, proposals: Proposals) -> None:
        self._proposals = proposals
        self._range_ms: tuple[float, float] | None = None
        self._is_predicted = False

    def tell(self, trial: Trial) -> None:
        """Take note of a latency."""
        if trial.objectives is None:
            return
        if self._range_ms is None:
            self._range_ms = self._predicted_range_ms()
            self._is_predicted = self._range_ms is not None
        if not self._is_predicted:
            latency_ms = trial.objectives[1]
            fastest_ms, slowest_ms = self._range_ms or (latency_ms, latency_ms)
            self._range_ms = min(fastest_ms, latency_ms), max(slowest_ms, latency_ms)

    def reward(self, error: ArrayLike, latency_ms: ArrayLike, position: ArrayLike) -> FloatArray:
        """What results are worth at targets, larger is better; arrays of one shape, or numbers."""
        assert self._range_ms is not None  # a result was told
        low, high = np.log(self._range_ms)
        target_ms = np.exp(low + (high - low) * np.asarray(position, np.float64))
        excess = np.maximum(np.asarray(latency_ms, np.float64) / target_ms, 1.0)
        return np.asarray((1.0 - np.asarray(error, np.float64)) * excess**EXPONENT)

    def _predicted_range_ms(self) -> tuple[float, float] | None:
        """Ends of the predicted latencies of feasible networks; None if there are no two."""
        space = self._proposals.problem.space
        drawn = space.sample(self._proposals.rng(number=0), N_DRAWS)
        latency_ms = self._proposals.feasible(drawn)[1].latency_ms
        if len(latency_ms) < 2 or np.isnan(latency_ms).any():
            return None
        return float(latency_ms.min()), float(latency_ms.max())


def features(position: ArrayLike) -> FloatArray:
    """What a model reads of targets, `(n, N_FEATURES)`: a constant, and a place between knots.

    The first column is 1. The others are 1 at their own of the `KNOTS` and fall to 0 at its
    neighbours, so that what is linear in them interpolates between the knots.

    Example:
        >>> features([0.0, 0.5])
        array([[1. , 1. , 0. , 0. , 0. ],
               [1. , 0. , 0.5, 0.5, 0. ]])
    """
    distance = np.abs(np.asarray(position, dtype=np.float64).reshape(-1, 1) - KNOTS)
    hats = np.maximum(1.0 - distance * (len(KNOTS) - 1), 0.0)
    return np.concatenate([np.ones((len(hats), 1)), hats], axis=1)


def nearest_new(
    proposals: Proposals, genotypes: GenotypeArray, rng: np.random.Generator
) -> Genotype:
    """The first that may be proposed; else one that mutation reaches from them; else any.

    Raises:
        InfeasibleBudgetError: If no feasible network was found, now or before.
        SpaceExhaustedError: If no new one was found.
    """
    space = proposals.problem.space
    genotypes, is_valid = space.repair(genotypes, rng)
    genotypes = genotypes[is_valid]
    for _ in range(MAX_ROUNDS):
        found, _ = proposals.novel(genotypes)
        if len(found):
            return as_genotype(found[0])
        genotypes = space.mutate(genotypes, rng)
    return proposals.draw(rng)
