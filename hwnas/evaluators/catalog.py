"""The ways to evaluate a candidate by name, and those of the user's own."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hwnas.code_digest import code_digest
from hwnas.data import DataSet
from hwnas.errors import ConfigError, unknown_name
from hwnas.evaluators.base import Evaluator
from hwnas.evaluators.supernet import inherited
from hwnas.evaluators.training import TrainingEvaluator
from hwnas.spaces.base import SearchSpace
from hwnas.training import Recipe
from hwnas.user_code import is_reference, load_function, module_name, user_errors

__all__ = ["EVALUATORS", "OF_FILES", "evaluator_digest", "make_evaluator"]

# From the space, the data, the recipe and, as `seed`, the seed of the run.
Factory = Callable[..., Evaluator]

EVALUATORS: dict[str, Factory] = {"training": TrainingEvaluator}
# Those that a file is for, named `supernet:FILE`; they take it as `path`, too.
OF_FILES: dict[str, Factory] = {"supernet": inherited}


def make_evaluator(
    name: str, space: SearchSpace, data: DataSet, recipe: Recipe, *, seed: int
) -> Evaluator:
    """The evaluator of that name.

    Args:
        name: A key of `EVALUATORS`; a key of `OF_FILES`, a colon and a file; or
            `path/to/file.py:function` or `module:function`, a function
            `(space, data, recipe, *, seed) -> Evaluator`. It is called in each process that
            evaluates; a search calls it before, too, to see that it can be used.
        space: Whose genotypes it is given.
        data: What is trained on.
        recipe: Of a whole training.
        seed: Of the run.

    Raises:
        ConfigError: There is no such evaluator, or it cannot be used.
        RunFolderError: Its file cannot be used.
    """
    factory = _factory(name)
    if name in EVALUATORS or _file_of(name) is not None:
        return factory(space, data, recipe, seed=seed)
    with user_errors(name, ConfigError):
        evaluator = factory(space, data, recipe, seed=seed)
    if not callable(evaluator):
        raise ConfigError(
            f"{name}: must return an evaluator, called with a trial, got {type(evaluator).__name__}"
        )
    return evaluator


def evaluator_digest(name: str) -> str | None:
    """Sixteen hexadecimal digits of the file or the code of the user's that an evaluator is from.

    Of code they cover its module and what that imports from beside it. None: it is one of this
    package, which the version tells.

    Raises:
        ConfigError: There is no such evaluator, or its file cannot be read.
    """
    factory = _factory(name)
    if name in EVALUATORS:
        return None
    if (path := _file_of(name)) is not None:
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise ConfigError(f"{name}: cannot read {path}: {error.strerror or error}") from None
    # A function may come from elsewhere than where it was named.
    return code_digest(module_name(name), inspect.unwrap(factory).__module__)[:16]


def _file_of(name: str) -> Path | None:
    kind, _, path = name.partition(":")
    return Path(path).expanduser() if kind in OF_FILES and path else None


def _factory(name: str) -> Factory:
    if name in EVALUATORS:
        return EVALUATORS[name]
    if (path := _file_of(name)) is not None:
        return partial(OF_FILES[name.partition(":")[0]], path=path)
    if not is_reference(name):
        of_files = [f"{kind}:FILE" for kind in OF_FILES]
        known = (*EVALUATORS, *of_files, "FILE.py:FUNCTION", "MODULE:FUNCTION")
        raise ConfigError(unknown_name("evaluator", name, known))
    return load_function(name, ConfigError)
