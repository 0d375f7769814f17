"""Plain predictors of network latency: what a learned one must beat to earn its place.

All follow `LatencyModel`. Those that know kernels sum them and add an `Overhead`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from predictors.errors import NotFittedError, PredictorError
from predictors.features import group, work
from profilers.kernels import Kernel
from profilers.measurement import NetworkMeasurement

FloatArray = NDArray[np.float64]
KernelTimes = Callable[[Sequence[Kernel]], FloatArray]  # kernels to ms, (n,)

MIN_OF_A_GROUP = 6  # fewer kernels of a group are treated as those of all together
QUANTILE = 0.25  # of the measurements of a kernel: disturbances only ever add time
MIN_MS = 1e-4
MIN_SHARE = 0.05  # of the sum of kernels: what a negative overhead leaves at least
RIDGE = 1e-4
N_REWEIGHTINGS, MIN_RESIDUAL = 12, 0.01
ANY_GROUP = ""


class LatencyModel(Protocol):
    """Predicts the latency of networks on the target that it was fitted on."""

    def fit(self, measurements: Sequence[NetworkMeasurement]) -> Self:
        """Learn from at least one measured network.

        Raises:
            PredictorError: There are too few.
        """

    def predict(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        """Latencies in ms of n networks, each given by its kernels in running order, `(n,)`.

        Raises:
            NotFittedError: `fit` was not called.
        """


@dataclass(frozen=True)
class Overhead:
    """What a run costs beside its kernels: latency = a · (sum of kernels) + b · n_kernels + c.

    Attributes:
        factor: a; drawn to 1 where data is scarce.
        per_kernel_ms: b; may be negative, as the profiler's own clock is in the kernels' times.
        per_run_ms: c.
    """

    factor: float
    per_kernel_ms: float
    per_run_ms: float

    @classmethod
    def fit(cls, kernel_ms: KernelTimes, measurements: Sequence[NetworkMeasurement]) -> Overhead:
        """Least absolute relative errors, by reweighting, so that single bad ones bend nothing."""
        sums, counts = _sums(kernel_ms, kernels_of(measurements))
        measured = measured_ms(measurements)
        x = np.column_stack([sums, counts, np.ones(len(sums))]) / measured[:, None]
        prior = np.array([1.0, 0.0, 0.0])
        scale = np.maximum(np.abs(x).mean(axis=0), 1e-12)
        z, rest = x / scale, 1.0 - x @ prior
        weights, step = np.ones(len(z)), np.zeros(3)
        for _ in range(N_REWEIGHTINGS):
            zw = z * weights[:, None]
            step = np.linalg.solve(zw.T @ z + RIDGE * weights.sum() * np.eye(3), zw.T @ rest)
            weights = 1 / np.maximum(np.abs(rest - z @ step), MIN_RESIDUAL)
        factor, per_kernel, per_run = prior + step / scale
        return cls(float(factor), float(per_kernel), float(per_run))

    def predict(self, kernel_ms: KernelTimes, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        """Latencies in ms of n networks, `(n,)`, > 0."""
        sums, counts = _sums(kernel_ms, networks)
        ms = self.factor * sums + self.per_kernel_ms * counts + self.per_run_ms
        return np.asarray(np.maximum(ms, np.maximum(MIN_SHARE * sums, MIN_MS)))


class MedianLatency:
    """The median of all measured networks, whatever is asked: what knowing nothing costs."""

    def __init__(self) -> None:
        self.latency_ms_: float | None = None  # set by fit

    def fit(self, measurements: Sequence[NetworkMeasurement]) -> Self:
        """Take the median of at least one measured network."""
        check_enough(measurements)
        self.latency_ms_ = float(np.median(measured_ms(measurements)))
        return self

    def predict(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        """The same for each of n networks, in ms, `(n,)`."""
        if self.latency_ms_ is None:
            raise not_fitted(self)
        return np.full(len(networks), self.latency_ms_)


class MacsLinear:
    """A straight line in the network's multiply-accumulates, neither part of it negative."""

    def __init__(self) -> None:
        self.coef_: FloatArray | None = None  # (2,): ms, ms per MAC; set by fit

    def fit(self, measurements: Sequence[NetworkMeasurement]) -> Self:
        """Least squares of relative errors over at least one measured network."""
        check_enough(measurements)
        self.coef_ = fit_line(self._terms(kernels_of(measurements)), measured_ms(measurements))
        return self

    def predict(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        """Latencies in ms of n networks, `(n,)`."""
        if self.coef_ is None:
            raise not_fitted(self)
        return np.asarray(np.maximum(self._terms(networks) @ self.coef_, MIN_MS))

    @staticmethod
    def _terms(networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        counts = [work(kernels)[:, 1].sum() for kernels in networks]
        return np.column_stack([np.ones(len(counts)), np.array(counts, dtype=np.float64)])


class Roofline:
    """Each kernel costs launch + MACs + bytes at the speeds of its group; nothing is learned else.

    Groups are those of `features.group`; where fewer than `MIN_OF_A_GROUP` kernels of one were
    measured, the line of all holds.

    Reference:
        Williams, Waterman, Patterson, Roofline, CACM 52(4), 2009; as a sum instead of a maximum,
        since small kernels do not overlap the two.
    """

    def __init__(self) -> None:
        self.lines_: dict[str, FloatArray] = {}  # by group: ms per launch, MAC and byte, (3,)
        self.overhead_: Overhead | None = None

    def fit(self, measurements: Sequence[NetworkMeasurement]) -> Self:
        """Learn the speeds from the kernels of at least one measured network."""
        kernels, ms = distinct_kernels(measurements)
        terms = work(kernels)
        self.lines_ = {
            name: fit_line(terms[rows], ms[rows]) for name, rows in rows_by_group(kernels).items()
        }
        self.overhead_ = Overhead.fit(self.kernel_ms, measurements)
        return self

    def kernel_ms(self, kernels: Sequence[Kernel]) -> FloatArray:
        """Latencies of single kernels in ms, `(n,)`."""
        lines = [self.lines_.get(group(kernel), self.lines_[ANY_GROUP]) for kernel in kernels]
        ms = (work(kernels) * np.array(lines).reshape(-1, 3)).sum(axis=1)
        return np.asarray(np.maximum(ms, MIN_MS))

    def predict(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        """Latencies in ms of n networks, `(n,)`."""
        if self.overhead_ is None:
            raise not_fitted(self)
        return self.overhead_.predict(self.kernel_ms, networks)


class KernelLookup:
    """A table of measured kernels; one that is not in it costs what the nearest in size does.

    Nearest in logarithms of MACs and bytes, among its own group where that was measured.
    """

    def __init__(self) -> None:
        self.measured_ms_: dict[str, float] = {}  # by Kernel.key
        self.sizes_: dict[str, tuple[FloatArray, FloatArray]] = {}  # by group: (m, 2), ms (m,)
        self.overhead_: Overhead | None = None

    def fit(self, measurements: Sequence[NetworkMeasurement]) -> Self:
        """Keep the kernels of at least one measured network."""
        kernels, ms = distinct_kernels(measurements)
        sizes = self._size(kernels)
        self.measured_ms_ = dict(zip((k.key for k in kernels), ms.tolist(), strict=True))
        self.sizes_ = {
            name: (sizes[rows], ms[rows])
            for name, rows in rows_by_group(kernels, at_least=1).items()
        }
        self.overhead_ = Overhead.fit(self.kernel_ms, measurements)
        return self

    def kernel_ms(self, kernels: Sequence[Kernel]) -> FloatArray:
        """Latencies of single kernels in ms, `(n,)`."""
        found = np.empty(len(kernels))
        for i, (kernel, size) in enumerate(zip(kernels, self._size(kernels), strict=True)):
            measured = self.measured_ms_.get(kernel.key)
            if measured is None:
                sizes, ms = self.sizes_.get(group(kernel), self.sizes_[ANY_GROUP])
                measured = ms[np.square(sizes - size).sum(axis=1).argmin()]
            found[i] = measured
        return found

    def predict(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        """Latencies in ms of n networks, `(n,)`."""
        if self.overhead_ is None:
            raise not_fitted(self)
        return self.overhead_.predict(self.kernel_ms, networks)

    @staticmethod
    def _size(kernels: Sequence[Kernel]) -> FloatArray:
        return np.asarray(np.log1p(work(kernels)[:, 1:]))


def kernels_of(measurements: Sequence[NetworkMeasurement]) -> list[list[Kernel]]:
    """The kernels of each measured network, in running order."""
    return [[run.kernel for run in m.kernels] for m in measurements]


def measured_ms(measurements: Sequence[NetworkMeasurement]) -> FloatArray:
    """End-to-end latency of each measured network, `(n,)`."""
    return np.array([m.latency_ms for m in measurements], dtype=np.float64)


def distinct_kernels(
    measurements: Sequence[NetworkMeasurement],
) -> tuple[list[Kernel], FloatArray]:
    """Each kernel of these networks once, in order of appearance, and its latency in ms, `(n,)`.

    Raises:
        PredictorError: There is no network with kernels.
    """
    check_enough(measurements)
    kernels: dict[str, Kernel] = {}
    samples: dict[str, list[float]] = {}
    for measurement in measurements:
        for run in measurement.kernels:
            kernels[run.kernel.key] = run.kernel
            samples.setdefault(run.kernel.key, []).append(max(run.latency_ms, MIN_MS))
    if not kernels:
        raise PredictorError("none of the measured networks has kernels; measure others")
    return list(kernels.values()), np.array(
        [np.quantile(samples[key], QUANTILE) for key in kernels]
    )


def rows_by_group(
    kernels: Sequence[Kernel], *, at_least: int = MIN_OF_A_GROUP
) -> dict[str, NDArray[np.int64]]:
    """Positions of the kernels of each `features.group` that has enough; under `ANY_GROUP`, all."""
    groups = np.array([group(kernel) for kernel in kernels])
    rows = {str(name): np.flatnonzero(groups == name) for name in np.unique(groups)}
    enough = {name: found for name, found in rows.items() if len(found) >= at_least}
    return {ANY_GROUP: np.arange(len(kernels)), **enough}


def fit_line(terms: FloatArray, ms: FloatArray) -> FloatArray:
    """Coefficients of `terms` `(n, d)` for `ms` `(n,)`: relative least squares, none negative."""
    from scipy.optimize import nnls

    relative = terms / ms[:, None]
    scale = np.maximum(np.abs(relative).max(axis=0), 1e-300)
    coef, _ = nnls(relative / scale, np.ones(len(ms)))
    return np.asarray(coef / scale, dtype=np.float64)


def check_enough(measurements: Sequence[NetworkMeasurement]) -> None:
    """Raise `PredictorError` where there is nothing to learn from."""
    if not measurements:
        raise PredictorError("at least one measured network is needed, got none")


def not_fitted(model: object) -> NotFittedError:
    """The error of a `predict` that came too early."""
    return NotFittedError(f"{type(model).__name__}.predict was called before fit")


def _sums(
    kernel_ms: KernelTimes, networks: Sequence[Sequence[Kernel]]
) -> tuple[FloatArray, FloatArray]:
    """Sum of kernels in ms and their number, by network, `(n,)` each; each kernel is asked once."""
    position: dict[str, int] = {}
    distinct: list[Kernel] = []
    for kernels in networks:
        for kernel in kernels:
            if kernel.key not in position:
                position[kernel.key] = len(distinct)
                distinct.append(kernel)
    ms = kernel_ms(distinct) if distinct else np.zeros(0)
    sums = [float(ms[[position[k.key] for k in kernels]].sum()) if kernels else 0.0
            for kernels in networks]  # fmt: skip
    return np.array(sums), np.array([len(kernels) for kernels in networks], dtype=np.float64)
