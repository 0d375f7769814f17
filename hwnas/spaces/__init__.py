"""Search spaces: choices and the functions that turn them into blocks.

Only the description is imported here, without torch; the ready-made spaces are in `catalog`.
"""

from hwnas.spaces.base import (
    Architecture,
    Block,
    Choice,
    Constraint,
    Genotype,
    SearchSpace,
    SpaceError,
)

__all__ = [
    "Architecture",
    "Block",
    "Choice",
    "Constraint",
    "Genotype",
    "SearchSpace",
    "SpaceError",
]
