"""What every strategy promises; a new one is tested by its line in `STRATEGIES`."""

import re

import numpy as np
import pytest

from hwnas.errors import ConfigError, InfeasibleBudgetError
from hwnas.strategies import STRATEGIES, SpaceExhaustedError, Trial, make_strategy


@pytest.fixture(params=sorted(STRATEGIES))
def name(request):
    return request.param


def run(strategy, toy, n_trials, history=(), fails=lambda number: False):
    """Search without a record: tell the history, then ask, evaluate, tell."""
    trials = list(history)
    for trial in trials:
        strategy.tell(trial)
    for number in range(len(trials), n_trials):
        genotype = strategy.ask()
        if fails(number):
            trial = Trial(number, genotype, None, "ValueError: it does that")
        else:
            trial = Trial(number, genotype, toy.objectives(genotype))
        strategy.tell(trial)
        trials.append(trial)
    return trials


def canonical_set(toy, genotypes):
    return set(map(tuple, toy.problem.space.canonical(np.array(genotypes)).tolist()))


@pytest.mark.parametrize("limit_ms", [None, 2.5, 0.6, 0.24])
def test_proposals_are_feasible_canonical_and_distinct(name, make_toy, limit_ms):
    # Of the drawn networks 94 %, 9 % and about 1 in 2,000 meet these budgets.
    toy = make_toy(limit_ms=limit_ms)
    genotypes = [t.genotype for t in run(make_strategy(name, toy.problem, seed=0), toy, 60)]
    assert toy.problem.is_feasible(np.array(genotypes)).all()
    assert all(type(index) is int for genotype in genotypes for index in genotype)
    assert canonical_set(toy, genotypes) == set(genotypes)
    assert len(set(genotypes)) == 60


def test_a_resumed_search_equals_an_uninterrupted_one_wherever_it_was_killed(name, make_toy):
    toy = make_toy(limit_ms=3.0)
    whole = run(make_strategy(name, toy.problem, seed=3), toy, 24)
    for n_done in range(24):
        resumed = run(make_strategy(name, toy.problem, seed=3), toy, 24, whole[:n_done])
        assert resumed == whole


def test_a_running_trial_that_is_told_counts_as_asked(name, make_toy):
    toy = make_toy(limit_ms=3.0)
    whole = run(make_strategy(name, toy.problem, seed=3), toy, 20)
    strategy = make_strategy(name, toy.problem, seed=3)
    for trial in whole[:15]:
        strategy.tell(trial)
    strategy.tell(Trial(15, whole[15].genotype, None))  # it ran when the search was killed
    assert strategy.ask() != whole[15].genotype  # another worker asks before it has ended
    resumed = make_strategy(name, toy.problem, seed=3)
    for trial in (*whole[:15], Trial(15, whole[15].genotype, None), whole[15]):
        resumed.tell(trial)
    assert resumed.ask() == whole[16].genotype


def test_several_proposals_may_be_out_at_once(name, make_toy):
    toy = make_toy(limit_ms=3.0)
    strategy = make_strategy(name, toy.problem, seed=0)
    run(strategy, toy, 20)
    assert len({strategy.ask() for _ in range(30)}) == 30


def test_the_seed_decides_the_proposals(name, make_toy):
    toy = make_toy()
    first, again, other = (
        run(make_strategy(name, toy.problem, seed=seed), toy, 20) for seed in (1, 1, 2)
    )
    assert first == again
    assert [t.genotype for t in first] != [t.genotype for t in other]


def test_failed_trials_are_learnt_and_do_not_come_back(name, make_toy):
    toy = make_toy(limit_ms=3.0)
    for fails in (lambda number: number % 2, lambda number: True):
        trials = run(make_strategy(name, toy.problem, seed=0), toy, 40, fails=fails)
        assert len({trial.genotype for trial in trials}) == 40


def test_a_small_space_is_proposed_completely_and_then_ends(name, make_toy):
    # One stage of one or two layers: 2 resolutions * 3 widths * (9 + 81) networks.
    toy = make_toy(n_stages=1, n_layers=2, limit_ms=0.2)
    space = toy.problem.space
    everything = np.array(list(np.ndindex(*space.n_options)))
    feasible = canonical_set(toy, everything[toy.problem.is_feasible(everything)])
    assert 50 < len(feasible) < 540
    strategy = make_strategy(name, toy.problem, seed=0)
    genotypes = [trial.genotype for trial in run(strategy, toy, len(feasible))]
    assert set(genotypes) == feasible
    for _ in range(2):
        with pytest.raises(SpaceExhaustedError, match=f"{len(feasible)} were proposed already"):
            strategy.ask()


def test_a_large_space_with_few_feasible_networks_ends_too(name, make_toy):
    # Three layers of 0.05 + 8 * 2 * (8 + 9) * 0.25 / 1e4 = 0.0568 ms, 0.1874 at the upper end; with
    # one larger kernel, 0.1945: the fastest network alone meets this budget.
    toy = make_toy(limit_ms=0.19)
    strategy = make_strategy(name, toy.problem, seed=0)
    assert strategy.ask() == (0,) * len(toy.problem.space.choices)
    with pytest.raises(SpaceExhaustedError, match=r"latency_ms <= 0\.19"):
        strategy.ask()


@pytest.mark.parametrize(
    ("n_stages", "message"),
    [
        (
            1,
            "the networks of the space meets latency_ms <= 0.01; the nearest needs latency_ms 0.06",
        ),
        (3, "networks tried meets latency_ms <= 0.01; the nearest needs latency_ms 0.1874. Raise"),
    ],
)
def test_an_impossible_budget_ends_at_once_and_names_the_nearest(name, make_toy, n_stages, message):
    toy = make_toy(n_stages=n_stages, n_layers=n_stages, limit_ms=0.01)
    with pytest.raises(InfeasibleBudgetError, match=re.escape(message)):
        make_strategy(name, toy.problem, seed=0).ask()


def test_trials_of_somebody_else_are_learnt(name, make_toy):
    toy = make_toy(limit_ms=3.0)
    others = run(make_strategy("random", toy.problem, seed=9), toy, 30)
    genotypes = [t.genotype for t in run(make_strategy(name, toy.problem, seed=0), toy, 60, others)]
    assert len(set(genotypes)) == 60


def test_an_unknown_name_is_an_error_with_the_nearest(make_toy):
    with pytest.raises(ConfigError, match="did you mean 'evolution'"):
        make_strategy("evolutoin", make_toy().problem, seed=0)
