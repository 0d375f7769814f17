"""Reinforcement learning by value: a network predicts what each option leads to, the best is taken.

A genotype is an episode. The state is what was decided so far, which choice is next, and the
latency target that the proposal aims at; an action decides the next choice; the only reward comes
at the end (`targets`). A small network learns the value of each action from a memory of all trials,
by Q-learning with a second, slowly following network for the targets.

Three facts about this process are used. Any result has a reward for any target, so each replay
aims at a new one. What an inactive choice says changes nothing, so it is replayed with any option.
And the process is deterministic, so an action is worth at least what it led to once; else a
reward would take one replay for each choice to come back to the first.

References:
    Baker et al., MetaQNN, ICLR 2017 (networks by Q-learning, experience replay).
    Mnih et al., DQN, Nature 518, 2015. https://doi.org/10.1038/nature14236
    Andrychowicz et al., Hindsight Experience Replay, NeurIPS 2017 (other targets).
    He et al., Learning to Play in a Day, ICLR 2017 (returns as lower bounds).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.base import FloatArray, Problem, Trial
from hwnas.strategies.proposals import Proposals
from hwnas.strategies.q_network import QNetwork
from hwnas.strategies.targets import N_FEATURES, Targets, features, nearest_new

__all__ = ["DQN"]

N_SAMPLES = 32  # of the policy, of which the first that may be proposed is
N_UPDATES, BATCH_SIZE = 16, 128  # after each trial
MIN_DEVIATION = 1e-6  # of rewards
COPY_EVERY = 4  # trials, after which the second network takes over the weights of the first


class DQN:
    """Q-learning over the choices of a genotype, in the order of the space.

    Args:
        problem: What to search.
        seed: Decides all randomness, together with the number of the proposal.
        n_random: Trials before the network learns; proposals are random until then.
        n_decay: Further proposals over which the share of random decisions falls.
        min_epsilon: Share of random decisions afterwards.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        seed: int,
        n_random: int = 12,
        n_decay: int = 48,
        min_epsilon: float = 0.05,
    ) -> None:
        if n_random < 2 or n_decay < 1 or not 0 <= min_epsilon <= 1:
            raise ValueError(
                f"n_random must be >= 2, n_decay >= 1 and min_epsilon in [0, 1], "
                f"got {n_random=}, {n_decay=}, {min_epsilon=}"
            )
        self.problem = problem
        self.n_random = n_random
        self.n_decay = n_decay
        self.min_epsilon = min_epsilon
        self._proposals = Proposals(problem, seed=seed)
        self._targets = Targets(self._proposals)
        self._sizes = np.array(problem.space.n_options, dtype=np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes  # of the choices among the columns
        n_inputs = int(self._sizes.sum()) + len(self._sizes) + N_FEATURES
        n_actions = int(self._sizes.max(initial=1))
        rng = np.random.default_rng([seed, 0, 1])  # a stream that no proposal draws from
        self._network = QNetwork(n_inputs, n_actions, rng)
        self._slow_network = QNetwork(n_inputs, n_actions, rng)
        self._memory: list[tuple[Genotype, NDArray[np.bool_], tuple[float, ...] | None]] = []
        self._scale: tuple[float, float] | None = None  # mean and deviation of the first rewards

    def ask(self) -> Genotype:
        """Propose what the network holds for the best at this proposal's target, or near it."""
        rng = self._proposals.rng()
        drawn = self.sample(rng.random(), self.epsilon(self._proposals.n_asked), N_SAMPLES, rng)
        return self._proposals.ask(nearest_new(self._proposals, drawn, rng))

    def tell(self, trial: Trial) -> None:
        """Remember a result and replay the memory; a failed trial is worth 0."""
        self._proposals.tell(trial)
        self._targets.tell(trial)
        if trial.is_running:
            return
        active = self.problem.space.active(np.array([trial.genotype], dtype=np.int64))[0]
        self._memory.append((trial.genotype, active, trial.objectives))
        if len(self._memory) < self.n_random:
            return
        rng = self._proposals.rng(trial.number).spawn(1)[0]
        if len(self._memory) % COPY_EVERY == 0:
            self._slow_network.copy_weights(self._network)
        self._learn(rng)

    def epsilon(self, number: int) -> float:
        """Share of random decisions in a proposal: 1, then linearly down to `min_epsilon`."""
        if self._scale is None:
            return 1.0
        done = min((number - self.n_random) / self.n_decay, 1.0)
        return max(1.0 - done * (1.0 - self.min_epsilon), self.min_epsilon)

    def sample(
        self, position: float, epsilon: float, n: int, rng: np.random.Generator
    ) -> GenotypeArray:
        """Genotypes for a target: the best option of each choice, or with `epsilon` any.

        Returns:
            `(n, n_choices)`, neither canonical nor feasible.
        """
        genotypes = np.zeros((n, len(self._sizes)), dtype=np.int64)
        positions = np.full(n, position)
        for step, size in enumerate(self._sizes):
            states = self._states(genotypes, np.full(n, step), positions)
            best = self._network.values(states)[:, :size].argmax(axis=1)
            is_random = rng.random(n) < epsilon
            genotypes[:, step] = np.where(is_random, rng.integers(size, size=n), best)
        return genotypes

    def _learn(self, rng: np.random.Generator) -> None:
        """Replay decisions of the memory, at targets drawn anew."""
        n, n_choices = N_UPDATES * BATCH_SIZE, len(self._sizes)
        remembered = [self._memory[i] for i in rng.integers(len(self._memory), size=n)]
        genotypes = np.array([genotype for genotype, _, _ in remembered], dtype=np.int64)
        is_active = np.array([active for _, active, _ in remembered])
        genotypes = np.where(is_active, genotypes, rng.integers(0, self._sizes, genotypes.shape))
        positions, steps = rng.random(n), rng.integers(n_choices, size=n)
        rewards = self._rewards([objectives for _, _, objectives in remembered], positions)
        if self._scale is None:
            self._scale = float(rewards.mean()), max(float(rewards.std()), MIN_DEVIATION)
        rewards = (rewards - self._scale[0]) / self._scale[1]
        next_values = self._slow_network.values(self._states(genotypes, steps + 1, positions))
        next_sizes = np.append(self._sizes, 0)[steps + 1]  # after the last choice there is none
        next_values[np.arange(next_values.shape[1]) >= next_sizes[:, None]] = -np.inf
        targets = np.maximum(rewards, next_values.max(axis=1))
        states = self._states(genotypes, steps, positions)
        actions = genotypes[np.arange(n), steps]
        for rows in np.split(np.arange(n), N_UPDATES):
            self._network.learn(states[rows], actions[rows], targets[rows])

    def _rewards(
        self, objectives: list[tuple[float, ...] | None], positions: FloatArray
    ) -> FloatArray:
        """What results are worth at targets, `(n,)`; 0 of those that failed."""
        rewards = np.zeros(len(objectives))
        found = [i for i, values in enumerate(objectives) if values is not None]
        if found:
            error, latency_ms = np.array([objectives[i] for i in found]).T
            rewards[found] = self._targets.reward(error, latency_ms, positions[found])
        return rewards

    def _states(
        self, genotypes: GenotypeArray, steps: NDArray[np.int64], positions: FloatArray
    ) -> FloatArray:
        """What the network reads, `(n, n_inputs)`: choices before `steps`, the step, the target."""
        n_columns = int(self._sizes.sum())
        states = np.zeros((len(genotypes), n_columns + len(self._sizes) + N_FEATURES))
        rows, decided = np.nonzero(np.arange(len(self._sizes)) < steps[:, None])
        states[rows, self._starts[decided] + genotypes[rows, decided]] = 1.0
        rows = np.flatnonzero(steps < len(self._sizes))
        states[rows, n_columns + steps[rows]] = 1.0
        states[:, -N_FEATURES:] = features(positions)
        return states
