"""Local search: try what differs in one choice from the best networks, until nothing is left."""

from __future__ import annotations

import numpy as np

from hwnas import pareto
from hwnas.spaces.base import Genotype
from hwnas.strategies.base import Problem, Trial
from hwnas.strategies.proposals import Proposals, as_genotype

__all__ = ["LocalSearch"]


class LocalSearch:
    """Climbs from random networks: evaluates neighbours of the front until all are known.

    A climb starts with random networks. Then each proposal is a neighbour of a member of the
    climb's own Pareto front, so the front moves on as soon as a better one is found. Once every
    neighbour of every member has been evaluated, the front is a local optimum and the next climb
    starts.

    Args:
        problem: What to search.
        seed: Decides all randomness, together with the number of the proposal.
        n_initial: Random networks that a climb starts from.

    References:
        White et al., Exploring the loss landscape in neural architecture search, UAI 2021 (first
        as: Local search is state of the art for NAS benchmarks). https://arxiv.org/abs/2005.02960
        Paquete et al., Pareto local optimum sets in the biobjective traveling salesman problem,
        in: Metaheuristics for Multiobjective Optimisation, 2004 (a front in the best one's place).
    """

    def __init__(self, problem: Problem, *, seed: int, n_initial: int = 10) -> None:
        if n_initial < 1:
            raise ValueError(f"a climb needs somewhere to start, got {n_initial=}")
        self.problem = problem
        self.n_initial = n_initial
        self._proposals = Proposals(problem, seed=seed)
        self._ended: set[bytes] = set()  # canonical genotypes of all trials that ended
        self._explored: set[Genotype] = set()  # all of whose neighbours have ended
        self._genotypes: list[Genotype] = []  # of this climb's trials that succeeded
        self._objectives: list[tuple[float, ...]] = []

    def ask(self) -> Genotype:
        """Propose a neighbour of the front; where a climb starts or ends, any network."""
        rng = self._proposals.rng()
        genotype: Genotype | None = None
        if len(self._genotypes) >= self.n_initial:
            genotype = self._neighbour(rng)
        return self._proposals.ask(genotype or self._proposals.draw(rng))

    def tell(self, trial: Trial) -> None:
        """Learn a result; after a local optimum it is the first of a new climb."""
        self._proposals.tell(trial)
        if trial.is_running:
            return
        # By the trials that ended, not by those that were asked for: a resumed search knows the
        # order of the former alone.
        if len(self._genotypes) >= self.n_initial and self._is_at_optimum():
            self._genotypes.clear()
            self._objectives.clear()
        canonical = self.problem.space.canonical(np.array([trial.genotype], dtype=np.int64))
        self._ended.add(canonical.tobytes())
        if trial.objectives is not None:
            self._genotypes.append(trial.genotype)
            self._objectives.append(trial.objectives)

    def _neighbour(self, rng: np.random.Generator) -> Genotype | None:
        """A new neighbour of a member of the front, both random; None if there is none."""
        members = self._open_members()
        for i in rng.permutation(len(members)):
            found, _ = self._proposals.novel(self.problem.space.neighbours(members[i]))
            if len(found):
                return as_genotype(found[rng.integers(len(found))])
        return None

    def _is_at_optimum(self) -> bool:
        """Whether all feasible neighbours of the front were evaluated; remembers whose were."""
        for member in self._open_members():
            around, _ = self._proposals.feasible(self.problem.space.neighbours(member))
            if any(row.tobytes() not in self._ended for row in around):
                return False
            self._explored.add(member)
        return True

    def _open_members(self) -> list[Genotype]:
        """Members of the front that are not known to be explored."""
        front = np.flatnonzero(pareto.non_dominated(self._objectives))
        return [g for i in front if (g := self._genotypes[i]) not in self._explored]
