"""A Gaussian process over genotypes: what a few trials say about all that were not run.

The kernel knows no network. It is a product over the choices, so any interaction can be learnt,
of one similarity matrix each; choices with the same options share one, mixed with a constant by
how much the choice matters. To it comes a linear part: each choice for itself, and how often an
option occurs over the choices that share it; and a smooth function of whatever else is known.

References:
    Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006 (algorithm 2.1, 5.9).
    Similarities of categories as a low-rank matrix: Bonilla et al., Multi-task Gaussian Process
    Prediction, NeurIPS 2007.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from hwnas.strategies.encoding import Encoding

__all__ = ["GaussianProcess", "Posterior"]

FloatArray = NDArray[np.float64]
NOISE = 0.07  # of what no genotype explains, before anything was learnt
JITTER = 1e-5


@dataclass(frozen=True)
class _Parameters:
    """Views of one flat vector, all on scales where a step of 1 is large.

    Attributes:
        amplitude: Log standard deviation of the product part.
        linear: The same of the linear parts: each choice, each count, `(2,)`.
        noise: The same of what no genotype explains.
        smooth: The same of the smooth functions, `(n_parts,)`.
        straight: The same of the linear functions of the same columns, `(n_parts,)`.
        lengths: Logs of the lengths over which the smooth ones change, `(n_groups,)`.
        shares: Logit of the constant share of each choice, `(n_choices,)`.
        factors: Logs of the entries of the groups' factors.
    """

    amplitude: float
    linear: FloatArray
    noise: float
    smooth: FloatArray
    straight: FloatArray
    lengths: FloatArray
    shares: FloatArray
    factors: tuple[FloatArray, ...]


class GaussianProcess:
    """Regression on networks with a calibrated standard deviation.

    `learn` finds the kernel's parameters from some trials, `fit` conditions on trials with the
    parameters as they are. Without `learn` they have their prior values.

    Args:
        encoding: Of the space.
        n_steps: Iterations of L-BFGS in `learn`.

    Attributes:
        loss_: Negative log density of what was learnt from, up to a constant that all models of
            the same trials share, in the unit of the values; set by `learn`.
    """

    def __init__(self, encoding: Encoding, *, n_steps: int = 40) -> None:
        self.encoding = encoding
        self.n_steps = n_steps
        n_choices, parts = len(encoding.groups), encoding.parts
        # The more choices, the less each one matters; over all of them the sum is the same.
        share = 1 - min(0.3, 1.8 / max(n_choices, 1))
        amplitudes = [0.2, 0.1, 1.0] if encoding.is_described else [1.0, 0.3, 0.15]
        # Mean and deviation of the prior of each parameter, in the order of the vector.
        heads = [
            (np.log([*amplitudes, NOISE]), 1.0),
            (np.log([part.smooth for part in parts]), 1.0),
            (np.log([part.straight for part in parts]), 1.0),
            (np.log([length for part in parts for length in part.lengths]), 0.7),
            (np.full(n_choices, np.log(share / (1 - share))), 0.5),
        ]
        logs = [(np.log(factor).ravel(), 0.3) for factor in encoding.factors]
        self._prior = np.concatenate([mean for mean, _ in (*heads, *logs)])
        self._spread = np.concatenate([np.full(len(m), spread) for m, spread in (*heads, *logs)])
        self.loss_ = np.inf
        # Far outside of the prior a kernel of few trials need not have a Cholesky root.
        reach = 3 * self._spread
        self._bounds = list(zip(self._prior - reach, self._prior + reach, strict=True))
        sizes = [len(mean) for mean, _ in (*heads, *logs)]
        ends = np.cumsum(sizes).tolist()
        self._views = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self._use(self._prior)

    def learn(self, inputs: FloatArray, values: FloatArray) -> GaussianProcess:
        """Find the parameters of largest posterior density, starting from the prior.

        Args:
            inputs: One-hot columns, then those of the parts, `(n, k)`.
            values: `(n,)`, any unit.
        """
        target, _, scale = _standardised(values)
        found = minimize(
            self._loss,
            self._prior,
            args=(inputs, target),
            jac=True,
            method="L-BFGS-B",
            bounds=self._bounds,
            options={"maxiter": self.n_steps},
        )
        self._use(found.x)
        self.loss_ = float(found.fun) + len(values) * np.log(scale)
        return self

    def fit(self, inputs: FloatArray, candidates: FloatArray) -> Posterior:
        """Condition on trials; what they gave is said later, to `Posterior.predict`.

        Args:
            inputs: Of the trials, `(n, k)`.
            candidates: Of the networks that will be asked about each time, `(m, same)`.
        """
        kernel = self._kernel(inputs, inputs)
        kernel[np.diag_indices_from(kernel)] += self._noise + JITTER
        root = cholesky(kernel, lower=True)
        reduced = solve_triangular(root, self._kernel(inputs, candidates), lower=True)
        variance = self._diagonal(candidates) - np.einsum("ij,ij->j", reduced, reduced)
        return Posterior(self, inputs, root, candidates, (reduced,), variance)

    def _use(self, vector: FloatArray) -> None:
        """Take parameters, and compute once what predictions need of them again and again."""
        p = self._parameters(vector)
        self._amplitude = p.amplitude
        self._noise = float(np.exp(2 * p.noise))
        self._log_product = self._log_blocks(p)
        self._lines = np.sum(self._linear(p), axis=0)
        self._scales = self._measures(p)

    def _parameters(self, vector: FloatArray) -> _Parameters:
        heads, smooth, straight, lengths, shares, *factors = (vector[v] for v in self._views)
        pairs = zip(factors, self.encoding.factors, strict=True)
        return _Parameters(
            amplitude=float(heads[0]),
            linear=heads[1:3],
            noise=float(heads[3]),
            smooth=smooth,
            straight=straight,
            lengths=lengths,
            shares=shares,
            factors=tuple(logs.reshape(factor.shape) for logs, factor in pairs),
        )

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

    def _measures(self, p: _Parameters) -> list[tuple[slice, FloatArray, float, float]]:
        """Of each part its columns, what divides them, and both amplitudes."""
        measures, lengths = [], np.exp(p.lengths)
        for i, (part, columns) in enumerate(
            zip(self.encoding.parts, self.encoding.columns, strict=True)
        ):
            own, lengths = lengths[: len(columns)], lengths[len(columns) :]
            whole = slice(columns[0].start, columns[-1].stop)
            amplitudes = float(np.exp(2 * p.smooth[i])), float(np.exp(2 * p.straight[i]))
            measures.append((whole, np.repeat(own, part.sizes), *amplitudes))
        return measures

    def _kernel(self, a: FloatArray, b: FloatArray, dtype: DTypeLike = np.float64) -> FloatArray:
        n = self.encoding.n_columns
        a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
        kernel: FloatArray = a[:, :n] @ self._log_product.astype(dtype) @ b[:, :n].T
        kernel += 2 * self._amplitude
        np.exp(kernel, out=kernel)
        kernel += a[:, :n] @ self._lines.astype(dtype) @ b[:, :n].T
        for columns, lengths, smooth, straight in self._scales:
            scale = (1 / lengths).astype(dtype)
            kernel += straight * (a[:, columns] @ b[:, columns].T)
            kernel += smooth * _bell(a[:, columns] * scale, b[:, columns] * scale)
        return kernel

    def _diagonal(self, inputs: FloatArray) -> FloatArray:
        encoded = inputs[:, : self.encoding.n_columns]
        logs = encoded @ np.diag(self._log_product)
        linear = np.einsum("ij,ij->i", encoded @ self._lines, encoded)
        diagonal: FloatArray = np.exp(logs + 2 * self._amplitude) + linear
        for columns, _, smooth, straight in self._scales:
            diagonal += smooth + straight * (inputs[:, columns] ** 2).sum(axis=1)
        return diagonal

    def _loss(
        self, vector: FloatArray, inputs: FloatArray, target: FloatArray
    ) -> tuple[float, FloatArray]:
        """Negative log posterior density up to a constant, and its gradient."""
        p = self._parameters(vector)
        n = len(target)
        encoded = inputs[:, : self.encoding.n_columns]
        product = encoded @ self._log_blocks(p) @ encoded.T
        product += 2 * p.amplitude
        np.exp(product, out=product)
        parts = [encoded @ linear @ encoded.T for linear in self._linear(p)]
        noise = np.exp(2 * p.noise)
        kernel = product + parts[0] + parts[1]
        bells, lines = [], []
        for columns, lengths, smooth, straight in self._measures(p):
            x = inputs[:, columns]
            bells.append(smooth * _bell(x / lengths, x / lengths))
            lines.append(straight * (x @ x.T))
            kernel += bells[-1] + lines[-1]
        kernel[np.diag_indices(n)] += noise + JITTER
        root = cholesky(kernel, lower=True)
        weights = cho_solve((root, True), target)
        offset = (vector - self._prior) / self._spread
        loss = 0.5 * target @ weights + np.log(np.diag(root)).sum() + 0.5 * offset @ offset

        # d loss = sum(slope * d kernel)
        slope = 0.5 * (cho_solve((root, True), np.eye(n)) - np.outer(weights, weights))
        weighted = slope * product
        gradient = offset / self._spread
        of_head, of_smooth, of_straight, of_length, of_share, *of_factors = (
            gradient[view] for view in self._views
        )
        of_head[0] += 2 * weighted.sum()
        of_head[1] += 2 * (slope * parts[0]).sum()
        of_head[2] += 2 * (slope * parts[1]).sum()
        of_head[3] += 2 * noise * np.trace(slope)
        i = 0
        for k, part in enumerate(self.encoding.columns):
            curved = slope * bells[k]
            of_smooth[k] += 2 * curved.sum()
            of_straight[k] += 2 * (slope * lines[k]).sum()
            for columns in part:
                x = inputs[:, columns] * np.exp(-p.lengths[i])
                of_length[i] += (curved * _distance(x, x)).sum()
                i += 1
        # Summed over the pairs of trials that have option u and option v of a choice.
        pairs = encoded.T @ (weighted @ encoded)
        shares = 1 / (1 + np.exp(-p.shares))
        similarities = self._similarities(p)
        for c, (start, group) in enumerate(
            zip(self.encoding.offsets, self.encoding.groups, strict=True)
        ):
            factor = np.exp(p.factors[group])
            block = slice(start, start + len(factor))
            by_similarity = pairs[block, block] / similarities[c]
            square = factor @ factor.T
            of_share[c] += shares[c] * (1 - shares[c]) * (by_similarity * (1 - square)).sum()
            by_factor = 2 * (1 - shares[c]) * (by_similarity @ factor) * factor
            of_factors[group] += by_factor.ravel()
        return float(loss), gradient


@dataclass(frozen=True, eq=False)
class Posterior:
    """A process conditioned on trials, ready to say what their results mean for candidates.

    A further trial costs one row, not a new factorisation: `extended`.

    Attributes:
        model: The kernel and its parameters.
        inputs: Of the trials, `(n, k)`.
        root: Cholesky root of their kernel, `(n, n)`.
        candidates: `(m, k)`.
        reduced: `root^-1 kernel(trials, candidates)`, as blocks of rows that add up to `(n, m)`.
        variance: Of the candidates, without noise, `(m,)`.
    """

    model: GaussianProcess
    inputs: FloatArray
    root: FloatArray
    candidates: FloatArray
    reduced: tuple[FloatArray, ...]
    variance: FloatArray

    @property
    def n_trials(self) -> int:
        """Trials that it is conditioned on."""
        return len(self.root)

    def extended(self, inputs: FloatArray) -> Posterior:
        """Condition on one more trial, `(k,)`."""
        model, row = self.model, inputs[None]
        n = len(self.root)
        step = solve_triangular(self.root, model._kernel(self.inputs, row)[:, 0], lower=True)
        own = float(model._diagonal(row)[0]) + model._noise + JITTER
        height = np.sqrt(max(own - float(step @ step), JITTER))
        root = np.zeros((n + 1, n + 1))
        root[:n, :n], root[n, :n], root[n, n] = self.root, step, height
        new = model._kernel(row, self.candidates)[0] - self._project(step)
        new /= height
        first, *later = self.reduced
        return replace(
            self,
            inputs=np.concatenate([self.inputs, row]),
            root=root,
            reduced=(first, np.concatenate([*later, new[None]])),
            variance=self.variance - new**2,
        )

    def predict(self, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of an evaluation of the candidates, `(m,)` each.

        The deviation includes what no genotype explains: another network differs by that too.

        Args:
            values: What the trials gave, `(n,)`; the predictions are in their unit.
        """
        target, mean, scale = _standardised(values)
        weights = solve_triangular(self.root, target, lower=True)
        deviation = np.sqrt(np.maximum(self.variance, 0.0) + self.model._noise)
        return self._project(weights) * scale + mean, deviation * scale

    def predict_at(self, inputs: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The same for other networks, `(j, k)`, in single precision: most time goes here."""
        kernel = self.model._kernel(
            inputs, self.inputs, np.float32
        ).T  # as LAPACK wants it: no copy
        root = self.root.astype(np.float32)
        reduced = solve_triangular(root, kernel, lower=True, overwrite_b=True, check_finite=False)
        variance = self.model._diagonal(inputs) - np.einsum("ij,ij->j", reduced, reduced)
        other = replace(self, candidates=inputs, reduced=(reduced,), variance=variance)
        return other.predict(values)

    def _project(self, weights: FloatArray) -> FloatArray:
        """`weights @ reduced`, `(m,)`."""
        first, *later = self.reduced
        projected: FloatArray = np.matmul(weights[: len(first)], first)
        for rows in later:
            projected = projected + np.matmul(weights[len(first) :], rows)
        return projected


def _distance(a: FloatArray, b: FloatArray) -> FloatArray:
    """Squared distances, `(len(a), len(b))`."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    distance: FloatArray = np.maximum(squares, 0.0)
    return distance


def _bell(a: FloatArray, b: FloatArray) -> FloatArray:
    """1 where rows are equal, near 0 where they lie some units apart."""
    bell: FloatArray = np.exp(-0.5 * _distance(a, b))
    return bell


def _standardised(values: FloatArray) -> tuple[FloatArray, float, float]:
    """Values with mean 0 and deviation 1, and what they had; a constant is left at 0."""
    mean, scale = float(values.mean()), float(values.std())
    scale = max(scale, 1e-9 * max(abs(mean), 1.0))
    return (values - mean) / scale, mean, scale
