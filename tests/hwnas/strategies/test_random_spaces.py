"""On any space, with any budgets: what is proposed meets them, and all that meets them is found."""

from dataclasses import dataclass
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from hwnas.budget import Budget
from hwnas.errors import InfeasibleBudgetError
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.strategies import STRATEGIES, Problem, SpaceExhaustedError, Trial
from hwnas.strategies.base import Costs, Proposal

N_TRIALS = 16
SLOW = {"gp"}


@dataclass(frozen=True)
class Piece:
    position: int
    option: object

    def build(self, in_shape):
        raise NotImplementedError("a search builds no network")


def piece(position, least_depth, options):
    if options["depth"] < least_depth:
        return None
    return Piece(position, options[f"choice_{position}"])


def first_shape(options):
    return (1, 1 + options["depth"], 1)


@st.composite
def problems(draw):
    """Spaces of up to 4,096 genotypes with inactive choices; two costs; budgets on one or both."""
    depth = Choice("depth", tuple(range(draw(st.integers(1, 4)))))
    choices, slots = [depth], []
    for position in range(draw(st.integers(0, 5))):
        n = draw(st.integers(1, 4))
        options = draw(st.sampled_from([(1, 2, 3, 4), ("a", "b", "c", "d")]))[:n]
        choices.append(Choice(f"choice_{position}", options))
        slots.append(partial(piece, position, draw(st.integers(0, 3))))
    space = SearchSpace("any", tuple(choices), first_shape, tuple(slots))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    prices = [rng.gamma(1.0, size=(n, 2)) for n in space.n_options]

    def predict(genotypes):
        canonical = space.canonical(genotypes)
        each = [table[column] for table, column in zip(prices, canonical.T, strict=True)]
        latency_ms, size = (0.1 + sum(each)).T
        counts = (1e3 * size).astype(np.int64)
        known = np.ones(len(genotypes))
        return Costs(latency_ms, 0.8 * latency_ms, 1.3 * latency_ms, known, counts, counts)

    everything = predict(space.sample(rng, 256))
    budgets = []
    for metric in draw(st.sampled_from([(), ("latency_ms",), ("latency_ms", "params")])):
        share = draw(st.sampled_from([0.02, 0.2, 0.7]))
        budgets.append(Budget(metric, float(np.quantile(everything.upper(metric), share)) + 1e-6))
    return Problem(space, predict, tuple(budgets))


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_no_proposal_is_over_a_budget_and_none_is_missed(name, make_strategy):
    @settings(max_examples=4 if name in SLOW else 25, deadline=None, derandomize=True)
    @given(problem=problems(), seed=st.integers(0, 99), failing=st.sampled_from([0, 3, 1]))
    def check(problem, seed, failing):
        feasible = problem.space.all_genotypes()
        feasible = set(map(tuple, feasible[problem.is_feasible(feasible)].tolist()))
        strategy = make_strategy(name, problem, seed=seed)
        rng = np.random.default_rng(seed)
        proposed = []
        try:
            for number in range(N_TRIALS):
                proposal = Proposal.of(strategy.ask())
                proposed.append(proposal)
                genotype, share = proposal.genotype, proposal.share
                if failing and number % failing == 0:
                    strategy.tell(Trial(number, genotype, None, "it fails", share))
                elif number % 5 != 4:  # every fifth one runs on
                    latency_ms = float(problem.predict(np.array([genotype])).latency_ms[0])
                    result = (rng.random(), latency_ms)
                    strategy.tell(Trial(number, genotype, result, share=share))
        except SpaceExhaustedError:
            assert {proposal.genotype for proposal in proposed} == feasible
        except InfeasibleBudgetError:
            assert not feasible
        assert len(set(proposed)) == len(proposed)
        assert {proposal.genotype for proposal in proposed} <= feasible

    check()
