"""Strategies that learned from the data first: what they propose is in their guide.

DARTS, FBNet and ProxylessNAS learn distributions over the options by gradients, ENAS a policy; SPOS
and Once-for-All rank networks by shared weights, zero-cost proxies by untrained ones. What they
have in common is what comes then. The papers are cited in `hwnas/guides/`, where each of them
learns.
"""

from __future__ import annotations

import numpy as np

from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.base import Problem, Trial
from hwnas.strategies.guide import Guide, sample
from hwnas.strategies.proposals import Proposals, as_genotype
from hwnas.strategies.targets import nearest_new

__all__ = ["FollowGuide"]

N_SAMPLES = 256  # of a policy, of which the first that may be proposed is


class FollowGuide:
    """Proposes the networks of a guide in its order, then draws from its policies in turns.

    What misses the budgets or was proposed before is passed over. Where nothing of the guide is
    left, draws are uniform. Results change nothing: what can be learned was, before.

    Args:
        problem: What to search.
        seed: Decides the draws, together with the number of the proposal.
        guide: Of the problem's space.

    Raises:
        ValueError: The guide is of another space.
    """

    def __init__(self, problem: Problem, *, seed: int, guide: Guide) -> None:
        guide.check(problem.space)
        self._guide = guide
        self._proposals = Proposals(problem, seed=seed)
        shape = (len(guide.ranked), len(problem.space.choices))
        # What is left of the list; all before it was proposed, told, or never feasible.
        self._ahead: GenotypeArray = np.array(guide.ranked, dtype=np.int64).reshape(shape)

    def ask(self) -> Genotype:
        """Propose the best of the list that is left; then what a policy draws."""
        self._ahead, _ = self._proposals.novel(self._ahead)
        if len(self._ahead):
            return self._proposals.ask(as_genotype(self._ahead[0]))
        rng = self._proposals.rng()
        policies = self._guide.policies
        if not policies:
            return self._proposals.ask(self._proposals.draw(rng))
        drawn = sample(policies[self._proposals.n_asked % len(policies)], rng, N_SAMPLES)
        return self._proposals.ask(nearest_new(self._proposals, drawn, rng))

    def tell(self, trial: Trial) -> None:
        """Remember the genotype; the result changes nothing."""
        self._proposals.tell(trial)
