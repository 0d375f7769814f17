"""What the finalists' own measurements say about the predictions of networks like them.

A fit learns from networks all over a space, some time before; the finalists come from where the
search went, now. How far they are off is a smooth function of the prediction: a Gaussian process
over its logarithm, which costs nothing, where another fit takes a minute and hardly hears a few
networks among a hundred. The measurements also go to the database, for the next fit.

Reference:
    Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, equations 2.25 to 2.26,
    and 5.10 to 5.12 for what each example says of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from hwnas.front.sittings import LATER_SHARE
from hwnas.front.verify import SEARCHED, Candidate
from hwnas.spaces.base import GenotypeArray
from hwnas.strategies.base import Costs, FloatArray, Problem

__all__ = ["mended", "with_room"]

# By predicted metric, the fields of `Costs` that are the ends of its interval.
_ENDS: Mapping[str, tuple[str, ...]] = {
    "latency_ms": ("low_ms", "high_ms"),
    "peak_memory_bytes": ("high_peak_memory_bytes",),
    "energy_mj": ("high_energy_mj",),
}
COMMON = 0.5  # share of an error's variance that networks of about the same cost have in common
REACH = 0.7  # of the logarithm: the errors of networks with twice the cost are much like theirs
N_BELIEVED = 4.0  # as many examples as the interval's own width counts for
MIN_LOG_WIDTH = 1e-3
MAX_OFF = 3.0  # spreads from the median, at least of one deviation: the machine, not the network


def with_room(problem: Problem) -> Problem:
    """The problem in which what is expected to meet the budget when measured is feasible.

    When measured, the upper end of the measured interval has to meet it.
    """

    def predict(genotypes: GenotypeArray) -> Costs:
        costs = problem.predict(genotypes)
        high_ms = np.maximum(costs.high_ms, (1 + LATER_SHARE) * costs.latency_ms)
        return replace(costs, high_ms=high_ms)

    return replace(problem, predict=predict)


def mended(problem: Problem, candidates: Sequence[Candidate], *, level: float) -> Problem:
    """The problem with predictions and intervals corrected by what was measured.

    The upper end of the latency also has room for what the measured interval adds to a
    measurement: it is that interval's upper end that has to meet the budget.

    Args:
        problem: With the predictions that the search used.
        candidates: Measured networks; those that are not of the space say nothing. Without any, it
            is `with_room`.
        level: Share of networks that the intervals of the predictions are to cover.
    """
    known = [c for c in candidates if c.kind == SEARCHED and c.genotype is not None]
    if not known:
        return with_room(problem)
    genotypes = np.array([c.genotype for c in known], dtype=np.int64)
    costs = problem.predict(genotypes)
    corrections = {}
    for metric in {budget.metric for budget in problem.budgets} & set(_ENDS):
        values = [getattr(candidate, metric) for candidate in known]
        measured = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
        is_known = (measured > 0) & np.isfinite(costs.upper(metric))
        if is_known.any():
            corrections[metric] = _Correction.of(
                costs.take(is_known), metric, measured[is_known], level
            )
    rooms = [c.measured_high_ms / c.latency_ms for c in known if c.measured_high_ms is not None]
    room = float(np.median(rooms)) if rooms else 1.0

    def predict(genotypes: GenotypeArray) -> Costs:
        costs = problem.predict(genotypes)
        for metric, correction in corrections.items():
            costs = correction(costs, metric)
        return replace(costs, high_ms=room * costs.high_ms)

    return replace(problem, predict=predict)


@dataclass(frozen=True)
class _Correction:
    """Of the predictions of one metric.

    Attributes:
        position: Logarithms of the predictions of n measured networks, `(n,)`.
        inverse: Of their covariance, `(n, n)`, in units of the predictions' own deviation.
        errors: Logarithms of measured over predicted, in these units, `(n,)`.
        scale: How much larger than expected the errors are.
        z: Of the ends of intervals.
    """

    position: FloatArray
    inverse: FloatArray
    errors: FloatArray
    scale: float
    z: float

    @classmethod
    def of(cls, costs: Costs, metric: str, measured: FloatArray, level: float) -> _Correction:
        """From n networks: what was predicted, and what was measured, `(n,)`."""
        z = NormalDist().inv_cdf((1 + level) / 2)
        predicted = getattr(costs, metric)
        position: FloatArray = np.log(predicted)
        errors = _without_outliers(np.log(measured / predicted) / _deviation(costs, metric, z))
        covariance = _alike(position, position) + (1 - COMMON) * np.eye(len(errors))
        inverse: FloatArray = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
        # What all others say of each, and how far off that is against what was to be expected.
        left_out = (inverse @ errors) ** 2 / np.diag(inverse)
        scale = np.sqrt((N_BELIEVED + left_out.sum()) / (N_BELIEVED + len(errors)))
        return cls(position, inverse, errors, float(scale), z)

    def __call__(self, costs: Costs, metric: str) -> Costs:
        """The costs with the metric and its interval corrected."""
        predicted = getattr(costs, metric)
        deviation = _deviation(costs, metric, self.z)
        alike = _alike(np.log(predicted), self.position)
        mean = deviation * (alike @ (self.inverse @ self.errors))
        variance = 1 - np.einsum("ij,jk,ik->i", alike, self.inverse, alike)
        width = self.z * self.scale * deviation * np.sqrt(np.maximum(variance, 0.0))
        centre = predicted * np.exp(mean)
        ends = {
            name: centre * np.exp(width if name.startswith("high") else -width)
            for name in _ENDS[metric]
        }
        return replace(costs, **{metric: centre} | ends)


def _without_outliers(errors: FloatArray) -> FloatArray:
    """Errors with those far from all others brought to where they still may lie, `(n,)`."""
    centre = np.median(errors)
    spread = max(1.4826 * float(np.median(np.abs(errors - centre))), 1.0)
    return np.asarray(np.clip(errors, centre - MAX_OFF * spread, centre + MAX_OFF * spread))


def _deviation(costs: Costs, metric: str, z: float) -> FloatArray:
    """Of the logarithm of each prediction, as its interval says, `(n,)`."""
    width = np.log(costs.upper(metric) / getattr(costs, metric))
    return np.asarray(np.maximum(width, MIN_LOG_WIDTH) / z)


def _alike(a: FloatArray, b: FloatArray) -> FloatArray:
    """Covariance of what networks with these logarithms have in common, `(len(a), len(b))`."""
    return np.asarray(COMMON * np.exp(-0.5 * ((a[:, None] - b) / REACH) ** 2))
