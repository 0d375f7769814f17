"""NSGA-III: reference points instead of crowding, so that many objectives are covered evenly."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from hwnas import pareto
from hwnas.spaces.base import Genotype
from hwnas.strategies.base import FloatArray, Problem, Trial
from hwnas.strategies.generations import Generations

__all__ = ["Nsga3", "reference_points", "survivors"]

OTHER_AXES = 1e6  # weight of all objectives but one, to find the extreme point of that one
SMALLEST = 1e-9


class Nsga3:
    """The reference-point based non-dominated sorting genetic algorithm.

    As many reference points as fit into the population are spread over the simplex of objectives.
    Parents mate at random: all that survived are equal.

    Args:
        problem: What to search.
        seed: Decides all randomness, together with the number of the proposal.
        population_size: Of the parents, and of each generation of children.

    Reference:
        Deb and Jain, An evolutionary many-objective optimization algorithm using reference-point
        based nondominated sorting approach, IEEE TEC 18(4), 2014.
        https://doi.org/10.1109/TEVC.2013.2281535
    """

    def __init__(self, problem: Problem, *, seed: int, population_size: int = 12) -> None:
        self._generations = Generations(
            problem, seed=seed, size=population_size, survive=survivors, mate=_any
        )

    def ask(self) -> Genotype:
        """Propose a child of the population; any network while the first one is not complete."""
        return self._generations.ask()

    def tell(self, trial: Trial) -> None:
        """Learn a result; failed trials do not become parents."""
        self._generations.tell(trial)


def _any(n: int, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of parents, all alike."""
    return rng.integers(n, size=shape)


def reference_points(n_objectives: int, n_points: int) -> FloatArray:
    """Points evenly spread over the unit simplex, `(k, n_objectives)`, k at most `n_points`.

    Their coordinates are multiples of 1 / p and sum to 1; p is the largest number of parts for
    which there are few enough of them, but at least 1.

    Reference:
        Das and Dennis, Normal-boundary intersection, SIAM J. Optimization 8(3), 1998.

    Example:
        >>> reference_points(2, 3).tolist()
        [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    """
    n_parts = 1
    while n_objectives > 1 and math.comb(n_parts + n_objectives, n_objectives - 1) <= n_points:
        n_parts += 1
    # Stars and bars: where the walls between the coordinates stand among the parts.
    walls = itertools.combinations(range(n_parts + n_objectives - 1), n_objectives - 1)
    ends = n_parts + n_objectives - 1
    counts = [np.diff([-1, *between, ends]) - 1 for between in walls]
    points: FloatArray = np.array(counts, dtype=np.float64) / n_parts
    return points


def survivors(objectives: FloatArray, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of the next population: whole fronts, then those of niches with few members.

    Args:
        objectives: `(n, m)`, minimised.
        size: How many survive; all, where there are no more.
        rng: Decides between niches, and members of a niche, that are equal.

    Returns:
        `(min(n, size),)`.
    """
    ranks = pareto.ranks(objectives)
    sizes = np.cumsum(np.bincount(ranks))
    last = int(np.searchsorted(sizes, min(size, len(ranks))))  # the front that is cut
    chosen = np.flatnonzero(ranks < last)
    if sizes[last] <= size:
        return np.flatnonzero(ranks <= last)
    considered = np.flatnonzero(ranks <= last)
    points = reference_points(objectives.shape[1], size)
    scaled = _scaled(objectives[considered], ranks[considered] == 0)
    niche, distance = _nearest_line(scaled, points)
    n_members = np.bincount(niche[ranks[considered] < last], minlength=len(points))
    is_left = ranks[considered] == last
    picked: list[int] = []
    while len(chosen) + len(picked) < size:
        open_niches = np.unique(niche[is_left])
        fewest = open_niches[n_members[open_niches] == n_members[open_niches].min()]
        one = rng.choice(fewest)
        members = np.flatnonzero(is_left & (niche == one))
        # Whoever is first in a niche should lie near its line; further ones may lie anywhere.
        is_first = n_members[one] == 0
        member = members[distance[members].argmin()] if is_first else rng.choice(members)
        picked.append(int(considered[member]))
        is_left[member] = False
        n_members[one] += 1
    return np.concatenate([chosen, np.array(picked, dtype=np.int64)])


def _scaled(objectives: FloatArray, is_front: NDArray[np.bool_]) -> FloatArray:
    """Objectives from the ideal point, 0, to where the plane of extreme points cuts the axes, 1."""
    moved = objectives - objectives.min(axis=0)
    front = moved[is_front]
    weights = np.where(np.eye(objectives.shape[1], dtype=bool), 1.0, OTHER_AXES)
    extremes = front[[int((front * weight).max(axis=1).argmin()) for weight in weights]]
    nadir = front.max(axis=0)  # where the extreme points lie on no plane that cuts the axes
    if np.linalg.matrix_rank(extremes) == len(extremes):
        plane = np.linalg.solve(extremes, np.ones(len(extremes)))
        if (plane > SMALLEST).all():
            nadir = np.minimum(1 / plane, moved.max(axis=0))
    scaled: FloatArray = moved / np.where(nadir > SMALLEST, nadir, 1.0)
    return scaled


def _nearest_line(scaled: FloatArray, points: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """The reference line, from the origin on, that each row is nearest to; and how far it is."""
    directions = points / np.linalg.norm(points, axis=1, keepdims=True)
    along = scaled @ directions.T  # (n, k)
    square = (scaled**2).sum(axis=1, keepdims=True) - along**2
    nearest = square.argmin(axis=1)
    distance: FloatArray = np.sqrt(square.clip(min=0)[np.arange(len(scaled)), nearest])
    return nearest, distance
