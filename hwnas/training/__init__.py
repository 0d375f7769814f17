"""Training: recipes, augmented batches, and the loop that all networks are trained by."""

from hwnas.training.batches import Batch, batches
from hwnas.training.distributed import several_processes
from hwnas.training.loop import (
    TrainingDivergedError,
    TrainingResult,
    distillation_loss,
    evaluate,
    make_optimizer,
    mixed_precision,
    predict_logits,
    train,
)
from hwnas.training.recipe import Recipe, default_recipes, with_changes
from hwnas.training.weights import WeightAverage, channels_last, seeded

__all__ = [
    "Batch",
    "Recipe",
    "TrainingDivergedError",
    "TrainingResult",
    "WeightAverage",
    "batches",
    "channels_last",
    "default_recipes",
    "distillation_loss",
    "evaluate",
    "make_optimizer",
    "mixed_precision",
    "predict_logits",
    "seeded",
    "several_processes",
    "train",
    "with_changes",
]
