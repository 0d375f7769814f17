"""Guides: what strategies learn from the data before the first trial."""

from __future__ import annotations

from collections.abc import Mapping

from hwnas.errors import ConfigError, unknown_name
from hwnas.guides.base import Learner, Lesson
from hwnas.guides.gradient import darts, fbnet, proxylessnas
from hwnas.guides.one_shot import ofa, spos
from hwnas.guides.policy import enas
from hwnas.guides.proxies import zero_cost
from hwnas.strategies.guide import Guide

__all__ = ["LEARNERS", "Learner", "Lesson", "learn_guide"]

# The same names as `hwnas.strategies.NEEDS_GUIDE`.
LEARNERS: Mapping[str, Learner] = {
    "darts": darts,
    "enas": enas,
    "fbnet": fbnet,
    "ofa": ofa,
    "proxylessnas": proxylessnas,
    "spos": spos,
    "zero_cost": zero_cost,
}


def learn_guide(name: str, lesson: Lesson) -> Guide:
    """Learn the guide of a strategy.

    Raises:
        ConfigError: The strategy of that name needs none, or it cannot be learned from this.
        InfeasibleBudgetError: No network of the space was found to meet the budgets.
        TrainingDivergedError: A loss became NaN or infinite.
    """
    if name not in LEARNERS:
        raise ConfigError(unknown_name("strategy that learns a guide", name, LEARNERS))
    return LEARNERS[name](lesson)
