"""Kinds of latency predictors side by side: the same networks to learn from, the same to predict.

Which kind wins depends on what is asked: networks like those measured, or families never met. So
each test set is named and reported apart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import ConfigError
from hwnas.progress import Progress
from predictors.baselines import (
    KernelLookup,
    LatencyModel,
    MacsLinear,
    MedianLatency,
    Roofline,
    kernels_of,
    measured_ms,
)
from predictors.graph_network import GraphNetwork
from predictors.learned_baselines import (
    ForestPerGroup,
    KernelBoosting,
    KernelGaussianProcess,
    NetworkBoosting,
    Tuned,
)
from predictors.metrics import accuracy
from predictors.network_latency import MIN_NETWORKS, NetworkLatencyPredictor
from profilers.kernels import Kernel
from profilers.measurement import NetworkMeasurement

FloatArray = NDArray[np.float64]


class _Ours:
    """Our predictor as one that answers with latencies only."""

    def __init__(self, *, seed: int) -> None:
        self.predictor = NetworkLatencyPredictor(seed=seed)

    def fit(self, measurements: Sequence[NetworkMeasurement]) -> Self:
        self.predictor.fit(measurements)
        return self

    def predict(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        return self.predictor.predict(networks).latency_ms


@dataclass(frozen=True)
class Kind:
    """A kind of predictor.

    Attributes:
        make: A fresh one, from a seed.
        what: What it is, in a line.
        tuned: What is chosen within the training networks, in a line.
    """

    make: Callable[[int], LatencyModel]
    what: str
    tuned: str = "nothing"


OURS = "hwnas"
KINDS: dict[str, Kind] = {
    "median": Kind(lambda seed: MedianLatency(), "the median of all measured networks"),
    "macs": Kind(lambda seed: MacsLinear(), "a line in the network's MACs"),
    "roofline": Kind(
        lambda seed: Roofline(), "launch + MACs + bytes by group of kernels, and an overhead"
    ),
    "lookup": Kind(
        lambda seed: KernelLookup(), "measured kernels, else the nearest in size, and an overhead"
    ),
    "forest": Kind(
        lambda seed: ForestPerGroup(seed=seed),
        "random forest for each group of kernels (nn-Meter's way), and an overhead",
        "features a split and examples a leaf, by 3-fold cross-validation over kernels",
    ),
    "kernel boosting": Kind(
        lambda seed: KernelBoosting(seed=seed),
        "gradient boosting on kernels, and an overhead",
        "leaves, examples a leaf and learning rate, by 3-fold cross-validation over kernels",
    ),
    "network boosting": Kind(
        lambda seed: NetworkBoosting(seed=seed),
        "gradient boosting on totals of the whole network",
        "leaves, examples a leaf and learning rate, by 3-fold cross-validation over networks",
    ),
    "gaussian process": Kind(
        lambda seed: KernelGaussianProcess(seed=seed),
        "Gaussian process for each group of kernels, and an overhead",
        "length scales, line and noise, by marginal likelihood",
    ),
    "graph network": Kind(
        lambda seed: GraphNetwork(seed=seed),
        "graph neural network on the kernels",
        "when to stop, on a seventh of the training networks",
    ),
    OURS: Kind(
        lambda seed: _Ours(seed=seed),
        "ours: rooflines and Gaussian processes, from kernels and networks jointly",
        "as `hwnas fit` does; calibrating the interval is in its time to fit",
    ),
}


def bench_kinds(
    train: Sequence[NetworkMeasurement],
    test: Mapping[str, Sequence[NetworkMeasurement]],
    *,
    seed: int,
    progress: Progress,
    kinds: Mapping[str, Kind] = KINDS,
) -> dict[str, Any]:
    """Fit each kind to the same networks, and compare its predictions with measurements.

    Of `train`, networks that were measured on a machine that was busy throughout are left out for
    every kind while at least half remains. All of `test` counts.

    Args:
        train: Measurements of one target.
        test: By name, measurements of that target; none may be of a network in `train`.
        seed: Of every kind that draws something.
        progress: Where to say how far it is.
        kinds: What is compared, by name.

    Returns:
        Plain data: under `kinds`, by name: `what`, `tuned`, `options` (what was chosen),
        `fit_seconds`, `predict_us_per_network` (mean over all of `test` in one call, features
        included), and `accuracy`: an `Accuracy` as a dict by test set, its `spearman` None where
        there are no ranks to compare.

    Raises:
        ConfigError: There is too little to learn from, nothing to test on, a network stands in
            both, or the measurements are of several targets.
    """
    _check(train, test)
    learned = _steady(train)
    asked = [m for measurements in test.values() for m in measurements]
    networks = kernels_of(asked)
    found: dict[str, Any] = {}
    with progress.task("kinds of predictors", len(kinds)) as task:
        for i, (name, kind) in enumerate(kinds.items()):
            task.update(i, note=name)
            start = time.perf_counter()
            model = kind.make(seed).fit(learned)
            fit_s = time.perf_counter() - start
            predicted = model.predict(networks)
            start = time.perf_counter()
            model.predict(networks)  # again: what only the first call of a process costs is gone
            predict_s = time.perf_counter() - start
            ends = np.cumsum([len(measurements) for measurements in test.values()])[:-1]
            found[name] = {
                "what": kind.what,
                "tuned": kind.tuned,
                "options": model.options_ if isinstance(model, Tuned) else {},
                "fit_seconds": fit_s,
                "predict_us_per_network": predict_s / len(networks) * 1e6,
                "accuracy": {
                    of: _accuracy(part, measured_ms(measurements))
                    for (of, measurements), part in zip(
                        test.items(), np.split(predicted, ends), strict=True
                    )
                },
            }
        task.update(len(kinds))
    return {
        "seed": seed,
        "target": train[0].target.describe(),
        "n_train": len(learned),
        "n_train_left_out": len(train) - len(learned),
        "n_test": {name: len(measurements) for name, measurements in test.items()},
        "kinds": found,
    }


def _accuracy(predicted_ms: FloatArray, measured: FloatArray) -> dict[str, Any]:
    found = asdict(accuracy(predicted_ms, measured))
    # A constant has no ranks, and JSON no nan.
    return found | {"spearman": None if math.isnan(found["spearman"]) else found["spearman"]}


def _steady(networks: Sequence[NetworkMeasurement]) -> list[NetworkMeasurement]:
    steady = [m for m in networks if m.samples.warning is None]
    enough = max(MIN_NETWORKS, len(networks) / 2)
    return steady if len(steady) >= enough else list(networks)


def _check(
    train: Sequence[NetworkMeasurement], test: Mapping[str, Sequence[NetworkMeasurement]]
) -> None:
    digests = {m.digest for m in train}
    if len(digests) < MIN_NETWORKS:
        raise ConfigError(
            f"at least {MIN_NETWORKS} different networks to learn from are needed, got "
            f"{len(digests)}; measure more with `hwnas profile`"
        )
    empty = [name for name, measurements in test.items() if not measurements]
    if empty or not test:
        raise ConfigError(
            f"every test set needs a network, got none in {', '.join(empty) or 'any'}"
        )
    asked = [m for measurements in test.values() for m in measurements]
    both = sorted({m.name for m in asked if m.digest in digests})
    if both:
        raise ConfigError(
            f"{len(both)} networks are both learned from and tested on, such as {both[0]}; "
            "split by digest"
        )
    targets = sorted({m.target.key for m in (*train, *asked)})
    if len(targets) > 1:
        raise ConfigError(f"measurements of one target are compared, got {', '.join(targets)}")
