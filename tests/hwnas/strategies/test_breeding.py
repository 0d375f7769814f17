import numpy as np

from hwnas.strategies.breeding import MAX_ROUNDS, first_child
from hwnas.strategies.proposals import Proposals


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
