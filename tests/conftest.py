"""A tiny space of real blocks, and a predictor for it that was fitted without timing anything."""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from hwnas.blocks import ClassifierHead, ConvBlock, InvertedResidual
from hwnas.profiling import untrained_model
from hwnas.spaces.base import Choice, SearchSpace
from predictors.network_latency import NetworkLatencyPredictor
from profilers.devices import this_device
from profilers.kernels import macs
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.onnx_models import OnnxModel
from profilers.profiler import Profiler
from profilers.targets import Target, make_target
from profilers.timing import LatencySamples


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def _bottleneck(stage, block, options):
    if block > options[f"depth_{stage}"]:
        return None
    return InvertedResidual(
        out_channels=8 * stage,
        kernel_size=options[f"kernel_{stage}"],
        stride=stage if block == 1 else 1,
        expand_ratio=2,
        squeeze_excite=False,
        activation="relu",
    )


@pytest.fixture(scope="session")
def make_tiny_space() -> Callable[[tuple[int, ...], int], SearchSpace]:
    """96 genotypes, 80 networks, two stages of one or two bottlenecks; as the catalog calls it."""

    def make(input_shape, n_classes):
        def slot(stage, block):
            return lambda options: _bottleneck(stage, block, options)

        return SearchSpace(
            name="tiny",
            choices=(
                Choice("stem", (8, 16)),
                Choice("depth_1", (0, 1, 2)),
                Choice("kernel_1", (3, 5)),
                Choice("depth_2", (1, 2)),
                Choice("kernel_2", (3, 5)),
                Choice("features", (16, 32)),
            ),
            input_shape=lambda options: input_shape,
            slots=(
                lambda options: ConvBlock(options["stem"], 3, 1, "relu"),
                *(slot(stage, block) for stage in (1, 2) for block in (1, 2)),
                lambda options: ClassifierHead(options["features"], n_classes, "relu"),
            ),
        )

    return make


def made_up_measurement(model: OnnxModel, target: Target) -> NetworkMeasurement:
    """The model's true kernels, with latencies from a formula: 1 µs a kernel and 0.1 ns a MAC."""
    nodes = Profiler(target).kernels(model)
    runs = tuple(
        KernelLatency(n.name, n.kernel, 1e-3 + 1e-7 * macs(n.kernel) + 1e-8 * n.kernel.n_bytes, 9)
        for n in nodes
    )
    wall_ms = np.full(16, 0.01 + sum(run.latency_ms for run in runs))
    zeros = np.zeros(16, np.int64)
    samples = LatencySamples(wall_ms, wall_ms, zeros, zeros, zeros, np.ones(16))
    return NetworkMeasurement(model.name, model.digest, target, samples, runs, 1000)


class MadeUpProfiler:
    """A profiler that asks the runtime for its kernels, and makes up what they take.

    Attributes:
        target: Where it would measure.
        measured: Names of the models that it was asked to measure, by all of its kind.
        limit: After so many models it is interrupted.
    """

    measured: ClassVar[list[str]] = []
    limit: ClassVar[int | None] = None

    def __init__(self, target, *, references_ms=()):
        self.target = target

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def kernels(self, model):
        return Profiler(self.target).kernels(model)

    def excerpt(self, model, kernels):
        return Profiler(self.target).excerpt(model, kernels)

    def profile(self, model, *, seconds=2.0, tags=None):
        if self.limit is not None and len(self.measured) >= self.limit:
            raise KeyboardInterrupt
        self.measured.append(model.name)
        return replace(made_up_measurement(model, self.target), tags=dict(tags or {}))


@pytest.fixture
def made_up_profiler() -> type[MadeUpProfiler]:
    """A class of its own: what its profilers were asked starts empty."""
    return type("_MadeUp", (MadeUpProfiler,), {"measured": [], "limit": None})


@pytest.fixture(scope="session")
def fit_made_up() -> Callable[[SearchSpace], NetworkLatencyPredictor]:
    """Fit a predictor of this machine's default target on twelve networks of a space."""

    def fit(space):
        target = make_target()
        genotypes = np.unique(space.canonical(space.sample(np.random.default_rng(0), 12)), axis=0)
        return NetworkLatencyPredictor().fit(
            [
                made_up_measurement(untrained_model(space.architecture(tuple(row))), target)
                for row in genotypes
            ]
        )

    return fit


@pytest.fixture(scope="session")
def tiny_predictor(make_tiny_space, fit_made_up) -> NetworkLatencyPredictor:
    """Of the tiny space for digits."""
    return fit_made_up(make_tiny_space((1, 8, 8), 10))


@pytest.fixture(scope="session")
def has_vnni():
    """Whether INT8 products are added in 32 bits; else ONNX Runtime's sums may overflow 16."""
    return bool({"avx512_vnni", "avx_vnni", "asimd"} & set(this_device().isa))
