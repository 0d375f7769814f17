"""Optuna's samplers as strategies: one adapter for all that read nothing but the study.

The study lives in memory and holds what was told, in that order, and for the time of a proposal
what is running. Samplers keep random state of their own, so each proposal has a new one, seeded by
the search's seed and the proposal's number: a resumed search proposes the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.spaces.base import Choice, Genotype, GenotypeArray
from hwnas.strategies.base import OBJECTIVES, Problem, Trial
from hwnas.strategies.proposals import Proposals, as_genotype

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import TrialState

__all__ = ["OptunaSampler", "gp", "tpe"]

N_TRIES = 4  # samples for one proposal, before the nearest that may be proposed is taken
N_MUTANTS = 256
MAX_ROUNDS = 4  # of mutation, each one step further from what the sampler wanted


class OptunaSampler:
    """A strategy that proposes what a sampler of Optuna suggests.

    A suggestion that is over the budget or was proposed before is made again, some times; then the
    nearest network that may be proposed takes its place. Trials that failed are left out, as
    Optuna does.

    Args:
        problem: What to search.
        seed: Decides all randomness, together with the number of the proposal.
        make_sampler: From a seed to a new sampler, which must read the study alone.
        n_initial: Successful trials before the sampler is asked; random ones, if none was told.
        n_tries: Suggestions for one proposal.

    Reference:
        Akiba et al., Optuna, KDD 2019. https://arxiv.org/abs/1907.10902
    """

    def __init__(
        self,
        problem: Problem,
        *,
        seed: int,
        make_sampler: Callable[[int], BaseSampler],
        n_initial: int = 10,
        n_tries: int = N_TRIES,
    ) -> None:
        from optuna.storages import InMemoryStorage  # not at the top: `hwnas predict` needs none

        self.problem = problem
        self.n_initial = n_initial
        self.n_tries = n_tries
        self._proposals = Proposals(problem, seed=seed)
        self._make_sampler = make_sampler
        self._storage = InMemoryStorage()
        self._study = _create_study(self._storage)
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._distributions = {c.name: distribution(c) for c in problem.space.choices}
        self._n_told = 0

    def ask(self) -> Genotype:
        """Propose what the sampler suggests, or what is nearest to it."""
        rng = self._proposals.rng()
        genotype: Genotype | None = None
        if self._n_told >= self.n_initial:
            genotype = self._nearest(self._suggestions(rng), rng)
        return self._proposals.ask(genotype or self._proposals.draw(rng))

    def tell(self, trial: Trial) -> None:
        """Learn a result, and how far the trial lies below the budgets."""
        self._proposals.tell(trial)
        if trial.objectives is not None:
            from optuna.trial import TrialState

            self._add(trial.genotype, TrialState.COMPLETE, trial.objectives)
            self._n_told += 1

    def _suggestions(self, rng: np.random.Generator) -> GenotypeArray:
        """What the sampler suggests, `(k, n_choices)`, until one of them may be proposed."""
        from optuna.trial import TrialState

        running = [
            self._add(genotype, TrialState.RUNNING)
            for _, genotype in sorted(self._proposals.running.items())
        ]
        self._study.sampler = self._make_sampler(int(rng.integers(2**31)))
        space = self.problem.space
        suggestions = np.empty((0, len(space.choices)), dtype=np.int64)
        for _ in range(self.n_tries):
            suggested, is_valid = space.repair(self._suggest(), rng)
            suggested = space.canonical(suggested[is_valid])
            suggestions = np.concatenate([suggestions, suggested])
            if len(self._proposals.novel(suggested)[0]):
                break
        for row in running:  # rows cannot be removed; failed ones are not read
            self._storage.set_trial_state_values(row, TrialState.FAIL)
        return suggestions

    def _suggest(self) -> GenotypeArray:
        """One suggestion, `(1, n_choices)`; all that stays in the study is a failed row."""
        from optuna.trial import TrialState

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of features that may change, and of single options
            asked = self._study.ask(self._distributions)
            self._study.tell(asked, state=TrialState.FAIL)
        indices = [int(asked.params[choice.name]) for choice in self.problem.space.choices]
        return np.array([indices], dtype=np.int64)

    def _nearest(self, suggestions: GenotypeArray, rng: np.random.Generator) -> Genotype | None:
        """The network nearest to a suggestion that may be proposed; None if none is near."""
        found, _ = self._proposals.novel(suggestions)
        mutants = suggestions
        for _ in range(MAX_ROUNDS if len(suggestions) else 0):
            if len(found):
                break
            parents = mutants[rng.integers(len(mutants), size=N_MUTANTS)]
            mutants = self.problem.space.mutate(parents, rng)
            found, _ = self._proposals.novel(mutants)
        if not len(found):
            return None
        distance = (found[:, None] != suggestions).sum(axis=2).min(axis=1)
        return as_genotype(found[distance.argmin()])

    def _add(
        self, genotype: Genotype, state: TrialState, objectives: tuple[float, ...] | None = None
    ) -> int:
        """Add a row to the study and return its id."""
        from optuna.trial import create_trial

        indices = self.problem.space.check(genotype)
        costs = self.problem.predict(np.array([indices], dtype=np.int64))
        row = create_trial(
            state=state,
            values=objectives,
            params={c.name: i for c, i in zip(self.problem.space.choices, indices, strict=True)},
            distributions=self._distributions,
            constraints={
                str(budget): float(budget.excess(costs.upper(budget.metric))[0])
                for budget in self.problem.budgets
            },
        )
        return self._storage.create_new_trial(self._study_id, template_trial=row)


def tpe(problem: Problem, *, seed: int) -> OptunaSampler:
    """Optuna's tree-structured Parzen estimator, over all choices together.

    References:
        Bergstra et al., Algorithms for hyper-parameter optimization, NeurIPS 2011.
        Ozaki et al., Multiobjective tree-structured Parzen estimator, JAIR 73, 2022.
    """

    def make_sampler(seed: int) -> BaseSampler:
        from optuna.samplers import TPESampler

        return TPESampler(multivariate=True, n_startup_trials=0, seed=seed)

    return OptunaSampler(problem, seed=seed, make_sampler=make_sampler)


def gp(problem: Problem, *, seed: int) -> OptunaSampler:
    """Optuna's Gaussian processes with expected hypervolume improvement; seconds for a proposal.

    Reference:
        Daulton et al., Differentiable expected hypervolume improvement, NeurIPS 2020.
        https://arxiv.org/abs/2006.05078
    """

    def make_sampler(seed: int) -> BaseSampler:
        from optuna.samplers import GPSampler

        return GPSampler(n_startup_trials=0, seed=seed)

    # A second suggestion would be fitted anew to the same trials, and be much the same.
    return OptunaSampler(problem, seed=seed, make_sampler=make_sampler, n_tries=1)


def distribution(choice: Choice) -> BaseDistribution:
    """The indices of a choice's options: of numbers in their order, else without one."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    n = len(choice.options)
    if all(isinstance(o, int | float) and not isinstance(o, bool) for o in choice.options):
        return IntDistribution(0, n - 1)
    return CategoricalDistribution(tuple(range(n)))


def _create_study(storage: Any) -> Any:
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces the study on stderr
    try:
        return optuna.create_study(storage=storage, directions=["minimize"] * len(OBJECTIVES))
    finally:
        optuna.logging.set_verbosity(verbosity)
