"""Strategies by name: the algorithms that propose what to train next."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hwnas.errors import ConfigError, unknown_name
from hwnas.strategies.bananas import Bananas
from hwnas.strategies.base import (
    OBJECTIVES,
    Costs,
    Problem,
    Proposal,
    SpaceExhaustedError,
    Strategy,
    Trial,
)
from hwnas.strategies.evolution import Evolution
from hwnas.strategies.grid import Grid
from hwnas.strategies.guided import Guided
from hwnas.strategies.hyperband import Hyperband
from hwnas.strategies.local_search import LocalSearch
from hwnas.strategies.nsga2 import Nsga2
from hwnas.strategies.nsga3 import Nsga3
from hwnas.strategies.optuna_sampler import OptunaSampler, gp, tpe
from hwnas.strategies.q_learning import DQN
from hwnas.strategies.random_search import RandomSearch
from hwnas.strategies.regularized_evolution import RegularizedEvolution
from hwnas.strategies.reinforce import Reinforce
from hwnas.strategies.successive_halving import SuccessiveHalving

__all__ = [
    "DQN",
    "OBJECTIVES",
    "STRATEGIES",
    "Bananas",
    "Costs",
    "Evolution",
    "Grid",
    "Guided",
    "Hyperband",
    "LocalSearch",
    "Nsga2",
    "Nsga3",
    "OptunaSampler",
    "Problem",
    "Proposal",
    "RandomSearch",
    "RegularizedEvolution",
    "Reinforce",
    "SpaceExhaustedError",
    "Strategy",
    "SuccessiveHalving",
    "Trial",
    "check_strategy",
    "make_strategy",
]

STRATEGIES: Mapping[str, Callable[..., Strategy]] = {
    "bananas": Bananas,
    "dqn": DQN,
    "evolution": Evolution,
    "gp": gp,
    "grid": Grid,
    "guided": Guided,
    "hyperband": Hyperband,
    "local_search": LocalSearch,
    "nsga2": Nsga2,
    "nsga3": Nsga3,
    "random": RandomSearch,
    "regularized_evolution": RegularizedEvolution,
    "reinforce": Reinforce,
    "successive_halving": SuccessiveHalving,
    "tpe": tpe,
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
