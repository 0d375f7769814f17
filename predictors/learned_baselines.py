"""Learned predictors of network latency that others use: forests, boosting, Gaussian processes.

They exist to be compared with ours, so each is given what ours gets: the same features, latencies
on a logarithm, the same overhead of a network, and options chosen by cross-validation within the
training networks. All of scikit-learn is imported where it is needed.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from predictors.baselines import (
    ANY_GROUP,
    MIN_OF_A_GROUP,
    FloatArray,
    Overhead,
    check_enough,
    distinct_kernels,
    kernels_of,
    measured_ms,
    not_fitted,
    rows_by_group,
)
from predictors.features import FEATURES, group, kernel_features, work
from profilers.kernels import Kernel
from profilers.measurement import NetworkMeasurement

Options = dict[str, float]
Grid = Mapping[str, tuple[float, ...]]

N_FOLDS = 3
N_TREES, N_TREES_TUNING = 200, 20
N_BOOSTS = 200
# What is chosen from; the first is taken where there are too few examples to choose.
FOREST_GRID = {"max_features": (0.4, 1.0), "min_samples_leaf": (1, 3)}
BOOST_GRID = {"max_leaf_nodes": (31, 8), "min_samples_leaf": (5, 20), "learning_rate": (0.1, 0.05)}
MAX_GROUPS = 250  # of scikit-learn's categories; rarer ones are as unknown
GROUP_COLUMN = len(FEATURES)
N_MARGINAL, N_CONDITIONED = 300, 2000  # a Gaussian process costs n³


@runtime_checkable
class Tuned(Protocol):
    """A model that chose its options itself."""

    options_: Options  # set by fit


class ForestPerGroup:
    """A random forest for each group of kernels, summed.

    The way of nn-Meter, with trees on the logarithm of latencies. Groups with fewer than
    `MIN_OF_A_GROUP` kernels, and those never met, get the forest of all kernels.

    Reference:
        Zhang et al., nn-Meter, MobiSys 2021, section 5.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self.options_: Options = {}
        self.forests_: dict[str, Any] = {}
        self.overhead_: Overhead | None = None

    def fit(self, measurements: Sequence[NetworkMeasurement]) -> Self:
        """Learn from the kernels of at least one measured network."""
        kernels, ms = distinct_kernels(measurements)
        x, y = kernel_features(kernels), np.log(ms)
        by_group = rows_by_group(kernels)

        groups = [rows for name, rows in by_group.items() if name != ANY_GROUP]

        def errors(options: Options) -> FloatArray:
            forest = partial(self._forest, options, N_TREES_TUNING)
            found = [_cross_validated(forest, x[rows], y[rows], seed=self.seed) for rows in groups]
            return np.concatenate(found)

        self.options_ = _best(FOREST_GRID, errors) if groups else _candidates(FOREST_GRID)[0]
        self.forests_ = {
            name: self._forest(self.options_, N_TREES).fit(x[rows], y[rows])
            for name, rows in by_group.items()
        }
        self.overhead_ = Overhead.fit(self.kernel_ms, measurements)
        return self

    def kernel_ms(self, kernels: Sequence[Kernel]) -> FloatArray:
        """Latencies of single kernels in ms, `(n,)`."""
        return _by_group(self.forests_, kernels)

    def predict(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        """Latencies in ms of n networks, `(n,)`."""
        if self.overhead_ is None:
            raise not_fitted(self)
        return self.overhead_.predict(self.kernel_ms, networks)

    def _forest(self, options: Options, n_trees: int) -> Any:
        from sklearn.ensemble import RandomForestRegressor

        return RandomForestRegressor(n_trees, random_state=self.seed, **options)


class KernelBoosting:
    """Gradient boosting over all kernels, their group a category, summed.

    Reference:
        Friedman, Greedy function approximation: a gradient boosting machine, 2001.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self.options_: Options = {}
        self.groups_: list[str] = []
        self.trees_: Any = None
        self.overhead_: Overhead | None = None

    def fit(self, measurements: Sequence[NetworkMeasurement]) -> Self:
        """Learn from the kernels of at least one measured network."""
        kernels, ms = distinct_kernels(measurements)
        counts = {name: len(rows) for name, rows in rows_by_group(kernels, at_least=1).items()}
        del counts[ANY_GROUP]
        self.groups_ = sorted(counts, key=lambda name: (-counts[name], name))[:MAX_GROUPS]
        x, y = self._columns(kernels), np.log(ms)

        self.options_ = _choose_boosting(x, y, seed=self.seed, category=GROUP_COLUMN)
        self.trees_ = _boosting(self.options_, self.seed, category=GROUP_COLUMN).fit(x, y)
        self.overhead_ = Overhead.fit(self.kernel_ms, measurements)
        return self

    def kernel_ms(self, kernels: Sequence[Kernel]) -> FloatArray:
        """Latencies of single kernels in ms, `(n,)`."""
        return np.asarray(np.exp(self.trees_.predict(self._columns(kernels))))

    def predict(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        """Latencies in ms of n networks, `(n,)`."""
        if self.overhead_ is None:
            raise not_fitted(self)
        return self.overhead_.predict(self.kernel_ms, networks)

    def _columns(self, kernels: Sequence[Kernel]) -> FloatArray:
        code = {name: float(i) for i, name in enumerate(self.groups_)}
        # A group never met is a missing value, for which every split has a side.
        groups = [code.get(group(kernel), math.nan) for kernel in kernels]
        return np.column_stack([kernel_features(kernels), groups])


class NetworkBoosting:
    """Gradient boosting on the totals of a whole network; no kernel's own latency is used.

    Its columns are logarithms: of kernels, MACs and bytes of the network and of each group that was
    met, and of the largest output.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self.options_: Options = {}
        self.groups_: list[str] = []
        self.trees_: Any = None

    def fit(self, measurements: Sequence[NetworkMeasurement]) -> Self:
        """Learn from at least one measured network."""
        check_enough(measurements)
        networks = kernels_of(measurements)
        self.groups_ = sorted({group(kernel) for kernels in networks for kernel in kernels})
        x, y = self._columns(networks), np.log(measured_ms(measurements))

        self.options_ = _choose_boosting(x, y, seed=self.seed)
        self.trees_ = _boosting(self.options_, self.seed).fit(x, y)
        return self

    def predict(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        """Latencies in ms of n networks, `(n,)`."""
        if self.trees_ is None:
            raise not_fitted(self)
        if not networks:
            return np.zeros(0)
        return np.asarray(np.exp(self.trees_.predict(self._columns(networks))))

    def _columns(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        position = {name: i for i, name in enumerate(self.groups_)}
        rows = []
        for kernels in networks:
            terms = work(kernels)
            of_group = np.zeros((len(self.groups_), terms.shape[1]))
            for kernel, term in zip(kernels, terms, strict=True):
                if group(kernel) in position:
                    of_group[position[group(kernel)]] += term
            largest = max((t.n_bytes for k in kernels for t in k.outputs), default=0)
            rows.append([*terms.sum(axis=0), *of_group.reshape(-1), largest])
        return np.asarray(np.log1p(np.array(rows)))


class KernelGaussianProcess:
    """A Gaussian process on log features for each group of kernels, summed.

    A line plus a smooth function of each feature's own length scale plus noise; their sizes
    maximise the marginal likelihood on at most `N_MARGINAL` kernels of the group, drawn by the
    seed; at most `N_CONDITIONED` are then learned from. Groups with fewer than `MIN_OF_A_GROUP`
    kernels get the process of all.

    Reference:
        Rasmussen, Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 and 5.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self.processes_: dict[str, _Process] = {}
        self.overhead_: Overhead | None = None

    def fit(self, measurements: Sequence[NetworkMeasurement]) -> Self:
        """Learn from the kernels of at least one measured network."""
        kernels, ms = distinct_kernels(measurements)
        x, y = kernel_features(kernels), np.log(ms)
        self.processes_ = {
            name: _Process(self.seed).fit(x[rows], y[rows])
            for name, rows in rows_by_group(kernels).items()
        }
        self.overhead_ = Overhead.fit(self.kernel_ms, measurements)
        return self

    def kernel_ms(self, kernels: Sequence[Kernel]) -> FloatArray:
        """Latencies of single kernels in ms, `(n,)`."""
        return _by_group(self.processes_, kernels)

    def predict(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        """Latencies in ms of n networks, `(n,)`."""
        if self.overhead_ is None:
            raise not_fitted(self)
        return self.overhead_.predict(self.kernel_ms, networks)


class _Process:
    """scikit-learn's process, on the features that differ, standardised."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def fit(self, x: FloatArray, y: FloatArray) -> Self:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

        self.differ_ = x.std(axis=0) > 1e-9
        if not self.differ_.any():
            self.differ_[0] = True
        seen = x[:, self.differ_]
        self.mean_, self.std_ = seen.mean(axis=0), np.maximum(seen.std(axis=0), 1e-9)
        z = self._standardised(x)
        order = np.random.default_rng(self.seed).permutation(len(y))
        start = (
            ConstantKernel(1.0, (1e-4, 1e3)) * RBF(np.full(z.shape[1], 3.0), (0.1, 1e3))
            + ConstantKernel(0.1, (1e-4, 1e2)) * DotProduct(1.0, (1e-3, 1e2))
            + WhiteKernel(0.01, (1e-5, 1.0))
        )
        few, many = order[:N_MARGINAL], order[:N_CONDITIONED]
        with _quiet():
            process = GaussianProcessRegressor(start, normalize_y=True).fit(z[few], y[few])
            if len(many) > len(few):
                process = GaussianProcessRegressor(
                    process.kernel_, normalize_y=True, optimizer=None
                ).fit(z[many], y[many])
        self.process_ = process
        return self

    def predict(self, x: FloatArray) -> FloatArray:
        with _quiet():
            return np.asarray(self.process_.predict(self._standardised(x)))

    def _standardised(self, x: FloatArray) -> FloatArray:
        return np.asarray((x[:, self.differ_] - self.mean_) / self.std_)


@contextmanager
def _quiet() -> Iterator[None]:
    """scikit-learn says when a length scale ends at its bound; here that is an answer."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _by_group(models: dict[str, Any], kernels: Sequence[Kernel]) -> FloatArray:
    """What the model of each kernel's group says, `(n,)`; that of all kernels where it has none."""
    x = kernel_features(kernels)
    groups = np.array([name if name in models else ANY_GROUP for name in map(group, kernels)])
    log_ms = np.zeros(len(kernels))
    for name in np.unique(groups):
        rows = groups == name
        log_ms[rows] = models[str(name)].predict(x[rows])
    return np.asarray(np.exp(log_ms))


def _boosting(options: Options, seed: int, category: int | None = None) -> Any:
    """Boosted trees; `category` is the column that holds one."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(
        max_iter=N_BOOSTS, early_stopping=False, random_state=seed,
        categorical_features=None if category is None else [category], **options,
    )  # fmt: skip


def _choose_boosting(
    x: FloatArray, y: FloatArray, *, seed: int, category: int | None = None
) -> Options:
    if len(y) < MIN_OF_A_GROUP:
        return _candidates(BOOST_GRID)[0]
    return _best(
        BOOST_GRID,
        lambda options: _cross_validated(
            lambda: _boosting(options, seed, category), x, y, seed=seed
        ),
    )


def _candidates(grid: Grid) -> list[Options]:
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _best(grid: Grid, errors: Callable[[Options], FloatArray]) -> Options:
    """The options of the grid with the least mean error."""
    return min(_candidates(grid), key=lambda options: float(errors(options).mean()))


def _cross_validated(
    make: Callable[[], Any], x: FloatArray, y: FloatArray, *, seed: int
) -> FloatArray:
    """Absolute error on each example of a model that did not see it, `(n,)`."""
    fold = np.random.default_rng(seed).permutation(len(y)) % N_FOLDS
    found = np.zeros(len(y))
    for i in range(N_FOLDS):
        held_out = fold == i
        found[held_out] = make().fit(x[~held_out], y[~held_out]).predict(x[held_out])
    return np.abs(found - y)
