"""What measurements of a new device say beyond the prior, and which measurements say most."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from predictors.architectures import FloatArray, IntArray
from predictors.transfer_prior import Prior

# How much of a new device no training device shows, against what is typical, in variance.
UNUSUALNESS = (0.03, 0.3, 1.0, 3.0)
NOISES = (0.003, 0.01, 0.03, 0.1)  # that a device may have, whatever others had
NOISE_STEP = 0.5  # of log noise: the noises of the training devices, thinned out
MAX_ROWS_FOR_PAIRS = 24  # for two outliers at once; their number grows with the square
MAX_ROWS_FOR_OUTLIERS = 100  # so many outvote one that is off, and each would be an inverse
NEGLIGIBLE = 1e-3
LOWEST_SHARE = 0.05  # of what the mean device would say: a latency is never 0 or less


@dataclass(frozen=True)
class Posterior:
    """What n rows of a new device are, on the prior's scale.

    Attributes:
        level: The device's unit: `to_ms` wants it.
        values: What is expected, `(n,)`.
        std: Standard deviation of a measurement, that is with its noise, `(n,)`.
    """

    level: float
    values: FloatArray
    std: FloatArray


def most_telling(prior: Prior, pool: IntArray, n: int, known: IntArray) -> IntArray:
    """`n` rows of `pool` to measure: each is the least known one, given `known` and those before.

    Least known is the largest variance over that of its noise: the greedy way to the largest
    determinant, that is to the most information. Time O(pool² (n + known)).
    """
    rows = np.concatenate([known, pool])
    shared, own = prior.covariance(rows, rows)
    covariance = shared + own
    noise = np.square(np.median(prior.noise) * prior.noise_shape(rows))
    chosen = list(range(len(known)))
    for step in range(len(known) + n):
        if step < len(known):
            best = step
        else:
            gain = np.diag(covariance) / noise
            gain[chosen] = -1.0
            best = int(gain.argmax())
            chosen.append(best)
        column = covariance[:, best].copy()
        covariance -= np.outer(column, column) / (column[best] + noise[best])
    return rows[chosen[len(known) :]]


def from_ms(prior: Prior, level: float, latency_ms: FloatArray) -> FloatArray:
    """Latencies on the prior's scale; `level` is the device's unit."""
    return np.log(latency_ms) - level if prior.is_log else latency_ms / level


def to_ms(prior: Prior, level: float, values: FloatArray, rows: IntArray | slice) -> FloatArray:
    """Values on the prior's scale, of those rows, as latencies > 0."""
    if prior.is_log:
        return np.exp(values + level)
    return np.maximum(values, LOWEST_SHARE * prior.mean[rows]) * level


def condition(prior: Prior, rows: IntArray, latency_ms: FloatArray, wanted: IntArray) -> Posterior:
    """What `wanted` rows are, given measurements.

    Not known are: how unusual the device is, how large its noise is, and which measurements are
    outliers. All combinations of those are weighted by how likely they make the measurements.
    """
    mean, at_rows = prior.mean, prior.mean[rows]
    level = float(
        np.median(np.log(latency_ms) - at_rows) if prior.is_log else np.median(latency_ms / at_rows)
    )
    residual = from_ms(prior, level, latency_ms) - at_rows
    shared, own = prior.covariance(rows, rows)
    outliers, log_odds = _outlier_hypotheses(prior, len(rows))
    shape = np.square(prior.noise_shape(rows))
    known = np.round(np.log([*prior.noise, *NOISES]) / NOISE_STEP) * NOISE_STEP
    noises = np.exp(np.unique(known))
    settings = list(itertools.product(UNUSUALNESS, noises))
    inverses, weights, log_likelihoods = [], [], []
    for unusual, noise in settings:
        covariance = np.repeat((shared + unusual * own)[None], len(outliers), axis=0)
        diagonal = np.arange(len(rows))
        covariance[:, diagonal, diagonal] += outliers * shape * noise**2
        inverse = np.linalg.inv(covariance)  # (hypotheses, m, m)
        weight = inverse @ residual
        fit = weight @ residual + np.linalg.slogdet(covariance)[1]
        inverses.append(inverse)
        weights.append(weight)
        log_likelihoods.append(log_odds - 0.5 * fit)
    likelihood = np.stack(log_likelihoods)  # (settings, hypotheses)
    share = np.exp(likelihood - likelihood.max())
    share /= share.sum()

    cross, cross_own = prior.covariance(wanted, rows)
    variance, variance_own = (each[wanted] for each in prior.variance())
    first, second = np.zeros(len(wanted)), np.zeros(len(wanted))
    noise_shape = np.square(prior.noise_shape(wanted))
    for k, (unusual, noise) in enumerate(settings):
        if share[k].sum() < NEGLIGIBLE:
            continue
        towards = cross + unusual * cross_own
        shift = towards @ (share[k] @ weights[k] / share[k].sum())
        inverse = inverses[k][int(share[k].argmax())]
        explained = np.sum((towards @ inverse) * towards, axis=1)
        left = np.maximum(variance + unusual * variance_own - explained, 0.0)
        first += share[k].sum() * shift
        second += share[k].sum() * (np.square(shift) + left + noise_shape * noise**2)
    kept = share.sum(axis=1)
    total = float(kept[kept >= NEGLIGIBLE].sum())
    first, second = first / total, second / total
    return Posterior(level, mean[wanted] + first, np.sqrt(second - np.square(first)))


def _outlier_hypotheses(prior: Prior, n: int) -> tuple[FloatArray, FloatArray]:
    """None, one or two of n measurements are outliers, or none where there are many.

    Returns:
        What the variance of each is multiplied by, `(hypotheses, n)`, and the log of how likely
        each hypothesis is before measuring, `(hypotheses,)`.
    """
    at_once = 2 if n <= MAX_ROWS_FOR_PAIRS else 1 if n <= MAX_ROWS_FOR_OUTLIERS else 0
    hypotheses = [c for size in range(at_once + 1) for c in itertools.combinations(range(n), size)]
    factors = np.ones((len(hypotheses), n))
    for i, outliers in enumerate(hypotheses):
        factors[i, list(outliers)] = prior.outlier_size**2
    counts = np.array([len(outliers) for outliers in hypotheses])
    odds = np.log(prior.outlier_share / (1 - prior.outlier_share))
    return factors, counts * odds
