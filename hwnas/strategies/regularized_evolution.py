"""Regularized (aging) evolution: the oldest dies, however good it is."""

from __future__ import annotations

from collections import deque

import numpy as np

from hwnas.pareto import best_first
from hwnas.spaces.base import Genotype
from hwnas.strategies.base import Problem, Trial
from hwnas.strategies.proposals import Proposals, as_genotype

__all__ = ["RegularizedEvolution"]

MAX_TOURNAMENTS = 16  # whose winners have no neighbour left, before any network is taken


class RegularizedEvolution:
    """Mutates winners of tournaments; the population is the latest trials, not the best ones.

    With several objectives a tournament is won by rank, then by crowding distance. Trials that
    failed never enter the population.

    Args:
        problem: What to search.
        seed: Decides all randomness, together with the number of the proposal.
        population_size: Trials that live: the latest that succeeded. The first ones are random.
        sample_size: Of a tournament.

    Reference:
        Real et al., Regularized evolution for image classifier architecture search, AAAI 2019.
        https://arxiv.org/abs/1802.01548
    """

    def __init__(
        self, problem: Problem, *, seed: int, population_size: int = 30, sample_size: int = 10
    ) -> None:
        if population_size < 1 or sample_size < 1:
            raise ValueError(
                f"a parent and a tournament are needed, got {population_size=}, {sample_size=}"
            )
        self.problem = problem
        self.population_size = population_size
        self.sample_size = sample_size
        self._proposals = Proposals(problem, seed=seed)
        self._living: deque[tuple[Genotype, tuple[float, ...]]] = deque(maxlen=population_size)

    def ask(self) -> Genotype:
        """Propose a mutant of the winner of a tournament; any network while few live."""
        rng = self._proposals.rng()
        genotype = self._mutant(rng) if len(self._living) == self.population_size else None
        return self._proposals.ask(genotype or self._proposals.draw(rng))

    def tell(self, trial: Trial) -> None:
        """Learn a result; it is born, and the oldest dies."""
        self._proposals.tell(trial)
        if trial.objectives is not None:
            self._living.append((trial.genotype, trial.objectives))

    def _mutant(self, rng: np.random.Generator) -> Genotype | None:
        """A winner with one choice changed, one that may be proposed; None if there is none."""
        best = best_first([objectives for _, objectives in self._living])
        for _ in range(MAX_TOURNAMENTS):
            winner = rng.integers(len(best), size=self.sample_size).min()  # sorted best first
            parent, _ = self._living[best[winner]]
            mutants, _ = self._proposals.novel(self.problem.space.neighbours(parent))
            if len(mutants):
                return as_genotype(mutants[rng.integers(len(mutants))])
        return None
