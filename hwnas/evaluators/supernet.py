"""Evaluate by the weights that a candidate inherits from a trained supernet: no training at all."""

from __future__ import annotations

import numpy as np

from hwnas.data import DataSet
from hwnas.search import Evaluation
from hwnas.strategies.base import Problem, Trial
from hwnas.supernet import Supernet
from hwnas.supernet.training import evaluate_subnet


class SupernetEvaluator:
    """The error of a subnet on the validation split, its batch norms recalibrated on train.

    Inherited weights rank candidates; their accuracies lie below those of networks trained alone.

    Attributes:
        problem: Whose costs are the other objectives; of the supernet's space.
        data: What the supernet was trained on.
        supernet: Trained.

    Reference:
        Guo et al., Single Path One-Shot NAS, ECCV 2020; Cai et al., Once-for-All, ICLR 2020.
    """

    def __init__(self, problem: Problem, data: DataSet, supernet: Supernet) -> None:
        if problem.space.fingerprint != supernet.space.fingerprint:
            raise ValueError(
                f"the supernet is of the space {supernet.space.name!r}, not of "
                f"{problem.space.name!r} as it is searched"
            )
        self.problem, self.data, self.supernet = problem, data, supernet

    def __call__(self, trial: Trial) -> Evaluation:
        """Score the subnet."""
        accuracy = evaluate_subnet(self.supernet, trial.genotype, self.data).accuracy
        costs = self.problem.predict(np.array([trial.genotype], dtype=np.int64))
        return Evaluation(
            tuple(self.problem.objectives(1 - accuracy, costs)[0]), {"val_accuracy": accuracy}
        )
