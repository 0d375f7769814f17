from collections import Counter
from itertools import chain, repeat

import numpy as np
import pytest

from hwnas import pareto
from hwnas.strategies import Trial
from hwnas.strategies.hyperband import Hyperband, plan_brackets

# R = 81, eta = 3, by Algorithm 1: networks on each rung, and what each is trained for, of 81.
BRACKETS = [
    [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
    [(34, 3), (11, 9), (3, 27), (1, 81)],
    [(15, 9), (5, 27), (1, 81)],
    [(8, 27), (2, 81)],
    [(5, 81)],
]


def in_81sts(asked):
    return round(81 * asked.share)


def tell(strategy, toy, number, asked):
    objectives = toy.objectives(asked.genotype)
    strategy.tell(Trial(number, asked.genotype, objectives, share=asked.share))


def test_one_worker_spends_bracket_by_bracket_as_planned(make_toy):
    toy = make_toy()
    strategy = Hyperband(toy.problem, seed=0, eta=3, n_rungs=5)
    planned = list(chain.from_iterable(repeat(r, n) for bracket in BRACKETS for n, r in bracket))
    spent = []
    for number in range(len(planned) + 1):
        asked = strategy.ask()
        spent.append(in_81sts(asked))
        tell(strategy, toy, number, asked)
    assert spent == [*planned, 1]  # after the last bracket the first one comes again


def test_those_that_go_on_are_the_best_of_their_rung(make_toy):
    toy = make_toy()
    strategy = Hyperband(toy.problem, seed=0)
    rungs = {}
    for number in range(13):  # 9, 3 and 1 of the first bracket
        asked = strategy.ask()
        rungs.setdefault(round(9 * asked.share), []).append(asked.genotype)
        tell(strategy, toy, number, asked)
    assert [len(rungs[share]) for share in (1, 3, 9)] == [9, 3, 1]
    for rung, following in ((1, 3), (3, 9)):
        ranks = pareto.ranks([toy.objectives(genotype) for genotype in rungs[rung]])
        worst = max(ranks[rungs[rung].index(genotype)] for genotype in rungs[following])
        assert (ranks < worst).sum() < len(rungs[following])


def test_many_workers_in_any_order_spend_the_same(make_toy):
    toy = make_toy()
    strategy, rng = Hyperband(toy.problem, seed=0, eta=3, n_rungs=5), np.random.default_rng(0)
    running, asked_of = {}, {}
    for _ in range(400):
        while len(running) < 16:
            running[len(asked_of)] = asked = strategy.ask()
            asked_of[len(asked_of)] = asked
        number = sorted(running)[rng.integers(16)]
        tell(strategy, toy, number, running.pop(number))
    # The first networks that come in on a rung are those of the first round's bracket.
    entered = {}
    for asked in asked_of.values():
        entered.setdefault(asked.genotype, in_81sts(asked))
    for bracket in BRACKETS:
        n_networks, first = bracket[0]
        members = [genotype for genotype, share in entered.items() if share == first][:n_networks]
        spent = Counter(in_81sts(asked) for asked in asked_of.values() if asked.genotype in members)
        assert spent == {share: n for n, share in bracket}


def test_nobody_waits_for_a_rung_to_end(make_toy):
    strategy = Hyperband(make_toy().problem, seed=0)
    asked = [strategy.ask() for _ in range(20)]
    # 9 networks, 5, 3 of the first round, and 3 of the second.
    assert [round(9 * proposal.share) for proposal in asked] == [1] * 9 + [3] * 5 + [9] * 3 + [
        1
    ] * 3


@pytest.mark.parametrize(("n_rungs", "eta"), [(5, 3), (3, 3), (4, 2)])
def test_brackets_spend_about_the_same(n_rungs, eta):
    spent = []
    for bracket in plan_brackets(n_rungs, eta):
        networks = [bracket.n_networks // eta**i for i in range(n_rungs - bracket.rung)]
        shares = [eta ** (bracket.rung + i + 1 - n_rungs) for i in range(len(networks))]
        spent.append(float(np.dot(networks, shares)))
        assert networks[-1] >= 1
    assert max(spent) <= n_rungs * 1.2
    assert min(spent) >= n_rungs * 0.7
