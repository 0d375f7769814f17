"""Rungs: shares of the training that candidates climb, and who goes on to the next one.

Successive halving and Hyperband hold these; they differ in when a candidate may climb. All of it
follows from the trials and the order in which they ended, so a resumed search goes on alike.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from hwnas.pareto import best_first
from hwnas.spaces.base import Genotype
from hwnas.strategies.base import Problem, Proposal, Trial
from hwnas.strategies.proposals import Proposals, as_genotype

__all__ = ["Rungs"]


class Rungs:
    """The trials of one search by the share of the training that they had.

    Args:
        problem: What to search.
        seed: Decides all randomness, together with the number of the proposal.
        n_rungs: Shares of the training; the last one is 1.
        eta: Each share is that many times the one before.

    Attributes:
        shares: Of the training, smallest first.
        results: By rung, what ended there: objectives, or None for what may go no further.
        entries: By genotype, the number of its first proposal, and the rung that it came in on.
    """

    def __init__(self, problem: Problem, *, seed: int, n_rungs: int, eta: int) -> None:
        if n_rungs < 2 or eta < 2:
            raise ValueError(f"n_rungs and eta must be at least 2, got {n_rungs=}, {eta=}")
        self.eta = eta
        self.shares = tuple(1 / eta**i for i in reversed(range(n_rungs)))
        self.results: tuple[dict[Genotype, tuple[float, ...] | None], ...] = tuple(
            {} for _ in self.shares
        )
        self.entries: dict[Genotype, tuple[int, int]] = {}
        self._problem = problem
        self._proposals = Proposals(problem, seed=seed)
        self._started: set[tuple[Genotype, int]] = set()

    def ask(self, proposal: Proposal) -> Proposal:
        """Count `proposal` as the next one and return it."""
        self._start(self._proposals.n_asked, proposal.genotype, self._rung(proposal.share))
        self._proposals.ask(proposal.genotype)
        return proposal

    def tell(self, trial: Trial) -> None:
        """Take note of a trial. One of another share counts on the last rung that it reached."""
        self._proposals.tell(trial)
        row = np.array([trial.genotype], dtype=np.int64)
        genotype = as_genotype(self._problem.space.canonical(row)[0])
        rung = self._rung(trial.share)
        self._start(trial.number, genotype, rung)
        if not trial.is_running:
            is_feasible = bool(self._problem.is_feasible(row)[0])
            self.results[rung][genotype] = trial.objectives if is_feasible else None

    def entry(self, rung: int) -> Proposal:
        """A new network, drawn at random, that comes in on a rung.

        Raises:
            InfeasibleBudgetError: If no feasible network was found, now or before.
            SpaceExhaustedError: If no new one was found.
        """
        return Proposal(self._proposals.draw(self._proposals.rng()), self.shares[rung])

    def best(self, rung: int, n: int, among: Sequence[Genotype] | None = None) -> list[Genotype]:
        """The `n` best that ended on a rung, best first; fewer if more than the others failed.

        By Pareto rank, and within a rank by crowding distance.

        Args:
            rung: Where they ended.
            n: How many.
            among: Whom to look at, all of whom ended there; None: all that ended there.
        """
        results = self.results[rung]
        known = results if among is None else among
        found = [(genotype, results[genotype]) for genotype in known if results[genotype]]
        if n < 1 or not found:
            return []
        order = best_first(np.array([objectives for _, objectives in found]))
        return [found[i][0] for i in order[:n]]

    def has_started(self, genotype: Genotype, rung: int) -> bool:
        """Whether it was asked or told there."""
        return (genotype, rung) in self._started

    def climb(self, rung: int, n: int) -> Proposal | None:
        """The best of the `n` best of a rung that may go on; None if `n` did already.

        So never more than `n` do, although who is among the best changes as results come in.
        """
        if sum(self.has_started(genotype, rung + 1) for genotype in self.results[rung]) < n:
            for genotype in self.best(rung, n):
                if not self.has_started(genotype, rung + 1):
                    return Proposal(genotype, self.shares[rung + 1])
        return None

    def straggler(self) -> Proposal | None:
        """The next step of the furthest and best that was left behind; None if there is none.

        For spaces of which every network was proposed: the rest of the trials is theirs.
        """
        for rung in reversed(range(len(self.shares) - 1)):
            proposal = self.climb(rung, len(self.results[rung]))
            if proposal is not None:
                return proposal
        return None

    def _start(self, number: int, genotype: Genotype, rung: int) -> None:
        self._started.add((genotype, rung))
        # What is told goes before what was asked: a replayed search knows nothing else.
        if genotype not in self.entries or number <= self.entries[genotype][0]:
            self.entries[genotype] = number, rung

    def _rung(self, share: float) -> int:
        """The last rung that a share reaches; the first one for what reaches none."""
        return max(bisect_right(self.shares, share) - 1, 0)
