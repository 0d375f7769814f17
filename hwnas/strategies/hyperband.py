"""Hyperband: successive halving with several answers to how early networks can be told apart.

A bracket is one run of successive halving: so many networks come in on one rung, and of those on
each rung one in `eta` goes on. Brackets that come in further up start fewer networks, and spend
about the same: the last one trains each network in full, as random search does. After the last
bracket the first one comes again.

A rung is judged when all of its trials have ended. Until then nobody waits: whoever asks gets
another bracket's next trial, of a new one if need be. What a bracket spends stays as planned.

References:
    Li et al., Hyperband, JMLR 18, 2018. https://jmlr.org/papers/v18/16-558.html
    Schmucker et al., Multi-objective asynchronous successive halving, 2021 (the best by rank).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from hwnas.spaces.base import Genotype
from hwnas.strategies.base import Problem, Proposal, SpaceExhaustedError, Trial
from hwnas.strategies.rungs import Rungs

__all__ = ["Bracket", "Hyperband", "plan_brackets"]


@dataclass(frozen=True, slots=True)
class Bracket:
    """One run of successive halving.

    Attributes:
        rung: On which networks come in.
        n_networks: That come in.
    """

    rung: int
    n_networks: int


def plan_brackets(n_rungs: int, eta: int) -> tuple[Bracket, ...]:
    """The brackets of one round, the one with the most networks first (Algorithm 1 of the paper).

    Example:
        >>> [bracket.n_networks for bracket in plan_brackets(n_rungs=5, eta=3)]
        [81, 34, 15, 8, 5]
    """
    climbs = reversed(range(n_rungs))  # of the networks of each bracket that get to the last rung
    return tuple(
        Bracket(n_rungs - 1 - s, -(-n_rungs * eta**s // (s + 1)))  # the quotient, rounded up
        for s in climbs
    )


class Hyperband:
    """Hyperband by Pareto rank, with brackets that may run beside each other.

    Args:
        problem: What to search.
        seed: Decides all randomness, together with the number of the proposal.
        eta: One in so many goes on to the next rung, which is so many times as long.
        n_rungs: Shares of the training; the smallest is `eta ** (1 - n_rungs)`.
    """

    def __init__(self, problem: Problem, *, seed: int, eta: int = 3, n_rungs: int = 3) -> None:
        self._rungs = Rungs(problem, seed=seed, n_rungs=n_rungs, eta=eta)
        self.brackets = plan_brackets(n_rungs, eta)
        # By rung and first network, who goes on, of the rungs that have ended.
        self._promoted: dict[tuple[int, Genotype], list[Genotype]] = {}

    def ask(self) -> Proposal:
        """Propose the next trial of the first bracket that has one."""
        rungs = self._rungs
        for bracket, members in self._rounds():
            if len(members) < bracket.n_networks:
                break
            proposal = self._next(bracket, members)
            if proposal is not None:
                return rungs.ask(proposal)
        try:
            return rungs.ask(rungs.entry(bracket.rung))
        except SpaceExhaustedError:
            proposal = rungs.straggler()
            if proposal is None:
                raise
            return rungs.ask(proposal)

    def tell(self, trial: Trial) -> None:
        """Learn a result of any share; what failed counts on its rung, and goes no further."""
        self._rungs.tell(trial)

    def _rounds(self) -> Iterator[tuple[Bracket, Sequence[Genotype]]]:
        """The brackets of one round after the other, with the networks that came in, by number."""
        entered: dict[int, list[Genotype]] = {bracket.rung: [] for bracket in self.brackets}
        for genotype, (_, rung) in sorted(self._rungs.entries.items(), key=lambda item: item[1]):
            entered[rung].append(genotype)
        for i in count():
            for bracket in self.brackets:
                n = bracket.n_networks
                yield bracket, entered[bracket.rung][i * n : (i + 1) * n]

    def _next(self, bracket: Bracket, members: Sequence[Genotype]) -> Proposal | None:
        """The next trial of a bracket that is full; None while it waits, and when it is over."""
        rungs = self._rungs
        for rung in range(bracket.rung, len(rungs.shares) - 1):
            if not members or not all(genotype in rungs.results[rung] for genotype in members):
                return None
            judged = rung, members[0]  # no network is in two brackets
            if judged not in self._promoted:
                n = len(members) // rungs.eta
                self._promoted[judged] = rungs.best(rung, n, members)
            members = self._promoted[judged]
            for genotype in members:
                if not rungs.has_started(genotype, rung + 1):
                    return Proposal(genotype, rungs.shares[rung + 1])
        return None
