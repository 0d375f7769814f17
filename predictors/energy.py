"""Energy of a network's run: what the chip draws for as long as it takes, and what its work adds.

No counter is fine enough for kernels. So the energy of whole networks is explained by what the
latency's prediction sums up anyway, and few measured networks suffice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from predictors.errors import NotFittedError, PredictorError
from predictors.features import moved_bytes
from predictors.intervals import conformal_bounds, folds, local_scale, read_scale
from predictors.network_latency import LatencyPrediction, undisturbed
from profilers.kernels import Kernel, macs
from profilers.measurement import NetworkMeasurement

FloatArray = NDArray[np.float64]

MIN_NETWORKS = 8
N_ENERGY_TERMS = 2  # additive over kernels: multiply-accumulates, bytes, each 10^9
DEFAULT_LEVEL = 0.9


@dataclass(frozen=True)
class EnergyPrediction:
    """Predicted energy of one run of n networks, all arrays `(n,)`.

    Attributes:
        energy_mj: What is expected.
        low_mj: Lower end of the interval.
        high_mj: Upper end; what a budget is compared with.
    """

    energy_mj: FloatArray
    low_mj: FloatArray
    high_mj: FloatArray


class EnergyPredictor:
    """energy = power · latency + a · macs + b · bytes + c, none of them negative.

    Least squares of relative errors on the measured latency. A network's interval is that of its
    latency, and beyond it what energies of held-out networks were off at a known latency.

    Attributes:
        coef_: Watts (mJ per ms), mJ per 10^9 multiply-accumulates, mJ per 10^9 bytes, mJ; `(4,)`.
        scale_: `(2, k)`: by log of the predicted energy, how far predictions near it are off.
        bounds_: Log of measured over predicted, in units of that scale.
        held_out_: `(predicted, measured)` mJ at the measured latency, each by a model that did not
            see the network, `(2, n)`.
    """

    def __init__(self, *, level: float = DEFAULT_LEVEL, seed: int = 0) -> None:
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level=}")
        self.level = level
        self.seed = seed
        self.coef_: FloatArray | None = None
        self.scale_ = np.array([[0.0], [1.0]])
        self.bounds_ = (0.0, 0.0)
        self.held_out_ = np.zeros((2, 0))

    @staticmethod
    def is_measured(measurements: Sequence[NetworkMeasurement]) -> bool:
        """Whether enough different networks have an energy."""
        return len({m.digest for m in measurements if m.energy_mj}) >= MIN_NETWORKS

    def fit(self, measurements: Sequence[NetworkMeasurement]) -> Self:
        """Learn from the newest measurement with an energy of each network, undisturbed if it can.

        Raises:
            PredictorError: They are fewer than `MIN_NETWORKS`.
        """
        with_energy = undisturbed([m for m in measurements if m.energy_mj])
        networks = list({m.digest: m for m in with_energy}.values())
        if len(networks) < MIN_NETWORKS:
            raise PredictorError(
                f"the energy of at least {MIN_NETWORKS} different networks is needed, got "
                f"{len(networks)}; measure more with `hwnas profile`"
            )
        energy_mj = np.array([m.energy_mj for m in networks], dtype=np.float64)
        sums = np.array([self.terms([r.kernel for r in m.kernels]).sum(axis=0) for m in networks])
        x = _columns(np.array([m.latency_ms for m in networks]), sums)
        predicted = np.zeros(len(x))
        for held_out in folds(len(x), seed=self.seed):
            coef = _fit_power(x[~held_out], energy_mj[~held_out])
            predicted[held_out] = x[held_out] @ coef
        self.held_out_ = np.stack([predicted, energy_mj])
        errors = np.log(energy_mj / predicted)
        self.scale_ = local_scale(np.log(predicted), errors)
        scaled = errors / np.interp(np.log(predicted), *self.scale_)
        self.bounds_ = conformal_bounds(scaled, level=self.level)
        self.coef_ = _fit_power(x, energy_mj)
        return self

    def set_level(self, level: float) -> None:
        """Make intervals for another share of networks than that of the fit.

        Raises:
            ValueError: `level` does not lie between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level=}")
        predicted, measured = self.held_out_
        scale = np.interp(np.log(predicted), *self.scale_)
        self.bounds_ = conformal_bounds(np.log(measured / predicted) / scale, level=level)
        self.level = level

    @staticmethod
    def terms(kernels: Sequence[Kernel]) -> FloatArray:
        """What each kernel adds to the sums of `predict_sums`, `(n, N_ENERGY_TERMS)`."""
        rows = [(macs(kernel) / 1e9, moved_bytes(kernel) / 1e9) for kernel in kernels]
        return np.array(rows, dtype=np.float64).reshape(-1, N_ENERGY_TERMS)

    def predict_sums(self, latency: LatencyPrediction, sums: FloatArray) -> EnergyPrediction:
        """Energies of n networks from their latencies and the sums of `terms`, `(n, 2)`."""
        if self.coef_ is None:
            raise NotFittedError("EnergyPredictor.predict_sums was called before fit")
        work_mj = sums @ self.coef_[1:3] + self.coef_[3]
        watts = self.coef_[0]
        energy_mj = watts * latency.latency_ms + work_mj
        scale = np.interp(np.log(np.maximum(energy_mj, 1e-12)), *self.scale_)
        low, high = self.bounds_
        return EnergyPrediction(
            energy_mj,
            (watts * latency.low_ms + work_mj) * np.exp(min(low, 0.0) * scale),
            (watts * latency.high_ms + work_mj) * np.exp(max(high, 0.0) * scale),
        )

    def predict(
        self, latency: LatencyPrediction, networks: Sequence[Sequence[Kernel]]
    ) -> EnergyPrediction:
        """Energies of n networks, given by their kernels, from their latencies."""
        sums = np.array([self.terms(kernels).sum(axis=0) for kernels in networks])
        return self.predict_sums(latency, sums.reshape(-1, N_ENERGY_TERMS))

    def to_data(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The learned state as JSON-able data and named arrays."""
        if self.coef_ is None:
            raise NotFittedError("a predictor can only be saved after fit")
        data = {
            "level": self.level,
            "seed": self.seed,
            "coef": self.coef_.tolist(),
            "bounds": list(self.bounds_),
        }
        return data, {"held_out": self.held_out_, "scale": self.scale_}

    @classmethod
    def from_data(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild from `to_data`.

        Raises:
            KeyError, TypeError, ValueError: The data was not written by `to_data`.
        """
        predictor = cls(level=float(data["level"]), seed=int(data["seed"]))
        predictor.coef_ = np.asarray(data["coef"], np.float64).reshape(4)
        if not (predictor.coef_ >= 0).all() or not predictor.coef_.any():
            raise ValueError("its coefficients give no energies > 0")
        low, high = (float(bound) for bound in data["bounds"])
        predictor.bounds_ = (low, high)
        predictor.scale_, predictor.held_out_ = read_scale(arrays)
        return predictor


def _columns(latency_ms: FloatArray, sums: FloatArray) -> FloatArray:
    return np.column_stack([latency_ms, sums, np.ones(len(sums))])


def _fit_power(x: FloatArray, energy_mj: FloatArray) -> FloatArray:
    """Coefficients of the columns of `x`, none negative, least squares of relative errors."""
    from sklearn.linear_model import LinearRegression

    z = x / energy_mj[:, None]
    size = np.maximum(z.mean(axis=0), 1e-300)
    line = LinearRegression(positive=True, fit_intercept=False)
    line.fit(z / size, np.ones(len(z)))
    return np.asarray(line.coef_ / size, dtype=np.float64)
