import dataclasses

import numpy as np
import pytest

from hwnas.strategies import Trial
from hwnas.strategies.proposals import Proposals
from hwnas.strategies.targets import N_FEATURES, Targets, features, nearest_new


def test_below_the_target_accuracy_counts_alone_and_above_it_each_doubling_halves(make_toy):
    targets = Targets(Proposals(make_toy(limit_ms=3.0).problem, seed=0))
    targets.tell(Trial(0, (0,) * 25, (0.2, 1.0)))
    low, high = targets._range_ms
    assert 0.1 < low < 0.5 < 2.5 < high < 3.0  # 3 is the budget for the upper end, 1.1 as much
    middle = np.sqrt(low * high)
    latencies = middle * np.array([0.1, 1.0, 2.0, 4.0])
    rewards = targets.reward([0.2] * 4, latencies, [0.5] * 4)
    assert rewards == pytest.approx([0.8, 0.8, 0.4, 0.2])


def test_where_latency_is_not_predicted_the_range_is_that_of_the_trials(make_toy):
    problem = make_toy(limit_ms=3.0).problem

    def predict(genotypes):
        costs = problem.predict(genotypes)
        return dataclasses.replace(costs, latency_ms=np.full(len(genotypes), np.nan))

    targets = Targets(Proposals(dataclasses.replace(problem, predict=predict), seed=0))
    targets.tell(Trial(0, (0,) * 25, None, "it fails"))
    for latency_ms in (2.0, 8.0, 4.0):
        targets.tell(Trial(1, (0,) * 25, (0.2, latency_ms)))
    # The targets at 0, 1/2 and 1 are 2, 4 and 8 ms.
    assert targets.reward([0.2] * 3, [8.0] * 3, [0.0, 0.5, 1.0]) == pytest.approx([0.2, 0.4, 0.8])


def test_features_say_where_a_target_lies_between_knots():
    found = features(np.linspace(0, 1, 31))
    assert found.shape == (31, N_FEATURES)
    assert (found[:, 0] == 1).all()
    assert found[:, 1:].sum(axis=1) == pytest.approx(1)
    assert found[:, 1:] @ np.linspace(0, 1, N_FEATURES - 1) == pytest.approx(np.linspace(0, 1, 31))


def test_the_nearest_new_network_differs_in_few_choices(separable):
    proposals = Proposals(separable.problem, seed=0)
    rng = np.random.default_rng(0)
    asked = proposals.ask(nearest_new(proposals, np.array([separable.best]), rng))
    assert asked == separable.best
    found = [
        nearest_new(proposals, np.tile(separable.best, (50, 1)), np.random.default_rng(seed))
        for seed in range(20)
    ]
    n_changed = np.not_equal(found, separable.best).sum(axis=1)
    assert n_changed.min() >= 1
    assert n_changed.mean() < 3  # of any two networks four differ
