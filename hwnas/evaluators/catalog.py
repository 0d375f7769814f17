"""The ways to evaluate a candidate by name, and those of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from hwnas.code_digest import code_digest
from hwnas.data import DataSet
from hwnas.errors import ConfigError, unknown_name
from hwnas.evaluators.base import Evaluator
from hwnas.evaluators.training import TrainingEvaluator
from hwnas.spaces.base import SearchSpace
from hwnas.training import Recipe
from hwnas.user_code import is_reference, load_function, user_errors

__all__ = ["EVALUATORS", "evaluator_digest", "make_evaluator"]

# From the space, the data, the recipe and, as `seed`, the seed of the run.
Factory = Callable[..., Evaluator]

EVALUATORS: dict[str, Factory] = {"training": TrainingEvaluator}


def make_evaluator(
    name: str, space: SearchSpace, data: DataSet, recipe: Recipe, *, seed: int
) -> Evaluator:
    """The evaluator of that name.

    Args:
        name: A key of `EVALUATORS`; or `path/to/file.py:function` or `module:function`, a function
            `(space, data, recipe, *, seed) -> Evaluator`. It is called in the process that
            evaluates.
        space: Whose genotypes it is given.
        data: What is trained on.
        recipe: Of a whole training.
        seed: Of the run.

    Raises:
        ConfigError: There is no such evaluator, or it cannot be used.
    """
    factory = _factory(name)
    if name in EVALUATORS:
        return factory(space, data, recipe, seed=seed)
    with user_errors(name, ConfigError):
        evaluator = factory(space, data, recipe, seed=seed)
    if not callable(evaluator):
        raise ConfigError(
            f"{name}: must return an evaluator, called with a trial, got {type(evaluator).__name__}"
        )
    return evaluator


def evaluator_digest(name: str) -> str | None:
    """Sixteen hexadecimal digits of the code that an evaluator of the user's own is from.

    They cover the module and what it imports from beside it. None: it is one of this package,
    which the version tells.

    Raises:
        ConfigError: There is no such evaluator.
    """
    factory = _factory(name)
    if name in EVALUATORS:
        return None
    return code_digest(inspect.unwrap(factory).__module__)[:16]


def _factory(name: str) -> Factory:
    if name in EVALUATORS:
        return EVALUATORS[name]
    if not is_reference(name):
        known = (*EVALUATORS, "FILE.py:FUNCTION", "MODULE:FUNCTION")
        raise ConfigError(unknown_name("evaluator", name, known))
    return load_function(name, ConfigError)
