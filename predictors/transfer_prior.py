"""What the devices that were measured say about one that was not: a prior over latency tables.

A new device is a draw from the population of the training devices. Its values at two rows
co-vary as the training devices do around their mean, plus what they cannot show: a part that is
linear in totals, in single choices, smooth, or arbitrary. How large each part is, is learned by
leaving out one training device after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from predictors.architectures import ArchitectureFeatures, FloatArray, IntArray
from predictors.smoothing import Curve

# Variances of: directions in which training devices differ, the second line below, and the four
# of `architectures.KERNELS`. They are pulled towards these, and are these if one device is known.
TYPICAL_PARTS = np.array([1.0, 0.01, 0.01, 0.003, 0.003, 0.003])
PULL = 1.0  # standard deviation of a log variance around the typical one
LOG_BOUNDS = (-16.0, 4.0)
WIDE_VARIANCE = 4.0  # of the level (the mean device times a number): whatever it is
N_SUBSAMPLE, N_SUBSAMPLES, MAX_ITERATIONS = 50, 3, 60
OUTLIER, MAX_OUTLIER = 4.0, 30.0  # in standard deviations of the noise
TYPICAL_OUTLIERS = (1.0, 20.0)  # as if one in twenty had been seen before
MIN_NOISE, LOWEST = 1e-4, 0.1
JITTER = 1e-6
MAX_CURVE, MAX_SIZE = 100.0, 1e3  # means are 1, or 0 on the scale of logarithms


@dataclass(frozen=True)
class Prior:
    """A Gaussian prior over a new device's table, on a scale without a unit.

    Attributes:
        features: All n architectures.
        is_log: Values are logarithms, else multiples of the device's mean latency.
        curves: The training devices, `(t, n)`.
        parts: Variances as in `TYPICAL_PARTS`.
        noise: Relative standard deviation of each training device's noise, `(t,)`; multiplied by
            the square root of the value where values are not logarithms: the noise of a latency
            grows with it, but slower.
        outlier_share: How often a measurement is an outlier.
        outlier_size: Its standard deviation over that of the noise.
    """

    features: ArchitectureFeatures
    is_log: bool
    curves: FloatArray
    parts: FloatArray
    noise: FloatArray
    outlier_share: float
    outlier_size: float

    @property
    def mean(self) -> FloatArray:
        """The mean device, `(n,)`."""
        return np.asarray(self.curves.mean(axis=0))

    def covariance(self, rows_a: IntArray, rows_b: IntArray) -> tuple[FloatArray, FloatArray]:
        """Covariance of the values, `(a, b)` each: as the training devices differ, with any level;
        and what they cannot show."""
        parts, level = _parts(self.features, self.curves, self.is_log, rows_a, rows_b)
        return self.parts[0] * parts[0] + level, np.tensordot(self.parts[1:], parts[1:], 1)

    def variance(self) -> tuple[FloatArray, FloatArray]:
        """The diagonals of `covariance` over the whole table, `(n,)` each."""
        mean, deviations = _directions(self.curves)
        one, squares = np.ones(len(mean)), np.square(deviations).sum(axis=0)
        tilt, level = (mean**2, one) if self.is_log else (one, mean**2)
        parts = np.stack([squares, tilt, *self.features.self_kernels()])
        return self.parts[0] * parts[0] + WIDE_VARIANCE * level, self.parts[1:] @ parts[1:]

    def noise_shape(self, rows: IntArray | slice) -> FloatArray:
        """What the relative noise is multiplied by, at each row."""
        return _noise_shape(self.mean[rows], self.is_log)

    def to_data(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """As plain data and arrays, without the features."""
        data = {
            "is_log": self.is_log,
            "outlier_share": self.outlier_share,
            "outlier_size": self.outlier_size,
        }
        return data, {"curves": self.curves, "parts": self.parts, "noise": self.noise}

    @classmethod
    def from_data(
        cls,
        features: ArchitectureFeatures,
        data: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
    ) -> Prior:
        """Rebuild from `to_data`.

        Raises:
            KeyError, TypeError, ValueError: It was not written by it.
        """
        curves, parts, noise = (
            np.asarray(arrays[name], np.float64) for name in ("curves", "parts", "noise")
        )
        is_log, share, size = (
            data["is_log"],
            float(data["outlier_share"]),
            float(data["outlier_size"]),
        )
        if not isinstance(is_log, bool) or not 0 < share < 1 or not 0 < size <= MAX_SIZE:
            raise ValueError("its scale and its outliers are no prior's")
        if curves.ndim != 2 or not len(curves) or curves.shape[1] != len(features):
            raise ValueError("its curves are not those of its architectures")
        if noise.shape != curves.shape[:1] or parts.shape != TYPICAL_PARTS.shape:
            raise ValueError("its noise and its variances are not those of its curves")
        lowest = -MAX_CURVE if is_log else 0.0
        if (
            not ((curves > lowest) & (curves < MAX_CURVE)).all()
            or not ((noise > 0) & (noise < MAX_CURVE)).all()
        ):
            raise ValueError("its curves are no latencies")
        low, high = np.exp(LOG_BOUNDS)
        if not ((parts >= low / 2) & (parts <= high * 2)).all():
            raise ValueError("its variances are outside of what is learned")
        return cls(features, is_log, curves, parts, noise, share, size)

    def without(self, device: int) -> Prior:
        """The same, of the other training devices."""
        return Prior(
            self.features, self.is_log, np.delete(self.curves, device, axis=0), self.parts,
            np.delete(self.noise, device), self.outlier_share, self.outlier_size,
        )  # fmt: skip


def learn_prior(
    features: ArchitectureFeatures, curves: Sequence[Curve], *, is_log: bool, seed: int
) -> Prior:
    """Centre the curves of t training devices, and learn how a further device may differ.

    Args:
        features: All n architectures.
        curves: Of the training devices, at least one; from `smooth`, of logarithms or of
            latencies over their mean.
        is_log: Which of the two.
        seed: Of the rows on which it is learned.
    """
    centred = [_centre(curve, is_log) for curve in curves]
    values = np.stack([curve.values for curve in centred])
    noise, residuals = [], []
    for curve in centred:
        at_rows = curve.values[curve.rows]
        shape = _noise_shape(at_rows, is_log)
        std = MIN_NOISE + float(np.sqrt(np.mean(np.square((curve.clipped - at_rows) / shape))))
        noise.append(std)
        residuals.append(np.abs(curve.sample - at_rows) / shape / std)
    size = np.minimum(np.concatenate(residuals), MAX_OUTLIER)
    outliers = size[size > OUTLIER]
    seen, of = TYPICAL_OUTLIERS
    return Prior(
        features,
        is_log,
        values,
        _learn_parts(features, centred, np.array(noise), is_log=is_log, seed=seed),
        np.array(noise),
        (len(outliers) + seen) / (len(size) + of),
        float(np.sqrt(np.mean(np.square([*outliers, 2 * OUTLIER])))),
    )


def _centre(curve: Curve, is_log: bool) -> Curve:
    level = curve.values.mean()
    if is_log:
        return Curve(curve.values - level, curve.rows, curve.sample - level, curve.clipped - level)
    lowest = 0.5 * max(float(curve.clipped.min()), 0.0)  # a latency is never 0 or less
    values = np.maximum(curve.values / level, max(lowest / level, 1e-3))
    return Curve(values, curve.rows, curve.sample / level, curve.clipped / level)


def _noise_shape(values: FloatArray, is_log: bool) -> FloatArray:
    return np.ones_like(values) if is_log else np.sqrt(np.maximum(values, LOWEST))


def _directions(curves: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean device `(n,)`, and deviations from it whose outer product is the covariance `(t, n)`."""
    mean = curves.mean(axis=0)
    return mean, (curves - mean) / np.sqrt(max(len(curves) - 1, 1))


def _parts(
    features: ArchitectureFeatures,
    curves: FloatArray,
    is_log: bool,
    rows_a: IntArray,
    rows_b: IntArray,
) -> tuple[FloatArray, FloatArray]:
    mean, deviations = _directions(curves)
    shared = deviations[:, rows_a].T @ deviations[:, rows_b]
    one = np.ones_like(shared)
    proportional = np.outer(mean[rows_a], mean[rows_b])
    # The unit of a device is a factor of its latency: a summand on the scale of logarithms.
    tilt, level = (proportional, one) if is_log else (one, proportional)
    parts = np.concatenate([[shared, tilt], features.kernels(rows_a, rows_b)])
    return parts, WIDE_VARIANCE * level


def _learn_parts(
    features: ArchitectureFeatures,
    curves: Sequence[Curve],
    noise: FloatArray,
    *,
    is_log: bool,
    seed: int,
) -> FloatArray:
    """Variances under which each device is likeliest, given all others (leave one out).

    Reference:
        Rasmussen, Williams, 2006, eq. 5.9: the gradient of the marginal likelihood.
    """
    if len(curves) < 2:
        return TYPICAL_PARTS
    rng = np.random.default_rng([seed, len(curves)])
    values = np.stack([curve.values for curve in curves])
    n = min(N_SUBSAMPLE, *(len(curve.rows) for curve in curves))
    stacks, fixed, residuals = [], [], []
    for device, curve in enumerate(curves):
        others = np.delete(values, device, axis=0)
        for _ in range(N_SUBSAMPLES):
            at = rng.choice(len(curve.rows), n, replace=False)
            rows = curve.rows[at]
            mean = others.mean(axis=0)[rows]
            parts, level = _parts(features, others, is_log, rows, rows)
            variance = np.square(noise[device] * _noise_shape(mean, is_log)) + JITTER
            stacks.append(parts)
            fixed.append(level + np.diag(variance))
            residuals.append(curve.clipped[at] - mean)
    kernels, rest, residual = np.stack(stacks), np.stack(fixed), np.stack(residuals)

    def cost(log_parts: FloatArray) -> tuple[float, FloatArray]:
        parts = np.exp(log_parts)
        covariance = np.einsum("g,sgij->sij", parts, kernels) + rest
        inverse = np.linalg.inv(covariance)
        weights = np.einsum("sij,sj->si", inverse, residual)
        log_determinants = np.linalg.slogdet(covariance)[1]
        value = 0.5 * (float(np.sum(residual * weights)) + float(log_determinants.sum()))
        inner = inverse - weights[:, :, None] * weights[:, None, :]
        gradient = 0.5 * np.einsum("sij,sgij->g", inner, kernels) * parts
        pull = (log_parts - np.log(TYPICAL_PARTS)) / PULL
        return (
            value / N_SUBSAMPLES + 0.5 * float(pull @ pull),
            gradient / N_SUBSAMPLES + pull / PULL,
        )

    found = minimize(
        cost, np.log(TYPICAL_PARTS), jac=True, method="L-BFGS-B",
        bounds=[LOG_BOUNDS] * len(TYPICAL_PARTS), options={"maxiter": MAX_ITERATIONS},
    )  # fmt: skip
    return np.asarray(np.exp(found.x))
