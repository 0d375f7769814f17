from collections import Counter

import numpy as np
import pytest

from hwnas import pareto
from hwnas.strategies import RandomSearch, Trial
from hwnas.strategies.successive_halving import SuccessiveHalving


def test_one_in_three_goes_on_as_soon_as_it_is_known_and_the_best_one_does(make_toy):
    strategy = SuccessiveHalving(make_toy().problem, seed=0)
    errors = {}
    steps = []
    for number in range(13):
        asked = strategy.ask()
        # The later a network came, the better it is.
        errors.setdefault(asked.genotype, 0.9 - 0.01 * len(errors))
        order = list(errors).index(asked.genotype)
        steps.append((order, round(1 / asked.share)))
        objectives = (errors[asked.genotype], 1.0)
        strategy.tell(Trial(number, asked.genotype, objectives, share=asked.share))
    assert steps == [
        (0, 9), (1, 9), (2, 9), (2, 3),
        (3, 9), (4, 9), (5, 9), (5, 3),
        (6, 9), (7, 9), (8, 9), (8, 3),
        (8, 1),
    ]  # fmt: skip


def test_nothing_waits_for_a_result(make_toy):
    strategy = SuccessiveHalving(make_toy().problem, seed=0)
    asked = [strategy.ask() for _ in range(40)]
    assert {proposal.share for proposal in asked} == {1 / 9}
    assert len(set(asked)) == 40
    for number in range(6):
        strategy.tell(Trial(number, asked[number].genotype, (0.5, 1 + number), share=1 / 9))
    assert [round(1 / strategy.ask().share) for _ in range(3)] == [3, 3, 9]


def test_each_rung_costs_about_the_same(make_toy):
    toy = make_toy()
    strategy = SuccessiveHalving(toy.problem, seed=0, eta=2, n_rungs=4)
    counts = Counter()
    for number in range(300):
        asked = strategy.ask()
        counts[asked.share] += 1
        objectives = toy.objectives(asked.genotype)
        strategy.tell(Trial(number, asked.genotype, objectives, share=asked.share))
    spent = [share * n for share, n in sorted(counts.items())]
    assert sorted(counts) == [1 / 8, 1 / 4, 1 / 2, 1]
    assert spent == pytest.approx([160 / 8] * 4, abs=1)  # of 15 trials, 8 + 4 + 2 + 1


def test_the_same_training_finds_more_than_random_search(make_toy):
    toy = make_toy()

    def volume(strategy, n_spent):
        spent, number, points = 0.0, 0, []
        while spent < n_spent:
            asked = strategy.ask()
            genotype, share = (
                (asked.genotype, asked.share)
                if isinstance(strategy, SuccessiveHalving)
                else (asked, 1.0)
            )
            error, latency_ms = toy.objectives(genotype)
            noise = np.random.default_rng([*genotype, round(1000 * share)]).random()
            objectives = error + (1 - share) * 0.1 * noise, latency_ms
            if share == 1:
                points.append(objectives)
            strategy.tell(Trial(number, genotype, objectives, share=share))
            spent, number = spent + share, number + 1
        return pareto.hypervolume(points, [1.0, 10.0])

    halving, random = (
        np.median([volume(make(toy.problem, seed=seed), 20) for seed in range(5)])
        for make in (SuccessiveHalving, RandomSearch)
    )
    assert halving > random  # measured: 1.04 times the volume
