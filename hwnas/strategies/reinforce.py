"""Reinforcement learning by policy gradient: a distribution over genotypes that follows the reward.

The policy is one categorical distribution for each choice, independent given the latency target
that a proposal aims at. Its logits are linear in `features` of the target, so that what is learnt
at one target serves its neighbours, and one policy holds a network for every latency. A recurrent
policy, as in the first papers, needs thousands of trials; TuNAS did as well without.

Every result is one gradient step, in the order of the tells, so a resumed search has the policy of
an uninterrupted one. A network has a reward for any target. So the step is taken at the target
that the proposal aimed at and at the knots, there weighted by how much likelier the policy was to
draw the network for its own target.

References:
    Williams, REINFORCE, Machine Learning 8, 1992. https://doi.org/10.1007/BF00992696
    Zoph and Le, Neural Architecture Search with Reinforcement Learning, ICLR 2017.
    Tan et al., MnasNet, CVPR 2019 (the reward, see `targets`).
    Bender et al., TuNAS, CVPR 2020 (independent choices).
    Rauber et al., Hindsight policy gradients, ICLR 2019 (other targets).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.base import FloatArray, Problem, Trial
from hwnas.strategies.proposals import Proposals
from hwnas.strategies.targets import KNOTS, N_FEATURES, Targets, features, nearest_new

__all__ = ["Reinforce"]

N_SAMPLES = 256  # of the policy, of which the first that may be proposed is
SPREAD_RATE = 0.05  # at which the mean square of the advantages follows them
MAX_ADVANTAGE = 3.0  # in units of that mean's root
MIN_SPREAD = 1e-4  # of rewards; below it differences mean nothing
SMALLEST = 1e-300  # probability, to take logs


class Reinforce:
    """REINFORCE with a baseline and an entropy bonus.

    Args:
        problem: What to search.
        seed: Decides all randomness, together with the number of the proposal.
        learning_rate: Of the logits; advantages are divided by their spread.
        baseline_rate: Of the baseline, the reward that is expected at a target.
        entropy_weight: Of the bonus that keeps the policy from settling early.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        seed: int,
        learning_rate: float = 0.2,
        baseline_rate: float = 0.2,
        entropy_weight: float = 0.02,
    ) -> None:
        self.problem = problem
        self.learning_rate = learning_rate
        self.baseline_rate = baseline_rate
        self.entropy_weight = entropy_weight
        self._proposals = Proposals(problem, seed=seed)
        self._targets = Targets(self._proposals)
        sizes = np.array(problem.space.n_options, dtype=np.int64)
        self._is_option = np.arange(sizes.max(initial=1)) < sizes[:, None]
        self._logits = np.zeros((N_FEATURES, *self._is_option.shape))
        self._baseline: FloatArray | None = None  # (N_FEATURES,), once a trial has ended
        self._spread = 0.0  # mean square of the advantages

    def ask(self) -> Genotype:
        """Propose what the policy draws for this proposal's target, or what is nearest to it."""
        rng = self._proposals.rng()
        policy = self.probabilities(rng.random())[0]
        drawn = _sample(policy, rng, N_SAMPLES)
        return self._proposals.ask(nearest_new(self._proposals, drawn, rng))

    def tell(self, trial: Trial) -> None:
        """Move the policy towards what was better than expected; a failed trial is worth 0."""
        self._proposals.tell(trial)
        self._targets.tell(trial)
        if trial.is_running:
            return
        aim = self._proposals.rng(trial.number).random()  # as in `ask`
        positions = np.append(aim, KNOTS)
        rewards = np.zeros(len(positions))
        if trial.objectives is not None:
            error, latency_ms = trial.objectives
            rewards = self._targets.reward(error, latency_ms, positions)
        self._learn(trial.genotype, positions, rewards)

    def probabilities(self, positions: ArrayLike) -> FloatArray:
        """The policy at targets, `(n, n_choices, most options)`; 0 where there is no option."""
        logits = np.einsum("nk,kij->nij", features(positions), self._logits)
        logits = np.where(self._is_option, logits, -np.inf)
        odds = np.exp(logits - logits.max(axis=2, keepdims=True))
        return np.asarray(odds / odds.sum(axis=2, keepdims=True))

    def _learn(self, genotype: Genotype, positions: FloatArray, rewards: FloatArray) -> None:
        """One step up the gradients of advantage times log probability, and of the entropy.

        Args:
            genotype: What was evaluated.
            positions: Targets, `(n,)`; the first is what it was proposed for.
            rewards: What it is worth there, `(n,)`.
        """
        probabilities = self.probabilities(positions)
        logs = np.log(np.maximum(probabilities, SMALLEST))
        # What an inactive choice says has no part in the reward.
        is_active = self.problem.space.active(np.array([genotype], dtype=np.int64))[0, :, None]
        is_chosen = np.arange(self._is_option.shape[1]) == np.array(genotype)[:, None]
        likelihood = (logs * (is_chosen & is_active)).sum(axis=(1, 2))
        weights = np.exp(np.minimum(likelihood - likelihood[0], 0.0)) / len(positions)
        advantages = self._advantages(features(positions), rewards, weights)
        entropy = -(probabilities * logs).sum(axis=2, keepdims=True)
        steps = (weights * advantages)[:, None, None] * (is_chosen - probabilities)
        steps -= self.entropy_weight / len(positions) * probabilities * (logs + entropy)
        step = np.einsum("nk,nij->kij", features(positions), steps * is_active)
        self._logits += self.learning_rate * step

    def _advantages(
        self, places: FloatArray, rewards: FloatArray, weights: FloatArray
    ) -> FloatArray:
        """How much better than expected the rewards are, in units of their spread, `(n,)`.

        The baseline follows the rewards, by as much as `weights` say; it starts at the first ones.
        """
        if self._baseline is None:
            self._baseline = np.asarray(np.linalg.lstsq(places, rewards)[0], np.float64)
            return np.zeros(len(rewards))
        advantages = rewards - places @ self._baseline
        self._baseline = self._baseline + self.baseline_rate * (weights * advantages) @ places
        rate = SPREAD_RATE if self._spread > 0 else 1.0
        self._spread += rate * (float(np.mean(advantages**2)) - self._spread)
        advantages = advantages / max(math.sqrt(self._spread), MIN_SPREAD)
        return np.asarray(np.clip(advantages, -MAX_ADVANTAGE, MAX_ADVANTAGE))


def _sample(policy: FloatArray, rng: np.random.Generator, n: int) -> GenotypeArray:
    """Draw one option for each choice, `(n, n_choices)`."""
    reached = rng.random((n, len(policy), 1)) >= policy.cumsum(axis=1)
    last = (policy > 0).sum(axis=1) - 1  # sums may end just below 1
    return np.asarray(np.minimum(reached.sum(axis=2), last), dtype=np.int64)
