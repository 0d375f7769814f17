import dataclasses

import numpy as np
import pytest

from hwnas import pareto
from hwnas.strategies import Evolution, Guided, RandomSearch, SpaceExhaustedError, Trial, guided
from hwnas.strategies.belief import CAUTIOUS_SCALES, SCALES, Belief, Scale
from hwnas.strategies.guided import _relevant
from hwnas.strategies.surrogate import GaussianProcess


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
def test_twenty_five_trials_dominate_more_than_others_do(make_toy, latency_is_known):
    toy = make_toy()
    problem = toy.problem if latency_is_known else without_latency(toy.problem)
    ours = volume(objectives_of(Guided(problem, seed=0), toy, 25))
    for other in (Evolution, RandomSearch):
        assert ours > volume(objectives_of(other(toy.problem, seed=0), toy, 25))


def test_the_first_proposals_come_from_equal_parts_of_the_feasible_latencies(make_toy):
    toy = make_toy(limit_ms=3.0)
    latency_ms = objectives_of(Guided(toy.problem, seed=0, n_initial=8), toy, 8)[:, 1]
    drawn = toy.problem.space.sample(np.random.default_rng(1), 4096)
    feasible_ms = toy.problem.predict(drawn[toy.problem.is_feasible(drawn)]).latency_ms
    shares = [(feasible_ms < value).mean() for value in sorted(latency_ms)]
    # One in each eighth; another sample of networks moves the borders a little.
    assert shares == pytest.approx((np.arange(8) + 0.5) / 8, abs=0.5 / 8 + 0.03)


def test_the_first_proposals_are_less_alike_than_random_ones(make_toy):
    problem = make_toy(limit_ms=3.0).problem
    drawn = problem.space.sample(np.random.default_rng(0), 1024)
    drawn = drawn[problem.is_feasible(drawn)]
    description = Guided(problem, seed=0)._description
    prior = GaussianProcess(description.encodings["written"])

    def variety(genotypes):
        """Log determinant of the kernel, as networks are alike before anything is learnt."""
        inputs = description.inputs(genotypes, problem.predict(genotypes), "written")
        return 2 * np.log(np.diag(prior.fit(inputs, inputs).root)).sum()

    at_random = [variety(drawn[i : i + 10]) for i in range(0, 200, 10)]
    for seed in range(3):
        strategy = Guided(problem, seed=seed)
        assert variety(np.array([strategy.ask() for _ in range(10)])) > max(at_random)


def test_every_second_proposal_leaves_out_the_floor_next_to_the_best(make_toy, monkeypatch):
    used = []

    def spy(*, targets, **others):
        used.append(targets[0].scale)
        return Belief(targets=targets, **others)

    monkeypatch.setattr(guided, "Belief", spy)
    monkeypatch.setattr(guided, "SCALES", ((Scale(0.95),), SCALES[1]))
    toy = make_toy()
    objectives_of(Guided(toy.problem, seed=0), toy, 20)
    assert len(used) == 10 and set(used[::2]) == {Scale(0.95)}
    assert set(used[1::2]) <= set(CAUTIOUS_SCALES[0]) == set(SCALES[0]) - {Scale(0.95)}


def test_what_runs_already_is_not_worth_running_again(make_toy):
    toy = make_toy(limit_ms=3.0)
    strategy = Guided(toy.problem, seed=0)
    objectives_of(strategy, toy, 16)
    genotypes, _ = strategy._pool
    before = strategy._belief().gain()
    best = int(before.argmax())
    running = tuple(genotypes[best].tolist())
    strategy.tell(Trial(16, running, None))
    after = strategy._belief().gain()
    assert after[best] < 0.7 * before[best]
    assert after.sum() < before.sum()  # those like it gain less, too


def test_networks_slower_than_any_so_far_are_worth_something(make_toy):
    toy = make_toy()
    problem = without_latency(toy.problem)
    strategy = Guided(problem, seed=0)
    drawn = problem.space.sample(np.random.default_rng(0), 300)
    latency_ms = toy.problem.predict(drawn).latency_ms
    for number, row in enumerate(drawn[np.argsort(latency_ms)[:60]].tolist()):
        genotype = tuple(row)
        strategy.tell(Trial(number, genotype, toy.objectives(genotype)))
    slowest_ms = np.sort(latency_ms)[59]
    assert strategy._belief().reference[1] > 1.5 * slowest_ms
    proposed_ms = [toy.objectives(strategy.ask())[1] for _ in range(5)]
    assert max(proposed_ms) > slowest_ms


def test_of_many_trials_those_near_the_front_are_learnt_from():
    rng = np.random.default_rng(0)
    objectives = rng.random((1000, 2))
    rows = _relevant(objectives, 200)
    assert len(rows) == len(set(rows)) == 200
    assert set(np.flatnonzero(pareto.ranks(objectives) <= 3)) <= set(rows)
    assert pareto.ranks(objectives)[rows].max() > 0.8 * pareto.ranks(objectives).max()
    assert (_relevant(objectives[:50], 200) == np.arange(50)).all()


def test_an_error_of_zero_is_learnt_from_too(make_toy):
    toy = make_toy(n_stages=1, n_layers=2)
    strategy = Guided(toy.problem, seed=0, n_initial=4)
    for number in range(8):
        genotype = strategy.ask()
        strategy.tell(Trial(number, genotype, (0.0 if number % 2 else 0.5, 1.0 + number)))
    assert toy.problem.is_feasible(np.array([strategy.ask()])).all()


@pytest.mark.parametrize("objectives", [(0.5, 2.0), (0.0, 2.0)])
def test_objectives_that_are_all_the_same_are_no_error(make_toy, objectives):
    toy = make_toy(limit_ms=3.0)
    strategy = Guided(toy.problem, seed=0, n_initial=4)
    for number in range(8):
        strategy.tell(Trial(number, strategy.ask(), objectives))
    assert toy.problem.is_feasible(np.array([strategy.ask()])).all()


def test_trials_of_a_wider_budget_do_not_hide_that_nothing_is_feasible(make_toy):
    wide, narrow = (make_toy(n_stages=1, n_layers=2, limit_ms=limit) for limit in (None, 0.01))
    strategy = Guided(narrow.problem, seed=0, n_initial=2)
    for number, row in enumerate(wide.problem.space.all_genotypes()[:6].tolist()):
        strategy.tell(Trial(number, tuple(row), wide.objectives(tuple(row))))
    with pytest.raises(SpaceExhaustedError):
        strategy.ask()


def test_one_initial_trial_is_refused(make_toy):
    with pytest.raises(ValueError, match="two trials"):
        Guided(make_toy().problem, seed=0, n_initial=1)
