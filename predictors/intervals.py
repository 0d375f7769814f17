"""Conformal intervals: the errors on held-out networks say how far a new one may be off.

Reference:
    Angelopoulos, Bates, A Gentle Introduction to Conformal Prediction, 2021, section 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
MIN_MS = 1e-12
MAX_LOG_WIDTH = 20.0  # a factor of 5e8: beyond, an end is as good as none
N_KNOTS, NEAR_SHARE = 7, 0.25
UNUSUAL = 2.0  # times the usual expected error
N_FOLDS = 5


def conformal_bounds(errors: ArrayLike, *, level: float) -> tuple[float, float]:
    """Bounds that a new error lies between with probability `level`.

    Each side gets half of the rest. The new error must be exchangeable with the given ones. With
    too few of them for that level, the outermost ones are moved out as far as errors of a normal
    distribution of unknown width would ask for, and the caller should say so.

    Args:
        errors: Errors on held-out examples, `(n,)`.
        level: Between 0 and 1, for example 0.9.

    Returns:
        `(low, high)`, low <= high.

    Example:
        >>> conformal_bounds(range(1, 100), level=0.9)
        (5.0, 95.0)
    """
    ordered = np.sort(np.asarray(errors, dtype=np.float64))
    n = len(ordered)
    if not n or not 0 < level < 1:
        raise ValueError(f"at least one error and a level in (0, 1) are needed, got {n=}, {level=}")
    tail = (1 - level) / 2
    rank = math.ceil((n + 1) * (1 - tail))  # counted from 1
    if rank <= n:
        return float(ordered[n - rank]), float(ordered[rank - 1])
    from scipy.special import ndtri, stdtrit  # slow to import, and seldom needed

    # The outermost of n lies where a share of n / (n + 1) is further in.
    widen = float(stdtrit(max(n - 1, 1), 1 - tail) / ndtri(n / (n + 1))) if n > 1 else 1.0
    centre = float(np.median(ordered))
    return (
        centre + (float(ordered[0]) - centre) * widen,
        centre + (float(ordered[-1]) - centre) * widen,
    )


def local_scale(position: ArrayLike, errors: ArrayLike) -> NDArray[np.float64]:
    """How large errors are along `position`, so that intervals are wide only where they must be.

    At knots spread over the positions: the mean absolute error of the nearest quarter, half and
    half with the mean of all, because a quarter of few examples says little by itself.

    Args:
        position: Where each example lies, `(n,)`.
        errors: Its error, `(n,)`.

    Returns:
        `(2, k)`: increasing positions, and the scale at each, > 0; for `np.interp`.

    Reference:
        Lei et al., Distribution-Free Predictive Inference for Regression, JASA 2018, section 5.2.
    """
    x = np.asarray(position, dtype=np.float64)
    size = np.abs(np.asarray(errors, dtype=np.float64))
    overall = max(float(size.mean()), 1e-6)
    knots = np.unique(np.quantile(x, np.linspace(0, 1, N_KNOTS)))
    n_near = max(2, round(len(x) * NEAR_SHARE))
    near = [size[np.argsort(np.abs(x - knot), kind="stable")[:n_near]].mean() for knot in knots]
    return np.stack([knots, (np.array(near) + overall) / 2])


def read_scale(arrays: Mapping[str, NDArray[Any]]) -> tuple[FloatArray, FloatArray]:
    """What a file says of a predictor's errors: its `local_scale` and what was held out, `(2, n)`.

    Raises:
        KeyError, ValueError: It was not written by a predictor.
    """
    scale, held_out = (
        np.asarray(arrays[name], np.float64).reshape(2, -1) for name in ("scale", "held_out")
    )
    if not scale.size or (np.diff(scale[0]) <= 0).any() or not (scale[1] > 0).all():
        raise ValueError("its scale of errors has no rising positions, or is not > 0")
    if not (held_out > 0).all():
        raise ValueError("what it was held against is not > 0")
    return scale, held_out


@dataclass(frozen=True)
class Calibration:
    """How far predictions were off on networks that the model did not see.

    An error is scaled by what errors near that latency are, and by how much less sure than usual
    the model itself is. What it is more than twice as unsure of as usual is widened by all of that.

    Attributes:
        position: Logarithms of predicted latencies, rising, `(k,)`.
        scale: Typical error near each, `(k,)`.
        usual: The relative error that the model usually expects.
        errors: Logarithms of measured over predicted in units of the scale, rising, `(n,)`.
    """

    position: FloatArray
    scale: FloatArray
    usual: float
    errors: FloatArray

    @classmethod
    def of(
        cls,
        predicted_ms: FloatArray,
        error: FloatArray,
        measured_ms: FloatArray,
        *,
        drift: float = 0.0,
        either_sign: bool = False,
    ) -> Self:
        """From n networks: predictions, the errors that the model expected, and measurements.

        Args:
            predicted_ms: Of each network, by a model that did not see it, `(n,)`.
            error: The relative error that the model expected, `(n,)`.
            measured_ms: What it takes, `(n,)`.
            drift: By what share measurements of another day may all be higher or lower.
            either_sign: Whether an error as large may also be of the other sign: intervals then
                reach as far to one side as to the other, which is as far as the wider one.
        """
        n = len(predicted_ms)
        if drift:  # either is as likely
            predicted_ms, error = np.tile(predicted_ms, 2), np.tile(error, 2)
            measured_ms = np.concatenate(
                [measured_ms * math.exp(drift), measured_ms * math.exp(-drift)]
            )
        position, off = np.log(predicted_ms), np.log(measured_ms / predicted_ms)
        knots, scale = local_scale(position, off)
        usual = max(float(np.median(error)), 1e-6)
        unit = cls(knots, scale, usual, np.zeros(1))._unit(position, error)
        errors = np.sort(off / unit)
        if drift:  # as many as there are networks: they are no more than before
            errors = np.sort(np.concatenate([errors[:n:2], errors[:n:-2]]))
        return cls(knots, scale, usual, _symmetric(errors) if either_sign else errors)

    def bounds(
        self, predicted_ms: FloatArray, error: FloatArray, *, level: float
    ) -> tuple[FloatArray, FloatArray]:
        """Lower and upper ends of the intervals of n predictions with these expected errors."""
        unit = self._unit(np.log(np.maximum(predicted_ms, MIN_MS)), error)
        low, high = conformal_bounds(self.errors, level=level)
        return (
            predicted_ms * np.exp(np.maximum(min(low, 0.0) * unit, -MAX_LOG_WIDTH)),
            predicted_ms * np.exp(np.minimum(max(high, 0.0) * unit, MAX_LOG_WIDTH)),
        )

    def _unit(self, position: FloatArray, error: FloatArray) -> FloatArray:
        scale = np.interp(position, self.position, self.scale)
        less_sure = np.hypot(1, error / self.usual) / math.sqrt(2)
        return np.asarray(scale * less_sure + np.maximum(error - UNUSUAL * self.usual, 0.0))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name."""
        return {
            "position": self.position,
            "scale": self.scale,
            "usual": np.array([self.usual]),
            "errors": self.errors,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild from `to_arrays`.

        Raises:
            KeyError, ValueError: The arrays do not belong together.
        """
        position, scale, errors = (
            np.asarray(arrays[name], np.float64).reshape(-1)
            for name in ("position", "scale", "errors")
        )
        (usual,) = np.asarray(arrays["usual"], np.float64).reshape(-1)
        rising = (np.diff(position) >= 0).all() and (np.diff(errors) >= 0).all()
        if not (
            len(position) == len(scale) > 0 and len(errors) and rising and scale.min() > 0 < usual
        ):
            raise ValueError("the arrays do not describe intervals")
        return cls(position, scale, float(usual), errors)


def _symmetric(errors: FloatArray) -> FloatArray:
    """Errors of which both tails are the wider one of `errors`, rising, `(n,)`."""
    tail = np.maximum(np.maximum(-errors, errors[::-1]), 0.0)[: len(errors) // 2]
    return np.concatenate([-tail, np.zeros(len(errors) % 2), tail[::-1]])


def min_examples(level: float) -> int:
    """Fewest held-out examples for which `conformal_bounds` needs no widening.

    Example:
        >>> min_examples(0.9)
        19
    """
    tail = (1 - level) / 2
    return math.ceil(1 / tail - 1e-9) - 1


def folds(n: int, *, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Part n examples into `N_FOLDS`; for each fold, which examples it holds out, `(n,)`."""
    fold = np.random.default_rng(seed).permutation(n) % N_FOLDS
    for i in range(min(N_FOLDS, n)):
        yield fold == i
