"""Latency on a new device from 5 to 20 measurements of it, helped by devices with many.

The predictor chooses which architectures to measure. It knows nothing of devices but their
latencies, and nothing of architectures but the columns of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from predictors.architectures import ArchitectureFeatures, FloatArray, IntArray
from predictors.errors import NotFittedError, PredictorError
from predictors.smoothing import Curve, smooth
from predictors.transfer_posterior import condition, from_ms, most_telling, to_ms
from predictors.transfer_prior import Prior, learn_prior

MIN_TRAINING_ROWS, MIN_ROWS = 10, 2
N_POOL, N_POOL_HELD_OUT = 800, 300  # candidates for measuring
DEFAULT_MEASURED = 10
DEFAULT_LEVEL = 0.9


@dataclass(frozen=True)
class DeviceSample:
    """Latencies that a training device showed.

    Attributes:
        name: What errors call it.
        rows: Which architectures, as rows of the features, `(r,)`.
        latency_ms: What they took, `(r,)`, > 0. Any unit will do, as long as it is one.
    """

    name: str
    rows: IntArray
    latency_ms: FloatArray

    def __post_init__(self) -> None:
        _check(self.name, self.rows, self.latency_ms, at_least=MIN_TRAINING_ROWS)


@dataclass(frozen=True)
class TransferPrediction:
    """What a new device is expected to take for every architecture, all `(n,)`.

    Attributes:
        score: Without a unit, higher is slower: for ranking. 1 is the device's mean.
        latency_ms: What is expected.
        low_ms: Lower end of the interval.
        high_ms: Upper end; what a budget is compared with.
    """

    score: FloatArray
    latency_ms: FloatArray
    low_ms: FloatArray
    high_ms: FloatArray


class TransferPredictor:
    """From training devices to a new device, by a Gaussian process whose prior they teach.

    Three steps: `fit` on the training devices, `choose` what to measure, `predict` from that.
    Whether latencies are modelled as they are or by their logarithm, and how wide intervals must
    be, is settled by playing through the transfer to each training device from the others.

    Args:
        features: Of all n architectures.
        n_measured: How many measurements of the new device intervals are made for.
        level: Share of measurements that intervals shall contain.
        seed: The same seed chooses and predicts the same.

    Attributes:
        prior_: What the training devices say.
        scale_: `latency` or `log latency`, whichever did better on held-out training devices.
        held_out_error_: Of each scale: mean relative error on held-out training devices.
        widen_: Factor of the intervals that made them hold there.
    """

    def __init__(
        self,
        features: ArchitectureFeatures,
        *,
        n_measured: int = DEFAULT_MEASURED,
        level: float = DEFAULT_LEVEL,
        seed: int = 0,
    ) -> None:
        if not 0 < level < 1 or n_measured < MIN_ROWS:
            raise ValueError(
                f"a level in (0, 1) and n_measured >= {MIN_ROWS} are needed, got {level=} and "
                f"{n_measured=}"
            )
        self.features = features
        self.n_measured = n_measured
        self.level = level
        self.seed = seed
        self.prior_: Prior | None = None
        self.held_out_error_: dict[str, float] = {}
        self.widen_ = 1.0

    @property
    def scale_(self) -> str:
        """The scale on which latencies are modelled."""
        return "log latency" if self._fitted().is_log else "latency"

    def fit(self, devices: Sequence[DeviceSample]) -> Self:
        """Learn from training devices, at least one; devices may differ in rows and in unit.

        Raises:
            PredictorError: There is no device, or a row is outside the features.
        """
        if not devices:
            raise PredictorError("at least one training device is needed, got none")
        for device in devices:
            _check_inside(device.name, device.rows, len(self.features))
        found = []
        for is_log, curves in zip((False, True), self._curves(devices), strict=True):
            prior = learn_prior(self.features, curves, is_log=is_log, seed=self.seed)
            errors, misses = self._hold_out(prior, devices)
            found.append((errors, misses, prior))
            name = "log latency" if is_log else "latency"
            self.held_out_error_[name] = errors
        _, misses, self.prior_ = min(found, key=lambda each: each[0])  # of equals, the first
        if len(misses):
            self.widen_ = float(np.quantile(misses, self.level)) / _normal_width(self.level)
        return self

    def choose(self, n: int, *, measured: ArrayLike = ()) -> IntArray:
        """Choose `n` rows to measure on a new device, most telling first.

        Each is the one that is least known, given those before it; latencies need not be known.
        The same seed chooses the same rows.

        Args:
            n: How many.
            measured: Rows that were measured already; they are not chosen again.

        Raises:
            PredictorError: Fewer rows than that are left.

        Reference:
            Krause, Singh, Guestrin, Near-Optimal Sensor Placements in Gaussian Processes, JMLR 9,
            2008, section 3: the entropy criterion.
        """
        prior = self._fitted()
        known = np.asarray(measured, dtype=np.int64)
        free = np.setdiff1d(np.arange(len(self.features)), known)
        if not 0 < n <= len(free):
            raise PredictorError(f"between 1 and {len(free)} rows can be chosen, got {n=}")
        rng = np.random.default_rng([self.seed, len(self.features)])
        pool = rng.choice(free, min(max(N_POOL, n), len(free)), replace=False)
        return most_telling(prior, pool, n, known)

    def predict(self, rows: ArrayLike, latency_ms: ArrayLike) -> TransferPrediction:
        """Latencies of all architectures on a new device, from measurements of it.

        Args:
            rows: What was measured, `(m,)`, at least two; from `choose`, or any.
            latency_ms: What it took, `(m,)`, > 0.
        """
        prior = self._fitted()
        rows, latency_ms = np.asarray(rows, np.int64), np.asarray(latency_ms, np.float64)
        _check("the new device", rows, latency_ms, at_least=MIN_ROWS)
        _check_inside("the new device", rows, len(self.features))
        posterior = condition(prior, rows, latency_ms, np.arange(len(self.features)))
        width = _normal_width(self.level) * self.widen_ * posterior.std
        low, middle, high = (
            to_ms(prior, posterior.level, values, slice(None))
            for values in (posterior.values - width, posterior.values, posterior.values + width)
        )
        return TransferPrediction(middle / middle.mean(), middle, low, high)

    def predict_unmeasured(self) -> FloatArray:
        """The score of every architecture on a device nobody measured: the mean device, `(n,)`."""
        prior = self._fitted()
        score = np.exp(prior.mean) if prior.is_log else prior.mean
        return np.asarray(score / score.mean())

    def _fitted(self) -> Prior:
        if self.prior_ is None:
            raise NotFittedError("TransferPredictor was used before fit")
        return self.prior_

    def _curves(self, devices: Sequence[DeviceSample]) -> tuple[list[Curve], list[Curve]]:
        """Of each device, on both scales. Devices with the same rows share the work."""
        groups: dict[bytes, list[int]] = {}
        for i, device in enumerate(devices):
            groups.setdefault(np.asarray(device.rows, np.int64).tobytes(), []).append(i)
        plain: dict[int, Curve] = {}
        logs: dict[int, Curve] = {}
        for members in groups.values():
            latencies = [np.asarray(devices[i].latency_ms, np.float64) for i in members]
            means = [latency / latency.mean() for latency in latencies]
            logarithms = [np.log(mean) for mean in means]
            rows = np.asarray(devices[members[0]].rows, np.int64)
            curves = smooth(self.features, rows, [*means, *logarithms])
            plain.update(zip(members, curves[: len(members)], strict=True))
            logs.update(zip(members, curves[len(members) :], strict=True))
        order = range(len(devices))
        return [plain[i] for i in order], [logs[i] for i in order]

    def _hold_out(self, prior: Prior, devices: Sequence[DeviceSample]) -> tuple[float, FloatArray]:
        """Transfer to each training device from the others.

        Returns:
            Mean relative error, and how far measurements were off in predicted standard
            deviations; nothing if there is only one device.
        """
        errors, misses = [], []
        for i, device in enumerate(devices if len(devices) > 1 else ()):
            rng = np.random.default_rng([self.seed, i])
            others = prior.without(i)
            at = rng.permutation(len(device.rows))
            n_pool = min(N_POOL_HELD_OUT, len(at))
            n = min(self.n_measured, n_pool // 2)
            pool = np.asarray(device.rows)[at[:n_pool]]
            chosen = most_telling(others, pool, n, np.zeros(0, np.int64))
            position = {int(row): j for j, row in enumerate(device.rows)}
            latency = np.asarray(device.latency_ms, np.float64)
            posterior = condition(
                others, chosen, latency[[position[int(row)] for row in chosen]], device.rows
            )
            rest = ~np.isin(device.rows, chosen)
            predicted = to_ms(others, posterior.level, posterior.values, device.rows)
            relative = np.abs(predicted / latency - 1)[rest]
            errors.append(float(np.minimum(relative, 1.0).mean()))
            target = from_ms(others, posterior.level, latency)
            misses.append((np.abs(target - posterior.values) / posterior.std)[rest])
        return (
            float(np.mean(errors)) if errors else 0.0,
            np.concatenate(misses) if misses else np.zeros(0),
        )


def _check(name: str, rows: IntArray, latency_ms: FloatArray, *, at_least: int) -> None:
    if np.ndim(rows) != 1 or np.shape(rows) != np.shape(latency_ms):
        raise PredictorError(
            f"{name}: one latency per row is needed, got {np.shape(rows)} rows and "
            f"{np.shape(latency_ms)} latencies"
        )
    if len(rows) < at_least or len(np.unique(rows)) < len(rows) or np.min(rows) < 0:
        raise PredictorError(
            f"{name}: at least {at_least} different rows are needed, got {len(np.unique(rows))}"
        )
    if not (np.isfinite(latency_ms).all() and (np.asarray(latency_ms) > 0).all()):
        raise PredictorError(f"{name}: every latency must be a number > 0")


def _check_inside(name: str, rows: IntArray, n_rows: int) -> None:
    if np.max(rows) >= n_rows:
        raise PredictorError(
            f"{name} has row {np.max(rows)}, but there are only {n_rows} architectures"
        )


def _normal_width(level: float) -> float:
    """Half the width, in standard deviations, of a normal interval of that level."""
    return NormalDist().inv_cdf((1 + level) / 2)
