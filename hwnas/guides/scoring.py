"""Networks by the weights that they inherit: what to look at, and in which order to propose it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hwnas.data import DataSet, Split
from hwnas.data.splits import stratified_order
from hwnas.guides.base import Lesson
from hwnas.spaces.base import Genotype
from hwnas.strategies.base import FloatArray
from hwnas.strategies.guide import Guide, Policy, gain_order
from hwnas.supernet import Supernet, evaluate_subnet
from hwnas.supernet.training import CALIBRATION_EXAMPLES
from hwnas.training import TrainingDivergedError

MAX_SCORED = 2000  # examples of validation that subnets are compared on
MIN_SUBNETS, MAX_SUBNETS = 16, 500
FORWARD_SHARE = 1 / 3  # of a training pass, which also goes backward


class SubnetScores:
    """Errors of subnets with inherited weights, on a part of validation in proportion.

    Attributes:
        genotypes: What was scored, each once, in that order.
        errors: 1 - accuracy of each.
    """

    def __init__(self, supernet: Supernet, data: DataSet) -> None:
        self.genotypes: list[Genotype] = []
        self.errors: list[float] = []
        self._supernet = supernet
        self._data = data
        self._split = _first_part(data.validation, MAX_SCORED)

    def score(self, genotype: Genotype) -> float:
        """The error of one more subnet; 1 if its outputs are not finite."""
        try:
            found = evaluate_subnet(self._supernet, genotype, self._data, split=self._split)
            error = 1 - found.accuracy
        except TrainingDivergedError:
            error = 1.0
        self.genotypes.append(genotype)
        self.errors.append(error)
        return error


def n_affordable(lesson: Lesson) -> int:
    """How many subnets can be scored for the epochs of a lesson."""
    n_train, n_scored = len(lesson.data.train), len(lesson.data.validation)
    n_forward = min(n_train, CALIBRATION_EXAMPLES) + min(n_scored, MAX_SCORED)
    n = lesson.recipe.epochs * n_train / (FORWARD_SHARE * n_forward)
    return int(np.clip(n, MIN_SUBNETS, MAX_SUBNETS))


def ranked_guide(
    lesson: Lesson,
    genotypes: Sequence[Genotype],
    errors: Sequence[float],
    policies: tuple[Policy, ...] = (),
) -> Guide:
    """The guide that proposes networks by what each adds to the front of those before it."""
    rows = np.array(genotypes, dtype=np.int64)
    objectives: FloatArray = lesson.problem.objectives(errors, lesson.problem.predict(rows))
    order = gain_order(objectives).tolist()
    return Guide(
        tuple(genotypes[i] for i in order), tuple(float(errors[i]) for i in order), policies
    )


def score_all(
    scores: SubnetScores, genotypes: Sequence[Genotype], on_progress: Callable[[float], None]
) -> None:
    """Score subnets one after the other."""
    for done, genotype in enumerate(genotypes, 1):
        scores.score(genotype)
        on_progress(done / len(genotypes))


def _first_part(split: Split, n: int) -> Split:
    if len(split) <= n:
        return split
    # Every stride of the stratified order holds the classes in proportion; so does its beginning.
    return split.take(stratified_order(split.labels)[:n])
