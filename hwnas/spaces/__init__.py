"""Search spaces: choices and the functions that turn them into blocks."""

from hwnas.spaces.base import Architecture, Block, Choice, Genotype, SearchSpace

__all__ = ["Architecture", "Block", "Choice", "Genotype", "SearchSpace"]
