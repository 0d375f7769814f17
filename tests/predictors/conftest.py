"""Synthetic kernels with a known cost, and networks made of them with a known overhead."""

import numpy as np
import pytest

from predictors.features import work
from predictors.network_latency import NetworkLatencyPredictor
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.targets import Target
from profilers.timing import LatencySamples


def conv(channels_in, channels_out, size, *, kernel_size=1, activation="Relu"):
    weight = Tensor("float", (channels_out, channels_in, kernel_size, kernel_size))
    return Kernel(
        "Conv",
        (("activation", activation), ("group", 1), ("kernel_shape", (kernel_size, kernel_size))),
        (Tensor("float", (1, channels_in, size, size)), weight),
        (Tensor("float", (1, channels_out, size, size)),),
    )


def elementwise(channels, size, kind="Add"):
    tensor = Tensor("float", (1, channels, size, size))
    return Kernel(kind, (), (tensor, tensor), (tensor,))


def true_ms(kernel):
    """The truth of these tests: launch, 50 GMAC/s and 20 GB/s."""
    launches, n_macs, n_bytes = work([kernel])[0]
    return float(0.002 * launches + n_macs / 50e6 + n_bytes / 20e6)


@pytest.fixture(scope="session")
def make_conv():
    return conv


@pytest.fixture(scope="session")
def make_elementwise():
    return elementwise


@pytest.fixture(scope="session")
def kernel_ms():
    return true_ms


@pytest.fixture(scope="session")
def random_networks():
    """n lists of kernels, reproducible by the seed."""

    def make(n, *, seed=0):
        rng = np.random.default_rng(seed)
        return [
            [
                kernel
                for _ in range(rng.integers(3, 20))
                for kernel in (
                    conv(
                        *(int(c) for c in rng.choice([8, 16, 24, 32, 48], 2)),
                        int(rng.choice([7, 14, 28])),
                        kernel_size=int(rng.choice([1, 3])),
                    ),
                    elementwise(int(rng.choice([8, 16, 32])), int(rng.choice([7, 14, 28]))),
                )
            ]
            for _ in range(n)
        ]

    return make


@pytest.fixture(scope="session")
def target():
    return Target("onnxruntime-cpu", "1.0", "fp32", 1, 1, "0123456789ab", "Toy CPU (2 cores)")


@pytest.fixture(scope="session")
def measure(target):
    """Measurements of networks: latency = a · sum + b · n + c, with noise and outliers.

    `ms_of` is the truth of a kernel; its profile reads it with `profiler_ms` on top.
    """

    def make(
        networks, *, ms_of=true_ms, profiler_ms=0.0, a=1.0, b=0.001, c=0.02, noise=0.0, seed=0,
        outliers=(), **changes,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        found = []
        for i, kernels in enumerate(networks):
            runs = tuple(
                KernelLatency(
                    f"k{j}", kernel, ms_of(kernel) * rng.lognormal(0, noise) + profiler_ms, 9
                )
                for j, kernel in enumerate(kernels)
            )
            ms = a * sum(ms_of(kernel) for kernel in kernels) + b * len(kernels) + c
            ms *= rng.lognormal(0, noise) * (3.0 if i in outliers else 1.0)
            wall_ms, zeros = np.full(10, ms), np.zeros(10, dtype=np.int64)
            samples = LatencySamples(wall_ms, wall_ms, zeros, zeros, zeros, np.ones(10))
            fields = {
                "name": f"net {i}", "digest": f"{seed}-{i}", "target": target, "samples": samples,
                "kernels": runs, "peak_memory_bytes": None,
            } | changes  # fmt: skip
            found.append(NetworkMeasurement(**fields))
        return found

    return make


@pytest.fixture(scope="session")
def fitted(random_networks, measure):
    """Of thirty networks with 2 % noise."""
    return NetworkLatencyPredictor().fit(measure(random_networks(30), noise=0.02))
