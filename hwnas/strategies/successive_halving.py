"""Successive halving without waiting (ASHA): train many a little, and the best of them longer.

A new network gets the smallest share of the training. Whenever one in `eta` of those that ended on
a rung is good enough that it did not go on yet, it does: it is trained again, from the start, for
`eta` times as long, so that its learning rate falls to zero each time. Nothing waits for a rung to
fill, so trials of any length may run beside each other. No more than one in `eta` goes on: ASHA
would also promote each newcomer that is better than those that went on before it.

For several objectives, good is what has a low Pareto rank, and within a rank stands alone.

References:
    Jamieson and Talwalkar, Non-stochastic best arm identification, AISTATS 2016.
    Li et al., A system for massively parallel hyperparameter tuning (ASHA), MLSys 2020.
    Schmucker et al., Multi-objective asynchronous successive halving, 2021.
"""

from __future__ import annotations

from hwnas.strategies.base import Problem, Proposal, SpaceExhaustedError, Trial
from hwnas.strategies.rungs import Rungs

__all__ = ["SuccessiveHalving"]


class SuccessiveHalving:
    """Asynchronous successive halving by Pareto rank.

    Args:
        problem: What to search.
        seed: Decides all randomness, together with the number of the proposal.
        eta: One in so many goes on to the next rung, which is so many times as long.
        n_rungs: Shares of the training; the smallest is `eta ** (1 - n_rungs)`.
    """

    def __init__(self, problem: Problem, *, seed: int, eta: int = 3, n_rungs: int = 3) -> None:
        self._rungs = Rungs(problem, seed=seed, n_rungs=n_rungs, eta=eta)

    def ask(self) -> Proposal:
        """Propose the next step of the furthest that may go on; else a new network."""
        rungs = self._rungs
        for rung in reversed(range(len(rungs.shares) - 1)):
            proposal = rungs.climb(rung, len(rungs.results[rung]) // rungs.eta)
            if proposal is not None:
                return rungs.ask(proposal)
        try:
            return rungs.ask(rungs.entry(0))
        except SpaceExhaustedError:
            proposal = rungs.straggler()
            if proposal is None:
                raise
            return rungs.ask(proposal)

    def tell(self, trial: Trial) -> None:
        """Learn a result of any share; what failed counts on its rung, and goes no further."""
        self._rungs.tell(trial)
