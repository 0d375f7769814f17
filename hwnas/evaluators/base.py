"""What an evaluator is: it says how good a candidate is, dearly or cheaply."""

from __future__ import annotations

from typing import Protocol

from hwnas.search import Evaluation
from hwnas.strategies.base import Trial


class Evaluator(Protocol):
    """Gives the objectives of one candidate. `TrainingEvaluator` is the shortest example.

    A search calls it with trials that run. Whatever it needs besides (data, a supernet, a table) is
    its own; that a candidate fails is an exception, which the search records.
    """

    def __call__(self, trial: Trial) -> Evaluation:
        """Evaluate `trial.genotype`.

        Args:
            trial: A running one. What is random depends on its number alone, so that a search
                that is resumed finds the same; `trial.share` of the whole effort is to be spent.

        Returns:
            The objectives, in the order of `hwnas.strategies.OBJECTIVES`, minimised; and whatever
            the record should keep.
        """
