import dataclasses

import numpy as np
import pytest

from hwnas import pareto
from hwnas.strategies import Evolution, Guided, RandomSearch, Trial


def objectives_of(strategy, toy, n_trials):
    found = []
    for number in range(n_trials):
        genotype = strategy.ask()
        found.append(toy.objectives(genotype))
        strategy.tell(Trial(number, genotype, found[-1]))
    return np.array(found)


def without_latency(problem):
    """The same problem, of which latency is known by evaluating only."""

    def predict(genotypes):
        costs = problem.predict(genotypes)
        nothing = np.full(len(genotypes), np.nan)
        return dataclasses.replace(costs, latency_ms=nothing, low_ms=nothing, high_ms=nothing)

    return dataclasses.replace(problem, predict=predict)


def volume(objectives):
    return pareto.hypervolume(objectives, [1.0, 10.0])  # the slowest network needs 10 ms


@pytest.mark.parametrize("latency_is_known", [True, False])
def test_forty_trials_dominate_more_than_others_do(make_toy, latency_is_known):
    toy = make_toy()
    problem = toy.problem if latency_is_known else without_latency(toy.problem)
    guided = volume(objectives_of(Guided(problem, seed=0), toy, 40))
    for other in (Evolution, RandomSearch):
        assert guided > volume(objectives_of(other(toy.problem, seed=0), toy, 40))


def test_the_first_proposals_are_spread_over_latency_and_over_the_choices(make_toy):
    toy = make_toy(limit_ms=3.0)
    latency_ms = objectives_of(Guided(toy.problem, seed=0, n_initial=8), toy, 8)[:, 1]
    drawn = toy.problem.space.sample(np.random.default_rng(1), 4096)
    feasible_ms = toy.problem.predict(drawn[toy.problem.is_feasible(drawn)]).latency_ms
    steps = np.diff(np.sort(np.log(latency_ms)))
    assert steps.max() < 2.1 * (np.log(feasible_ms.max()) - np.log(feasible_ms.min())) / 7
    strategy = Guided(without_latency(toy.problem), seed=0, n_initial=8)
    spread = np.array([strategy.ask() for _ in range(8)])
    apart = (spread[:, None] != spread[None]).sum(axis=2)[np.triu_indices(8, k=1)]
    random = toy.problem.space.canonical(toy.problem.space.sample(np.random.default_rng(2), 8))
    random_apart = (random[:, None] != random[None]).sum(axis=2)[np.triu_indices(8, k=1)]
    assert apart.min() > random_apart.min()


def test_what_runs_already_is_not_worth_running_again(make_toy):
    toy = make_toy(limit_ms=3.0)
    strategy = Guided(toy.problem, seed=0)
    objectives_of(strategy, toy, 16)
    genotypes, costs = strategy._pool
    before = strategy._model(costs).gain(genotypes, costs)
    best = int(before.argmax())
    running = tuple(genotypes[best].tolist())
    strategy.tell(Trial(16, running, None))
    after = strategy._model(costs).gain(genotypes, costs)
    assert after[best] < 0.7 * before[best]
    assert np.median(after / before) < 1.01  # others gain nothing by it


def test_of_many_trials_those_near_the_front_are_learnt_from():
    rng = np.random.default_rng(0)
    objectives = rng.random((1000, 2))
    from hwnas.strategies.guided import _relevant

    rows = _relevant(objectives, 200)
    assert len(rows) == len(set(rows)) == 200
    assert set(np.flatnonzero(pareto.ranks(objectives) <= 3)) <= set(rows)
    assert pareto.ranks(objectives)[rows].max() > 0.8 * pareto.ranks(objectives).max()
    assert (_relevant(objectives[:50], 200) == np.arange(50)).all()


def test_errors_far_above_the_median_are_squeezed_in_their_order():
    from hwnas.strategies.guided import _bent, _unbent

    log_error = np.linspace(-3, 0, 50)
    bent = _bent(log_error, bend=-1.0)
    assert (np.diff(bent) > 0).all()
    assert bent[log_error <= -1] == pytest.approx(log_error[log_error <= -1])
    assert bent.max() < -0.7
    near = log_error < -0.5
    assert _unbent(bent, bend=-1.0)[near] == pytest.approx(log_error[near])


def test_an_error_of_zero_is_learnt_from_too(make_toy):
    toy = make_toy(n_stages=1, n_layers=2)
    strategy = Guided(toy.problem, seed=0, n_initial=4)
    for number in range(8):
        genotype = strategy.ask()
        strategy.tell(Trial(number, genotype, (0.0 if number % 2 else 0.5, 1.0 + number)))
    assert toy.problem.is_feasible(np.array([strategy.ask()])).all()


def test_one_initial_trial_is_refused(make_toy):
    with pytest.raises(ValueError, match="two trials"):
        Guided(make_toy().problem, seed=0, n_initial=1)
