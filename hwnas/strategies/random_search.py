"""Random search: the baseline that every other strategy has to beat."""

from __future__ import annotations

from hwnas.spaces.base import Genotype
from hwnas.strategies.base import Problem, Trial
from hwnas.strategies.proposals import Proposals

__all__ = ["RandomSearch"]


class RandomSearch:
    """Draws uniformly from the genotypes that meet the budgets, no network twice.

    Reference:
        Bergstra and Bengio, Random search for hyper-parameter optimization, JMLR 13, 2012.
    """

    def __init__(self, problem: Problem, *, seed: int) -> None:
        self._proposals = Proposals(problem, seed=seed)

    def ask(self) -> Genotype:
        """Draw the next genotype."""
        return self._proposals.ask(self._proposals.draw(self._proposals.rng()))

    def tell(self, trial: Trial) -> None:
        """Remember the genotype; the result changes nothing."""
        self._proposals.tell(trial)
