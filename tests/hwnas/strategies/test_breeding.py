import numpy as np

from hwnas.strategies.breeding import MAX_ROUNDS, best_first, first_child
from hwnas.strategies.proposals import Proposals


def test_the_best_come_first_by_rank_and_then_by_the_room_around_them():
    objectives = np.random.default_rng(0).random((60, 2))
    order = best_first(objectives)
    assert sorted(order) == list(range(60))
    dominates = (objectives[:, None] <= objectives).all(axis=2)
    np.fill_diagonal(dominates, False)
    position = np.argsort(order)
    # Nobody stands behind one that it dominates.
    better, worse = np.nonzero(dominates)
    assert (position[better] < position[worse]).all()
    # The two ends of the front are infinitely far from others: they come before all else.
    assert {int(objectives[:, 0].argmin()), int(objectives[:, 1].argmin())} == set(order[:2])


def test_children_that_may_not_be_proposed_are_bred_again_but_not_for_ever(make_toy):
    toy = make_toy(n_stages=1, n_layers=1)
    proposals = Proposals(toy.problem, seed=0)
    known = proposals.ask((0,) * 5)
    litters = []

    def breed():
        litters.append(np.array([known, (1, 0, 0, 0, 0) if len(litters) == 2 else known]))
        return litters[-1]

    assert first_child(proposals, breed) == (1, 0, 0, 0, 0)
    assert len(litters) == 3
    assert first_child(proposals, lambda: litters[0]) is None
    assert MAX_ROUNDS < 10
