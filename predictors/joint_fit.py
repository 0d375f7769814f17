"""What single kernels cost, learned from whole networks and from kernels in place together.

A kernel of a microsecond cannot be read off a profile: the profiler's own time around it is twice
as long. But a network's latency, measured without a profiler, is the sum of what its kernels take,
and repeats to a percent. So both are observations of one model:

    log latency(network) = log (run + sum of exp(log roofline(k) + f(k))) + g(network) + noise
    log (in place(k) - overhead) = log roofline(k) + f(k) + noise
    log alone(k) = factor(group) + log roofline(k) + f(k) + noise

f is a Gaussian process per group of kernels, g a piecewise linear function of what the network is
as a whole. The first line is linearised a few times (Gauss-Newton); what disagrees counts less
(Huber).

Reference:
    Bishop, Pattern Recognition and Machine Learning, 2006, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from predictors.evidence import MIN_MS, Evidence
from predictors.gaussian_process import GroupProcess
from predictors.network_correction import NetworkCorrection, kernel_terms
from predictors.rooflines import Rooflines, fit_rooflines

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# Of all groups together about, and of one: more for groups in which networks spend more time.
N_INDUCING, MIN_INDUCING, MAX_INDUCING = 2400, 12, 220
N_ITERATIONS = 4
NETWORK_NOISE, HUBER = 0.008, 2.0
MIN_KERNEL_NOISE, MAX_KERNEL_NOISE = 0.05, 0.3
ALONE_NOISE = 0.1
MIN_BOTH_WAYS = 3
# Of the kernels: the small ones show what a profile adds to all, the large ones how exact it is.
SMALL_SHARE, LARGE_SHARE = 0.5, 0.3
# In units of the noise of the overhead. Smaller kernels say nothing in place, nor do those that
# take less than what the profile adds to them: that differs between kinds.
READABLE = 3
MAX_CORRECTION = 2.0
RUN_STD, MAX_RUN = 0.5, 4.0  # of the logarithm of what a run costs beside its kernels
MIN_RUN_SHARE = 0.02  # of the fastest network
ANY_GROUP = ""


@dataclass(frozen=True)
class JointFit:
    """What `fit_jointly` found.

    Attributes:
        rooflines: By group, and what a run costs beside its kernels.
        processes: The corrections f, by group.
        alone_factor: Log of what a kernel takes alone over what it takes in place, by group; `""`
            holds for all others.
    """

    rooflines: Rooflines
    processes: dict[str, GroupProcess]
    alone_factor: dict[str, float]


def fit_jointly(evidence: Evidence) -> tuple[JointFit, NetworkCorrection]:
    """Fit rooflines, the corrections f and g, and overheads to all measurements at once."""
    rooflines = fit_rooflines(evidence)
    base = np.log(rooflines.latency_ms(evidence.work, evidence.groups))
    run = max(rooflines.run_ms, MIN_RUN_SHARE * float(evidence.latency_ms.min()))
    sums = evidence.counts @ kernel_terms(evidence.kernels)
    network = NetworkCorrection.prior(sums)
    weights = _Weights(evidence, np.exp(base), network.basis(sums))
    observed = np.log(evidence.latency_ms)
    factor = {ANY_GROUP: 0.0}
    for _ in range(N_ITERATIONS):
        kernel_ms = np.exp(base + weights.of_kernels)
        run_ms = run * np.exp(weights.of_run)
        total = evidence.counts @ kernel_ms + run_ms
        share = evidence.counts.multiply(kernel_ms[None, :]).multiply(1 / total[:, None]).tocsr()
        rows = weights.rows(share, run_ms / total)
        error = observed - np.log(total) - weights.of_networks
        # Linear around the present weights: what they explain by way of the sum is added back.
        target = observed - np.log(total) + rows @ weights.mean - weights.of_networks
        equations = _Equations(weights.size)
        equations.add(rows, target, _huber(error, NETWORK_NOISE))
        _add_in_place(equations, weights, evidence, base, kernel_ms)
        factor = _add_alone(equations, weights, evidence, base, kernel_ms)
        weights.solve(equations)
    rooflines = replace(rooflines, run_ms=float(run * np.exp(weights.of_run)))
    return (
        JointFit(rooflines, weights.posterior(), factor),
        network.with_weights(weights.mean[weights.network]),
    )


class _Equations:
    """Normal equations of a Bayesian linear regression with a standard normal prior."""

    def __init__(self, size: int) -> None:
        self.precision, self.right = np.eye(size), np.zeros(size)

    def add(
        self,
        rows: FloatArray,
        target: FloatArray,
        precision: FloatArray,
        columns: slice = slice(None),
    ) -> None:
        """Observe `rows @ weights[columns] = target`, each row with its precision."""
        weighted = rows * precision[:, None]
        self.precision[columns, columns] += rows.T @ weighted
        self.right[columns] += weighted.T @ target


class _Weights:
    """The weights of all parts in one vector: groups of kernels, the network's, the run's."""

    def __init__(self, evidence: Evidence, kernel_ms: FloatArray, basis: FloatArray) -> None:
        self.groups: dict[str, tuple[BoolArray, GroupProcess, FloatArray, slice]] = {}
        at = 0
        for name, n_inducing in _n_inducing(evidence, kernel_ms).items():
            of_group = evidence.groups == name
            process = GroupProcess.prior(evidence.x[of_group], n_inducing=n_inducing)
            phi = process.features(evidence.x[of_group])
            self.groups[name] = (of_group, process, phi, slice(at, at + phi.shape[1]))
            at += phi.shape[1]
        self.network = slice(at, at + basis.shape[1])
        self.size = self.network.stop + 1
        self.basis = basis
        self.n_kernels = len(evidence.kernels)
        self.mean = np.zeros(self.size)

    def rows(self, share: csr_array, run_share: FloatArray) -> FloatArray:
        """By how much each weight changes the logarithm of each network's latency."""
        found = np.zeros((share.shape[0], self.size))
        for of_group, _, phi, columns in self.groups.values():
            found[:, columns] = share[:, np.flatnonzero(of_group)] @ phi
        found[:, self.network] = self.basis
        found[:, -1] = RUN_STD * run_share
        return found

    @property
    def of_kernels(self) -> FloatArray:
        """The correction f of each kernel, `(n_kernels,)`."""
        found = np.zeros(self.n_kernels)
        for of_group, _, phi, columns in self.groups.values():
            found[of_group] = phi @ self.mean[columns]
        return np.clip(found, -MAX_CORRECTION, MAX_CORRECTION)

    @property
    def of_networks(self) -> FloatArray:
        """The correction g of each network, `(n_networks,)`."""
        return np.asarray(self.basis @ self.mean[self.network])

    @property
    def of_run(self) -> float:
        """The correction of what a run costs beside its kernels."""
        return float(np.clip(RUN_STD * self.mean[-1], -MAX_RUN, MAX_RUN))

    def solve(self, equations: _Equations) -> None:
        """Take over what the equations say."""
        from scipy.linalg import cho_factor, cho_solve  # slow to import

        self.factor = cho_factor(equations.precision)
        self.mean = cho_solve(self.factor, equations.right)

    def posterior(self) -> dict[str, GroupProcess]:
        """The processes of all groups, each with its own block of the covariance."""
        from scipy.linalg import cho_solve

        covariance = cho_solve(self.factor, np.eye(self.size))
        return {
            name: process.posterior(self.mean[columns], covariance[columns, columns])
            for name, (_, process, _, columns) in self.groups.items()
        }


def _n_inducing(evidence: Evidence, kernel_ms: FloatArray) -> dict[str, int]:
    """How many inducing kernels each group gets, by the root of its share of a network's time."""
    ms = evidence.counts.multiply(kernel_ms[None, :]).tocsr()
    total = np.maximum(ms.sum(axis=1), MIN_MS)  # a network may have no kernels
    share = np.asarray((ms / total[:, None]).mean(axis=0)).ravel()
    names = sorted(set(evidence.groups.tolist()))
    root = np.sqrt([share[evidence.groups == name].sum() for name in names])
    wanted = np.clip(N_INDUCING * root / root.sum(), MIN_INDUCING, MAX_INDUCING)
    return dict(zip(names, wanted.round().astype(int).tolist(), strict=True))


def _huber(error: FloatArray, noise: FloatArray | float) -> FloatArray:
    """Precision of observations with that noise; those further off than `HUBER` count less."""
    weight = 1 / np.maximum(np.abs(error) / (HUBER * noise), 1.0)
    return np.asarray(weight / np.square(noise), dtype=np.float64)


def _add_in_place(
    equations: _Equations,
    weights: _Weights,
    evidence: Evidence,
    base: FloatArray,
    kernel_ms: FloatArray,
) -> None:
    """Observe kernels in place, without the profiler's own time, where they are long enough."""
    seen = evidence.has_in_place
    if not seen.any():
        return
    extra = evidence.in_place_ms - kernel_ms
    small = seen & (kernel_ms <= np.quantile(kernel_ms[seen], SMALL_SHARE))
    overhead = float(np.median(extra[small]))
    noise_ms = 1.5 * float(np.median(np.abs(extra - overhead)[small]))
    own_ms = evidence.in_place_ms - overhead
    readable = seen & (own_ms > max(READABLE * noise_ms, overhead))
    if not readable.any():
        return
    log_ms = np.log(np.where(readable, own_ms, 1.0))
    large = readable & (kernel_ms >= np.quantile(kernel_ms[readable], 1 - LARGE_SHARE))
    off = np.median(np.abs(log_ms - np.log(kernel_ms))[large])
    relative = float(np.clip(1.5 * off, MIN_KERNEL_NOISE, MAX_KERNEL_NOISE))
    noise = np.hypot(relative, noise_ms / np.where(readable, own_ms, 1.0))
    precision = _huber(log_ms - np.log(kernel_ms), noise)
    for of_group, _, phi, columns in weights.groups.values():
        here = readable[of_group]
        at = np.flatnonzero(of_group)[here]
        equations.add(phi[here], (log_ms - base)[at], precision[at], columns)


def _add_alone(
    equations: _Equations,
    weights: _Weights,
    evidence: Evidence,
    base: FloatArray,
    kernel_ms: FloatArray,
) -> dict[str, float]:
    """Observe kernels that were measured alone; what that changes, by group."""
    alone = evidence.has_alone
    log_ms = np.log(np.where(alone, evidence.alone_ms, 1.0))
    both = alone & evidence.has_in_place
    ratio = log_ms - np.log(kernel_ms)
    over_all = float(np.median(ratio[both])) if both.sum() >= MIN_BOTH_WAYS else 0.0
    factor = {ANY_GROUP: over_all}
    for name, (of_group, _, phi, columns) in weights.groups.items():
        here = both & of_group
        if here.sum() >= MIN_BOTH_WAYS:
            factor[name] = float(np.median(ratio[here]))
        rows = alone[of_group]
        at = np.flatnonzero(of_group)[rows]
        target = (log_ms - base)[at] - factor.get(name, over_all)
        equations.add(
            phi[rows], target, _huber(ratio[at] - factor.get(name, over_all), ALONE_NOISE), columns
        )
    return factor
