from dataclasses import replace

import numpy as np
import pytest

from hwnas.budget import parse_budget
from hwnas.front.filling import (
    AIMS,
    MAX_SLACK,
    expected_errors,
    grown_to_budget,
    latency_limit,
    near_budget,
    proposals_near_budget,
)
from hwnas.strategies import Trial
from hwnas.strategies.base import Problem


@pytest.fixture
def toy(make_toy):
    return make_toy(2, 2, limit_ms=0.5)


def trials_of(toy, n):
    """Feasible ones, evaluated by the toy's own truth."""
    drawn = toy.problem.space.canonical(toy.problem.space.sample(np.random.default_rng(0), 400))
    feasible = np.unique(drawn[toy.problem.is_feasible(drawn)], axis=0)[:n]
    rows = [tuple(map(int, row)) for row in feasible]
    return [Trial(i, row, toy.objectives(row)) for i, row in enumerate(rows)]


def test_only_what_uses_nearly_all_of_the_budget_is_feasible_near_it(toy):
    genotypes = toy.problem.space.sample(np.random.default_rng(1), 2000)
    near = near_budget(toy.problem)
    ms = near.predict(genotypes).latency_ms
    expected = (ms >= (1 - MAX_SLACK) * 0.5) & toy.problem.is_feasible(genotypes)
    assert (near.is_feasible(genotypes) == expected).all()
    assert 0 < expected.sum() < toy.problem.is_feasible(genotypes).sum()


def test_the_smallest_latency_budget_is_the_limit(toy):
    budgets = tuple(map(parse_budget, ("latency_ms<=3", "params<=1", "latency_ms<=2")))
    assert latency_limit(Problem(toy.problem.space, toy.problem.predict, budgets)) == 2.0
    assert latency_limit(Problem(toy.problem.space, toy.problem.predict, budgets[1:2])) is None


def test_proposals_lie_near_the_budget_and_are_new_and_repeatable(toy):
    trials = trials_of(toy, 24)
    tried = {trials[0].genotype}
    first = proposals_near_budget(toy.problem, trials, {}, tried, 3, seed=4)
    assert first == proposals_near_budget(toy.problem, trials, {}, tried, 3, seed=4)
    assert len(set(first)) == 3 and not set(first) & {trial.genotype for trial in trials}
    assert near_budget(toy.problem).is_feasible(np.array(first)).all()
    more = proposals_near_budget(toy.problem, trials, {}, tried | set(first), 3, seed=4)
    assert not set(more) & set(first)
    trained = dict.fromkeys(first, 0.1)
    assert not set(proposals_near_budget(toy.problem, trials, trained, (), 3, seed=4)) & set(first)


def test_proposals_are_better_than_most_networks_near_the_budget(toy):
    trials = trials_of(toy, 40)
    found = proposals_near_budget(toy.problem, trials, {}, (), 3, seed=0)
    drawn = toy.problem.space.sample(np.random.default_rng(2), 4000)
    others = drawn[near_budget(toy.problem).is_feasible(drawn)]
    usual = np.median([toy.error(tuple(map(int, row))) for row in others])
    assert np.mean([toy.error(genotype) for genotype in found]) < usual


def test_long_trainings_count_where_short_ones_mislead(toy):
    trials = trials_of(toy, 40)
    mislead = [replace(t, objectives=(1 / (100 * t.objectives[0]), *t.objectives[1:]))
               for t in trials]  # fmt: skip
    truth = {t.genotype: t.objectives[0] for t in trials}
    found = [
        np.mean([toy.error(g) for g in proposals_near_budget(
            toy.problem, mislead, errors, (), 3, seed=0
        )])
        for errors in (truth, {})
    ]  # fmt: skip
    assert found[0] < found[1]


def test_a_short_training_says_what_those_with_both_say_that_it_does():
    trials = [Trial(i, (i,), (error, 1.0)) for i, error in enumerate((0.8, 0.4, 0.2, 0.1))]
    # Without any, it is taken as it is.
    assert expected_errors(trials, {}) == pytest.approx(
        {(0,): 0.8, (1,): 0.4, (2,): 0.2, (3,): 0.1}
    )
    # Half the error in the short one was a quarter less in the long one; by hand, with
    # l = log 2: the slope is (l/2 · l/4 · 2) / (l²/4 · 2 + 0.5), about the mean of both logs.
    found = expected_errors(trials, {(0,): 0.2, (1,): 0.2 * 2**-0.5, (9,): 0.05})
    log2 = np.log(2)
    slope = (log2 / 2 * log2 / 4 * 2) / (log2**2 / 4 * 2 + 0.5)
    x_mean, y_mean = np.log(0.8) - log2 / 2, np.log(0.2) - log2 / 4
    assert found[(2,)] == pytest.approx(np.exp(y_mean + slope * (np.log(0.2) - x_mean)))
    assert (found[(0,)], found[(9,)]) == pytest.approx((0.2, 0.05))


def test_a_short_training_that_says_the_opposite_says_nothing():
    trials = [Trial(i, (i,), (error, 1.0)) for i, error in enumerate((0.8, 0.4, 0.01))]
    found = expected_errors(trials, {(0,): 0.1, (1,): 0.4})
    assert found[(2,)] == pytest.approx(0.2)  # the mean of the logarithms


def test_a_network_grows_to_the_budget_by_as_few_changes_as_can_be(toy):
    space, near = toy.problem.space, near_budget(toy.problem, slack=AIMS[0])
    rng = np.random.default_rng(0)
    parent = trials_of(toy, 1)[0].genotype
    grown = grown_to_budget(toy.problem, parent, (), rng)
    assert near.is_feasible(np.array([grown]))[0]
    assert grown_to_budget(toy.problem, parent, {grown}, rng) not in (None, grown)
    # By hand: where one change is enough, it is the one with the most work.
    one = space.canonical(space.neighbours(grown))
    before = one[toy.problem.predict(one).latency_ms < (1 - MAX_SLACK) * 0.5][0]
    ways = space.canonical(space.neighbours(tuple(before.tolist())))
    ways = ways[near.is_feasible(ways)]
    again = grown_to_budget(toy.problem, tuple(before.tolist()), (), rng)
    most = int(toy.problem.predict(ways).macs.max())
    assert list(again) in ways.tolist()
    assert toy.problem.predict(np.array([again])).macs[0] == most


def test_a_network_cannot_grow_to_what_is_out_of_reach(make_toy):
    toy = make_toy(1, 1, limit_ms=100.0)
    assert grown_to_budget(toy.problem, (0,) * 5, (), np.random.default_rng(0)) is None


def test_where_nothing_lies_near_the_budget_nothing_is_proposed(make_toy):
    slowest = make_toy(1, 1).problem.predict(make_toy(1, 1).problem.space.all_genotypes())
    limit_ms = 10 * float(slowest.latency_ms.max())
    toy = make_toy(1, 1, limit_ms=limit_ms)
    for trials in ((), trials_of(toy, 16)):
        assert proposals_near_budget(toy.problem, trials, {}, (), 3, seed=0) == []


def test_fewer_are_proposed_where_there_are_no_more(make_toy):
    toy = make_toy(1, 1, limit_ms=0.11)
    every = toy.problem.space.all_genotypes()
    n = int(near_budget(toy.problem).is_feasible(every).sum())
    assert 0 < len(proposals_near_budget(toy.problem, (), {}, (), 99, seed=0)) == n < 99
