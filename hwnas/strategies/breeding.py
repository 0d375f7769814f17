"""What evolutionary strategies do alike: sort parents, and make a child that may be proposed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwnas import pareto
from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.proposals import Proposals, as_genotype

__all__ = ["N_CHILDREN", "best_first", "first_child"]

N_CHILDREN = 64  # bred at once, since most of them may be known or over the budget
MAX_ROUNDS = 4  # of children, before a strategy draws at random


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
    ranks = pareto.ranks(points)
    crowding = np.zeros(len(points))
    for rank in range(ranks.max(initial=-1) + 1):
        members = np.flatnonzero(ranks == rank)
        crowding[members] = pareto.crowding_distance(points[members])
    return np.lexsort((-crowding, ranks))


def first_child(proposals: Proposals, breed: Callable[[], GenotypeArray]) -> Genotype | None:
    """The first child that may be proposed; None if some rounds of children have none.

    Args:
        proposals: Of the strategy.
        breed: Makes some children, other ones in each call, `(n, n_choices)`.
    """
    for _ in range(MAX_ROUNDS):
        children, _ = proposals.novel(breed())
        if len(children):
            return as_genotype(children[0])
    return None
