"""What NSGA-II and NSGA-III do alike: a population that is renewed once a generation.

A generation is complete when as many trials have succeeded as the population holds, whoever
proposed them. So a slow trial holds up nobody: children of the old population are proposed until
enough have come back. Trials that failed are in no generation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.base import FloatArray, Problem, Trial
from hwnas.strategies.breeding import N_CHILDREN, first_child
from hwnas.strategies.proposals import Proposals

__all__ = ["Generations"]

CROSSOVER_RATE = 0.9

# From objectives `(n, m)`, a number of survivors and a random stream to the rows that survive.
Survive = Callable[[FloatArray, int, np.random.Generator], NDArray[np.int64]]
# From the size of a population, the shape of the answer and a random stream to rows of parents.
Mate = Callable[[int, tuple[int, ...], np.random.Generator], NDArray[np.int64]]


class Generations:
    """A generational evolutionary algorithm, but for who survives and who mates.

    Args:
        problem: What to search.
        seed: Decides all randomness, together with the number of the proposal.
        size: Of the population, and of each generation of children.
        survive: Chooses the next population from the last one and its children.
        mate: Chooses parents from the population, which is in the order of `survive`.
    """

    def __init__(
        self, problem: Problem, *, seed: int, size: int, survive: Survive, mate: Mate
    ) -> None:
        if size < 2:
            raise ValueError(f"two parents are needed, got population_size={size}")
        self.size = size
        self.genotypes = np.empty((0, len(problem.space.choices)), dtype=np.int64)
        self.objectives: FloatArray = np.empty((0, 0))  # of the population, (n, m)
        self._problem = problem
        self._proposals = Proposals(problem, seed=seed)
        self._seed = seed
        self._survive = survive
        self._mate = mate
        self._children: list[tuple[Genotype, tuple[float, ...]]] = []  # that have come back
        self._n_generations = 0

    def ask(self) -> Genotype:
        """Propose a child of the population; any network while there is none."""
        rng = self._proposals.rng()
        genotype: Genotype | None = None
        if len(self.genotypes):
            genotype = first_child(self._proposals, lambda: self._breed(rng))
        return self._proposals.ask(genotype or self._proposals.draw(rng))

    def tell(self, trial: Trial) -> None:
        """Learn a result; the last of a generation renews the population."""
        self._proposals.tell(trial)
        if trial.objectives is None:
            return
        self._children.append((trial.genotype, trial.objectives))
        if len(self._children) == self.size:
            self._renew()

    def _renew(self) -> None:
        genotypes = np.array([genotype for genotype, _ in self._children], dtype=np.int64)
        objectives = np.array([values for _, values in self._children], dtype=np.float64)
        if len(self.genotypes):
            genotypes = np.concatenate([self.genotypes, genotypes])
            objectives = np.concatenate([self.objectives, objectives])
        # Three numbers: a stream that no proposal draws from. Zeros at the end would not count.
        rng = np.random.default_rng([self._seed, self._n_generations, 1])
        rows = self._survive(objectives, self.size, rng)
        self.genotypes, self.objectives = genotypes[rows], objectives[rows]
        self._children.clear()
        self._n_generations += 1

    def _breed(self, rng: np.random.Generator) -> GenotypeArray:
        """Children of the population by uniform crossover and mutation, `(N_CHILDREN, g)`."""
        rows = self._mate(len(self.genotypes), (2, N_CHILDREN), rng)
        first, second = self.genotypes[rows]
        is_crossed = rng.random((N_CHILDREN, 1)) < CROSSOVER_RATE
        space = self._problem.space
        children = np.where(is_crossed, space.crossover(first, second, rng), first)
        return self._mutated(children, rng)

    def _mutated(self, genotypes: GenotypeArray, rng: np.random.Generator) -> GenotypeArray:
        """Change each choice with probability 1 / n_choices to any of its options, as the papers.

        `SearchSpace.mutate` changes about two, which loses what crossover brought together.
        """
        space = self._problem.space
        is_changed = rng.random(genotypes.shape) < 1 / max(len(space.choices), 1)
        anything = rng.integers(0, space.n_options, size=genotypes.shape)
        mutants, is_valid = space.repair(np.where(is_changed, anything, genotypes), rng)
        return np.where(is_valid[:, None], mutants, genotypes)
