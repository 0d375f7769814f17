"""How an evaluator gets into another process: a plan travels, the evaluator is built there.

Networks and spaces hold functions, which do not pickle. So what travels is the data and the names
of everything else. `prepare` is the initializer of an executor, `evaluate` what is submitted to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwnas.data import DataSet
from hwnas.errors import ConfigError
from hwnas.evaluators.base import Evaluator
from hwnas.evaluators.catalog import make_evaluator
from hwnas.search import Evaluation
from hwnas.spaces.for_data import space_for
from hwnas.strategies.base import Trial
from hwnas.training import Recipe

__all__ = ["EvaluatorPlan", "evaluate", "prepare"]


@dataclass(frozen=True, eq=False)
class EvaluatorPlan:
    """All that decides what an evaluator finds; it pickles.

    Attributes:
        evaluator: As `make_evaluator` takes it.
        data: What is trained on.
        space: As `hwnas.spaces.catalog.make_space` takes it.
        space_fingerprint: Of that space where the search runs.
        recipe: Of a whole training.
        seed: Of the run.
    """

    evaluator: str
    data: DataSet
    space: str
    space_fingerprint: str
    recipe: Recipe
    seed: int

    def build(self) -> Evaluator:
        """The evaluator, in this process.

        Raises:
            ConfigError: The space or the evaluator cannot be made here, or is another one here.
            RunFolderError: The evaluator's file cannot be used.
        """
        space = space_for(self.space, self.data)
        if space.fingerprint != self.space_fingerprint:
            raise ConfigError(
                f"the space {self.space} is another one in the process that is to evaluate its "
                f"networks (fingerprint {space.fingerprint}, not {self.space_fingerprint}): its "
                f"file has changed since the search was started, or it is not made of the data "
                f"alone. Start the search again"
            )
        return make_evaluator(self.evaluator, space, self.data, self.recipe, seed=self.seed)


_prepared: Evaluator | None = None  # of this process


def prepare(plan: EvaluatorPlan) -> None:
    """Build this process' evaluator."""
    global _prepared
    _prepared = plan.build()


def evaluate(trial: Trial) -> Evaluation:
    """Evaluate by what was prepared in this process."""
    assert _prepared is not None, "evaluate before prepare"
    return _prepared(trial)
