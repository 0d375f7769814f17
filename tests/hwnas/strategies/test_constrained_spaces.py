"""Every strategy keeps to the constraints of a space; a new one is tested by being in the list."""

import dataclasses

import numpy as np
import pytest

from hwnas.spaces.base import Constraint
from hwnas.strategies import STRATEGIES, SpaceExhaustedError, Trial
from hwnas.strategies.base import Proposal


@pytest.fixture(params=sorted(STRATEGIES))
def name(request):
    return request.param


def ask_and_tell(strategy, toy, n):
    """The genotypes that are proposed; some strategies propose one again, with a larger share."""
    asked = []
    for number in range(n):
        proposal = Proposal.of(strategy.ask())
        asked.append(proposal.genotype)
        found = toy.objectives(proposal.genotype)
        strategy.tell(Trial(number, proposal.genotype, found, share=proposal.share))
    return np.array(asked)


def constrained(toy, *constraints):
    space = dataclasses.replace(toy.problem.space, constraints=constraints)
    return dataclasses.replace(toy, problem=dataclasses.replace(toy.problem, space=space))


def test_proposals_are_valid_where_few_genotypes_are(name, make_toy, make_strategy):
    toy = constrained(
        make_toy(limit_ms=3.0),
        Constraint("widths never shrink", lambda o: o["width_0"] <= o["width_1"] <= o["width_2"]),
        Constraint("six layers", lambda o: o["depth_0"] + o["depth_1"] + o["depth_2"] == 6),
        # Without asking whether there is a second layer in the last stage.
        Constraint("last kernels differ", lambda o: o["kernel_size_2_0"] != o["kernel_size_2_1"]),
    )
    space = toy.problem.space
    free = dataclasses.replace(space, constraints=())
    assert space.is_valid(free.sample(np.random.default_rng(0), 4000)).mean() < 0.12
    asked = ask_and_tell(make_strategy(name, toy.problem, seed=0), toy, 14)
    assert space.is_valid(asked).all()
    assert (space.canonical(asked) == asked).all()
    assert len(np.unique(asked, axis=0)) > 8


def test_a_small_constrained_space_is_proposed_completely_and_then_ends(
    name, make_toy, make_strategy
):
    toy = constrained(
        make_toy(n_stages=1, n_layers=1),
        Constraint("wide at full size only", lambda o: o["resolution"] == 32 or o["width_0"] == 8),
        Constraint(
            "large kernels do not expand",
            lambda o: o["kernel_size_0_0"] == 3 or o["expand_ratio_0_0"] == 2,
        ),
    )
    # By hand: four pairs of resolution and width, five of kernel and expansion.
    valid = {tuple(row) for row in toy.problem.space.all_genotypes().tolist()}
    assert len(valid) == 20
    strategy, asked = make_strategy(name, toy.problem, seed=0), set()
    try:
        for number in range(400):
            proposal = Proposal.of(strategy.ask())
            asked.add(proposal.genotype)
            found = toy.objectives(proposal.genotype)
            strategy.tell(Trial(number, proposal.genotype, found, share=proposal.share))
        pytest.fail("it goes on for ever")
    except SpaceExhaustedError:
        assert asked == valid
