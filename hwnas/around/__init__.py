"""A search space around a model of one's own: thinner, shallower variants with its weights."""

from hwnas.around.space import space_around

__all__ = ["space_around"]
