"""Conformal intervals: the errors on held-out networks say how far a new one may be off.

Reference:
    Angelopoulos, Bates, A Gentle Introduction to Conformal Prediction, 2021, section 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


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


def min_examples(level: float) -> int:
    """Fewest held-out examples for which `conformal_bounds` needs no widening.

    Example:
        >>> min_examples(0.9)
        19
    """
    tail = (1 - level) / 2
    return math.ceil(1 / tail - 1e-9) - 1
