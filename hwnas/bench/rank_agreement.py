"""How far two scores of the same networks agree on their order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

__all__ = ["rank_agreement"]

N_RESAMPLES = 2001
N_PARTS = 50  # of the resamples: all pairs of all networks at once would need much memory
LEVEL = 0.95

_Array = NDArray[np.float64]


def rank_agreement(x: Sequence[float], y: Sequence[float]) -> dict[str, dict[str, float | None]]:
    """Spearman's rho and Kendall's tau-b, with 95 % intervals from bootstrap over the networks.

    Args:
        x: A score of each network, `(n,)`.
        y: Another one, `(n,)`.

    Returns:
        By `spearman` and `kendall`: the `value`, and the ends of its interval, `low` and `high`
        (percentiles of 2,000 resamples). None where one of the scores does not vary.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.

    Example:
        >>> rank_agreement([1, 2, 3, 4], [10, 20, 40, 30])["spearman"]["value"]
        0.8
    """
    pair = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n = len(pair[0])
    rows = np.random.default_rng(0).integers(n, size=(N_RESAMPLES, n))
    rows[0] = np.arange(n)  # the first one is no resample
    found: dict[str, dict[str, float | None]] = {}
    for name, statistic in _STATISTICS.items():
        with np.errstate(invalid="ignore"):  # nan of what does not vary
            parts = [
                statistic(pair[0][part], pair[1][part]) for part in np.array_split(rows, N_PARTS)
            ]
        value, *resampled = np.concatenate(parts).tolist()
        known = [other for other in resampled if not math.isnan(other)]
        if math.isnan(value):
            found[name] = dict.fromkeys(("value", "low", "high"))
        else:
            low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
            found[name] = {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4)}
    return found


def _spearman(x: _Array, y: _Array) -> _Array:
    """Rho of each row of `(m, n)`, `(m,)`."""
    rank_x, rank_y = (rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (x, y))
    return _cosine(rank_x, rank_y)


def _kendall(x: _Array, y: _Array) -> _Array:
    """Tau-b of each row of `(m, n)`, `(m,)`."""
    order_x, order_y = (
        np.sign(values[:, :, None] - values[:, None]).reshape(len(values), -1) for values in (x, y)
    )
    return _cosine(order_x, order_y)


def _cosine(x: _Array, y: _Array) -> _Array:
    products = (x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.asarray(products)


_STATISTICS: dict[str, Callable[[_Array, _Array], _Array]] = {
    "spearman": _spearman,
    "kendall": _kendall,
}
