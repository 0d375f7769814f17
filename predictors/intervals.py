"""Conformal intervals: the errors on held-out networks say how far a new one may be off.

Reference:
    Angelopoulos, Bates, A Gentle Introduction to Conformal Prediction, 2021, section 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_KNOTS, NEAR_SHARE = 7, 0.25


def conformal_bounds(errors: ArrayLike, *, level: float) -> tuple[float, float]:
    """Bounds that a new error lies between with probability `level`.

    Each side gets half of the rest. The new error must be exchangeable with the given ones; with
    too few of them for that level, the bounds are widened in proportion to what is missing, and
    the caller should say so.

    Args:
        errors: Errors on held-out examples, `(n,)`.
        level: Between 0 and 1, for example 0.9.

    Returns:
        `(low, high)`, low <= high.

    Example:
        >>> conformal_bounds(range(1, 100), level=0.9)
        (5.0, 95.0)
    """
    ordered = np.sort(np.asarray(errors, dtype=np.float64))
    n = len(ordered)
    if not n or not 0 < level < 1:
        raise ValueError(f"at least one error and a level in (0, 1) are needed, got {n=}, {level=}")
    tail = (1 - level) / 2
    rank = math.ceil((n + 1) * (1 - tail))  # counted from 1
    if rank <= n:
        return float(ordered[n - rank]), float(ordered[rank - 1])
    widen = rank / n
    centre = float(np.median(ordered))
    return (
        centre + (float(ordered[0]) - centre) * widen,
        centre + (float(ordered[-1]) - centre) * widen,
    )


def local_scale(position: ArrayLike, errors: ArrayLike) -> NDArray[np.float64]:
    """How large errors are along `position`, so that intervals are wide only where they must be.

    At knots spread over the positions: the mean absolute error of the nearest quarter, half and
    half with the mean of all, because a quarter of few examples says little by itself.

    Args:
        position: Where each example lies, `(n,)`.
        errors: Its error, `(n,)`.

    Returns:
        `(2, k)`: increasing positions, and the scale at each, > 0; for `np.interp`.

    Reference:
        Lei et al., Distribution-Free Predictive Inference for Regression, JASA 2018, section 5.2.
    """
    x = np.asarray(position, dtype=np.float64)
    size = np.abs(np.asarray(errors, dtype=np.float64))
    overall = max(float(size.mean()), 1e-6)
    knots = np.unique(np.quantile(x, np.linspace(0, 1, N_KNOTS)))
    n_near = max(2, round(len(x) * NEAR_SHARE))
    near = [size[np.argsort(np.abs(x - knot), kind="stable")[:n_near]].mean() for knot in knots]
    return np.stack([knots, (np.array(near) + overall) / 2])


def min_examples(level: float) -> int:
    """Fewest held-out examples for which `conformal_bounds` needs no widening.

    Example:
        >>> min_examples(0.9)
        19
    """
    tail = (1 - level) / 2
    return math.ceil(1 / tail - 1e-9) - 1
