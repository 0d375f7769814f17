"""How good predicted latencies are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDING = 1e-9  # 2.1 is within 5 % of 2.0, although 2.1 / 2.0 - 1 is a little more in binary


@dataclass(frozen=True)
class Accuracy:
    """Of predictions against measurements; shares are in [0, 1].

    Attributes:
        n: Networks compared.
        mape: Mean absolute error over the measured value.
        within_5: Share predicted within ±5 % of the measurement.
        within_10: Share within ±10 %.
        spearman: Rank correlation; nan for fewer than two networks.
    """

    n: int
    mape: float
    within_5: float
    within_10: float
    spearman: float


def accuracy(predicted_ms: ArrayLike, measured_ms: ArrayLike) -> Accuracy:
    """Compare two arrays of latencies, `(n,)` each.

    Example:
        >>> accuracy([1.0, 2.1, 4.6], [1.0, 2.0, 4.0])
        Accuracy(n=3, mape=0.0667, within_5=0.6667, within_10=0.6667, spearman=1.0)
    """
    predicted = np.asarray(predicted_ms, dtype=np.float64)
    measured = np.asarray(measured_ms, dtype=np.float64)
    if predicted.shape != measured.shape or predicted.ndim != 1 or not len(predicted):
        raise ValueError(
            f"two arrays of equal length are needed, got shapes {predicted.shape} "
            f"and {measured.shape}"
        )
    relative = np.abs(predicted / measured - 1)
    rank = _correlation(_ranks(predicted), _ranks(measured))
    within_5, within_10 = ((relative <= share + ROUNDING).mean() for share in (0.05, 0.10))
    return Accuracy(
        len(predicted), round(float(relative.mean()), 4),
        round(float(within_5), 4), round(float(within_10), 4), round(float(rank), 4),
    )  # fmt: skip


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places from 1 in rising order; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((counts.cumsum() - (counts - 1) / 2)[inverse])


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Pearson's; nan where one of them does not vary."""
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else float("nan")
