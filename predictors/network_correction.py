"""What a network takes beside the sum of its kernels: how its weights and tensors fill the caches.

A kernel whose weights the rest of the network pushed out of the cache takes longer than in a small
network. That depends on few numbers of the network, all of them sums over its kernels, so that it
costs nothing in the inner loop of a search. Networks that fit into any cache have no correction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from predictors.features import weight_bytes, work
from profilers.kernels import Kernel

FloatArray = NDArray[np.float64]

FEATURES = ("weight_bytes", "other_bytes")
N_FEATURES = len(FEATURES)
STD = 0.01  # of the change of slope at each knot, in the logarithm of the latency
# Where slopes may change: at the sizes that caches have, from 128 KiB to 64 MiB.
KNOTS = np.log1p(2.0 ** np.arange(17.0, 26.5, 1.5))
MAX_CORRECTION = 2.0


def kernel_terms(kernels: Sequence[Kernel]) -> FloatArray:
    """What each kernel adds to the `FEATURES` of its network, `(n, N_FEATURES)`."""
    weights = np.array([weight_bytes(kernel) for kernel in kernels], dtype=np.float64)
    return np.column_stack([weights, work(kernels)[:, 2] - weights])


@dataclass(frozen=True)
class NetworkCorrection:
    """A sum of piecewise linear functions of the logarithms of the features.

    Attributes:
        positions: Where each function is given, rising, `(N_FEATURES, k)`; constant beyond.
        values: What it is there, in the logarithm of the latency, `(N_FEATURES, k)`.
    """

    positions: FloatArray
    values: FloatArray

    @classmethod
    def prior(cls, sums: FloatArray) -> Self:
        """Zero, for networks with these sums of `kernel_terms`, `(n, N_FEATURES)`."""
        largest = np.log1p(sums).max(axis=0)
        positions = np.minimum(np.tile(np.append(KNOTS, np.inf), (N_FEATURES, 1)), largest[:, None])
        return cls(positions, np.zeros_like(positions))

    def basis(self, sums: FloatArray) -> FloatArray:
        """Columns whose weighted sum is the function, for networks `(n, N_FEATURES)`."""
        columns = []
        for x, at in zip(np.log1p(sums).T, self.positions, strict=True):
            columns += [np.maximum(np.minimum(x, at[-1]) - knot, 0) for knot in at[:-1]]
        return STD * np.stack(columns, axis=1)

    def with_weights(self, weights: FloatArray) -> Self:
        """The function that these weights of the columns of `basis` make."""
        slopes = STD * np.cumsum(weights.reshape(N_FEATURES, -1), axis=1)
        steps = slopes * np.diff(self.positions, axis=1)
        values = np.column_stack([np.zeros(N_FEATURES), np.cumsum(steps, axis=1)])
        return replace(self, values=values)

    def __call__(self, sums: FloatArray) -> FloatArray:
        """Of networks with these sums of `kernel_terms`, `(n, N_FEATURES)`; `(n,)`."""
        total = np.zeros(len(sums))
        for column, at, value in zip(sums.T, self.positions, self.values, strict=True):
            total += np.interp(np.log1p(column), at, value)
        return np.clip(total, -MAX_CORRECTION, MAX_CORRECTION)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name."""
        return {"positions": self.positions, "values": self.values}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild from `to_arrays`.

        Raises:
            KeyError, ValueError: The arrays do not describe such a function.
        """
        positions, values = (
            np.asarray(arrays[name], np.float64) for name in ("positions", "values")
        )
        if positions.shape != values.shape or positions.shape != (N_FEATURES, len(KNOTS) + 1):
            raise ValueError("the arrays do not describe a correction of networks")
        if (np.diff(positions, axis=1) < 0).any():
            raise ValueError("the positions of a correction of networks must rise")
        return cls(positions, values)
