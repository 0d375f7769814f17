"""A Gaussian process over kernels, one per group of kernels, in the space of its weights.

f(k) = phi(k) · w with w ~ N(0, 1), where phi is the Nyström map of a few kernels that were seen,
the *inducing* ones. So what is observed may be any weighted sum of f over kernels: a whole
network's latency says something about each of its kernels.

Reference:
    Rasmussen, Williams, Gaussian Processes for Machine Learning, 2006, sections 2.1 and 8.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
JITTER = 1e-6


@dataclass(frozen=True)
class Covariance:
    """How alike the corrections of two kernels of one group are expected to be.

    Attributes:
        smooth: Standard deviation of what changes with the features.
        shared: Of what all kernels of the group have in common.
        category: Of what those of the same category have in common.
    """

    smooth: float = 0.3
    shared: float = 0.2
    category: float = 0.1

    @property
    def variance(self) -> float:
        """Of a kernel about which nothing is known."""
        return self.smooth**2 + self.shared**2 + self.category**2

    def between(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Covariances of rows, `(n, m)`; the last column is the category."""
        squared = np.zeros((len(a), len(b)))
        for column in range(a.shape[1] - 1):
            squared += np.square(a[:, column, None] - b[None, :, column])
        alike = a[:, -1, None] == b[None, :, -1]
        return np.asarray(
            self.smooth**2 * np.exp(-squared / 2) + self.shared**2 + self.category**2 * alike
        )


@dataclass(frozen=True)
class GroupProcess:
    """The process of one group, before or after observations.

    Attributes:
        inducing: Scaled features, the last column a category, `(m, d)`.
        mean: Of the weights, `(m,)`.
        root: Triangular root of the weights' covariance, `(m, m)`.
    """

    inducing: FloatArray
    mean: FloatArray
    root: FloatArray
    covariance: Covariance = Covariance()

    @classmethod
    def prior(cls, x: FloatArray, *, n_inducing: int) -> Self:
        """Of a group whose kernels have the features `x` `(n, d)`."""
        inducing = x[spread(x, n_inducing)]
        m = len(inducing)
        return cls(inducing, np.zeros(m), np.eye(m))

    def features(self, x: FloatArray) -> FloatArray:
        """phi of rows of scaled features, `(n, m)`."""
        gram = self.covariance.between(self.inducing, self.inducing)
        root = np.linalg.cholesky(gram + JITTER * np.eye(len(gram)))
        between = self.covariance.between(self.inducing, x)
        return np.asarray(np.linalg.solve(root, between).T)

    def posterior(self, mean: FloatArray, covariance: FloatArray) -> Self:
        """With what observations say of the weights, `(m,)` and `(m, m)`."""
        floor = JITTER * np.eye(len(mean))
        root = np.asarray(np.linalg.cholesky(covariance + floor), dtype=np.float64)
        return replace(self, mean=mean, root=root)

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of f at rows of scaled features, `(n,)` each."""
        phi = self.features(x)
        left = np.maximum(self.covariance.variance - np.square(phi).sum(axis=1), 0.0)
        variance = left + np.square(phi @ self.root).sum(axis=1)
        return phi @ self.mean, np.sqrt(variance)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, in single precision."""
        return {
            name: getattr(self, name).astype(np.float32) for name in ("inducing", "mean", "root")
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], n_features: int) -> Self:
        """Rebuild from `to_arrays`.

        Raises:
            KeyError, ValueError: The arrays do not belong together.
        """
        inducing, mean, root = (
            np.asarray(arrays[name], np.float64) for name in ("inducing", "mean", "root")
        )
        m = len(mean)
        if inducing.shape != (m, n_features) or root.shape != (m, m) or mean.ndim != 1:
            raise ValueError("the arrays do not describe a Gaussian process")
        return cls(inducing, mean, root)


def spread(x: FloatArray, n: int) -> NDArray[np.int64]:
    """Positions of at most `n` different rows that lie far from each other.

    Each next one is the row farthest from those before it.

    Reference:
        Gonzalez, Clustering to minimize the maximum intercluster distance, 1985.
    """
    if not len(x):
        return np.zeros(0, np.int64)
    chosen = [int(np.argmin(np.square(x - np.median(x, axis=0)).sum(axis=1)))]
    distance = np.square(x - x[chosen[0]]).sum(axis=1)
    while len(chosen) < n:
        farthest = int(np.argmax(distance))
        if distance[farthest] <= 0:
            break
        chosen.append(farthest)
        distance = np.minimum(distance, np.square(x - x[farthest]).sum(axis=1))
    return np.array(chosen)
