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
from hwnas.strategies.follow_guide import FollowGuide
from hwnas.strategies.grid import Grid
from hwnas.strategies.guide import Guide
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
    "NEEDS_GUIDE",
    "OBJECTIVES",
    "STRATEGIES",
    "Bananas",
    "Costs",
    "Evolution",
    "FollowGuide",
    "Grid",
    "Guide",
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
    "needs_data",
]

STRATEGIES: Mapping[str, Callable[..., Strategy]] = {
    "bananas": Bananas,
    "darts": FollowGuide,
    "dqn": DQN,
    "enas": FollowGuide,
    "evolution": Evolution,
    "fbnet": FollowGuide,
    "gp": gp,
    "grid": Grid,
    "guided": Guided,
    "hyperband": Hyperband,
    "local_search": LocalSearch,
    "nsga2": Nsga2,
    "nsga3": Nsga3,
    "ofa": FollowGuide,
    "proxylessnas": FollowGuide,
    "random": RandomSearch,
    "regularized_evolution": RegularizedEvolution,
    "reinforce": Reinforce,
    "spos": FollowGuide,
    "successive_halving": SuccessiveHalving,
    "tpe": tpe,
    "zero_cost": FollowGuide,
}
# What these propose is learned from data before the first trial: see `hwnas.guides`.
NEEDS_GUIDE = frozenset(name for name, make in STRATEGIES.items() if make is FollowGuide)


def check_strategy(name: str) -> None:
    """Make sure that there is a strategy called `name`.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in STRATEGIES:
        raise ConfigError(unknown_name("strategy", name, STRATEGIES))


def make_strategy(
    name: str, problem: Problem, *, seed: int, guide: Guide | None = None
) -> Strategy:
    """Make the strategy called `name`.

    Args:
        name: One of `STRATEGIES`.
        problem: What to search.
        seed: Of all that is drawn.
        guide: What the strategies of `NEEDS_GUIDE` follow; the others take none.

    Raises:
        ConfigError: If there is none of that name, or it needs a guide and has none.
    """
    check_strategy(name)
    if name not in NEEDS_GUIDE:
        return STRATEGIES[name](problem, seed=seed)
    if guide is None:
        raise ConfigError(needs_data(name))
    return FollowGuide(problem, seed=seed, guide=guide)


def needs_data(name: str) -> str:
    """Why a strategy of `NEEDS_GUIDE` cannot search where there are no networks to train."""
    return (
        f"the strategy {name!r} learns from data before it proposes anything, and here is none: "
        f"use it with `hwnas search`, or take another one "
        f"({', '.join(sorted(STRATEGIES.keys() - NEEDS_GUIDE))})"
    )
