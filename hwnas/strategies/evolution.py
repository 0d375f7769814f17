"""Multi-objective evolution (NSGA-II), steady state, with latency known before training.

Three things differ from the textbook. The population is renewed after every trial, not every
generation, so that trials of any length may run beside each other. Each proposal is chosen from
hundreds of children, since costing them is free; those over the budget are dropped there. And the
choice looks at predicted latency: a child in a stretch of latency with few trials comes first.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from hwnas.pareto import best_first
from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.base import Costs, Problem, Trial
from hwnas.strategies.proposals import Proposals, as_genotype

__all__ = ["Evolution"]

N_DRAWS = 4096  # to spread the first proposals over the latencies that the budget leaves
N_CHILDREN = 256
MAX_ROUNDS = 4  # of children, before random search takes over
CROSSOVER_RATE = 0.9
EXPLORE_RATE = 0.5  # share of proposals that are any child, wherever its latency lies


class Evolution:
    """NSGA-II over the objectives of the problem.

    Args:
        problem: What to search.
        seed: Decides all randomness, together with the number of the proposal.
        n_initial: Proposals before evolution starts, spread evenly over log predicted latency.
        population_size: Trials that may become parents: the best by rank and crowding distance.

    Reference:
        Deb et al., NSGA-II, IEEE TEC 6(2), 2002. https://doi.org/10.1109/4235.996017
    """

    def __init__(
        self, problem: Problem, *, seed: int, n_initial: int = 12, population_size: int = 16
    ) -> None:
        if n_initial < 2 or population_size < 2:
            raise ValueError(f"two parents are needed, got {n_initial=}, {population_size=}")
        self.problem = problem
        self.n_initial = n_initial
        self.population_size = population_size
        self._proposals = Proposals(problem, seed=seed)
        self._genotypes: list[Genotype] = []  # of the trials that succeeded
        self._objectives: list[tuple[float, ...]] = []

    def ask(self) -> Genotype:
        """Propose one of the first, spread ones; then a child; where there is none, any."""
        rng = self._proposals.rng()
        genotype: Genotype | None = None
        if self._proposals.n_asked < self.n_initial:
            genotype = self._initial_proposal()
        elif len(self._genotypes) >= 2:
            genotype = self._child(rng)
        return self._proposals.ask(genotype or self._proposals.draw(rng))

    def tell(self, trial: Trial) -> None:
        """Learn a result; the genotypes of failed trials do not become parents."""
        self._proposals.tell(trial)
        if trial.objectives is not None:
            self._genotypes.append(trial.genotype)
            self._objectives.append(trial.objectives)

    def _initial_proposal(self) -> Genotype | None:
        """The planned first proposal of this number; None if there is none, or it was seen."""
        number = self._proposals.n_asked
        planned, _ = self._proposals.novel(self._initial[number : number + 1])
        return as_genotype(planned[0]) if len(planned) else None

    @cached_property
    def _initial(self) -> GenotypeArray:
        """Feasible genotypes at even steps of log predicted latency, in random order."""
        proposals = self._proposals
        rng = proposals.rng(number=0)
        drawn, costs = proposals.feasible(self.problem.space.sample(rng, N_DRAWS))
        if len(drawn) <= self.n_initial:
            return drawn
        log_ms = np.log(costs.latency_ms)
        order = np.argsort(log_ms, kind="stable")
        targets = np.linspace(log_ms[order[0]], log_ms[order[-1]], self.n_initial)
        # Where two targets share their nearest network, the later one moves on to the next.
        positions = np.searchsorted(log_ms[order], targets)
        steps = np.arange(self.n_initial)
        positions = np.maximum.accumulate(positions - steps) + steps
        latest = len(order) - self.n_initial + steps
        initial: GenotypeArray = drawn[order[rng.permutation(np.minimum(positions, latest))]]
        return initial

    def _child(self, rng: np.random.Generator) -> Genotype | None:
        """The most wanted of a few hundred new, feasible children; None if there are none."""
        survivors = best_first(self._objectives)[: self.population_size]
        genotypes = np.array(self._genotypes, dtype=np.int64)[survivors]
        for _ in range(MAX_ROUNDS):
            children, costs = self._proposals.novel(self._breed(genotypes, rng))
            if len(children):
                return as_genotype(children[self._choose(costs, rng)])
        return None

    def _breed(self, genotypes: GenotypeArray, rng: np.random.Generator) -> GenotypeArray:
        """Children of the population: tournaments, uniform crossover, mutation; `(n, g)`."""
        # The population is sorted best first, so the winner of a tournament is the lower index.
        parents = genotypes[rng.integers(len(genotypes), size=(2, N_CHILDREN, 2)).min(axis=2)]
        is_crossed = rng.random((N_CHILDREN, 1)) < CROSSOVER_RATE
        space, (first, second) = self.problem.space, parents
        children = np.where(is_crossed, space.crossover(first, second, rng), first)
        return space.mutate(children, rng)

    def _choose(self, costs: Costs, rng: np.random.Generator) -> int:
        """Index of the child to propose."""
        if rng.random() < EXPLORE_RATE:
            return int(rng.integers(len(costs)))
        occupied_ms = [latency_ms for _, latency_ms in self._objectives]
        if self._proposals.running:
            running = np.array(list(self._proposals.running.values()), dtype=np.int64)
            occupied_ms += self.problem.predict(running).latency_ms.tolist()
        # All trials, not only the front: a gap there that trials did not close has no front.
        log_ratio = np.log(costs.latency_ms)[:, None] - np.log(occupied_ms)
        return int(np.abs(log_ratio).min(axis=1).argmax())
