import json

import numpy as np
import pytest

from hwnas.errors import ConfigError
from hwnas.pareto import hypervolume, ranks
from hwnas.strategies import NEEDS_GUIDE, STRATEGIES, FollowGuide, Guide, make_strategy
from hwnas.strategies.guide import gain_order, sample


def uniform(space):
    return tuple((1 / n,) * n for n in space.n_options)


def certain(genotype, space):
    return tuple(
        tuple(float(i == own) for i in range(n))
        for own, n in zip(genotype, space.n_options, strict=True)
    )


def test_networks_of_the_list_come_first_and_in_its_order(separable):
    ranked = ((2, 0, 1, 1, 2, 0), (0,) * 6, (1,) * 6)
    strategy = FollowGuide(separable.problem, seed=0, guide=Guide(ranked))
    assert tuple(strategy.ask() for _ in ranked) == ranked
    assert strategy.ask() not in ranked


def test_what_is_over_the_budget_or_known_is_passed_over(make_toy):
    toy = make_toy(limit_ms=1.0)
    space = toy.problem.space
    drawn = space.canonical(space.sample(np.random.default_rng(0), 40))
    feasible = toy.problem.is_feasible(drawn)
    assert 3 < feasible.sum() < 37
    guide = Guide(tuple(map(tuple, np.repeat(drawn, 2, axis=0).tolist())))
    strategy = FollowGuide(toy.problem, seed=0, guide=guide)
    expected = [tuple(row) for row in drawn[feasible].tolist()]
    assert [strategy.ask() for _ in expected] == expected


def test_policies_are_drawn_from_in_turns(separable):
    space = separable.problem.space
    first, second = (0,) * 6, (1,) * 6
    guide = Guide(policies=(certain(first, space), certain(second, space)))
    strategy = FollowGuide(separable.problem, seed=0, guide=guide)
    assert (strategy.ask(), strategy.ask()) == (first, second)
    # What they say was proposed: then what mutation reaches from it.
    near = strategy.ask()
    assert sum(a != b for a, b in zip(near, first, strict=True)) <= 3


def test_draws_follow_the_probabilities():
    policy = ((0.2, 0.8), (1.0,), (0.5, 0.25, 0.25))
    drawn = sample(policy, np.random.default_rng(0), 4000)
    assert drawn.shape == (4000, 3)
    for column, row in zip(drawn.T, policy, strict=True):
        assert np.bincount(column, minlength=len(row)) / 4000 == pytest.approx(row, abs=0.03)


def test_a_guide_is_the_same_after_json(separable):
    guide = Guide(((0,) * 6, (1,) * 6), (0.25, 1 / 3), (uniform(separable.problem.space),))
    assert Guide.from_json(json.loads(json.dumps(guide.to_json()))) == guide


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (Guide(((0,) * 5,)), "has 6 indices"),
        (Guide(((3,) * 6,)), "has 6 indices below"),
        (Guide(policies=(((0.5, 0.5),) * 6,)), r"over \(3, 3, 3, 3, 3, 3\) options"),
        (Guide(policies=(((0.5, 0.1, 0.1),) * 6,)), "with the sum 1"),
        (Guide(policies=(((1.5, -0.5, 0.0),) * 6,)), "must be >= 0"),
        (Guide(policies=(((float("nan"), 0.5, 0.5),) * 6,)), "with the sum 1"),
    ],
)
def test_a_guide_of_another_space_is_refused(guide, message, separable):
    with pytest.raises(ValueError, match=message):
        FollowGuide(separable.problem, seed=0, guide=guide)


def test_as_many_errors_as_networks_are_needed():
    with pytest.raises(ValueError, match="1 networks have 2 errors"):
        Guide(((0,),), (0.1, 0.2))


@pytest.mark.parametrize("name", sorted(NEEDS_GUIDE))
def test_without_a_guide_there_is_one_message(name, separable):
    with pytest.raises(ConfigError, match=f"{name!r} learns from data.*or take another one"):
        make_strategy(name, separable.problem, seed=0)
    assert name in STRATEGIES


def test_each_network_in_the_order_adds_the_most_hypervolume_of_those_left():
    objectives = np.random.default_rng(0).uniform(size=(60, 2))
    order = gain_order(objectives)
    assert sorted(order.tolist()) == list(range(60))
    rank_of = ranks(objectives)
    assert (np.diff(rank_of[order]) >= 0).all()
    front = [row for row in order.tolist() if rank_of[row] == 0]
    reference = (1.1 * objectives[front].max(axis=0)).tolist()
    for i in range(len(front)):
        volumes = {row: hypervolume(objectives[[*front[:i], row]], reference) for row in front[i:]}
        assert volumes[front[i]] == pytest.approx(max(volumes.values()))


def test_equal_networks_and_empty_lists_have_an_order():
    assert gain_order(np.array([[0.0, 1.0]] * 3 + [[1.0, 0.0]])).tolist()[:2] == [0, 3]
    assert gain_order(np.empty((0, 2))).tolist() == []
