"""What evolutionary strategies do alike: make a child that may be proposed."""

from __future__ import annotations

from collections.abc import Callable

from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.proposals import Proposals, as_genotype

__all__ = ["N_CHILDREN", "first_child"]

N_CHILDREN = 64  # bred at once, since most of them may be known or over the budget
MAX_ROUNDS = 4  # of children, before a strategy draws at random


def first_child(proposals: Proposals, breed: Callable[[], GenotypeArray]) -> Genotype | None:
    """The first child that may be proposed; None if some rounds of children have none.

    Args:
        proposals: Of the strategy.
        breed: Makes some children, other ones in each call, `(n, n_choices)`.
    """
    for _ in range(MAX_ROUNDS):
        children, _ = proposals.novel(breed())
        if len(children):
            return as_genotype(children[0])
    return None
