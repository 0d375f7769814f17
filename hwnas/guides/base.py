"""What a guide is learned from, and what learning it may cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

from hwnas.data import DataSet
from hwnas.strategies.base import Problem
from hwnas.strategies.guide import Guide
from hwnas.training import Recipe


@dataclass(frozen=True)
class Lesson:
    """What a guide is learned from.

    Attributes:
        problem: What is searched; subnets over its budgets are neither trained nor proposed.
        data: Weights are trained on train, networks compared on validation; test is not read.
        recipe: How weights are trained. Its `epochs` are all that the guide may cost, as passes of
            train through one network of the space; a step that trains two networks, or runs two
            options beside each other, costs two.
        seed: Of all that is random.
        checkpoint: Where the weights of an unfinished training are kept, if the learner can go on
            from them; None: nowhere.
        on_progress: Called with the share that is done; what it raises ends the learning.
    """

    problem: Problem
    data: DataSet
    recipe: Recipe
    seed: int
    checkpoint: Path | None = None
    on_progress: Callable[[float], None] = lambda share: None

    def costing(self, passes: float) -> Recipe:
        """The recipe whose epochs cost as much as `self.recipe` says, at `passes` each."""
        return replace(self.recipe, epochs=self.recipe.epochs / passes)

    def part(self, start: float, end: float) -> Self:
        """The part of the epochs and of the progress between two shares of the whole.

        Args:
            start: Share that is done before, 0 to 1.
            end: Share that is done after it.
        """
        share = end - start

        def on_progress(done: float) -> None:
            self.on_progress(start + share * done)

        recipe = replace(self.recipe, epochs=self.recipe.epochs * share)
        return replace(self, recipe=recipe, on_progress=on_progress)


class Learner(Protocol):
    """Learns a guide. `spos` is the shortest example."""

    def __call__(self, lesson: Lesson) -> Guide:
        """Learn from the data.

        The same lesson gives the same guide on the same machine; after Ctrl-C it is learned again,
        from the checkpoint on if there is one.

        Raises:
            InfeasibleBudgetError: No network of the space was found to meet the budgets.
            TrainingDivergedError: A loss became NaN or infinite.
            ConfigError: The recipe, or the space, is one that cannot be learned on in this way.
        """
