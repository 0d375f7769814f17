"""Evaluate by a short training of the candidate, from weights of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from hwnas.data import DataSet
from hwnas.executors.progress import report
from hwnas.networks import Network, begin_as_identity
from hwnas.search import Evaluation
from hwnas.spaces.base import Architecture, SearchSpace
from hwnas.strategies.base import Trial
from hwnas.training import Recipe, TrainingResult, seeded, train


def train_network(
    architecture: Architecture,
    data: DataSet,
    recipe: Recipe,
    *,
    seed: int,
    start: Callable[[Network], None] = begin_as_identity,
    on_progress: Callable[[float], None] = lambda share: None,
) -> tuple[Network, TrainingResult]:
    """A network with weights drawn from, and trained with, a seed; see `train`.

    It is trained on a GPU where there is one, and handed back on the CPU. `start` changes the
    weights that were drawn, in place, before they are trained.
    """
    with seeded(seed):
        network = Network(architecture)
    start(network)
    network.to(training_device())
    result = train(
        network,
        data,
        recipe,
        input_shape=architecture.input_shape,
        seed=seed,
        on_progress=on_progress,
    )
    return network.cpu(), result


def training_device() -> torch.device:
    """The GPU, where there is one that torch can use; else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seed_of(seed: int, number: int) -> int:
    """The seed of one training, from the run's and the trial's number."""
    return seed * 1_000_003 + number


class TrainingEvaluator:
    """Trains each candidate by one recipe; its error is that on the validation split.

    Attributes:
        space: Whose genotypes it is given.
        data: What is trained on.
        recipe: Of a whole training; a trial with a share of it has that share of the epochs.
        seed: Of the run.
    """

    def __init__(self, space: SearchSpace, data: DataSet, recipe: Recipe, *, seed: int) -> None:
        self.space = space
        self.data = data
        self.recipe = recipe
        self.seed = seed

    def __call__(self, trial: Trial) -> Evaluation:
        """Train the candidate and score it; its progress is reported."""
        _, result = train_network(
            self.space.architecture(trial.genotype),
            self.data,
            replace(self.recipe, epochs=self.recipe.epochs * trial.share),
            seed=seed_of(self.seed, trial.number),
            on_progress=report,
        )
        accuracy = result.validation.accuracy
        return Evaluation(
            (1 - accuracy,),
            {"val_accuracy": accuracy, "train_seconds": round(result.train_seconds, 3)},
        )
