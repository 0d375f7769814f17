"""Latency on a new device from 5 to 20 measurements of it, helped by devices with many.

The predictor chooses which architectures to measure. It knows nothing of devices but their
latencies, and nothing of architectures but the columns of a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as t_distribution

from predictors.architectures import ArchitectureFeatures, FloatArray, IntArray
from predictors.errors import NotFittedError, PredictorError
from predictors.metrics import Accuracy, accuracy
from predictors.smoothing import Curve, smooth
from predictors.summary import TrainingSummary, read_target
from predictors.transfer_posterior import condition, from_ms, most_telling, to_ms
from predictors.transfer_prior import Prior, learn_prior
from profilers.targets import Target

MIN_TRAINING_ROWS, MIN_ROWS = 10, 2
N_POOL, N_POOL_HELD_OUT = 800, 300  # candidates for measuring
DEFAULT_MEASURED = 10
DEFAULT_LEVEL = 0.9
SCALES = ("latency", "log latency")
MAX_WIDEN = 1e3
MAX_USED = 400  # measurements of a new device: time grows with their cube


@dataclass(frozen=True)
class DeviceSample:
    """Latencies that a training device showed.

    Attributes:
        name: What errors call it.
        rows: Which architectures, as rows of the features, `(r,)`.
        latency_ms: What they took, `(r,)`, > 0. Any unit will do, as long as it is one.
        is_exact: They are of every architecture and hold as they are: they are not smoothed.
    """

    name: str
    rows: IntArray
    latency_ms: FloatArray
    is_exact: bool = False

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
        n_measured: How many measurements of the new device intervals are made for; from fewer they
            are wider.
        level: Share of measurements that intervals shall contain.
        seed: The same seed chooses and predicts the same.
        scale: One of `SCALES`; None: the one that does better on held-out training devices.

    Attributes:
        prior_: What the training devices say.
        scale_: `latency` or `log latency`, whichever did better on held-out training devices.
        held_out_error_: Of each scale: mean relative error on held-out training devices.
        held_out_: How good the chosen scale was there, mean over devices; None for one device.
        widen_: Factor of the intervals that made them hold there.
        devices_: Names of the training devices.
        n_known_: Different rows at which training devices were known.
        measured_: Rows and milliseconds of a new device, once `adapt` was told.
        target_: What the new device is, if that was told.
    """

    def __init__(
        self,
        features: ArchitectureFeatures,
        *,
        n_measured: int = DEFAULT_MEASURED,
        level: float = DEFAULT_LEVEL,
        seed: int = 0,
        scale: str | None = None,
    ) -> None:
        if scale not in (None, *SCALES):
            raise ValueError(f"scale must be one of {SCALES} or None, got {scale!r}")
        if not 0 < level < 1 or n_measured < MIN_ROWS:
            raise ValueError(
                f"a level in (0, 1) and n_measured >= {MIN_ROWS} are needed, got {level=} and "
                f"{n_measured=}"
            )
        self.features = features
        self.n_measured = n_measured
        self.level = level
        self.seed = seed
        self.scale = scale
        self.prior_: Prior | None = None
        self.held_out_error_: dict[str, float] = {}
        self.held_out_: Accuracy | None = None
        self.widen_ = 1.0
        self.devices_: tuple[str, ...] = ()
        self.n_known_ = 0
        self.measured_: tuple[IntArray, FloatArray] | None = None
        self.target_: Target | None = None

    @property
    def scale_(self) -> str:
        """The scale on which latencies are modelled."""
        return SCALES[self._fitted().is_log]

    def fit(self, devices: Sequence[DeviceSample]) -> Self:
        """Learn from training devices, at least one; devices may differ in rows and in unit.

        Raises:
            PredictorError: There is no device, or a row is outside the features.
        """
        if not devices:
            raise PredictorError("at least one training device is needed, got none")
        for device in devices:
            _check_inside(device.name, device.rows, len(self.features))
            if device.is_exact and len(device.rows) < len(self.features):
                raise PredictorError(
                    f"{device.name}: exact latencies are needed of all {len(self.features)} "
                    f"architectures, got {len(device.rows)}"
                )
        found = []
        for is_log, curves in zip((False, True), self._curves(devices), strict=True):
            if self.scale not in (None, SCALES[is_log]):
                continue
            prior = learn_prior(self.features, curves, is_log=is_log, seed=self.seed)
            played = self._hold_out(prior, devices)
            found.append((played, prior))
            self.held_out_error_[SCALES[is_log]] = played.error
        played, self.prior_ = min(found, key=lambda each: each[0].error)  # of equals, the first
        self.held_out_ = played.accuracy
        if len(played.misses):
            self.widen_ = _conformal(played.misses, self.level) / _normal_width(self.level)
        else:  # no device to play it through to: as if the variance came from the few measurements
            self.widen_ = self._student(self.n_measured) / _normal_width(self.level)
        self.devices_ = tuple(device.name for device in devices)
        self.n_known_ = len(np.unique(np.concatenate([device.rows for device in devices])))
        return self

    def choose(
        self, n: int, *, measured: ArrayLike = (), among: ArrayLike | None = None
    ) -> IntArray:
        """Choose `n` rows to measure on a new device, most telling first.

        Each is the one that is least known, given those before it; latencies need not be known.
        The same seed chooses the same rows.

        Args:
            n: How many.
            measured: Rows that were measured already; they are not chosen again.
            among: Rows that can be measured; None: all.

        Raises:
            PredictorError: Fewer rows than that are left.

        Reference:
            Krause, Singh, Guestrin, Near-Optimal Sensor Placements in Gaussian Processes, JMLR 9,
            2008, section 3: the entropy criterion.
        """
        prior = self._fitted()
        known = np.asarray(measured, dtype=np.int64)
        rows = np.arange(len(self.features)) if among is None else np.asarray(among, np.int64)
        free = np.setdiff1d(rows, known)
        if not 0 < n <= len(free):
            raise PredictorError(f"between 1 and {len(free)} rows can be chosen, got {n=}")
        rng = np.random.default_rng([self.seed, len(self.features)])
        pool = rng.choice(free, min(max(N_POOL, n), len(free)), replace=False)
        return most_telling(prior, pool, n, known)

    def predict(self, rows: ArrayLike, latency_ms: ArrayLike) -> TransferPrediction:
        """Latencies of all architectures on a new device, from measurements of it.

        Args:
            rows: What was measured, `(m,)`, at least two; from `choose`, or any. Of more than
                `MAX_USED`, so many are looked at, drawn by the seed.
            latency_ms: What it took, `(m,)`, > 0.
        """
        prior = self._fitted()
        rows, latency_ms = self._measurements(rows, latency_ms)
        if len(rows) > MAX_USED:
            drawn = np.random.default_rng(self.seed).choice(len(rows), MAX_USED, replace=False)
            rows, latency_ms = rows[drawn], latency_ms[drawn]
        posterior = condition(prior, rows, latency_ms, np.arange(len(self.features)))
        # What is played through is for `n_measured`; fewer tell less of the variance, too.
        usual, now = (self._student(n) for n in (self.n_measured, len(rows)))
        fewer = max(1.0, now / usual) if usual else 1.0
        width = _normal_width(self.level) * self.widen_ * fewer * posterior.std
        low, middle, high = (
            to_ms(prior, posterior.level, values, slice(None))
            for values in (posterior.values - width, posterior.values, posterior.values + width)
        )
        return TransferPrediction(middle / middle.mean(), middle, low, high)

    def _student(self, n: int) -> float:
        """Half of an interval, in deviations that come from n measurements."""
        return float(t_distribution.ppf((1 + self.level) / 2, max(n - 2, 1)))

    def adapt(self, rows: ArrayLike, latency_ms: ArrayLike) -> Self:
        """Keep measurements of a new device, so that a file of this predictor speaks of it.

        Args:
            rows: What was measured, as for `predict`.
            latency_ms: What it took.
        """
        rows, latency_ms = self._measurements(rows, latency_ms)
        self.measured_ = rows, latency_ms
        return self

    def predict_adapted(self) -> TransferPrediction:
        """`predict` from what `adapt` was told.

        Raises:
            NotFittedError: It was told nothing.
        """
        if self.measured_ is None:
            raise NotFittedError("no new device was measured: call `adapt`, or `predict`")
        return self.predict(*self.measured_)

    def predict_unmeasured(self) -> FloatArray:
        """The score of every architecture on a device nobody measured: the mean device, `(n,)`."""
        prior = self._fitted()
        score = np.exp(prior.mean) if prior.is_log else prior.mean
        return np.asarray(score / score.mean())

    def training_summary(self) -> TrainingSummary:
        """What it learned from, for `predictors.files`."""
        self._fitted()
        return TrainingSummary(
            level=self.level,
            n_networks=self.n_known_,
            held_out=self.held_out_,
            devices=self.devices_,
        )

    def to_data(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The learned state as JSON-able data and named arrays."""
        data, arrays = self._fitted().to_data()
        rows, latency_ms = self.measured_ or (np.zeros(0, np.int64), np.zeros(0))
        data |= {
            "level": self.level,
            "seed": self.seed,
            "n_measured": self.n_measured,
            "n_columns": self.features.n_columns,
            "widen": self.widen_,
            "held_out_error": self.held_out_error_,
            "target": self.target_.to_dict() if self.target_ else None,
        }
        measured = {"measured_rows": rows, "measured_ms": latency_ms}
        summary = {"training": self.training_summary().to_dict()}
        return data | summary, self.features.to_arrays() | arrays | measured

    @classmethod
    def from_data(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild from `to_data`.

        Raises:
            KeyError, TypeError, ValueError, PredictorError: The data was not written by `to_data`.
        """
        training = TrainingSummary.from_dict(data["training"])
        predictor = cls(
            ArchitectureFeatures.from_arrays(arrays, n_columns=int(data["n_columns"])),
            n_measured=int(data["n_measured"]),
            level=float(data["level"]),
            seed=int(data["seed"]),
        )
        predictor.prior_ = Prior.from_data(predictor.features, data, arrays)
        predictor.widen_ = float(data["widen"])
        if not 0 < predictor.widen_ <= MAX_WIDEN or predictor.seed < 0:
            raise ValueError("its intervals and its seed are no predictor's")
        predictor.held_out_error_ = {
            str(scale): float(error) for scale, error in data["held_out_error"].items()
        }
        predictor.held_out_ = training.held_out
        predictor.devices_ = training.devices
        predictor.n_known_ = training.n_networks or 0
        target = data.get("target")
        predictor.target_ = None if target is None else read_target(target)
        if len(arrays["measured_rows"]):
            predictor.adapt(arrays["measured_rows"], arrays["measured_ms"])
        return predictor

    def _measurements(self, rows: ArrayLike, latency_ms: ArrayLike) -> tuple[IntArray, FloatArray]:
        rows, latency_ms = np.asarray(rows, np.int64), np.asarray(latency_ms, np.float64)
        _check("the new device", rows, latency_ms, at_least=MIN_ROWS)
        _check_inside("the new device", rows, len(self.features))
        return rows, latency_ms

    def _fitted(self) -> Prior:
        if self.prior_ is None:
            raise NotFittedError("TransferPredictor was used before fit")
        return self.prior_

    def _curves(self, devices: Sequence[DeviceSample]) -> tuple[list[Curve], list[Curve]]:
        """Of each device, on both scales. Devices with the same rows share the work."""
        groups: dict[tuple[bytes, bool], list[int]] = {}
        for i, device in enumerate(devices):
            rows_key = np.asarray(device.rows, np.int64).tobytes()
            groups.setdefault((rows_key, device.is_exact), []).append(i)
        plain: dict[int, Curve] = {}
        logs: dict[int, Curve] = {}
        for members in groups.values():
            latencies = [np.asarray(devices[i].latency_ms, np.float64) for i in members]
            means = [latency / latency.mean() for latency in latencies]
            logarithms = [np.log(mean) for mean in means]
            rows = np.asarray(devices[members[0]].rows, np.int64)
            samples = [*means, *logarithms]
            if devices[members[0]].is_exact:
                curves = [Curve(each[np.argsort(rows)], rows, each, each) for each in samples]
            else:
                curves = smooth(self.features, rows, samples)
            plain.update(zip(members, curves[: len(members)], strict=True))
            logs.update(zip(members, curves[len(members) :], strict=True))
        order = range(len(devices))
        return [plain[i] for i in order], [logs[i] for i in order]

    def _hold_out(self, prior: Prior, devices: Sequence[DeviceSample]) -> _Played:
        """Transfer to each training device from the others; to none if there is only one."""
        errors, misses, found = [], [], []
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
            found.append(accuracy(predicted[rest], latency[rest]))
            target = from_ms(others, posterior.level, latency)
            misses.append((np.abs(target - posterior.values) / posterior.std)[rest])
        if not errors:
            return _Played(0.0, np.zeros(0), None)
        return _Played(float(np.mean(errors)), np.concatenate(misses), _mean(found))


@dataclass(frozen=True)
class _Played:
    """The transfer to each training device from the others.

    Attributes:
        error: Mean relative error, of a row at most 1.
        misses: How far measurements were off, in predicted standard deviations.
        accuracy: Mean over devices; None: there was one device.
    """

    error: float
    misses: FloatArray
    accuracy: Accuracy | None


def _mean(found: Sequence[Accuracy]) -> Accuracy:
    names = ("mape", "within_5", "within_10", "spearman")
    means = {name: round(float(np.mean([getattr(a, name) for a in found])), 4) for name in names}
    return Accuracy(n=sum(a.n for a in found), **means)


def _check(name: str, rows: IntArray, latency_ms: FloatArray, *, at_least: int) -> None:
    if np.ndim(rows) != 1 or np.shape(rows) != np.shape(latency_ms):
        raise PredictorError(
            f"{name}: one latency per row is needed, got {np.shape(rows)} rows and "
            f"{np.shape(latency_ms)} latencies"
        )
    values, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        raise PredictorError(
            f"{name}: row {values[counts > 1][0]} is there {counts.max()} times; give each row one "
            f"latency, such as the median"
        )
    if len(rows) < at_least or (values < 0).any():
        raise PredictorError(
            f"{name}: at least {at_least} different rows, numbered from 0, are needed, got "
            f"{len(rows)}"
        )
    if not (np.isfinite(latency_ms).all() and (np.asarray(latency_ms) > 0).all()):
        raise PredictorError(f"{name}: every latency must be a number > 0")


def _check_inside(name: str, rows: IntArray, n_rows: int) -> None:
    if np.max(rows) >= n_rows:
        raise PredictorError(
            f"{name} has row {np.max(rows)}, but there are only {n_rows} architectures"
        )


def _conformal(misses: FloatArray, level: float) -> float:
    """What the next miss stays below in that share of cases; with few, the largest so far."""
    rank = min(math.ceil((len(misses) + 1) * level), len(misses))
    return float(np.sort(misses)[rank - 1])


def _normal_width(level: float) -> float:
    """Half the width, in standard deviations, of a normal interval of that level."""
    return NormalDist().inv_cdf((1 + level) / 2)
