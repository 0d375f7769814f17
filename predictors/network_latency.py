"""Latency of whole networks: kernels, an overhead per node and per run, and an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from predictors.errors import NotFittedError, PredictorError, WrongTargetError
from predictors.intervals import conformal_bounds, local_scale
from predictors.kernel_latency import KernelLatencyPredictor
from profilers.kernels import Kernel
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.targets import Target

FloatArray = NDArray[np.float64]

MIN_NETWORKS = 8
N_FOLDS = 5
DEFAULT_LEVEL = 0.9
RIDGE = 1e-4
N_REWEIGHTINGS, MIN_RESIDUAL = 12, 0.01


@dataclass(frozen=True)
class LatencyPrediction:
    """Predicted latencies of n networks, all arrays `(n,)`.

    Attributes:
        latency_ms: What is expected.
        low_ms: Lower end of the interval.
        high_ms: Upper end; what a budget is compared with.
        known_share: Share of the kernels' latency that rests on known kernels.
    """

    latency_ms: FloatArray
    low_ms: FloatArray
    high_ms: FloatArray
    known_share: FloatArray


class NetworkLatencyPredictor:
    """End-to-end latency on one target, with an interval calibrated on held-out networks.

    latency = a · (sum of kernels) + b · (number of kernels) + c, by least absolute relative
    errors. `b` may be negative: the runtime's profile of a kernel contains its own clock.

    Attributes:
        target_: Where the measurements were made.
        kernels_: The predictor of single kernels.
        coef_: `(a, b, c)`; b and c in ms.
        scale_: `(2, k)`: by log of the predicted latency, how far predictions near it are off.
        bounds_: Log of measured over predicted, in units of that scale: lower and upper bound.
        held_out_: `(predicted_ms, measured_ms)` of the networks, each by a model that did not see
            it, `(2, n)`.
    """

    def __init__(self, *, level: float = DEFAULT_LEVEL, seed: int = 0) -> None:
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level=}")
        self.level = level
        self.seed = seed
        self.target_: Target | None = None
        self.kernels_: KernelLatencyPredictor | None = None
        self.coef_ = np.array([1.0, 0.0, 0.0])
        self.scale_ = np.array([[0.0], [1.0]])
        self.bounds_ = (0.0, 0.0)
        self.held_out_ = np.zeros((2, 0))

    def fit(
        self,
        measurements: Sequence[NetworkMeasurement],
        *,
        isolated: Mapping[Kernel, KernelLatency] | None = None,
    ) -> Self:
        """Learn from the measurements of one target, at least `MIN_NETWORKS`.

        `isolated` is what `MeasurementStore.isolated` says of that target: kernels that no network
        has shown. They say nothing about networks, so intervals rest on `measurements` alone.

        Raises:
            PredictorError: There are too few, or they are of several targets.
        """
        targets = {m.target.key: m.target for m in measurements}
        if len(targets) != 1:
            raise PredictorError(
                f"measurements of exactly one target are needed, got "
                f"{len(targets)}: {', '.join(sorted(targets)) or 'none'}"
            )
        networks = list(measurements)
        steady = [m for m in networks if m.samples.warning is None]
        if _n_distinct(steady) >= max(MIN_NETWORKS, _n_distinct(networks) / 2):
            networks = steady  # the others were measured on a machine that was busy throughout
        if _n_distinct(networks) < MIN_NETWORKS:
            raise PredictorError(
                f"at least {MIN_NETWORKS} different measured networks are needed, got "
                f"{_n_distinct(networks)}; measure more with `hwnas profile`"
            )
        (self.target_,) = targets.values()
        isolated_ms = {kernel: run.latency_ms for kernel, run in (isolated or {}).items()}
        self.held_out_ = self._cross_predict(networks, isolated_ms)
        predicted, measured = self.held_out_
        errors = np.log(measured / predicted)
        self.scale_ = local_scale(np.log(predicted), errors)
        scaled = errors / np.interp(np.log(predicted), *self.scale_)
        self.bounds_ = conformal_bounds(scaled, level=self.level)
        self.kernels_ = self._fit_kernels(networks, isolated_ms)
        self.coef_ = _fit_overhead(*self._sums(self.kernels_, networks), _measured_ms(networks))
        return self

    def predict(self, networks: Sequence[Sequence[Kernel]]) -> LatencyPrediction:
        """Latencies of n networks, each given by its kernels."""
        if self.kernels_ is None:
            raise NotFittedError("NetworkLatencyPredictor.predict was called before fit")
        flat = [kernel for kernels in networks for kernel in kernels]
        ms, known = self.kernels_.predict(flat)
        n_kernels = np.array([len(kernels) for kernels in networks], dtype=np.int64)
        n, owner = len(networks), np.repeat(np.arange(len(networks)), n_kernels)
        return self.predict_sums(
            np.bincount(owner, weights=ms, minlength=n),
            n_kernels,
            np.bincount(owner, weights=ms * known, minlength=n),
        )

    def predict_sums(
        self, kernel_sum_ms: ArrayLike, n_kernels: ArrayLike, known_ms: ArrayLike
    ) -> LatencyPrediction:
        """Latencies from the sums over kernels, `(n,)` each: all, their number, the known ones.

        This is the whole network-level model: the inner loop of a search ends here.
        """
        total = np.asarray(kernel_sum_ms, np.float64)
        a, b, c = self.coef_
        # The fit holds where it was made; far below, an overhead must not make time negative.
        latency_ms = np.maximum(a * total + b * np.asarray(n_kernels) + c, 0.05 * total)
        known_share = np.where(total > 0, np.asarray(known_ms) / np.maximum(total, 1e-12), 0.0)
        # What is not known is off by the error of kernels of unseen sizes, at the very least.
        error = self.kernels_.error_ if self.kernels_ else 0.0
        extra = (1 - known_share) * 2 * max(error, 0.25)
        scale = np.interp(np.log(np.maximum(latency_ms, 1e-12)), *self.scale_)
        low, high = self.bounds_
        return LatencyPrediction(
            latency_ms,
            latency_ms * np.exp(min(low, 0.0) * scale - extra),
            latency_ms * np.exp(max(high, 0.0) * scale + extra),
            known_share,
        )

    def interval_at(self, latency_ms: float) -> tuple[float, float]:
        """Ends of the interval of a network of known kernels, as shares of its prediction."""
        scale = float(np.interp(np.log(latency_ms), *self.scale_))
        low, high = self.bounds_
        return float(np.exp(min(low, 0.0) * scale)), float(np.exp(max(high, 0.0) * scale))

    def check_target(self, target: Target) -> None:
        """Refuse to speak about another target.

        Raises:
            WrongTargetError: It was fitted on another one.
        """
        if self.target_ is None:
            raise NotFittedError("check_target was called before fit")
        if self.target_.key != target.key:
            raise WrongTargetError(
                f"this predictor was fitted on {self.target_.describe()} "
                f"[{self.target_.key}], but asked about {target.describe()} "
                f"[{target.key}]. Fit one there: hwnas profile, hwnas fit"
            )

    def _fit_kernels(
        self, measurements: Sequence[NetworkMeasurement], isolated_ms: Mapping[Kernel, float]
    ) -> KernelLatencyPredictor:
        runs = [run for m in measurements for run in m.kernels]
        return KernelLatencyPredictor(seed=self.seed).fit(
            [run.kernel for run in runs],
            np.array([run.latency_ms for run in runs]),
            isolated=isolated_ms,
        )

    @staticmethod
    def _sums(
        kernels: KernelLatencyPredictor, networks: Sequence[NetworkMeasurement]
    ) -> tuple[FloatArray, FloatArray]:
        sums = [kernels.predict([run.kernel for run in m.kernels])[0].sum() for m in networks]
        return np.array(sums), np.array([len(m.kernels) for m in networks], dtype=np.float64)

    def _cross_predict(
        self, networks: Sequence[NetworkMeasurement], isolated_ms: Mapping[Kernel, float]
    ) -> FloatArray:
        """Predict every network by a model fitted without any measurement of it, `(2, n)`."""
        digests = sorted({m.digest for m in networks})
        order = np.random.default_rng(self.seed).permutation(len(digests))
        fold_of = {digests[i]: int(position) % N_FOLDS for position, i in enumerate(order)}
        predicted, measured = [], []
        for fold in range(N_FOLDS):
            held_out = [m for m in networks if fold_of[m.digest] == fold]
            if not held_out:
                continue
            rest = [m for m in networks if fold_of[m.digest] != fold]
            kernels = self._fit_kernels(rest, isolated_ms)
            coef = _fit_overhead(*self._sums(kernels, rest), _measured_ms(rest))
            sums, n_kernels = self._sums(kernels, held_out)
            predicted.append(
                np.maximum(coef[0] * sums + coef[1] * n_kernels + coef[2], 0.05 * sums)
            )
            measured.append(_measured_ms(held_out))
        return np.stack([np.concatenate(predicted), np.concatenate(measured)])

    def to_data(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The learned state as JSON-able data and named arrays."""
        if self.kernels_ is None or self.target_ is None:
            raise NotFittedError("a predictor can only be saved after fit")
        data, arrays = self.kernels_.to_data()
        header = {
            "level": self.level,
            "seed": self.seed,
            "target": self.target_.to_dict(),
            "coef": self.coef_.tolist(),
            "bounds": list(self.bounds_),
            "kernels": data,
        }
        return header, arrays | {"held_out": self.held_out_, "scale": self.scale_}

    @classmethod
    def from_data(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild from `to_data`.

        Raises:
            KeyError, TypeError, ValueError: The data was not written by `to_data`.
        """
        predictor = cls(level=float(data["level"]), seed=int(data["seed"]))
        predictor.target_ = Target.from_dict(data["target"])
        predictor.coef_ = np.asarray(data["coef"], np.float64).reshape(3)
        low, high = (float(bound) for bound in data["bounds"])
        predictor.bounds_ = (low, high)
        predictor.scale_ = np.asarray(arrays["scale"], np.float64).reshape(2, -1)
        predictor.held_out_ = np.asarray(arrays["held_out"], np.float64).reshape(2, -1)
        predictor.kernels_ = KernelLatencyPredictor.from_data(data["kernels"], arrays)
        return predictor


def _n_distinct(networks: Sequence[NetworkMeasurement]) -> int:
    return len({m.digest for m in networks})


def _measured_ms(networks: Sequence[NetworkMeasurement]) -> FloatArray:
    return np.array([m.latency_ms for m in networks])


def _fit_overhead(sum_ms: FloatArray, n_kernels: FloatArray, measured_ms: FloatArray) -> FloatArray:
    """`(a, b, c)`, drawn a little towards (1, 0, 0) so that few networks suffice.

    Least absolute relative errors, by reweighting: a network that was measured while the machine
    was slow must not bend the line for the others.
    """
    x = np.column_stack([sum_ms, n_kernels, np.ones(len(sum_ms))]) / measured_ms[:, None]
    prior = np.array([1.0, 0.0, 0.0])
    scale = np.abs(x).mean(axis=0)
    z, target = x / scale, 1.0 - x @ prior
    weights = np.ones(len(z))
    for _ in range(N_REWEIGHTINGS):
        zw = z * weights[:, None]
        step = np.linalg.solve(zw.T @ z + RIDGE * weights.sum() * np.eye(3), zw.T @ target)
        weights = 1 / np.maximum(np.abs(target - z @ step), MIN_RESIDUAL)
    return np.asarray(prior + step / scale, dtype=np.float64)
