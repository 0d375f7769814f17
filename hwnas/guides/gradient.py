"""DARTS, FBNet and ProxylessNAS: architecture weights by gradients.

Options are relaxed and weights trained as in their papers; the differentiable latency is that of
`hwnas.supernet.expected_latency`. A larger weight of it gives faster networks, so several weights
give a front. Budgets are met when networks are derived.

References:
    Liu et al., DARTS, ICLR 2019.
    Wu et al., FBNet, CVPR 2019.
    Cai et al., ProxylessNAS, ICLR 2019.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from hwnas.evaluators.training import training_device
from hwnas.guides.base import Lesson
from hwnas.strategies.base import Problem
from hwnas.strategies.guide import Guide, Policy
from hwnas.supernet import (
    ArchitectureWeights,
    GradientSearch,
    Mixture,
    Supernet,
    derive,
    search_by_gradient,
)
from hwnas.supernet.mixture import Relaxation
from hwnas.supernet.sampling import Sampler
from hwnas.training import seeded

LATENCY_WEIGHTS = (0.03, 0.15, 0.6)  # against a cross-entropy: from a reminder to a half
TRAVEL = 8.0  # a logit that goes one way all the time ends about there
N_SIZED = 64  # networks
# A lesson of fewer steps has smaller batches, and so more of them, if they are larger than that.
FEW_STEPS, SMALL_BATCH = 100, 16
AGAIN = 4 / 3  # what is computed again for the gradients of several options, a forward of it
MAX_LEARNING_RATE = 0.1  # of the architecture's weights


def learn_by_gradient(
    lesson: Lesson, *, relaxation: Relaxation, latency_weights: tuple[float, ...]
) -> Guide:
    """Search by gradients once for each latency weight, with equal parts of the epochs.

    Args:
        lesson: What to learn from.
        relaxation: As `Mixture` takes it.
        latency_weights: As `GradientSearch` takes them.

    Returns:
        The likeliest network of each search that meets the budgets, and the distributions.
    """
    n, ranked, policies = len(latency_weights), [], []
    space = lesson.problem.space
    sampler = Sampler(space, seed=lesson.seed, problem=lesson.problem)
    sampler.draw(sampler.rng())  # an impossible budget is told at once
    with seeded(lesson.seed):
        supernet = Supernet(space)
    supernet.to(training_device())
    untrained = {name: values.clone() for name, values in supernet.state_dict().items()}
    passes = _passes(supernet, relaxation) * _relative_size(lesson.problem, sampler)
    for i, latency_weight in enumerate(latency_weights):
        supernet.load_state_dict(untrained)
        part = lesson.part(i / n, (i + 1) / n)
        weights = _searched(part, supernet, passes, relaxation, latency_weight)
        ranked.append(derive(weights, sampler, np.random.default_rng([lesson.seed, i])))
        policies.append(_policy(weights))
    return Guide(tuple(ranked), policies=tuple(policies))


def _searched(
    lesson: Lesson,
    supernet: Supernet,
    passes: float,
    relaxation: Relaxation,
    latency_weight: float,
) -> ArchitectureWeights:
    recipe, n_examples = lesson.costing(passes), len(lesson.data.train) // 2
    while recipe.steps(n_examples)[1] < FEW_STEPS and recipe.batch_size >= 2 * SMALL_BATCH:
        recipe = replace(recipe, batch_size=recipe.batch_size // 2)
    _, n_steps = recipe.steps(n_examples)
    settings = GradientSearch(
        relaxation,
        learning_rate=min(MAX_LEARNING_RATE, TRAVEL / n_steps),
        latency_weight=latency_weight,
    )
    return search_by_gradient(
        supernet,
        lesson.data,
        recipe,
        settings,
        seed=lesson.seed,
        problem=lesson.problem,
        on_progress=lesson.on_progress,
    ).cpu()


def _passes(supernet: Supernet, relaxation: Relaxation) -> float:
    """What a pass of train through the mixture costs, in passes through one network.

    One half of train goes through one path, or all of them, for the networks' weights; the other
    half for the architecture's, with a second path, or another draw, in the forward direction only.
    """
    mixture = Mixture(supernet, ArchitectureWeights(supernet.space), relaxation)
    forward = 1 / 3
    if relaxation == "two-path":
        return 1 + forward
    draw = mixture.draw(np.random.default_rng(0))
    mixed = [mixture.shares(slot, draw).keys() for slot in range(len(supernet.space.slots))]
    n_blocks = [len([block for block in blocks if block is not None]) for blocks in mixed]
    compared = forward / 2 if mixture.drawn else 0.0
    return float(np.mean([max(n, 1) for n in n_blocks])) * (AGAIN + compared)


def _relative_size(problem: Problem, sampler: Sampler) -> float:
    """How much larger random networks are than those that meet the budgets, by latency.

    What is relaxed is not held to the budgets: it starts from all networks.
    """
    rng = sampler.rng()
    drawn = problem.space.sample(rng, N_SIZED)
    is_feasible = sampler.is_feasible(drawn)
    within = drawn[is_feasible] if is_feasible.any() else np.array([sampler.draw(rng)])
    size, own = (problem.predict(rows).latency_ms.mean() for rows in (drawn, within))
    return max(float(size / own), 1.0)


def _policy(weights: ArchitectureWeights) -> Policy:
    with torch.no_grad():
        rows = [row.double().tolist() for row in weights.probabilities()]
    return tuple(tuple(row) for row in rows)


# First order, and without a latency term: the paper has none.
darts = partial(learn_by_gradient, relaxation="softmax", latency_weights=(0.0,))
fbnet = partial(learn_by_gradient, relaxation="gumbel", latency_weights=LATENCY_WEIGHTS)
proxylessnas = partial(learn_by_gradient, relaxation="two-path", latency_weights=LATENCY_WEIGHTS)
