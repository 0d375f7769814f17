import numpy as np
import pytest

from hwnas import pareto
from hwnas.strategies import LocalSearch, Trial


def climb(toy, objectives_of, n_trials, n_initial):
    strategy = LocalSearch(toy.problem, seed=0, n_initial=n_initial)
    genotypes, objectives = [], []
    for number in range(n_trials):
        genotypes.append(strategy.ask())
        objectives.append(objectives_of(genotypes[-1]))
        strategy.tell(Trial(number, genotypes[-1], objectives[-1]))
    return np.array(genotypes), np.array(objectives)


def n_changes(genotypes, others):
    """Choices in which a genotype differs from the nearest of the others."""
    return (genotypes[:, None] != others).sum(axis=2).min(axis=1)


@pytest.fixture
def toy(make_toy):
    return make_toy(n_stages=2, n_layers=1)  # every choice is read, so one option is one change


def test_after_its_start_it_tries_neighbours_of_the_front(toy):
    genotypes, objectives = climb(toy, toy.objectives, 60, n_initial=6)
    for number in range(6, 60):
        front = genotypes[:number][pareto.non_dominated(objectives[:number])]
        assert n_changes(genotypes[number : number + 1], front) == 1


def test_a_local_optimum_is_left_for_another_start(toy):
    # The sum of the indices is the only objective, so there is one optimum, (0, 0, ...), and each
    # network has a better neighbour: every climb ends there.
    n_options = np.array(toy.problem.space.n_options)
    n_neighbours = int((n_options - 1).sum())
    genotypes, _ = climb(toy, lambda g: (0.01 + sum(g), 0.01 + sum(g)), 120, n_initial=1)
    optimum = np.flatnonzero(genotypes.sum(axis=1) == 0)[0]
    around = np.flatnonzero((genotypes != 0).sum(axis=1) == 1)
    assert len(around) == n_neighbours
    left = max(optimum, around.max()) + 1  # the optimum and all around it are known now
    assert left < 110
    assert (genotypes[left] != 0).sum() > 1
    # The climb from there is another one: its first step is a neighbour of that start.
    assert n_changes(genotypes[left + 1 : left + 2], genotypes[left : left + 1]) == 1


def test_a_start_is_needed(toy):
    with pytest.raises(ValueError, match="somewhere to start"):
        LocalSearch(toy.problem, seed=0, n_initial=0)
