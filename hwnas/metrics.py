"""Scores of a classifier: accuracy, and precision, recall and F1 averaged over the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support


@dataclass(frozen=True, slots=True)
class Scores:
    """Shares in [0, 1], higher is better, over `n` examples.

    `precision`, `recall` and `f1` are means over the classes, each class counting the same
    (macro). A class that was never predicted has precision 0.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    n: int


def score(labels: NDArray[Any], predictions: NDArray[Any]) -> Scores:
    """Compare predicted classes with the true ones.

    Args:
        labels: `(n,)` true classes; a CPU tensor is fine too.
        predictions: `(n,)` predicted classes.
    Raises:
        ValueError: If the shapes differ or there is nothing to compare.
    Example:
        >>> score(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])).accuracy
        0.75
    """
    true, predicted = np.asarray(labels), np.asarray(predictions)
    if true.shape != predicted.shape or true.ndim != 1 or not true.size:
        raise ValueError(
            f"labels and predictions must be (n,) with n >= 1, got {true.shape} and "
            f"{predicted.shape}"
        )
    precision, recall, f1, _ = precision_recall_fscore_support(
        true, predicted, average="macro", zero_division=0
    )
    accuracy = float((true == predicted).mean())
    return Scores(accuracy, float(precision), float(recall), float(f1), n=len(true))
