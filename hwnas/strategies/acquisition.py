"""Expected hypervolume improvement for two minimised objectives, exact, for many candidates.

Each objective is predicted as it is, or on a log scale above a floor. A latency that is known is
the limit of no deviation. The area that a candidate would add lies under the staircase of the
front; each stair is a product of two one-dimensional expectations, since the two predictions are
independent.

Reference:
    Emmerich et al., Computing expected improvement: EHVI in O(n log n), 2011;
    Yang et al., Multi-Objective Bayesian Global Optimization using EHVI gradient, 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

__all__ = ["LogNormal", "Normal", "Prediction", "expected_gain"]

FloatArray = NDArray[np.float64]
MIN_DEVIATION = 1e-9
REACH = 4.0  # deviations that a result may lie below its mean
CHUNK = 4096  # candidates at once, so that memory stays small


class Prediction(Protocol):
    """What is believed of one quantity of n candidates."""

    def __len__(self) -> int: ...

    @property
    def middle(self) -> FloatArray:
        """The quantity is as likely above as below, `(n,)`."""
        ...

    @property
    def hopeful(self) -> FloatArray:
        """The quantity is hardly ever below, `(n,)`."""
        ...

    def part(self, rows: slice | NDArray[np.int64]) -> Self:
        """The predictions of some candidates."""
        ...

    def shortfall(self, bounds: FloatArray) -> FloatArray:
        """How far the quantity is expected below each bound, E[max(bound - x, 0)], `(n, m)`."""
        ...


@dataclass(frozen=True, slots=True)
class Normal:
    """Predictions of any quantity: it has this mean and deviation, `(n,)` each."""

    mean: FloatArray
    deviation: FloatArray

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def middle(self) -> FloatArray:
        """The means, `(n,)`."""
        return self.mean

    @property
    def hopeful(self) -> FloatArray:
        """Some deviations below the means, `(n,)`."""
        return self.mean - REACH * self.deviation

    def part(self, rows: slice | NDArray[np.int64]) -> Normal:
        """The predictions of some candidates."""
        return Normal(self.mean[rows], self.deviation[rows])

    def shortfall(self, bounds: FloatArray) -> FloatArray:
        """E[max(bound - x, 0)], as in expected improvement, `(n, m)`."""
        gap = bounds - self.mean[:, None]
        if not self.deviation.any():
            return np.asarray(np.maximum(gap, 0.0))
        deviation = np.maximum(self.deviation, MIN_DEVIATION)[:, None]
        z = gap / deviation
        density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
        return np.asarray(np.maximum(gap * ndtr(z) + deviation * density, 0.0))


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Predictions of a quantity above a floor: the log of what it exceeds it by is normal.

    Attributes:
        mean: Of the log, `(n,)`.
        deviation: Of the log, `(n,)`.
        floor: What the quantity always exceeds.
    """

    mean: FloatArray
    deviation: FloatArray
    floor: float = 0.0

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def middle(self) -> FloatArray:
        """The medians, `(n,)`."""
        return np.asarray(self.floor + np.exp(self.mean))

    @property
    def hopeful(self) -> FloatArray:
        """Some deviations below the medians, `(n,)`."""
        return np.asarray(self.floor + np.exp(self.mean - REACH * self.deviation))

    def part(self, rows: slice | NDArray[np.int64]) -> LogNormal:
        """The predictions of some candidates."""
        return LogNormal(self.mean[rows], self.deviation[rows], self.floor)

    def shortfall(self, bounds: FloatArray) -> FloatArray:
        """E[max(bound - x, 0)], the price of a put option, `(n, m)`."""
        bounds = np.maximum(bounds - self.floor, 0.0)
        deviation = np.maximum(self.deviation, MIN_DEVIATION)[:, None]
        mean = self.mean[:, None]
        with np.errstate(divide="ignore"):
            z = (np.log(bounds) - mean) / deviation
        expected = np.exp(mean + 0.5 * deviation**2)
        return np.asarray(np.maximum(bounds * ndtr(z) - expected * ndtr(z - deviation), 0.0))


def expected_gain(
    error: Prediction, latency: Prediction, front: FloatArray, reference: tuple[float, float]
) -> FloatArray:
    """The hypervolume that each candidate is expected to add, `(n,)`.

    Args:
        error: Predictions of the first objective.
        latency: Of the second.
        front: Objectives of the trials so far, `(k, 2)`; dominated ones may be among them.
        reference: Upper corner of the volume, same order.

    Example:
        >>> certain = Normal(np.array([0.5]), np.array([0.0]))
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
    to_beat = np.append(heights, 0.0)[np.searchsorted(ends, latency.hopeful, side="right")]
    found = np.flatnonzero(error.hopeful < to_beat)
    gain = np.zeros(len(error))
    for start in range(0, len(found), CHUNK):
        rows = found[start : start + CHUNK]
        widths = np.diff(latency.part(rows).shortfall(ends), axis=1, prepend=0.0)
        gain[rows] = (widths * error.part(rows).shortfall(heights)).sum(axis=1)
    return gain
