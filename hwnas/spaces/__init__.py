"""Search spaces: choices and the functions that turn them into blocks.

Only the description is imported here, without torch; the ready-made spaces are in `catalog`.
"""

from hwnas.spaces.base import Architecture, Block, Choice, Genotype, SearchSpace

__all__ = ["Architecture", "Block", "Choice", "Genotype", "SearchSpace"]
