"""How networks become numbers that a model reads: choices as one-hot columns, then descriptions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hwnas.spaces.base import Choice, GenotypeArray

__all__ = ["Encoding", "Part"]

FloatArray = NDArray[np.float64]
MAX_BASES = 8  # columns of the factor of a similarity matrix
FAR = 0.15  # similarity of unlike categories before anything was learnt, about its square root


@dataclass(frozen=True, slots=True)
class Part:
    """Further columns that describe networks, and what is believed of their effect.

    Attributes:
        sizes: Columns of each group; those of one group are on the same scale.
        lengths: Of each group: over how much of it the effect changes.
        smooth: Standard deviation of the part of the effect that is any smooth function.
        straight: Of the part that is a linear one.
    """

    sizes: tuple[int, ...]
    lengths: tuple[float, ...]
    smooth: float
    straight: float


class Encoding:
    """How networks become numbers: one-hot, options that recur share a group, then the parts.

    Args:
        choices: The choices of the space.
        parts: What else is known of every network; its columns follow those of the choices.
        is_described: Whether the parts say what matters, so that the choices add little.

    Attributes:
        offsets: `(n_choices,)`: where the options of each choice start among the one-hot columns.
        groups: Of each choice, `(n_choices,)`: choices of one group have the same options.
        factors: Of each group, `(n_options, n_bases)`, not negative, rows of length 1: options
            with similar rows are alike. Numbers are like their neighbours; other categories are
            all unlike.
        columns: Of each group of each part.
    """

    def __init__(
        self,
        choices: tuple[Choice, ...],
        *,
        parts: tuple[Part, ...] = (),
        is_described: bool = False,
    ) -> None:
        self.parts = parts
        self.is_described = is_described
        sizes = np.array([len(choice.options) for choice in choices], dtype=np.int64)
        self.offsets = np.cumsum(sizes) - sizes
        self.n_columns = int(sizes.sum())
        sizes_of_groups = [size for part in parts for size in part.sizes]
        ends = (self.n_columns + np.cumsum(sizes_of_groups, dtype=int)).tolist()
        views = (slice(start, end) for start, end in pairwise([self.n_columns, *ends]))
        self.columns = tuple(tuple(next(views) for _ in part.sizes) for part in parts)
        found: dict[tuple[tuple[type, object], ...], int] = {}
        keys = [tuple((type(o), o) for o in choice.options) for choice in choices]
        self.groups = tuple(found.setdefault(key, len(found)) for key in keys)
        self.factors = tuple(_initial_factor(tuple(o for _, o in key)) for key in found)
        counts: dict[tuple[int, int], int] = {}
        self._counted = np.array(
            [
                counts.setdefault((group, option), len(counts))
                for group, size in zip(self.groups, sizes, strict=True)
                for option in range(size)
            ],
            dtype=np.int64,
        )

    def one_hot(self, genotypes: GenotypeArray) -> FloatArray:
        """One column for each option of each choice, `(n, n_columns)`."""
        encoded = np.zeros((len(genotypes), self.n_columns))
        np.put_along_axis(encoded, genotypes + self.offsets, 1.0, axis=1)
        return encoded

    @cached_property
    def count_matrix(self) -> FloatArray:
        """From one-hot to how often each option of each group occurs, `(n_columns, n_counts)`."""
        matrix = np.zeros((self.n_columns, int(self._counted.max(initial=-1)) + 1))
        matrix[np.arange(self.n_columns), self._counted] = 1.0
        return matrix


def _initial_factor(options: tuple[object, ...]) -> FloatArray:
    n = len(options)
    is_ordered = n > 2 and all(
        isinstance(option, int | float) and not isinstance(option, bool) for option in options
    )
    positions = np.arange(n, dtype=np.float64)
    bases = np.linspace(0, n - 1, min(n, MAX_BASES)) if is_ordered or n > MAX_BASES else positions
    distance = np.abs(positions[:, None] - bases)
    if is_ordered:
        factor = np.exp(-((distance / max(1.0, (n - 1) / 3)) ** 2))
    elif n <= MAX_BASES:
        factor = np.where(distance == 0, 1.0, FAR)
    else:  # more categories than bases: any two rows differ, none are near on purpose
        factor = np.random.default_rng(n).uniform(FAR, 1.0, size=(n, MAX_BASES)) ** 3
    factor = np.maximum(factor, 1e-3)
    normed: FloatArray = factor / np.linalg.norm(factor, axis=1, keepdims=True)
    return normed
