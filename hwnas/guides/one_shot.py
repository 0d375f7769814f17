"""Search on a trained supernet: train once, then look for the best subnets without training."""

from __future__ import annotations

import numpy as np

from hwnas.evaluators.training import training_device
from hwnas.guides.base import Lesson
from hwnas.guides.breeding import bred_from, distinct
from hwnas.guides.scoring import SubnetScores, n_affordable, ranked_guide, score_all
from hwnas.strategies.base import SpaceExhaustedError, Trial
from hwnas.strategies.evolution import Evolution
from hwnas.strategies.guide import Guide
from hwnas.supernet import Supernet, make_way, train_supernet
from hwnas.training import seeded

TRAINING_SHARE = 0.75  # of the epochs; the rest is for scoring subnets
N_PROBED = 32  # steps whose subnets are counted


def trained_supernet(lesson: Lesson, way_name: str) -> Supernet:
    """A supernet trained by a way with all epochs of a lesson, or taken up from its checkpoint."""
    problem = lesson.problem
    with seeded(lesson.seed):
        supernet = Supernet(problem.space)
    supernet.to(training_device())
    way = make_way(way_name, problem.space, seed=lesson.seed, problem=problem)
    subnets = [way.subnets(step, N_PROBED) for step in range(N_PROBED)]
    train_supernet(
        supernet,
        lesson.data,
        lesson.costing(float(np.mean([len(found) for found in subnets]))),
        way,
        seed=lesson.seed,
        checkpoint=lesson.checkpoint,
        on_progress=lesson.on_progress,
    )
    return supernet


def spos(lesson: Lesson) -> Guide:
    """Single path one-shot: uniform paths, then evolution on inherited accuracy.

    The budgets are hard: no path over them is trained or scored.

    Reference:
        Guo et al., Single Path One-Shot NAS with Uniform Sampling, ECCV 2020.
    """
    supernet = trained_supernet(lesson.part(0.0, TRAINING_SHARE), "single-path")
    rest = lesson.part(TRAINING_SHARE, 1.0)
    scores = SubnetScores(supernet, lesson.data)
    n_subnets = n_affordable(rest)
    evolution = Evolution(lesson.problem, seed=lesson.seed)
    for number in range(n_subnets):
        try:
            genotype = evolution.ask()
        except SpaceExhaustedError:  # all were scored
            rest.on_progress(1.0)
            break
        error = scores.score(genotype)
        objectives = lesson.problem.objectives(
            error, lesson.problem.predict(np.array([genotype], dtype=np.int64))
        )
        evolution.tell(Trial(number, genotype, tuple(objectives[0].tolist())))
        rest.on_progress((number + 1) / n_subnets)
    return ranked_guide(lesson, scores.genotypes, scores.errors)


def ofa(lesson: Lesson) -> Guide:
    """Once-for-All: progressive shrinking, then evolution on a learned accuracy predictor.

    Some subnets are scored with inherited weights; the predictor learns from them what all others
    would score, so that evolution looks at thousands.

    Reference:
        Cai et al., Once-for-All, ICLR 2020.
    """
    problem = lesson.problem
    supernet = trained_supernet(lesson.part(0.0, TRAINING_SHARE), "shrinking")
    rest = lesson.part(TRAINING_SHARE, 1.0)
    scores = SubnetScores(supernet, lesson.data)
    n_subnets = n_affordable(rest)
    drawn = distinct(problem, n_subnets, seed=lesson.seed)
    score_all(scores, drawn, rest.on_progress)
    if len(drawn) < n_subnets:  # all there are
        return ranked_guide(lesson, scores.genotypes, scores.errors)
    rows, errors = bred_from(problem, drawn, np.array(scores.errors), seed=lesson.seed)
    return ranked_guide(lesson, [tuple(row) for row in rows.tolist()], errors.tolist())
