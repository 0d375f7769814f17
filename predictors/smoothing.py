"""A device's latency over a whole table of architectures, from a sample of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from predictors.architectures import ArchitectureFeatures, FloatArray, IntArray

# How much of a device's latency is linear in totals, linear in single choices, smooth in totals,
# and of any other kind (`architectures.KERNELS`). For each device, the likeliest is taken.
MIXTURES = np.array([
    (1.0, 0.03, 0.0, 0.0),
    (1.0, 0.03, 0.1, 0.0),
    (1.0, 0.1, 0.0, 0.1),
    (1.0, 0.1, 0.1, 0.1),
    (0.3, 1.0, 0.0, 0.0),
    (0.3, 1.0, 0.1, 0.3),
])  # fmt: skip
LEVEL_VARIANCE = 10.0  # of the mean, against values near 1: it may be anything
NOISE_RATIOS = 10.0 ** np.arange(-6.0, 2.1, 0.5)
N_CLIPPINGS, CLIP = 4, 3.0
# Around the median: wide, as architectures do differ; or not at all: what a few options cost may be
# as far from the median as any outlier.
START_CLIPS = (5.0, np.inf)
MAD_TO_STD = 1.4826
SMALLEST = 1e-9  # of values near 1
CHUNK = 2000


@dataclass(frozen=True)
class Curve:
    """One device.

    Attributes:
        values: What the device would say of every row of the table, without noise, `(n,)`.
        rows: The rows that were sampled, `(r,)`.
        sample: What it said, `(r,)`.
        clipped: The same with outliers drawn in, `(r,)`.
    """

    values: FloatArray
    rows: IntArray
    sample: FloatArray
    clipped: FloatArray


@dataclass
class _Fit:
    log_likelihood: float
    left_out_error: float  # mean logarithm of what the sample is off by from fits without it
    mixture: FloatArray  # (4,)
    weights: FloatArray  # (r,): values = kernel @ weights
    clipped: FloatArray  # (r,)


def smooth(
    features: ArchitectureFeatures, rows: IntArray, samples: Sequence[FloatArray]
) -> list[Curve]:
    """Gaussian process regression of several devices that were sampled at the same rows.

    Outliers beyond three robust standard deviations are drawn in to there (Huber's way), because
    one stalled timing must not bend the curve. Whether they are drawn in before the first fit, too,
    is settled by what fits say of the rows that are left out of them.

    Args:
        features: All n architectures.
        rows: `(r,)`, the sampled ones. Time O(r³ + n r).
        samples: For each device, `(r,)` values of order 1.

    Reference:
        Rasmussen, Williams, Gaussian Processes for Machine Learning, 2006, sections 2.2 and 5.4.
    """
    kernels = features.kernels(rows, rows)
    best: list[_Fit | None] = [None] * len(samples)
    for mixture in MIXTURES:
        covariance = np.tensordot(mixture, kernels, 1) + LEVEL_VARIANCE
        eigenvalues, vectors = np.linalg.eigh(covariance)
        eigenvalues = np.maximum(eigenvalues, 0.0)
        for i, sample in enumerate(samples):
            fit = min(
                (_fit(mixture, eigenvalues, vectors, sample, clip) for clip in START_CLIPS),
                key=lambda each: each.left_out_error,
            )
            held = best[i]
            if held is None or fit.log_likelihood > held.log_likelihood:
                best[i] = fit
    fits = [fit for fit in best if fit is not None]
    values = _extend(features, rows, fits)
    return [
        Curve(value, rows, sample, fit.clipped)
        for value, sample, fit in zip(values, samples, fits, strict=True)
    ]


def _fit(
    mixture: FloatArray,
    eigenvalues: FloatArray,
    vectors: FloatArray,
    sample: FloatArray,
    start_clip: float,
) -> _Fit:
    middle = np.median(sample)
    clipped = middle + _draw_in(sample - middle, start_clip)
    noise, fit = NOISE_RATIOS[:, None], None
    for _ in range(N_CLIPPINGS):
        rotated = vectors.T @ clipped
        spectrum = eigenvalues + noise  # (noises, r)
        variance = (np.square(rotated) / spectrum).mean(axis=1)
        fits = -0.5 * (len(sample) * np.log(variance + 1e-300) + np.log(spectrum).sum(axis=1))
        at = int(fits.argmax())
        weights = vectors @ (rotated / spectrum[at])
        left_out = clipped - weights / (np.square(vectors) @ (1 / spectrum[at]))
        error = float(np.log(np.abs(sample - left_out) + SMALLEST).mean())
        fit = _Fit(float(fits[at]), error, mixture, weights, clipped)
        smooth_values = vectors @ (eigenvalues / spectrum[at] * rotated)
        clipped = smooth_values + _draw_in(sample - smooth_values, CLIP)
    assert fit is not None
    return fit


def _draw_in(residuals: FloatArray, clip: float) -> FloatArray:
    """No residual is beyond `clip` robust standard deviations."""
    if np.isinf(clip):
        return residuals
    bound = clip * MAD_TO_STD * float(np.median(np.abs(residuals))) + SMALLEST
    return np.clip(residuals, -bound, bound)


def _extend(features: ArchitectureFeatures, rows: IntArray, fits: Sequence[_Fit]) -> FloatArray:
    """The curves at every row, `(devices, n)`."""
    weights = np.stack([fit.weights for fit in fits], axis=1)  # (r, devices)
    mixtures = np.stack([fit.mixture for fit in fits], axis=1)  # (4, devices)
    values = np.empty((len(fits), len(features)))
    for start in range(0, len(features), CHUNK):  # the kernels of a whole table may not fit
        chunk = np.arange(start, min(start + CHUNK, len(features)))
        kernels = features.kernels(chunk, rows)
        parts = [kernel @ (weights * mixture)
                 for kernel, mixture in zip(kernels, mixtures, strict=True)]  # fmt: skip
        values[:, chunk] = np.sum(parts, axis=0).T
    values += LEVEL_VARIANCE * weights.sum(axis=0)[:, None]
    return values
