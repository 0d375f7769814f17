"""ENAS: a policy and shared weights are trained in turns.

The policy is that of the strategy `reinforce`: REINFORCE with a baseline, one categorical
distribution a choice, conditioned on a latency target, with MnasNet's reward for it. What it is
rewarded for is the accuracy of drawn subnets with shared weights on batches of validation. The
weights, in turn, are trained on subnets that the policy draws.

References:
    Pham et al., Efficient Neural Architecture Search via Parameter Sharing, ICML 2018.
    Tan et al., MnasNet, CVPR 2019 (the latency in the reward).
    Bender et al., TuNAS, CVPR 2020 (independent choices, and a warm-up on uniform draws).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hwnas.evaluators.training import training_device
from hwnas.guides.base import Lesson
from hwnas.guides.scoring import SubnetScores, n_affordable, ranked_guide, score_all
from hwnas.spaces.base import Genotype
from hwnas.strategies.base import FloatArray, Trial
from hwnas.strategies.guide import Guide, Policy, sample
from hwnas.strategies.proposals import Proposals, as_genotype
from hwnas.strategies.reinforce import Reinforce
from hwnas.strategies.targets import KNOTS
from hwnas.supernet import Supernet, train_supernet
from hwnas.supernet.sampling import Sampler
from hwnas.supernet.training import fitted
from hwnas.training import Batch, Recipe, batches, seeded

TRAINING_SHARE = 0.75  # of the epochs; the rest is for comparing what the policy draws
WARMUP_SHARE = 0.2  # of the steps, in which draws are uniform and the policy does not learn
N_SAMPLES = 64  # of the policy, of which the first that meets the budgets is taken
MAX_ROUNDS = 20  # of draws, until there are enough networks to compare
REWARD_COST = 1 / 3  # of a step: forward only


class SharedPolicy:
    """A policy that is rewarded by shared weights, and the way in which those are trained.

    Args:
        lesson: What to learn from.
        supernet: Whose weights are shared.
    """

    distils = False

    def __init__(self, lesson: Lesson, supernet: Supernet) -> None:
        self._lesson = lesson
        self._supernet = supernet
        problem = lesson.problem
        self._sampler = Sampler(problem.space, seed=lesson.seed, problem=problem)
        self._reinforce = Reinforce(problem, seed=lesson.seed)
        self._proposals = Proposals(problem, seed=lesson.seed)
        self._batches: Iterator[Batch] = batches(
            lesson.data.validation,
            Recipe(lesson.recipe.epochs, lesson.recipe.batch_size),  # nothing is augmented
            lesson.data,
            seed=lesson.seed,
            device=supernet.device,
        )
        self._n_rewarded = 0
        self._n_steps = 0
        self._share = 0.0

    def subnets(self, step: int, n_steps: int) -> tuple[Genotype, ...]:
        """One that the policy draws, for a random latency target."""
        self._n_steps = n_steps
        rng = self._sampler.rng(step)
        if self._share < WARMUP_SHARE:
            return (self._sampler.draw(rng),)
        return (self._drawn(rng.random(), rng),)

    def learn(self, share: float) -> None:
        """Reward as many draws as steps were taken since the last call, after the warm-up."""
        n = round((share - self._share) * self._n_steps)
        self._share = share
        for _ in range(n if share > WARMUP_SHARE else 0):
            self._reward(self._n_rewarded)
            self._n_rewarded += 1

    def policies(self) -> tuple[Policy, ...]:
        """What is learned, for latency targets from the fastest to the slowest."""
        n_options = self._lesson.problem.space.n_options
        return tuple(_policy(rows, n_options) for rows in self._reinforce.probabilities(KNOTS))

    def _drawn(self, position: float, rng: np.random.Generator) -> Genotype:
        n_options = self._lesson.problem.space.n_options
        policy = _policy(self._reinforce.probabilities(position)[0], n_options)
        drawn = sample(policy, rng, N_SAMPLES)
        found = drawn[self._sampler.is_feasible(drawn)]
        return as_genotype(found[0]) if len(found) else self._sampler.draw(rng)

    def _reward(self, number: int) -> None:
        """Move the policy by what one draw is worth on one batch."""
        rng = self._proposals.rng(number)
        position = rng.random()  # the target that the policy takes proposal `number` to aim at
        genotype = self._drawn(position, rng)
        inputs, labels = next(self._batches)
        with torch.no_grad():  # in train mode: batch norm by the batch, as in the papers
            x = fitted(inputs, self._supernet.input_shape(genotype))
            wrong: Tensor = self._supernet(x, genotype).argmax(dim=1) != labels
        error = float(wrong.float().mean())
        costs = self._lesson.problem.predict(np.array([genotype], dtype=np.int64))
        objectives = self._lesson.problem.objectives(error, costs)[0]
        self._reinforce.tell(Trial(number, genotype, tuple(objectives.tolist())))


def enas(lesson: Lesson) -> Guide:
    """Train policy and weights in turns; propose what the policy draws, the best of it first."""
    with seeded(lesson.seed):
        supernet = Supernet(lesson.problem.space)
    supernet.to(training_device())
    training = lesson.part(0.0, TRAINING_SHARE)
    policy = SharedPolicy(lesson, supernet)

    def in_turns(share: float) -> None:
        policy.learn(share)
        training.on_progress(share)

    train_supernet(
        supernet,
        lesson.data,
        training.costing(1 + REWARD_COST),
        policy,
        seed=lesson.seed,
        on_progress=in_turns,
    )
    rest = lesson.part(TRAINING_SHARE, 1.0)
    drawn = _distinct_draws(lesson, policy.policies(), n_affordable(rest))
    scores = SubnetScores(supernet, lesson.data)
    score_all(scores, drawn, rest.on_progress)
    return ranked_guide(lesson, scores.genotypes, scores.errors, policy.policies())


def _distinct_draws(lesson: Lesson, policies: tuple[Policy, ...], n: int) -> list[Genotype]:
    """Up to `n` networks that meet the budgets, each once, from all policies alike."""
    rng = np.random.default_rng([lesson.seed, 1])
    proposals = Proposals(lesson.problem, seed=lesson.seed)
    found: dict[Genotype, None] = {}
    for _ in range(MAX_ROUNDS):
        drawn = [sample(policy, rng, N_SAMPLES) for policy in policies]
        turns = np.stack(drawn, axis=1).reshape(-1, drawn[0].shape[1])
        found |= dict.fromkeys(map(as_genotype, proposals.feasible(turns)[0]))
        if len(found) >= n:
            break
    return list(found)[:n] or [proposals.draw(rng)]


def _policy(rows: FloatArray, n_options: tuple[int, ...]) -> Policy:
    """Probabilities without the columns that are no options."""
    return tuple(tuple(row[:n].tolist()) for row, n in zip(rows, n_options, strict=True))
