import numpy as np
import pytest

from hwnas.strategies import RandomSearch, Trial
from hwnas.strategies.reinforce import Reinforce


def n_until_best(strategy, toy):
    """How many trials it takes to find the best network."""
    for number in range(729):
        genotype = strategy.ask()
        if genotype == toy.best:
            return number + 1
        strategy.tell(Trial(number, genotype, toy.objectives(genotype)))
    raise AssertionError("every network was proposed, and none was the best")


def probability_of(strategy, genotype, position=0.5):
    probabilities = strategy.probabilities(position)[0]
    return float(np.prod(probabilities[np.arange(len(genotype)), genotype]))


def test_what_was_better_than_expected_becomes_likelier_and_what_was_worse_less_likely(separable):
    strategy = Reinforce(separable.problem, seed=0, entropy_weight=0.0)
    good, usual, bad = (0,) * 6, (1,) * 6, (2,) * 6
    strategy.tell(Trial(0, usual, (0.5, 1.0)))
    at_first = probability_of(strategy, good)
    assert at_first == pytest.approx(3.0**-6)  # nothing to compare the first result with
    strategy.tell(Trial(1, good, (0.1, 1.0)))
    assert probability_of(strategy, good) > at_first > probability_of(strategy, bad)
    before = probability_of(strategy, bad)
    strategy.tell(Trial(2, bad, (0.9, 1.0)))
    assert probability_of(strategy, bad) < before
    before = probability_of(strategy, usual)
    strategy.tell(Trial(3, usual, None, "ValueError: it diverged"))
    assert probability_of(strategy, usual) < before


def test_probabilities_move_toward_reward(separable):
    strategy = Reinforce(separable.problem, seed=0)
    for number in range(100):
        genotype = strategy.ask()
        strategy.tell(Trial(number, genotype, separable.objectives(genotype)))
    for position in (0.0, 0.5, 1.0):
        right = strategy.probabilities(position)[0][np.arange(6), separable.best]
        assert right.mean() > 0.6  # 1/3 at first
        assert right.min() > 0.34


def test_the_best_network_is_found_sooner_than_by_random_search(separable):
    # Random search needs half of the 729 networks on average.
    policy, random = (
        np.median(
            [n_until_best(make(separable.problem, seed=seed), separable) for seed in range(9)]
        )
        for make in (Reinforce, RandomSearch)
    )
    assert policy < random / 2


def test_the_policy_draws_slower_networks_for_slower_targets(make_toy):
    toy = make_toy()
    strategy = Reinforce(toy.problem, seed=0)
    for number in range(150):
        genotype = strategy.ask()
        strategy.tell(Trial(number, genotype, toy.objectives(genotype)))
    rng = np.random.default_rng(0)

    def latency_ms(position):
        probabilities = strategy.probabilities(position)[0]
        drawn = [[rng.choice(len(row), p=row) for row in probabilities] for _ in range(200)]
        return np.exp(np.log(toy.problem.predict(np.array(drawn)).latency_ms).mean())

    assert latency_ms(0.0) < 0.8 * latency_ms(1.0)


def test_inactive_choices_are_not_learnt(make_toy):
    toy = make_toy(n_stages=1, n_layers=2)
    strategy = Reinforce(toy.problem, seed=0)
    names = [choice.name for choice in toy.problem.space.choices]
    shallow = [0] * len(names)
    for number in range(20):
        shallow[names.index("width_0")] = number % 3
        objectives = toy.objectives(tuple(shallow))
        strategy.tell(Trial(number, tuple(shallow), objectives))
    probabilities = strategy.probabilities(0.5)[0]
    assert probabilities[names.index("kernel_size_0_1")] == pytest.approx([1 / 3] * 3)
    assert probabilities[names.index("width_0")].std() > 0.01
    assert probabilities[names.index("resolution")][2] == 0  # it has two options


def test_the_entropy_bonus_keeps_the_policy_open(separable):
    def entropy(weight):
        strategy = Reinforce(separable.problem, seed=0, entropy_weight=weight)
        for number in range(60):
            strategy.tell(Trial(number, separable.best, (0.1, 1.0)))
            strategy.tell(Trial(number, (0,) * 6, (0.9, 1.0)))
        probabilities = strategy.probabilities(0.5)[0]
        return -(probabilities * np.log(probabilities)).sum()

    assert entropy(1.0) > entropy(0.0) + 0.5
