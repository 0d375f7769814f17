"""Rooflines of groups of kernels, fitted to sums over networks and to kernels on their own.

Reference:
    Williams, Waterman, Patterson, Roofline, CACM 52(4), 2009.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.evidence import MIN_MS, Evidence

FloatArray = NDArray[np.float64]
N_TERMS = 3
N_REWEIGHTINGS, MIN_RESIDUAL = 5, 0.02
RIDGE = 1e-3
# What a kernel in place counts beside a network: its profile contains the profiler's own time.
KERNEL_WEIGHT = 0.1
SMALLEST = 0.1
MAX_KERNELS = 4000  # in place, evenly taken: more say nothing new about straight lines


@dataclass(frozen=True)
class Rooflines:
    """latency = launch + a · macs + b · bytes, by group.

    Attributes:
        terms: ms per launch, MAC and byte, none negative, `(3,)` by group.
        fallback: The same for groups that were never measured.
        run_ms: What a run costs beside its kernels.
    """

    terms: dict[str, FloatArray]
    fallback: FloatArray
    run_ms: float

    def latency_ms(self, x: FloatArray, groups: NDArray[np.str_]) -> FloatArray:
        """Of kernels with these `work` terms, `(n, 3)`, and groups, `(n,)`; at least `MIN_MS`."""
        lines = np.array([self.terms.get(str(name), self.fallback) for name in groups])
        return np.asarray(np.maximum((x * lines.reshape(-1, N_TERMS)).sum(axis=1), MIN_MS))


def fit_rooflines(evidence: Evidence) -> Rooflines:
    """By least absolute relative errors of whole networks and, counting less, of kernels in place.

    A kernel in place has the profiler's own time in it: it is fitted with it and left out.
    """
    names = sorted(set(evidence.groups.tolist()))
    x = evidence.work
    columns = [(evidence.groups == name) * x[:, term] for name in names for term in range(N_TERMS)]
    of_kernel = np.stack(columns, axis=1)  # (n_kernels, 3 · groups)
    # The smallest read as the profiler's own time: they say nothing of what a launch costs.
    least = np.nanquantile(evidence.in_place_ms, SMALLEST) if evidence.has_in_place.any() else 0.0
    seen = np.flatnonzero(evidence.in_place_ms >= 2 * least)
    in_place = seen[:: max(1, -(-len(seen) // MAX_KERNELS))]
    # Columns: the groups' terms, what a run costs, what a profile adds to each kernel.
    n_networks, n_kernels = len(evidence.latency_ms), len(in_place)
    networks = np.hstack(
        [evidence.counts @ of_kernel, np.ones((n_networks, 1)), np.zeros((n_networks, 1))]
    )
    kernels = np.hstack([of_kernel[in_place], np.zeros((n_kernels, 1)), np.ones((n_kernels, 1))])
    rows = np.vstack(
        [
            networks / evidence.latency_ms[:, None],
            kernels / evidence.in_place_ms[in_place, None],
        ]
    )
    importance = np.concatenate([np.ones(n_networks), np.full(n_kernels, KERNEL_WEIGHT)])
    found = _least_absolute(rows, importance)
    lines = found[: N_TERMS * len(names)].reshape(-1, N_TERMS)
    run_ms = float(found[N_TERMS * len(names)])
    terms = dict(zip(names, lines, strict=True))
    of_each = np.maximum(
        (x * np.array([terms[str(g)] for g in evidence.groups])).sum(axis=1), MIN_MS
    )
    fallback = _least_absolute(x / of_each[:, None], np.ones(len(x)))
    return Rooflines(terms, fallback, run_ms)


def _least_absolute(x: FloatArray, importance: FloatArray) -> FloatArray:
    """Non-negative coefficients for which `x @ coef` is near 1 in every row."""
    from scipy.optimize import nnls

    scale = np.abs(x).mean(axis=0)
    scale[scale == 0] = np.inf  # a column of zeros: its coefficient is 0
    z = x / scale
    weights = importance.copy()
    coef = np.zeros(x.shape[1])
    for _ in range(N_REWEIGHTINGS):
        gram = z.T @ (weights[:, None] * z)
        gram += RIDGE * weights.sum() * np.diag(np.full(len(gram), 1 / len(gram)))
        root = np.linalg.cholesky(gram)  # nnls of the root costs the same for any number of rows
        coef, _ = nnls(root.T, np.linalg.solve(root, z.T @ weights))
        weights = importance / np.maximum(np.abs(z @ coef - 1), MIN_RESIDUAL)
    return np.asarray(coef / scale, dtype=np.float64)
