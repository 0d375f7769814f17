"""Latency of single kernels: measured ones are looked up, others follow physics, then learning.

latency = roofline(macs, bytes) of the kernel's kind · exp(trees(features)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from predictors.errors import NotFittedError
from predictors.features import EXTENT, FEATURES, kernel_features, work
from predictors.trees import TreeEnsemble
from profilers.kernels import Kernel

FloatArray = NDArray[np.float64]

MIN_OF_A_KIND = 6  # fewer kernels of a kind share the roofline of all kinds
EXTENT_MARGIN = 0.7  # natural log: up to twice outside of what was measured is still known
N_TREES = 48
MIN_FLOOR_MS = 1e-4
N_FOLDS = 3
# Of the measurements of a kernel: disturbances only ever add time.
QUANTILE = 0.25
PRIOR = 2
# Log errors: of kernels measured outside of any network, after a correction by kind, and of
# predictions outside of what was measured. Inside, the learner is often better than isolation.
ISOLATED_ERROR, MIN_OUTSIDE_ERROR = 0.1, 0.5
MIN_BOTH_WAYS = 3
_ANY_KIND = ""


class KernelLatencyPredictor:
    """Milliseconds of kernels on one target, and which of them it knows.

    A kernel is known if it was measured itself, or if its kind was measured and its size lies
    within what was measured of that kind (up to a factor of two).

    Attributes:
        measured_ms_: Latency of every kernel seen in `fit`, by `Kernel.key`: the lower quartile of
            its measurements, drawn a little towards what others say of it.
        rooflines_: ms per launch, MAC and byte, `(3,)`, by kind; `""` holds for all others.
        extents_: Smallest and largest `EXTENT` features of each kind, `(2, 4)`.
        error_: Median absolute log error on kernels of kinds seen, sizes unseen (out of fold).
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self.measured_ms_: dict[str, float] | None = None
        self.rooflines_: dict[str, FloatArray] = {}
        self.extents_: dict[str, FloatArray] = {}
        self.trees_: TreeEnsemble | None = None
        self.error_ = 0.0

    def fit(
        self,
        kernels: Sequence[Kernel],
        latency_ms: FloatArray,
        *,
        isolated: Mapping[Kernel, float] | None = None,
    ) -> Self:
        """Learn from kernels of networks and their latencies, `(n,)`; one may occur several times.

        `isolated` holds the milliseconds of kernels measured outside of any network, as they were.
        Those that no network has shown are looked up too: corrected by what isolation does to their
        kind, and drawn towards the prediction as far as that is the surer of the two. Nothing is
        learned from them about others.
        """
        if len(kernels) != len(latency_ms) or not len(kernels):
            raise ValueError(
                f"as many latencies as kernels are needed, and at least one, got "
                f"{len(kernels)} kernels, {len(latency_ms)} latencies"
            )
        samples: dict[str, list[float]] = {}
        distinct: dict[str, Kernel] = {}
        for kernel, ms in zip(kernels, latency_ms, strict=True):
            samples.setdefault(kernel.key, []).append(max(float(ms), MIN_FLOOR_MS))
            distinct[kernel.key] = kernel
        unique = list(distinct.values())
        y_ms = np.array([np.quantile(samples[k.key], QUANTILE) for k in unique])
        kinds = np.array([kernel.kind for kernel in unique])
        terms, x = work(unique), kernel_features(unique)
        self.rooflines_ = {_ANY_KIND: _fit_roofline(terms, y_ms)}
        self.extents_ = {}
        for kind in np.unique(kinds):
            of_kind = kinds == kind
            if of_kind.sum() >= MIN_OF_A_KIND:
                self.rooflines_[str(kind)] = _fit_roofline(terms[of_kind], y_ms[of_kind])
            extent = x[np.ix_(of_kind, EXTENT)]
            self.extents_[str(kind)] = np.stack([extent.min(axis=0), extent.max(axis=0)])
        base_ms = self._roofline_ms(unique)
        residual = np.log(y_ms / base_ms)
        columns = self._with_kind(unique, x)
        out_of_fold = self._out_of_fold(columns, residual)
        self.error_ = float(np.median(np.abs(out_of_fold - residual)))
        self.trees_ = TreeEnsemble.fit(
            columns, residual, n_trees=N_TREES, min_leaf=2, seed=self.seed
        )
        # A kernel that was met once may have been met in a bad moment; what others say of it counts
        # as much as `PRIOR` measurements.
        n = np.array([len(samples[kernel.key]) for kernel in unique])
        blended = (n * residual + PRIOR * out_of_fold) / (n + PRIOR)
        self.measured_ms_ = dict(
            zip((k.key for k in unique), (base_ms * np.exp(blended)).tolist(), strict=True)
        )
        self._look_up(_corrected(isolated or {}, dict(zip(unique, y_ms.tolist(), strict=True))))
        return self

    def _look_up(self, isolated_ms: Mapping[Kernel, float]) -> None:
        """Know kernels that no network has shown: two estimates, each by its inverse variance."""
        assert self.measured_ms_ is not None
        kernels = list(isolated_ms)
        predicted_ms, is_inside = self.predict(kernels)
        outside = max(2 * self.error_, MIN_OUTSIDE_ERROR)
        for kernel, ms, inside in zip(kernels, predicted_ms, is_inside, strict=True):
            error = self.error_ if inside else outside
            weight = error**2 / (error**2 + ISOLATED_ERROR**2)
            self.measured_ms_[kernel.key] = float(
                ms ** (1 - weight) * isolated_ms[kernel] ** weight
            )

    def predict(self, kernels: Sequence[Kernel]) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Latencies in ms `(n,)`, and which of the kernels are known `(n,)`."""
        if self.measured_ms_ is None or self.trees_ is None:
            raise NotFittedError("KernelLatencyPredictor.predict was called before fit")
        if not kernels:
            return np.zeros(0), np.zeros(0, dtype=bool)
        distinct = list({kernel.key: kernel for kernel in kernels}.values())
        x = kernel_features(distinct)
        ms = self._roofline_ms(distinct) * np.exp(self.trees_.predict(self._with_kind(distinct, x)))
        answers: dict[str, tuple[float, bool]] = {}
        for i, kernel in enumerate(distinct):
            measured = self.measured_ms_.get(kernel.key)
            if measured is not None:
                answers[kernel.key] = (measured, True)
            else:
                answers[kernel.key] = (float(ms[i]), self._is_inside(kernel, x[i, EXTENT]))
        return (
            np.array([answers[k.key][0] for k in kernels]),
            np.array([answers[k.key][1] for k in kernels]),
        )

    def _is_inside(self, kernel: Kernel, extent: FloatArray) -> bool:
        bounds = self.extents_.get(kernel.kind)
        return bounds is not None and bool(
            (extent >= bounds[0] - EXTENT_MARGIN).all()
            and (extent <= bounds[1] + EXTENT_MARGIN).all()
        )

    def _roofline_ms(self, kernels: Sequence[Kernel]) -> FloatArray:
        lines = [self.rooflines_.get(k.kind, self.rooflines_[_ANY_KIND]) for k in kernels]
        ms = (work(kernels) * np.array(lines)).sum(axis=1)
        return np.asarray(np.maximum(ms, MIN_FLOOR_MS), dtype=np.float64)

    def _with_kind(self, kernels: Sequence[Kernel], x: FloatArray) -> FloatArray:
        """The features, and the launch cost of the kind as a number that tells kinds apart."""
        launch_ms = [self.rooflines_.get(k.kind, self.rooflines_[_ANY_KIND])[0] for k in kernels]
        order = sorted(self.extents_)
        kind = [order.index(k.kind) if k.kind in self.extents_ else -1 for k in kernels]
        return np.column_stack([x, launch_ms, kind])

    def _out_of_fold(self, x: FloatArray, residual: FloatArray) -> FloatArray:
        """What trees that did not see a kernel say of it, `(n,)`; 0 where there are too few."""
        n = len(x)
        if n < 2 * MIN_OF_A_KIND:
            return np.zeros(n)
        fold = np.random.default_rng(self.seed).permutation(n) % N_FOLDS
        found = np.zeros(n)
        for i in range(N_FOLDS):
            rest = fold != i
            trees = TreeEnsemble.fit(
                x[rest], residual[rest], n_trees=N_TREES // 2, min_leaf=2, seed=self.seed
            )
            found[~rest] = trees.predict(x[~rest])
        return found

    def to_data(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The learned state as JSON-able data and named arrays."""
        if self.measured_ms_ is None or self.trees_ is None:
            raise NotFittedError("a predictor can only be saved after fit")
        kinds, extents = list(self.rooflines_), list(self.extents_)
        data = {
            "measured_ms": self.measured_ms_,
            "roofline_kinds": kinds,
            "kinds": extents,
            "error": self.error_,
            "seed": self.seed,
            "features": list(FEATURES),
        }
        arrays = {
            "rooflines": np.stack([self.rooflines_[kind] for kind in kinds]),
            "extents": np.stack([self.extents_[kind] for kind in extents]),
        } | {f"trees_{name}": array for name, array in self.trees_.to_arrays().items()}
        return data, arrays

    @classmethod
    def from_data(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild from `to_data`.

        Raises:
            KeyError, TypeError, ValueError: The data was not written by `to_data`.
        """
        if list(data["features"]) != list(FEATURES):
            raise ValueError("it was fitted on other features")
        predictor = cls(seed=int(data["seed"]))
        predictor.measured_ms_ = {str(k): float(v) for k, v in data["measured_ms"].items()}
        rooflines = np.asarray(arrays["rooflines"], np.float64).reshape(-1, 3)
        extents = np.asarray(arrays["extents"], np.float64).reshape(-1, 2, len(EXTENT))
        predictor.rooflines_ = dict(zip(data["roofline_kinds"], rooflines, strict=True))
        predictor.extents_ = dict(zip(data["kinds"], extents, strict=True))
        predictor.error_ = float(data["error"])
        prefix = "trees_"
        predictor.trees_ = TreeEnsemble.from_arrays(
            {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        )
        if _ANY_KIND not in predictor.rooflines_ or predictor.trees_.feature.max() >= (
            len(FEATURES) + 2
        ):
            raise ValueError("its arrays do not belong together")
        return predictor


def _corrected(
    isolated: Mapping[Kernel, float], in_place_ms: Mapping[Kernel, float]
) -> dict[Kernel, float]:
    """The isolated kernels that no network has shown, in the milliseconds of networks."""
    ratios: dict[str, list[float]] = {}
    for kernel in isolated.keys() & in_place_ms.keys():
        ratio = in_place_ms[kernel] / max(isolated[kernel], MIN_FLOOR_MS)
        for kind in (kernel.kind, _ANY_KIND):
            ratios.setdefault(kind, []).append(ratio)

    def factor(kind: str) -> float:
        for name in (kind, _ANY_KIND):
            if len(ratios.get(name, ())) >= MIN_BOTH_WAYS:
                return float(np.median(ratios[name]))
        return 1.0

    factors = {kind: factor(kind) for kind in {kernel.kind for kernel in isolated}}
    return {
        kernel: max(ms * factors[kernel.kind], MIN_FLOOR_MS)
        for kernel, ms in isolated.items()
        if kernel not in in_place_ms
    }


def _fit_roofline(terms: FloatArray, y_ms: FloatArray) -> FloatArray:
    """ms per launch, MAC and byte, none negative, least squares of relative errors; `(3,)`."""
    from sklearn.linear_model import LinearRegression

    line = LinearRegression(positive=True, fit_intercept=False)
    line.fit(terms / y_ms[:, None], np.ones(len(y_ms)))
    return np.asarray(line.coef_, dtype=np.float64)
