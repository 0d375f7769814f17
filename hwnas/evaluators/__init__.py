"""Evaluators: what a search asks how good a candidate is."""

from hwnas.evaluators.base import Evaluator

__all__ = ["Evaluator"]
