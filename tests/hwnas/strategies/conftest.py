"""A problem of which the best network is known: every choice has one right option."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from hwnas.spaces.base import Choice, SearchSpace
from hwnas.strategies.base import Costs, Problem


@dataclass(frozen=True)
class Part:
    position: int
    option: int

    def build(self, in_shape):
        raise NotImplementedError("a search builds no network")


def part(i, options):
    return Part(i, options[f"choice_{i}"])


@dataclass(frozen=True)
class Separable:
    problem: Problem
    best: tuple[int, ...]

    def objectives(self, genotype):
        n_wrong = np.not_equal(genotype, self.best).sum()
        return 0.1 + 0.8 * n_wrong / len(self.best), 1.0


@pytest.fixture
def separable():
    """Six choices of three options, one of them right; all 729 networks take a millisecond."""
    choices = tuple(Choice(f"choice_{i}", (0, 1, 2)) for i in range(6))
    slots = tuple(partial(part, i) for i in range(6))
    space = SearchSpace("separable", choices, lambda options: (1,), slots)

    def predict(genotypes):
        ones = np.ones(len(genotypes))
        return Costs(ones, ones, ones, ones, ones.astype(np.int64), ones.astype(np.int64))

    return Separable(Problem(space, predict), (2, 0, 1, 1, 2, 0))
