"""A guide: what was learned from the data before the first trial, and the order in which to use it.

Gradient-based search, search on shared weights and zero-cost proxies learn first and propose
afterwards. What they learned is plain data: a list of networks, best first, and distributions over
the options. It is kept in the run folder, so that a resumed search follows the same guide; how it
is learned from data is in `hwnas.guides`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hwnas import pareto
from hwnas.spaces.base import Genotype, GenotypeArray, SearchSpace
from hwnas.strategies.base import FloatArray

__all__ = ["Guide", "Policy", "gain_order"]

# Of each choice the probabilities of its options.
Policy = tuple[tuple[float, ...], ...]
MARGIN = 1.1  # of the reference point beyond the worst of a front
SUM_TOLERANCE = 1e-3  # of a choice's probabilities


@dataclass(frozen=True)
class Guide:
    """What a strategy that learned beforehand follows.

    Attributes:
        ranked: Networks to propose first, in this order.
        errors: What was estimated of them, 1 - accuracy; empty where nothing was.
        policies: Distributions to draw from when those are used up, in turns.
    """

    ranked: tuple[Genotype, ...] = ()
    errors: tuple[float, ...] = ()
    policies: tuple[Policy, ...] = ()

    def __post_init__(self) -> None:
        if self.errors and len(self.errors) != len(self.ranked):
            raise ValueError(f"{len(self.ranked)} networks have {len(self.errors)} errors")

    def check(self, space: SearchSpace) -> None:
        """Make sure that the guide is one of `space`.

        Raises:
            ValueError: A network or a distribution does not fit its choices.
        """
        for genotype in self.ranked:
            space.check(genotype)
        for policy in self.policies:
            if tuple(map(len, policy)) != space.n_options:
                raise ValueError(
                    f"a policy for {space.name!r} has distributions over {space.n_options} "
                    f"options, got {tuple(map(len, policy))}"
                )
            for row in policy:
                if min(row) < 0 or not abs(math.fsum(row) - 1) < SUM_TOLERANCE:
                    raise ValueError(f"probabilities must be >= 0 with the sum 1, got {row}")

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `to_json` gave.

        Raises:
            ValueError, TypeError, KeyError: It is none.
        """
        return cls(
            tuple(tuple(int(i) for i in genotype) for genotype in found["ranked"]),
            tuple(float(error) for error in found["errors"]),
            tuple(
                tuple(tuple(float(p) for p in row) for row in policy)
                for policy in found["policies"]
            ),
        )


def sample(policy: Policy, rng: np.random.Generator, n: int) -> GenotypeArray:
    """Draw one option for each choice, `(n, len(choices))`; not all need be valid."""
    columns = []
    for row in policy:
        odds = np.array(row, dtype=np.float64)
        columns.append(rng.choice(len(odds), size=n, p=odds / odds.sum()))
    return np.array(columns, dtype=np.int64).T.reshape(n, len(policy))


def gain_order(objectives: FloatArray) -> NDArray[np.int64]:
    """Rows in the order of the hypervolume that each adds to those before it, `(n,)`.

    Front by front: first the Pareto front, then the front of the rest, and so on. The reference
    point of a front lies a tenth above its worst values.

    Args:
        objectives: `(n, 2)`, minimised, finite.

    Example:
        >>> gain_order(np.array([[0.5, 0.5], [0.0, 1.0], [1.0, 0.0], [0.1, 0.8], [2.0, 2.0]]))
        array([0, 3, 2, 1, 4])
    """
    rank_of = pareto.ranks(objectives)
    order: list[int] = []
    for rank in range(rank_of.max(initial=-1) + 1):
        members = np.flatnonzero(rank_of == rank)
        order += members[_front_order(objectives[members])].tolist()
    return np.array(order, dtype=np.int64)


def _front_order(front: FloatArray) -> list[int]:
    """The same for rows of which none dominates another."""
    reference = np.maximum(front * MARGIN, front + 1e-9).max(axis=0)
    # A new point lies between its neighbours among those that were taken: it adds a rectangle.
    taken = np.array([[-np.inf, reference[1]], [reference[0], -np.inf]])
    left = list(range(len(front)))
    order = []
    while left:
        place = np.searchsorted(taken[:, 0], front[left, 0], side="right").clip(1, len(taken) - 1)
        width = taken[place, 0] - front[left, 0]
        height = taken[place - 1, 1] - front[left, 1]
        best = int((np.maximum(width, 0) * np.maximum(height, 0)).argmax())
        row = left.pop(best)
        taken = np.insert(taken, place[best], front[row], axis=0)
        order.append(row)
    return order
