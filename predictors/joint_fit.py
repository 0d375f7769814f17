"""What single kernels cost, learned from whole networks and from kernels in place together.

A kernel of a microsecond cannot be read off a profile: the profiler's own time around it is twice
as long. But a network's latency, measured without a profiler, is the sum of what its kernels take,
and repeats to a percent. So both are observations of one model:

    log latency(network) = log (run + sum of exp(log roofline(k) + f(k))) + g(network) + noise
    log (in place(k) - overhead) = log roofline(k) + f(k) + noise
    log (alone(k) - overhead) = factor(group) + log roofline(k) + f(k) + noise

f is a Gaussian process per group of kernels, g a piecewise linear function of what the network is
as a whole. The first line is linearised a few times (Gauss-Newton); what disagrees counts less
(Huber). A kernel whose reading is much further off than noise explains enters its networks' sums as
it was read: else other kernels of theirs would have to answer for it.

Reference:
    Bishop, Pattern Recognition and Machine Learning, 2006, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
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
ALONE_NOISE = 0.05
# Kernels measured both ways; so many more are as good as given in which alone and in place agree.
MIN_BOTH_WAYS, AGREEING = 3, 3
# Of the kernels: the small ones show what a profile adds to all, the large ones how exact it is.
SMALL_SHARE, LARGE_SHARE = 0.5, 0.3
# In units of the noise of the overhead. Smaller kernels say nothing alone, nor do those that take
# less than what the profile adds to them: that differs between kinds.
READABLE = 3
MAX_CORRECTION = 2.0
NOISE_FACTOR = 1.5  # standard deviation over median absolute error, of normal errors
# Deviations from which on a kernel's latency is in part its own, in units of the reading's noise.
OWN_FROM = 2.0
OWN_FADES = 0.5  # such a kernel says so much less about others, by the own part of its logarithm
MAX_STEP = 2.0  # of one iteration, as a share of a kernel's latency


@dataclass(frozen=True)
class ProfilerOverhead:
    """What a profile adds to the time of every kernel, in a network or alone.

    Attributes:
        ms: On average; below 0 where a profile leaves out what the runtime does between kernels.
        noise_ms: Standard deviation.
    """

    ms: float = 0.0
    noise_ms: float = 0.0

    def own_ms(self, profiled_ms: FloatArray) -> FloatArray:
        """What is left of profiled times without it, at least half of the noise, `(n,)`."""
        return np.maximum(profiled_ms - self.ms, max(self.noise_ms / 2, MIN_MS))

    def is_readable(self, profiled_ms: FloatArray) -> BoolArray:
        """Whether a profile says enough of a kernel, `(n,)`; False for nan."""
        return np.asarray(profiled_ms - self.ms > max(READABLE * self.noise_ms, self.ms))

    def noise_alone(self, profiled_ms: FloatArray) -> FloatArray:
        """Standard deviation of the logarithm of `own_ms` of kernels measured alone, `(n,)`."""
        return np.asarray(np.hypot(ALONE_NOISE, self.noise_ms / self.own_ms(profiled_ms)))


@dataclass(frozen=True)
class JointFit:
    """What `fit_jointly` found.

    Attributes:
        rooflines: By group, and what a run costs beside its kernels.
        processes: The corrections f, by group.
        alone_factor: Log of what a kernel takes alone over what it takes in place, by group; 0 for
            all others.
        overhead: Of a profile.
    """

    rooflines: Rooflines
    processes: dict[str, GroupProcess]
    alone_factor: dict[str, float]
    overhead: ProfilerOverhead = ProfilerOverhead()


def fit_jointly(evidence: Evidence) -> tuple[JointFit, NetworkCorrection]:
    """Fit rooflines, the corrections f and g, and overheads to all measurements at once."""
    rooflines, profile_ms = fit_rooflines(evidence)
    base = np.log(rooflines.latency_ms(evidence.work, evidence.groups))
    sums = evidence.counts @ kernel_terms(evidence.kernels)
    network = NetworkCorrection.prior(sums)
    weights = _Weights(evidence, np.exp(base), network.basis(sums))
    observed = np.log(evidence.latency_ms)
    factor: dict[str, float] = {}
    overhead = ProfilerOverhead()
    for _ in range(N_ITERATIONS):
        kernel_ms = np.exp(base + weights.of_kernels)
        overhead = _overhead(evidence, kernel_ms, profile_ms)
        readings = _Readings.of(evidence, kernel_ms, overhead)
        total = evidence.counts @ (kernel_ms * np.exp(readings.own)) + rooflines.run_ms
        # Of those that are read as something else, networks say nothing.
        learnt_ms = np.where(readings.own == 0, kernel_ms, 0.0)
        share = evidence.counts.multiply(learnt_ms[None, :]).multiply(1 / total[:, None]).tocsr()
        rows = weights.rows(share)
        error = observed - np.log(total) - weights.of_networks
        # Linear around the present weights: what they explain by way of the sum is added back.
        target = observed - np.log(total) + rows @ weights.mean - weights.of_networks
        equations = _Equations(weights.size)
        equations.add(rows, target, _huber(error, NETWORK_NOISE))
        _add_in_place(equations, weights, base, kernel_ms, readings)
        factor = _add_alone(equations, weights, evidence, base, kernel_ms, overhead)
        weights.solve(equations)
    return (
        JointFit(rooflines, weights.posterior(), factor, overhead),
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
    """The weights of all parts in one vector: groups of kernels, then the network's."""

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
        self.size = self.network.stop
        self.basis = basis
        self.n_kernels = len(evidence.kernels)
        self.mean = np.zeros(self.size)

    def rows(self, share: csr_array) -> FloatArray:
        """By how much each weight changes the logarithm of each network's latency."""
        found = np.zeros((share.shape[0], self.size))
        for of_group, _, phi, columns in self.groups.values():
            found[:, columns] = share[:, np.flatnonzero(of_group)] @ phi
        found[:, self.network] = self.basis
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


def _overhead(evidence: Evidence, kernel_ms: FloatArray, overhead_ms: float) -> ProfilerOverhead:
    """What a profile adds to a kernel, and how it scatters over the smallest that are shown."""
    seen = evidence.has_in_place
    if not seen.any():
        return ProfilerOverhead(overhead_ms)
    small = seen & (kernel_ms <= np.quantile(kernel_ms[seen], SMALL_SHARE))
    off = np.abs(evidence.in_place_ms - kernel_ms - overhead_ms)
    return ProfilerOverhead(overhead_ms, NOISE_FACTOR * float(np.median(off[small])))


@dataclass(frozen=True)
class _Readings:
    """What profiles say of kernels in place, against what is believed of them.

    Attributes:
        seen: Which kernels a profile shows, `(n,)`.
        off: By how much more they take than believed, as a share of that, `(n,)`.
        noise: Standard deviation of `off`, `(n,)`.
        own: What of the logarithm of a kernel's latency is its own and no function of features: how
            much further off its reading is than noise explains, `(n,)`. Minimising over it makes
            squares Huber's loss (She, Owen, JASA 2011).
    """

    seen: BoolArray
    off: FloatArray
    noise: FloatArray
    own: FloatArray

    @classmethod
    def of(cls, evidence: Evidence, kernel_ms: FloatArray, overhead: ProfilerOverhead) -> _Readings:
        """Without the profiler's own time.

        Linear around what is believed of them now, not in logarithms: the reading of a kernel
        shorter than the scatter of that time may be anything, but all together say what it takes.
        """
        seen = evidence.has_in_place
        read_ms = np.where(seen, evidence.in_place_ms - overhead.ms, kernel_ms)
        off = np.clip(read_ms / kernel_ms - 1, -1.0, MAX_STEP)
        relative = MIN_KERNEL_NOISE
        if seen.any():
            large = seen & (kernel_ms >= np.quantile(kernel_ms[seen], 1 - LARGE_SHARE))
            relative = float(
                np.clip(
                    NOISE_FACTOR * np.median(np.abs(off[large])), MIN_KERNEL_NOISE, MAX_KERNEL_NOISE
                )
            )
        noise = np.hypot(relative, overhead.noise_ms / kernel_ms)
        log_off = np.log(np.maximum(read_ms, MIN_MS) / kernel_ms)
        exact = seen & overhead.is_readable(np.where(seen, evidence.in_place_ms, 0.0))
        excess = np.maximum(np.abs(log_off) - OWN_FROM * noise, 0.0)
        return cls(seen, off, noise, np.where(exact, np.sign(log_off) * excess, 0.0))


def _add_in_place(
    equations: _Equations,
    weights: _Weights,
    base: FloatArray,
    kernel_ms: FloatArray,
    readings: _Readings,
) -> None:
    """Observe kernels in place."""
    is_like_others = np.exp(-np.abs(readings.own) / OWN_FADES)
    precision = _huber(readings.off, readings.noise) * is_like_others
    for of_group, _, phi, columns in weights.groups.values():
        at = np.flatnonzero(of_group & readings.seen)
        target = np.log(kernel_ms[at]) - base[at] + readings.off[at]
        equations.add(phi[readings.seen[of_group]], target, precision[at], columns)


def _add_alone(
    equations: _Equations,
    weights: _Weights,
    evidence: Evidence,
    base: FloatArray,
    kernel_ms: FloatArray,
    overhead: ProfilerOverhead,
) -> dict[str, float]:
    """Observe kernels that were measured alone; what that changes, by group."""
    alone = evidence.has_alone & overhead.is_readable(evidence.alone_ms)
    profiled_ms = np.where(alone, evidence.alone_ms, 1.0)
    ratio = np.log(overhead.own_ms(profiled_ms)) - np.log(kernel_ms)
    noise = overhead.noise_alone(profiled_ms)
    both = alone & evidence.has_in_place & (noise <= MAX_KERNEL_NOISE)
    factor = {}
    for name, (of_group, _, phi, columns) in weights.groups.items():
        n_both = int((both & of_group).sum())
        if n_both >= MIN_BOTH_WAYS:
            median = float(np.median(ratio[both & of_group]))
            factor[name] = median * n_both / (n_both + AGREEING)
        rows = alone[of_group]
        at = np.flatnonzero(of_group)[rows]
        off = ratio[at] - factor.get(name, 0.0)
        target = np.log(kernel_ms[at]) - base[at] + off
        equations.add(phi[rows], target, _huber(off, noise[at]), columns)
    return factor
