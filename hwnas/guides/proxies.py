"""Search without training: networks ranked by what their untrained weights say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from scipy.stats import rankdata

from hwnas.data import Preprocessing, Split
from hwnas.evaluators.training import training_device
from hwnas.evaluators.zero_cost import usable_proxies, zero_cost_scores
from hwnas.guides.base import Lesson
from hwnas.guides.breeding import bred_from, distinct
from hwnas.spaces.base import Shape
from hwnas.strategies.base import FloatArray
from hwnas.strategies.guide import Guide, gain_order
from hwnas.training import Batch, batches

# Those that follow accuracy best beside mere size, each by other means: signs, weights, gradients.
VOTERS = ("naswot", "synflow", "zico")
BATCH_SIZE, N_BATCHES = 32, 2
N_EXAMPLES = 100  # of train, whose forward and backward take as long as scoring a network
MIN_NETWORKS, MAX_NETWORKS = 16, 200  # ten seconds of small ones
BEST_ERROR = 0.1  # that the best imaginable vote stands for; the worst stands for 1


def zero_cost(lesson: Lesson) -> Guide:
    """Proxies of some networks, their ranks summed; then evolution on what is learned from them.

    Every proxy has the same say. Gaussian-process regression of the votes on the networks' options
    and sizes stands in for proxies of the thousands that evolution looks at.

    References:
        Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021 (votes of proxies).
        Chen et al., Neural Architecture Search on ImageNet in Four GPU Hours (TE-NAS), ICLR 2021
        (sums of ranks, which need no common unit).
    """
    problem = lesson.problem
    n = n_affordable(lesson)
    drawn = distinct(problem, n, seed=lesson.seed)
    examples = _examples(lesson)
    given: dict[Shape, list[Batch]] = {}
    scores = []
    for done, genotype in enumerate(drawn, 1):
        architecture = problem.space.architecture(genotype)
        shape = architecture.input_shape
        if shape not in given:
            given[shape] = _batches(lesson, examples, shape)
        names = [name for name in usable_proxies(given[shape]) if name in VOTERS]
        found = zero_cost_scores(architecture, given[shape], names, seed=lesson.seed)
        scores.append([found[name] for name in names])
        lesson.on_progress(done / len(drawn))
    errors = voted_errors(scores)
    rows = np.array(drawn, dtype=np.int64)
    if len(drawn) == n:  # else these are all there are
        rows, errors = bred_from(problem, drawn, errors, seed=lesson.seed)
    order = gain_order(problem.objectives(errors, problem.predict(rows)))
    return Guide(tuple(tuple(row) for row in rows[order].tolist()))


def voted_errors(scores: Sequence[Sequence[float]]) -> FloatArray:
    """Errors that stand for the mean ranks of networks, evenly spread if the proxies agree.

    Args:
        scores: Of n networks by k proxies, higher is better; what is not a number is the worst.

    Returns:
        From nearly `BEST_ERROR` to nearly 1, `(n,)`: no estimates of an accuracy.
    """
    table = np.array(scores, dtype=np.float64)
    table[np.isnan(table)] = -np.inf
    from_the_best = rankdata(-table, axis=0).mean(axis=1) - 0.5
    errors: FloatArray = BEST_ERROR + (1 - BEST_ERROR) * from_the_best / len(table)
    return errors


def n_affordable(lesson: Lesson) -> int:
    """How many networks can be scored for the epochs of a lesson."""
    n = lesson.recipe.epochs * len(lesson.data.train) / N_EXAMPLES
    return int(np.clip(n, MIN_NETWORKS, MAX_NETWORKS))


def _examples(lesson: Lesson) -> Split:
    """Those that all networks are shown, before they are resized."""
    generator = torch.Generator().manual_seed(lesson.seed)
    order = torch.randperm(len(lesson.data.train), generator=generator)
    return lesson.data.train.take(order[: N_BATCHES * BATCH_SIZE].numpy())


def _batches(lesson: Lesson, examples: Split, shape: Shape) -> list[Batch]:
    """The examples as networks with inputs of that shape take them."""
    resize = Preprocessing.of(lesson.data, shape).resize
    shown = Split(resize(examples.inputs), examples.labels)
    recipe = replace(lesson.recipe, batch_size=BATCH_SIZE)
    stream = batches(shown, recipe, lesson.data, seed=lesson.seed, device=training_device())
    return list(islice(stream, N_BATCHES))
