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
# What a kernel in place counts beside a network: what is left of its profile scatters.
KERNEL_WEIGHT = 0.1
MIN_NETWORKS = 4  # to tell what a run costs from what a profile adds to each kernel
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


def fit_rooflines(evidence: Evidence) -> tuple[Rooflines, float]:
    """By least absolute relative errors of networks and, counting less, of kernels in place.

    Returns:
        The rooflines, and what a profile adds to the time of each kernel, in ms; below 0 where it
        leaves out a part of what the runtime does between two.
    """
    run_ms, profile_ms = _run_and_profile_ms(evidence)
    names = sorted(set(evidence.groups.tolist()))
    x = evidence.work
    columns = [(evidence.groups == name) * x[:, term] for name in names for term in range(N_TERMS)]
    of_kernel = np.stack(columns, axis=1)  # (n_kernels, 3 · groups)
    # Of shorter ones, what the profiler adds hides too much for relative errors.
    readable = np.flatnonzero(evidence.in_place_ms - profile_ms > max(profile_ms, MIN_MS))
    in_place = readable[:: max(1, -(-len(readable) // MAX_KERNELS))]
    own_ms = evidence.in_place_ms[in_place] - profile_ms
    rows = np.vstack(
        [
            evidence.counts @ of_kernel / evidence.latency_ms[:, None],
            of_kernel[in_place] / own_ms[:, None],
        ]
    )
    # Of a run: known, or one more column.
    run = np.concatenate([1 / evidence.latency_ms, np.zeros(len(in_place))])
    target = np.ones(len(run)) - (run_ms or 0.0) * run
    if run_ms is None:
        rows = np.column_stack([rows, run])
    importance = np.concatenate(
        [np.ones(len(evidence.latency_ms)), np.full(len(in_place), KERNEL_WEIGHT)]
    )
    found = _least_absolute(rows, target, importance)
    lines = found[: of_kernel.shape[1]].reshape(-1, N_TERMS)
    if run_ms is None:
        run_ms = float(found[-1])
    terms = dict(zip(names, lines, strict=True))
    of_each = np.maximum(
        (x * np.array([terms[str(g)] for g in evidence.groups])).sum(axis=1), MIN_MS
    )
    fallback = _least_absolute(x / of_each[:, None], np.ones(len(x)), np.ones(len(x)))
    return Rooflines(terms, fallback, run_ms), profile_ms


def _run_and_profile_ms(evidence: Evidence) -> tuple[float | None, float]:
    """What a run costs beside its kernels (None: not shown), and what a profile adds to each.

    A network's latency is measured without a profiler, its kernels with one. So over networks with
    few and with many kernels, `latency - sum of kernels = run - n · profile`.
    """
    shown = evidence.profiled_ms > 0
    n_kernels = np.asarray(evidence.counts.sum(axis=1)).ravel()[shown]
    if len(set(n_kernels.tolist())) < MIN_NETWORKS:
        return None, 0.0
    from profilers.overhead import per_run_and_kernel  # measuring comes with it

    latency_ms = evidence.latency_ms[shown]
    run_ms, per_kernel_ms = per_run_and_kernel(
        latency_ms, evidence.profiled_ms[shown], n_kernels, n_reweightings=N_REWEIGHTINGS - 1
    )
    # No run costs more than the fastest network takes.
    return float(np.clip(run_ms, 0.0, latency_ms.min())), -per_kernel_ms


def _least_absolute(x: FloatArray, y: FloatArray, importance: FloatArray) -> FloatArray:
    """Non-negative coefficients for which `x @ coef` is near `y` in every row."""
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
        coef, _ = nnls(root.T, np.linalg.solve(root, z.T @ (weights * y)))
        weights = importance / np.maximum(np.abs(z @ coef - y), MIN_RESIDUAL)
    return np.asarray(coef / scale, dtype=np.float64)
