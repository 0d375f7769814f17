"""Expected hypervolume improvement for two minimised objectives, exact, for many candidates.

Both objectives are lognormal: errors and latencies are positive, and predicted on a log scale. A
latency that is known is the limit of no deviation. The area that a candidate would add lies under
the staircase of the front; each stair is a product of two one-dimensional expectations, since the
two predictions are independent.

Reference:
    Emmerich et al., Computing expected improvement: EHVI in O(n log n), 2011;
    Yang et al., Multi-Objective Bayesian Global Optimization using EHVI gradient, 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

__all__ = ["LogNormal", "expected_gain"]

FloatArray = NDArray[np.float64]
MIN_DEVIATION = 1e-9
REACH = 4.0  # deviations that a result may lie below its mean
CHUNK = 4096  # candidates at once, so that memory stays small


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Predictions of a positive quantity: its log has this mean and deviation, `(n,)` each."""

    mean: FloatArray
    deviation: FloatArray

    def __len__(self) -> int:
        return len(self.mean)

    def part(self, rows: slice | NDArray[np.int64]) -> LogNormal:
        """The predictions of some candidates."""
        return LogNormal(self.mean[rows], self.deviation[rows])

    def shortfall(self, bounds: FloatArray) -> FloatArray:
        """How far the quantity is expected below each bound, never less than 0, `(n, m)`.

        E[max(bound - x, 0)], the price of a put option.
        """
        bounds = np.maximum(bounds, 0.0)
        if not self.deviation.any():
            return np.asarray(np.maximum(bounds - np.exp(self.mean)[:, None], 0.0))
        deviation = np.maximum(self.deviation, MIN_DEVIATION)[:, None]
        mean = self.mean[:, None]
        with np.errstate(divide="ignore"):
            z = (np.log(bounds) - mean) / deviation
        expected = np.exp(mean + 0.5 * deviation**2)
        return np.asarray(np.maximum(bounds * ndtr(z) - expected * ndtr(z - deviation), 0.0))


def expected_gain(
    error: LogNormal, latency: LogNormal, front: FloatArray, reference: tuple[float, float]
) -> FloatArray:
    """The hypervolume that each candidate is expected to add, `(n,)`.

    Args:
        error: Predictions of the first objective.
        latency: Of the second.
        front: Objectives of the trials so far, `(k, 2)`; dominated ones may be among them.
        reference: Upper corner of the volume, same order.

    Example:
        >>> certain = LogNormal(np.log([0.5]), np.array([0.0]))
        >>> float(expected_gain(certain, certain, np.array([[0.25, 0.75]]), (1.0, 1.0))[0])
        0.125
    """
    inside = front[(front < reference).all(axis=1)]
    inside = inside[np.lexsort((inside[:, 0], inside[:, 1]))]
    best = np.minimum.accumulate(inside[:, 0])
    is_step = np.concatenate([[True], best[1:] < best[:-1]])[: len(best)]
    # Below each height, from its latency on to the next one's, nothing is dominated yet.
    heights = np.concatenate([[reference[0]], best[is_step]])
    ends = np.concatenate([inside[is_step, 1], [reference[1]]])
    # Where even the hopeful end of the predictions is dominated, there is nothing to compute.
    hopeful = np.exp([p.mean - REACH * p.deviation for p in (error, latency)])
    to_beat = np.append(heights, 0.0)[np.searchsorted(ends, hopeful[1], side="right")]
    found = np.flatnonzero(hopeful[0] < to_beat)
    gain = np.zeros(len(error))
    for start in range(0, len(found), CHUNK):
        rows = found[start : start + CHUNK]
        widths = np.diff(latency.part(rows).shortfall(ends), axis=1, prepend=0.0)
        gain[rows] = (widths * error.part(rows).shortfall(heights)).sum(axis=1)
    return gain
