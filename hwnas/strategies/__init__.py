"""Strategies by name: the algorithms that propose what to train next."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hwnas.errors import ConfigError, unknown_name
from hwnas.strategies.base import (
    OBJECTIVES,
    Costs,
    Problem,
    SpaceExhaustedError,
    Strategy,
    Trial,
)
from hwnas.strategies.evolution import Evolution
from hwnas.strategies.guided import Guided
from hwnas.strategies.random_search import RandomSearch

__all__ = [
    "OBJECTIVES",
    "STRATEGIES",
    "Costs",
    "Evolution",
    "Guided",
    "Problem",
    "RandomSearch",
    "SpaceExhaustedError",
    "Strategy",
    "Trial",
    "check_strategy",
    "make_strategy",
]

STRATEGIES: Mapping[str, Callable[..., Strategy]] = {
    "evolution": Evolution,
    "guided": Guided,
    "random": RandomSearch,
}


def check_strategy(name: str) -> None:
    """Make sure that there is a strategy called `name`.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in STRATEGIES:
        raise ConfigError(unknown_name("strategy", name, STRATEGIES))


def make_strategy(name: str, problem: Problem, *, seed: int) -> Strategy:
    """Make the strategy called `name`.

    Raises:
        ConfigError: If there is none of that name.
    """
    check_strategy(name)
    return STRATEGIES[name](problem, seed=seed)
