"""BANANAS: an ensemble of neural networks predicts, independent Thompson sampling chooses."""

from __future__ import annotations

import math

import numpy as np

from hwnas.pareto import best_first
from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.acquisition import Normal, expected_gain
from hwnas.strategies.base import Costs, FloatArray, Problem, Trial
from hwnas.strategies.cells import Cell
from hwnas.strategies.description import log
from hwnas.strategies.encoding import Encoding
from hwnas.strategies.ensemble import Ensemble, fit_ensemble
from hwnas.strategies.proposals import Proposals, as_genotype

__all__ = ["Bananas"]

N_PARENTS = 16  # the best trials, whose neighbours are candidates
N_MUTANTS, N_RANDOM = 128, 128  # further candidates for a proposal
STEP, GROWTH = 5, 1.05  # the ensemble is trained anew after so many trials, or so much growth


class Bananas:
    """Bayesian optimization with an ensemble of neural networks.

    Each proposal is chosen from networks that differ little from the best trials. For every
    candidate one value of each objective is drawn from what the ensemble says of it, mean and
    deviation; the candidate whose draw would add the most hypervolume is proposed (in the paper,
    with one objective, the smallest draw). Cells are encoded by the ways through them, other spaces
    by their options. Latency is predicted by the problem where it can be, else by the ensemble,
    too. Trials that failed are not learnt from.

    Args:
        problem: What to search.
        seed: Decides all randomness, together with the number of the proposal.
        n_initial: Successful trials before the ensemble is used; random ones, if none was told.
        n_networks: Of the ensemble.

    Reference:
        White et al., BANANAS: Bayesian optimization with neural architectures for neural
        architecture search, AAAI 2021. https://arxiv.org/abs/1910.11858
    """

    def __init__(
        self, problem: Problem, *, seed: int, n_initial: int = 10, n_networks: int = 5
    ) -> None:
        if n_initial < 2 or n_networks < 2:
            raise ValueError(
                f"two trials and two networks are needed, got {n_initial=}, {n_networks=}"
            )
        self.problem = problem
        self.n_initial = n_initial
        self.n_networks = n_networks
        self._proposals = Proposals(problem, seed=seed)
        self._seed = seed
        self._encoding = Encoding(problem.space.choices)
        self._cell = Cell.of(problem.space.choices)
        self._genotypes: list[Genotype] = []  # of the trials that succeeded
        self._objectives: list[tuple[float, ...]] = []
        self._fitted: tuple[int, Ensemble] | None = None  # trials that it was trained on, and it

    def ask(self) -> Genotype:
        """Propose the candidate with the best draw; any network while few are known."""
        rng = self._proposals.rng()
        genotype: Genotype | None = None
        if len(self._genotypes) >= self.n_initial:
            genotype = self._best_draw(rng)
        return self._proposals.ask(genotype or self._proposals.draw(rng))

    def tell(self, trial: Trial) -> None:
        """Learn a result; of failed trials only that they are not to be proposed again."""
        self._proposals.tell(trial)
        if trial.objectives is not None:
            self._genotypes.append(trial.genotype)
            self._objectives.append(trial.objectives)

    def _best_draw(self, rng: np.random.Generator) -> Genotype | None:
        """The candidate whose draw adds the most hypervolume; None if there is no candidate."""
        candidates, costs = self._proposals.novel(self._candidates(rng))
        if not len(candidates):
            return None
        said = self._ensemble().predict(self._inputs(candidates))
        # Independent Thompson sampling: each candidate has a draw of its own.
        drawn = said.mean(axis=0) + said.std(axis=0) * rng.standard_normal(said.shape[1:])
        error = np.exp(drawn[:, 0])
        latency_ms = costs.latency_ms if _is_known(costs) else np.exp(drawn[:, 1])
        objectives = np.array(self._objectives)
        certain = np.zeros(len(candidates))
        slowest_ms = max(objectives[:, 1].max(), latency_ms.max())
        gain = expected_gain(
            Normal(error, certain),
            Normal(latency_ms, certain),
            objectives,
            (max(1.0, float(objectives[:, 0].max())), float(slowest_ms)),
        )
        # Where no draw adds anything, the smallest error drawn.
        return as_genotype(candidates[np.lexsort((error, -gain))[0]])

    def _candidates(self, rng: np.random.Generator) -> GenotypeArray:
        """The best trials with one choice changed or a few, and some random networks."""
        space = self.problem.space
        best = [self._genotypes[i] for i in best_first(self._objectives)[:N_PARENTS]]
        parents = np.array(best, dtype=np.int64)[rng.integers(len(best), size=N_MUTANTS)]
        near = [space.neighbours(genotype) for genotype in best]
        return np.concatenate([*near, space.mutate(parents, rng), space.sample(rng, N_RANDOM)])

    def _ensemble(self) -> Ensemble:
        """The ensemble, trained on the first n trials; n goes up in steps, and decides all."""
        n = self.n_initial
        while (grown := max(n + STEP, math.ceil(n * GROWTH))) <= len(self._genotypes):
            n = grown
        if self._fitted is None or self._fitted[0] != n:
            genotypes = np.array(self._genotypes[:n], dtype=np.int64)
            is_known = _is_known(self.problem.predict(genotypes))
            targets = log(np.array(self._objectives[:n])[:, : 1 if is_known else 2])
            # Three numbers: a stream that no proposal draws from. Zeros at the end would not count.
            rng = np.random.default_rng([self._seed, n, 1])
            inputs = self._inputs(genotypes)
            self._fitted = n, fit_ensemble(inputs, targets, n_networks=self.n_networks, rng=rng)
        return self._fitted[1]

    def _inputs(self, genotypes: GenotypeArray) -> FloatArray:
        """What the networks read of architectures, `(n, k)`."""
        if self._cell is None:
            return self._encoding.one_hot(genotypes)
        ways = self._cell.descriptors(genotypes)
        one_hot = self._encoding.one_hot(self._cell.live(genotypes))
        return np.concatenate([one_hot, *ways], axis=1)


def _is_known(costs: Costs) -> bool:
    """Whether the problem predicts latency."""
    return not bool(np.isnan(costs.latency_ms).any())
