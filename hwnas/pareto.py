"""Pareto dominance: thin names over `moocore`, and the crowding distance of NSGA-II.

Every column is minimised. Columns may differ in unit.
"""

import math
from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["best_first", "crowding_distance", "hypervolume", "non_dominated", "ranks"]


def _checked(objectives: ArrayLike) -> NDArray[np.float64]:
    """Return `objectives` as `(n, m)` floats, or raise ValueError with what is wrong."""
    points = np.asarray(objectives, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"objectives must have shape (n, m) with m >= 1, got {points.shape}")
    # moocore marks finite rows dominated when any row holds a NaN, and says nothing.
    if np.isnan(points).any():
        raise ValueError("objectives hold NaN; a failed trial has no place on a front")
    return points


def non_dominated(objectives: ArrayLike) -> NDArray[np.bool_]:
    """Mark the rows of the Pareto front.

    A row is dominated if another is no worse in every column and better in at least one.
    Duplicates do not dominate each other, so all of them are kept.

    Args:
        objectives: `(n, m)`, minimised.

    Returns:
        `(n,)` booleans, True on the front.

    Raises:
        ValueError: If an entry is NaN.

    Example:
        >>> non_dominated([[0.30, 5.0], [0.25, 9.0], [0.31, 6.0]])
        array([ True,  True, False])
    """
    points = _checked(objectives)
    if len(points) == 0:
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(points, keep_weakly=True), dtype=bool)


def ranks(objectives: ArrayLike) -> NDArray[np.int64]:
    """Front of each row: 0 on the Pareto front, 1 on the front of the rest, and so on, `(n,)`.

    Example:
        >>> ranks([[1.0, 1.0], [2.0, 2.0], [0.0, 3.0], [2.0, 2.0]])
        array([0, 1, 0, 1])
    """
    points = _checked(objectives)
    if len(points) == 0:
        return np.zeros(0, dtype=np.int64)
    return np.asarray(moocore.pareto_rank(points), dtype=np.int64)


def crowding_distance(objectives: ArrayLike) -> NDArray[np.float64]:
    """How far apart the neighbours of each row lie, summed over the columns, `(n,)`.

    Meant for the rows of one front. The two ends of a column are infinitely far. Of equal rows
    only the first has a distance: the others are 0, since dropping them leaves no gap.

    Reference:
        Deb et al., NSGA-II, IEEE TEC 6(2), 2002. https://doi.org/10.1109/4235.996017

    Example:
        >>> crowding_distance([[0.0, 4.0], [1.0, 1.0], [4.0, 0.0]])
        array([inf,  2., inf])
    """
    points = _checked(objectives)
    unique, first = np.unique(points, axis=0, return_index=True)
    distance = np.zeros(len(unique))
    for column in unique.T:
        order = np.argsort(column, kind="stable")
        extent = column[order[-1]] - column[order[0]] if len(order) else 0.0
        if extent > 0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / extent
            distance[order[[0, -1]]] = math.inf
    if len(unique) == 1:
        distance[:] = math.inf
    result = np.zeros(len(points))
    result[first] = distance
    return result


def hypervolume(objectives: ArrayLike, reference: Sequence[float]) -> float:
    """Volume that is dominated by `objectives` and bounded by `reference`; larger is better.

    Rows that are not better than the reference point in every column add nothing.

    Reference:
        Zitzler and Thiele, IEEE TEC 3(4), 1999. https://doi.org/10.1109/4235.797969

    Example:
        >>> hypervolume([[1.0, 2.0], [2.0, 1.0]], [3.0, 3.0])
        3.0
    """
    points = _checked(objectives)
    if points.shape[1] != len(reference) or not np.isfinite(reference).all():
        raise ValueError(
            f"the reference point needs {points.shape[1]} finite numbers, got {tuple(reference)}"
        )
    if len(points) == 0:
        return 0.0
    return float(moocore.hypervolume(points, ref=list(reference)))


def best_first(objectives: ArrayLike) -> NDArray[np.int64]:
    """Rows by rank, those of one rank by crowding distance, the best first, `(n,)`.

    The crowded comparison of NSGA-II as an order: of two rows the one that comes first wins.

    Args:
        objectives: `(n, m)`, minimised.

    Raises:
        ValueError: If an entry is NaN.

    Reference:
        Deb et al., NSGA-II, IEEE TEC 6(2), 2002. https://doi.org/10.1109/4235.996017

    Example:
        >>> best_first([[2.0, 2.0], [1.0, 1.0], [0.0, 4.0], [4.0, 0.0]])
        array([2, 3, 1, 0])
    """
    points = np.asarray(objectives, dtype=np.float64)
    rank_of = ranks(points)
    crowding = np.zeros(len(points))
    for rank in range(rank_of.max(initial=-1) + 1):
        members = np.flatnonzero(rank_of == rank)
        crowding[members] = crowding_distance(points[members])
    return np.lexsort((-crowding, rank_of))
