"""What strategies promise that train candidates in parts."""

import numpy as np
import pytest

from hwnas import pareto
from hwnas.strategies import SpaceExhaustedError, Trial
from hwnas.strategies.base import Proposal
from hwnas.strategies.hyperband import Hyperband
from hwnas.strategies.rungs import Rungs
from hwnas.strategies.successive_halving import SuccessiveHalving


@pytest.fixture(params=[Hyperband, SuccessiveHalving])
def make(request):
    return request.param


def objectives_of(toy, asked):
    """The shorter the training, the larger the error, and the less sure."""
    error, latency_ms = toy.objectives(asked.genotype)
    noise = np.random.default_rng([*asked.genotype, round(1000 * asked.share)]).random()
    return error + (1 - asked.share) * (0.2 + 0.1 * noise), latency_ms


def ended(toy, number, asked):
    return Trial(number, asked.genotype, objectives_of(toy, asked), share=asked.share)


def run(strategy, toy, n_trials, history=(), fails=lambda number: False):
    trials = list(history)
    for trial in trials:
        strategy.tell(trial)
    for number in range(len(trials), n_trials):
        asked = strategy.ask()
        trials.append(ended(toy, number, asked))
        if fails(number):
            reason = "ValueError: it does that"
            trials[-1] = Trial(number, asked.genotype, None, reason, asked.share)
        strategy.tell(trials[-1])
    return trials


def asked_of(trials):
    return [Proposal(trial.genotype, trial.share) for trial in trials]


def test_no_network_has_the_same_training_twice_and_none_skips_a_rung(make, make_toy):
    toy = make_toy(limit_ms=3.0)
    trials = run(make(toy.problem, seed=0), toy, 120)
    assert len(set(asked_of(trials))) == 120
    shares = {}
    for trial in trials:
        shares.setdefault(trial.genotype, []).append(trial.share)
    for steps in shares.values():
        assert np.divide(steps[1:], steps[:-1]) == pytest.approx(3)
    assert max(map(len, shares.values())) == 3
    genotypes = np.array(list(shares))
    assert toy.problem.is_feasible(genotypes).all()
    assert (toy.problem.space.canonical(genotypes) == genotypes).all()


def test_a_resumed_search_equals_an_uninterrupted_one_wherever_it_was_killed(make, make_toy):
    toy = make_toy(limit_ms=3.0)
    whole = run(make(toy.problem, seed=3), toy, 60)
    for n_done in range(58):
        # Two proposals: the first must follow from what was told, the second from what it kept.
        resumed = run(make(toy.problem, seed=3), toy, n_done + 2, whole[:n_done])
        assert resumed == whole[: n_done + 2]


def test_several_workers_are_replayed_from_the_order_in_which_trials_ended(make, make_toy):
    toy = make_toy(limit_ms=3.0)
    strategy, rng = make(toy.problem, seed=0), np.random.default_rng(0)
    told, running = [], {}
    while len(told) < 60:
        while len(running) < 4:
            running[len(told) + len(running)] = strategy.ask()
        number = sorted(running)[rng.integers(4)]
        told.append(ended(toy, number, running.pop(number)))
        strategy.tell(told[-1])
    resumed = make(toy.problem, seed=0)
    for trial in told:
        resumed.tell(trial)
    for number, asked in running.items():
        resumed.tell(Trial(number, asked.genotype, None, share=asked.share))
    assert [resumed.ask() for _ in range(20)] == [strategy.ask() for _ in range(20)]


def test_what_failed_goes_no_further(make, make_toy):
    toy = make_toy(limit_ms=3.0)
    trials = run(make(toy.problem, seed=0), toy, 90, fails=lambda number: number % 5 == 0)
    failed = {trial.genotype: trial.share for trial in trials if trial.failure}
    assert all(trial.share <= failed.get(trial.genotype, 1.0) for trial in trials)
    assert any(trial.share == 1 for trial in trials)
    trials = run(make(toy.problem, seed=0), toy, 40, fails=lambda number: True)
    assert len({trial.genotype for trial in trials}) == 40


def test_a_small_space_is_trained_completely_and_then_ends(make, make_toy):
    # One stage of one layer: 2 resolutions * 3 widths * 9 networks, some of them over the budget.
    toy = make_toy(n_stages=1, n_layers=1, limit_ms=0.3)
    space = toy.problem.space
    everything = np.array(list(np.ndindex(*space.n_options)))
    feasible = everything[toy.problem.is_feasible(everything)]
    n_networks = len(np.unique(space.canonical(feasible), axis=0))
    assert 20 < n_networks < 54
    strategy = make(toy.problem, seed=0)
    shares = []

    def search():
        for number in range(4 * n_networks):
            asked = strategy.ask()
            shares.append(asked.share)
            strategy.tell(ended(toy, number, asked))

    with pytest.raises(SpaceExhaustedError, match=f"{n_networks} were proposed already"):
        search()
    assert shares.count(1.0) == n_networks


def test_a_result_may_allow_another_proposal_after_the_last_network(make, make_toy):
    # A layer of 0.05 + 8 * 2 * (8 + 9) * 0.25 / 1e4 = 0.0568 ms, 0.0625 at the upper end; with a
    # larger kernel, 0.0695: the fastest network alone meets this budget.
    toy = make_toy(n_stages=1, n_layers=1, limit_ms=0.065)
    strategy = make(toy.problem, seed=0)
    for number in range(3):
        asked = strategy.ask()
        assert (sum(asked.genotype), asked.share) == (0, pytest.approx(3.0 ** (number - 2)))
        with pytest.raises(SpaceExhaustedError):
            strategy.ask()
        strategy.tell(ended(toy, number, asked))
    with pytest.raises(SpaceExhaustedError):
        strategy.ask()


def test_full_results_of_somebody_else_are_not_asked_again(make, make_toy):
    toy = make_toy(limit_ms=3.0)
    rng = np.random.default_rng(0)
    drawn = toy.problem.space.canonical(toy.problem.space.sample(rng, 30))
    others = [ended(toy, i, Proposal(tuple(row.tolist()))) for i, row in enumerate(drawn)]
    trials = run(make(toy.problem, seed=0), toy, 150, others)
    feasible = [t for t in trials if toy.problem.is_feasible(np.array([t.genotype]))[0]]
    assert len(set(asked_of(trials))) == len(trials)
    assert len(feasible) == len(trials) - 30 + toy.problem.is_feasible(drawn).sum()


def test_what_is_over_the_budget_does_not_climb(make_toy):
    toy = make_toy(n_stages=1, n_layers=1, limit_ms=0.1)
    rungs = Rungs(toy.problem, seed=0, n_rungs=2, eta=2)
    slowest = tuple(n - 1 for n in toy.problem.space.n_options)
    rungs.tell(Trial(0, slowest, (0.01, 0.01), share=0.5))
    assert rungs.climb(0, 1) is None
    fastest = (0,) * len(slowest)
    rungs.tell(Trial(1, fastest, (0.5, 0.5), share=0.5))
    assert rungs.climb(0, 1) == Proposal(fastest, 1.0)


def test_the_best_are_those_of_low_rank_that_stand_alone(make_toy):
    toy = make_toy()
    rungs = Rungs(toy.problem, seed=0, n_rungs=2, eta=2)
    points = [(0.5, 0.5), (0.1, 0.9), (0.12, 0.85), (0.9, 0.1), (0.91, 0.2), (0.6, 0.6)]
    drawn = toy.problem.space.sample(np.random.default_rng(0), len(points))
    genotypes = [tuple(row) for row in toy.problem.space.canonical(drawn).tolist()]
    for number, (genotype, point) in enumerate(zip(genotypes, points, strict=True)):
        rungs.tell(Trial(number, genotype, point, share=0.5))
    # The ends of the first front, then its middle by crowding; then the second front, both ends.
    assert pareto.ranks(points).tolist() == [0, 0, 0, 0, 1, 1]
    order = [genotypes.index(genotype) for genotype in rungs.best(0, 6)]
    assert order == [1, 3, 0, 2, 4, 5]
    assert rungs.best(0, 2) == [genotypes[1], genotypes[3]]
    assert rungs.best(1, 2) == rungs.best(0, 0) == []


@pytest.mark.parametrize("sizes", [{"eta": 1}, {"n_rungs": 1}])
def test_a_ladder_without_steps_is_refused(make, make_toy, sizes):
    with pytest.raises(ValueError, match="at least 2"):
        make(make_toy().problem, seed=0, **sizes)
