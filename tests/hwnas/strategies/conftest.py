"""A problem of which the best network is known: every choice has one right option."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from hwnas.spaces.base import Choice, SearchSpace
from hwnas.strategies import NEEDS_GUIDE, Guide
from hwnas.strategies import make_strategy as make_named
from hwnas.strategies.base import Costs, Problem

# Of these the guide is a list, of the others it has distributions, too.
ONLY_RANKED = ("ofa", "spos", "zero_cost")


def toy_guide(name, problem, seed):
    """What could have been learned; some of its list is over the budget, or there twice."""
    rng = np.random.default_rng([seed, 99])
    drawn = problem.space.sample(rng, 4)
    ranked = np.concatenate([drawn, drawn[:1], problem.space.canonical(drawn)])
    policies = () if name in ONLY_RANKED else (_policy(problem, rng), _policy(problem, rng))
    return Guide(tuple(map(tuple, ranked.tolist())), policies=policies)


def _policy(problem, rng):
    return tuple(tuple(rng.dirichlet([1.0] * n).tolist()) for n in problem.space.n_options)


@pytest.fixture(scope="session")
def make_strategy():
    """Makes any strategy by its name; one that needs a guide gets one."""

    def make(name, problem, *, seed):
        guide = toy_guide(name, problem, seed) if name in NEEDS_GUIDE else None
        return make_named(name, problem, seed=seed, guide=guide)

    return make


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
