"""Evaluate by the weights that a candidate inherits from a trained supernet: no training at all."""

from __future__ import annotations

from pathlib import Path

from hwnas.data import DataSet
from hwnas.evaluators.training import training_device
from hwnas.search import Evaluation
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Trial
from hwnas.supernet import Supernet, load_supernet
from hwnas.supernet.training import evaluate_subnet
from hwnas.training import Recipe


class SupernetEvaluator:
    """The error of a subnet on the validation split, its batch norms recalibrated on train.

    Inherited weights rank candidates; their accuracies lie below those of networks trained alone.

    Attributes:
        data: What the supernet was trained on.
        supernet: Trained.

    Raises:
        ValueError: It is of another space than `space`, whose genotypes are to be evaluated.

    Reference:
        Guo et al., Single Path One-Shot NAS, ECCV 2020; Cai et al., Once-for-All, ICLR 2020.
    """

    def __init__(self, space: SearchSpace, data: DataSet, supernet: Supernet) -> None:
        if space.fingerprint != supernet.space.fingerprint:
            raise ValueError(
                f"the supernet is of the space {supernet.space.name!r}, not of "
                f"{space.name!r} as it is searched"
            )
        self.data, self.supernet = data, supernet

    def __call__(self, trial: Trial) -> Evaluation:
        """Score the subnet."""
        accuracy = evaluate_subnet(self.supernet, trial.genotype, self.data).accuracy
        return Evaluation((1 - accuracy,), {"val_accuracy": accuracy})


def inherited(
    space: SearchSpace, data: DataSet, recipe: Recipe, *, seed: int, path: Path
) -> SupernetEvaluator:
    """The evaluator by the supernet of a file; `recipe` and `seed` are of trainings.

    Raises:
        RunFolderError: The file cannot be read, or is of another space or other data.
    """
    supernet = load_supernet(space, path, data=data.fingerprint)
    return SupernetEvaluator(space, data, supernet.to(training_device()))
