"""A Gaussian process over genotypes: what a few trials say about all that were not run.

The kernel knows no network. It is a product over the choices, so any interaction can be learnt,
of one similarity matrix each; choices with the same options share one, mixed with a constant by
how much the choice matters. To it comes a linear part: each choice for itself, and how often an
option occurs over the choices that share it.

References:
    Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006 (algorithm 2.1, 5.9).
    Similarities of categories as a low-rank matrix: Bonilla et al., Multi-task Gaussian Process
    Prediction, NeurIPS 2007.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from hwnas.spaces.base import Choice, GenotypeArray

__all__ = ["Encoding", "GaussianProcess"]

FloatArray = NDArray[np.float64]
MAX_BASES = 8  # columns of the factor of a similarity matrix
FAR = 0.15  # similarity of unlike categories before anything was learnt, about its square root
JITTER = 1e-5


class Encoding:
    """How the genotypes of a space become numbers: one-hot, options that recur share a group.

    Args:
        choices: The choices of the space.

    Attributes:
        offsets: `(n_choices,)`: where the options of each choice start among the one-hot columns.
        groups: Of each choice, `(n_choices,)`: choices of one group have the same options.
        factors: Of each group, `(n_options, n_bases)`, not negative, rows of length 1: options
            with similar rows are alike. Numbers are like their neighbours; other categories are
            all unlike.
    """

    def __init__(self, choices: tuple[Choice, ...]) -> None:
        sizes = np.array([len(choice.options) for choice in choices], dtype=np.int64)
        self.offsets = np.cumsum(sizes) - sizes
        self.n_columns = int(sizes.sum())
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


@dataclass(frozen=True)
class _Parameters:
    """Views of one flat vector, all on scales where a step of 1 is large.

    Attributes:
        amplitude: Log standard deviation of the product part.
        linear: The same of the linear parts: each choice, each count, `(2,)`.
        noise: The same of what no genotype explains.
        shares: Logit of the constant share of each choice, `(n_choices,)`.
        factors: Logs of the entries of the groups' factors.
    """

    amplitude: float
    linear: FloatArray
    noise: float
    shares: FloatArray
    factors: tuple[FloatArray, ...]


class GaussianProcess:
    """Regression on genotypes with a calibrated standard deviation.

    `learn` finds the kernel's parameters from some trials, `fit` conditions on trials with the
    parameters as they are. Without `learn` they have their prior values.

    Args:
        encoding: Of the space.
        n_steps: Iterations of L-BFGS in `learn`.
    """

    def __init__(self, encoding: Encoding, *, n_steps: int = 40) -> None:
        self.encoding = encoding
        self.n_steps = n_steps
        n_choices = len(encoding.groups)
        # The more choices, the less each one matters; over all of them the sum is the same.
        share = 1 - min(0.3, 1.8 / max(n_choices, 1))
        heads = [np.log([1.0, 0.3, 0.15, 0.1]), np.full(n_choices, np.log(share / (1 - share)))]
        logs = [np.log(factor).ravel() for factor in encoding.factors]
        self._prior = np.concatenate([*heads, *logs])
        spreads = [[1.0, 1.0, 1.0, 1.0], np.full(n_choices, 0.5)]
        self._spread = np.concatenate([*spreads, *(np.full(len(log), 0.3) for log in logs)])
        self._vector = self._prior.copy()
        # Far outside of the prior a kernel of few trials need not have a Cholesky root.
        reach = 3 * self._spread
        self._bounds = list(zip(self._prior - reach, self._prior + reach, strict=True))
        ends = 4 + n_choices + np.cumsum([factor.size for factor in encoding.factors], dtype=int)
        self._starts = [e - f.size for e, f in zip(ends.tolist(), encoding.factors, strict=True)]

    def learn(self, genotypes: GenotypeArray, values: FloatArray) -> GaussianProcess:
        """Find the parameters of largest posterior density, starting from the prior.

        Args:
            genotypes: `(n, n_choices)`.
            values: `(n,)`, any unit.
        """
        encoded = self.encoding.one_hot(genotypes)
        target = _standardised(values)[0]
        found = minimize(
            self._loss,
            self._prior,
            args=(encoded, target),
            jac=True,
            method="L-BFGS-B",
            bounds=self._bounds,
            options={"maxiter": self.n_steps},
        )
        self._vector = found.x
        return self

    def fit(self, genotypes: GenotypeArray, values: FloatArray) -> GaussianProcess:
        """Condition on trials; arguments as in `learn`."""
        target, self._mean, self._scale = _standardised(values)
        self._encoded = self.encoding.one_hot(genotypes)
        p = self._parameters(self._vector)
        kernel = self._kernel(p, self._encoded, self._encoded)
        kernel[np.diag_indices_from(kernel)] += np.exp(2 * p.noise) + JITTER
        self._root = cholesky(kernel, lower=True)
        self._weights = cho_solve((self._root, True), target)
        return self

    def predict(self, genotypes: GenotypeArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of an evaluation, `(n,)` each, in the unit of the values.

        The deviation includes what no genotype explains: another network differs by that too.
        """
        p = self._parameters(self._vector)
        encoded = self.encoding.one_hot(genotypes)
        kernel = self._kernel(p, encoded, self._encoded)
        mean = kernel @ self._weights
        # Single precision is enough for a deviation, and this is where the time goes.
        reduced = solve_triangular(
            self._root.astype(np.float32), kernel.T.astype(np.float32), lower=True
        )
        variance = self._diagonal(p, encoded) - np.einsum("ij,ij->j", reduced, reduced)
        variance = np.maximum(variance, 0.0) + np.exp(2 * p.noise)
        return mean * self._scale + self._mean, np.sqrt(variance) * self._scale

    def _parameters(self, vector: FloatArray) -> _Parameters:
        factors = tuple(
            vector[start : start + factor.size].reshape(factor.shape)
            for start, factor in zip(self._starts, self.encoding.factors, strict=True)
        )
        shares = vector[4 : 4 + len(self.encoding.groups)]
        return _Parameters(float(vector[0]), vector[1:3], float(vector[3]), shares, factors)

    def _similarities(self, p: _Parameters) -> list[FloatArray]:
        """Of the options of each choice: share + (1 - share) * factor @ factor.T, positive."""
        shares = 1 / (1 + np.exp(-p.shares))
        squares = [np.exp(log) @ np.exp(log).T for log in p.factors]
        return [
            share + (1 - share) * squares[group]
            for share, group in zip(shares, self.encoding.groups, strict=True)
        ]

    def _log_blocks(self, p: _Parameters) -> FloatArray:
        """The logs of the similarities, as blocks on the diagonal, `(n_columns, n_columns)`.

        So the log of a product over the choices is one matrix product of one-hot rows.
        """
        blocks = np.zeros((self.encoding.n_columns, self.encoding.n_columns))
        for start, matrix in zip(self.encoding.offsets, self._similarities(p), strict=True):
            block = slice(start, start + len(matrix))
            blocks[block, block] = np.log(matrix)
        return blocks

    def _linear(self, p: _Parameters) -> list[FloatArray]:
        """The linear parts as matrices between one-hot columns: of choices, of counts."""
        n_choices = max(len(self.encoding.groups), 1)
        choice, count = np.exp(2 * p.linear)
        counts = self.encoding.count_matrix @ self.encoding.count_matrix.T
        return [
            np.eye(self.encoding.n_columns) * (choice / n_choices),
            counts * (count / n_choices**2),
        ]

    def _kernel(self, p: _Parameters, a: FloatArray, b: FloatArray) -> FloatArray:
        kernel = a @ (self._log_blocks(p) @ b.T)
        kernel += 2 * p.amplitude
        np.exp(kernel, out=kernel)
        kernel += a @ (sum(self._linear(p)) @ b.T)
        return kernel

    def _diagonal(self, p: _Parameters, encoded: FloatArray) -> FloatArray:
        logs = encoded @ np.diag(self._log_blocks(p))
        linear = np.einsum("ij,ij->i", encoded @ sum(self._linear(p)), encoded)
        diagonal: FloatArray = np.exp(logs + 2 * p.amplitude) + linear
        return diagonal

    def _loss(
        self, vector: FloatArray, encoded: FloatArray, target: FloatArray
    ) -> tuple[float, FloatArray]:
        """Negative log posterior density up to a constant, and its gradient."""
        p = self._parameters(vector)
        n = len(target)
        product = encoded @ (self._log_blocks(p) @ encoded.T)
        product += 2 * p.amplitude
        np.exp(product, out=product)
        parts = [encoded @ (linear @ encoded.T) for linear in self._linear(p)]
        noise = np.exp(2 * p.noise)
        kernel = product + parts[0] + parts[1]
        kernel[np.diag_indices(n)] += noise + JITTER
        root = cholesky(kernel, lower=True)
        weights = cho_solve((root, True), target)
        offset = (vector - self._prior) / self._spread
        loss = 0.5 * target @ weights + np.log(np.diag(root)).sum() + 0.5 * offset @ offset

        # d loss = sum(slope * d kernel)
        slope = 0.5 * (cho_solve((root, True), np.eye(n)) - np.outer(weights, weights))
        weighted = slope * product
        gradient = offset / self._spread
        gradient[0] += 2 * weighted.sum()
        gradient[1] += 2 * (slope * parts[0]).sum()
        gradient[2] += 2 * (slope * parts[1]).sum()
        gradient[3] += 2 * noise * np.trace(slope)
        # Summed over the pairs of trials that have option u and option v of a choice.
        pairs = encoded.T @ (weighted @ encoded)
        shares = 1 / (1 + np.exp(-p.shares))
        by_group = [np.zeros_like(log) for log in p.factors]
        similarities = self._similarities(p)
        for c, (start, group) in enumerate(
            zip(self.encoding.offsets, self.encoding.groups, strict=True)
        ):
            factor = np.exp(p.factors[group])
            block = slice(start, start + len(factor))
            by_similarity = pairs[block, block] / similarities[c]
            square = factor @ factor.T
            gradient[4 + c] += shares[c] * (1 - shares[c]) * (by_similarity * (1 - square)).sum()
            by_group[group] += 2 * (1 - shares[c]) * (by_similarity @ factor) * factor
        for start, part in zip(self._starts, by_group, strict=True):
            gradient[start : start + part.size] += part.ravel()
        return float(loss), gradient


def _standardised(values: FloatArray) -> tuple[FloatArray, float, float]:
    """Values with mean 0 and deviation 1, and what they had; a constant is left at 0."""
    mean, scale = float(values.mean()), float(values.std())
    scale = max(scale, 1e-9 * max(abs(mean), 1.0))
    return (values - mean) / scale, mean, scale
