"""What every strategy does alike: remember what was proposed, and find what still can be.

`Proposals` is held by a strategy, not inherited from. It deals out the random streams, knows the
canonical forms that were asked or told, and draws feasible ones that were not; in a bounded number
of predictions, so that an exhausted space or an impossible budget is an error and not a hang.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InfeasibleBudgetError
from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.spaces.choices import distinct_rows
from hwnas.strategies.base import Costs, Problem, SpaceExhaustedError, Trial

__all__ = ["Proposals", "as_genotype"]

DRAW_SIZES = (64, 256, 1024, 4096)  # uniform draws, more each time that none was new and feasible
ENUMERABLE_SIZE = 2**15  # spaces up to this size are listed, so that "exhausted" is exact
N_WALKERS, N_STEPS, MAX_ROUNDS = 64, 1024, 64  # the walk towards the budget


class Proposals:
    """The proposals of one search, and the stock of those that are left."""

    def __init__(self, problem: Problem, *, seed: int) -> None:
        self.problem = problem
        self.n_asked = 0
        self.running: dict[int, Genotype] = {}  # by proposal number
        self._seed = seed
        self._seen: dict[bytes, Genotype] = {}

    def rng(self, number: int | None = None) -> np.random.Generator:
        """The random stream of a proposal, the next one unless `number` is given.

        It is the same again in a search that was resumed.
        """
        return np.random.default_rng([self._seed, self.n_asked if number is None else number])

    def ask(self, genotype: Genotype) -> Genotype:
        """Count `genotype` as the next proposal and return it."""
        self._remember(self.n_asked, genotype)
        return genotype

    def tell(self, trial: Trial) -> None:
        """Take note of a trial, so that it is not proposed again."""
        if self.running.get(trial.number) != trial.genotype:
            self._remember(trial.number, trial.genotype)
        if not trial.is_running:
            del self.running[trial.number]

    def _remember(self, number: int, genotype: Genotype) -> None:
        canonical = self.problem.space.canonical(np.array([genotype], dtype=np.int64))
        self._seen.setdefault(canonical.tobytes(), genotype)
        self.running[number] = genotype
        self.n_asked = max(self.n_asked, number + 1)

    def novel(self, genotypes: GenotypeArray) -> tuple[GenotypeArray, Costs]:
        """Those that may be proposed: valid, canonical, distinct, new, feasible; and their costs.

        Args:
            genotypes: `(n, len(choices))`.

        Returns:
            `(k, len(choices))` in the order of their first occurrence, k <= n, and k costs.
        """
        return self._feasible(self._unseen(genotypes))

    def feasible(self, genotypes: GenotypeArray) -> tuple[GenotypeArray, Costs]:
        """Those that are valid, canonical, distinct and feasible, seen too; and their costs."""
        return self._feasible(self._distinct(genotypes))

    def _feasible(self, genotypes: GenotypeArray) -> tuple[GenotypeArray, Costs]:
        costs = self.problem.predict(genotypes)
        is_feasible = self.problem.excess(costs) <= 0
        return genotypes[is_feasible], costs.take(is_feasible)

    def draw(self, rng: np.random.Generator) -> Genotype:
        """Draw one that may be proposed, uniformly over the feasible *genotypes*.

        Not over the networks: there, the deepest would crowd out all others, since each further
        layer multiplies their number. Where rejection finds none, small spaces are listed and
        large ones searched by mutation, from feasible networks or those nearest to the budget.

        Raises:
            InfeasibleBudgetError: If no feasible network was found, now or before.
            SpaceExhaustedError: If no new one was found.
        """
        space = self.problem.space
        for n_draws in DRAW_SIZES:
            found, _ = self.novel(space.sample(rng, n_draws))
            if len(found):
                return as_genotype(found[0])
        if space.size <= ENUMERABLE_SIZE:
            pool, tried = self._all, "the networks of the space"
            found = self._unseen(self._all_feasible)
            rng.shuffle(found)
        else:
            n_tried = sum(DRAW_SIZES) + (1 + MAX_ROUNDS) * N_STEPS
            pool, tried = self._walk(rng), f"{n_tried:,} networks tried"
            found, _ = self.novel(pool)
        if len(found):
            return as_genotype(found[0])
        if self._seen:
            raise SpaceExhaustedError(
                f"none of {tried} is new and meets {self._budgets}: {len(self._seen)} were "
                f"proposed already. To go on, raise the budget or widen the space"
            )
        nearest = self.problem.predict(self._nearest(pool, rng)[:1])
        needs = " and ".join(
            f"{b.metric} {nearest.upper(b.metric)[0]:.4g}" for b in self.problem.budgets
        )
        raise InfeasibleBudgetError(
            f"none of {tried} meets {self._budgets}; the nearest needs {needs}. "
            f"Raise the budget, or add smaller options to the space"
        )

    def _unseen(self, genotypes: GenotypeArray) -> GenotypeArray:
        """Valid, canonical, distinct and not seen, in the order of their first occurrence."""
        distinct = self._distinct(genotypes)
        return distinct[[i for i, row in enumerate(distinct) if row.tobytes() not in self._seen]]

    def _distinct(self, genotypes: GenotypeArray) -> GenotypeArray:
        """Valid, canonical and distinct, in the order of their first occurrence."""
        space = self.problem.space
        return distinct_rows(space.canonical(genotypes[space.is_valid(genotypes)]))

    @cached_property
    def _all(self) -> GenotypeArray:
        """The canonical genotypes of a small space."""
        return self.problem.space.all_genotypes()

    @cached_property
    def _all_feasible(self) -> GenotypeArray:
        """The feasible ones of a small space, seen ones too."""
        return self._all[self.problem.is_feasible(self._all)]

    def _walk(self, rng: np.random.Generator) -> GenotypeArray:
        """Mutate towards the budget until something new and feasible comes up, or give up.

        Returns:
            The last genotypes walked over, at least one of them new and feasible if any was found.
        """
        space = self.problem.space
        seen = np.array(list(self._seen.values()), dtype=np.int64).reshape(-1, len(space.choices))
        pool = np.concatenate([seen, space.sample(rng, N_STEPS)])
        for _ in range(MAX_ROUNDS):
            nearest = self._nearest(pool, rng)
            steps = space.mutate(nearest[rng.integers(len(nearest), size=N_STEPS)], rng)
            pool = np.concatenate([nearest, space.canonical(steps)])
            if len(self.novel(steps)[0]):
                break
        return pool

    def _nearest(self, genotypes: GenotypeArray, rng: np.random.Generator) -> GenotypeArray:
        """The `N_WALKERS` that miss the budget least; of those that meet it, any."""
        excess = self.problem.excess(self.problem.predict(genotypes)).clip(min=0)
        order = np.lexsort((rng.random(len(excess)), excess))
        return genotypes[order[:N_WALKERS]]

    @property
    def _budgets(self) -> str:
        return " and ".join(map(str, self.problem.budgets)) or "no budget"


def as_genotype(row: NDArray[np.int64]) -> Genotype:
    """One row of a genotype array as a tuple of plain integers."""
    return tuple(int(i) for i in row)
