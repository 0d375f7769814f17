"""What a run costs beside its kernels: a + b · (number of kernels), once per target.

It is fitted on small networks made here, never on the network that it is used to explain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profilers.devices import Device
from profilers.errors import ModelError
from profilers.isolation import AnyProfiler
from profilers.measurement import CALIBRATION_TAG, FAMILY_TAG, NetworkMeasurement
from profilers.onnx_models import OnnxModel, make_model
from profilers.reference import conv_stack
from profilers.store import MeasurementStore

N_CALIBRATION = 10
MIN_NETWORKS = 3
MAX_TRIES = 2  # of a network that is flagged: a machine may be busy for ever
SECONDS_EACH = 0.7
MIN_RESIDUAL = 0.02  # smaller relative errors are all as good

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Overhead:
    """Milliseconds of a run that no kernel accounts for.

    Attributes:
        per_run_ms: a.
        per_kernel_ms: b; negative where the profile's own clock is in the kernels' times.
        n_networks: How many networks it was fitted on.
    """

    per_run_ms: float
    per_kernel_ms: float
    n_networks: int

    def explain_ms(self, measurement: NetworkMeasurement) -> float:
        """End-to-end latency as its kernels and this overhead explain it."""
        extra = self.per_run_ms + self.per_kernel_ms * len(measurement.kernels)
        return measurement.kernel_sum_ms + extra


def fit_overhead(measurements: Sequence[NetworkMeasurement]) -> Overhead:
    """Least squares of relative errors over networks of one target.

    Raises:
        ValueError: There are fewer than three.
    """
    if len(measurements) < MIN_NETWORKS:
        raise ValueError(f"three networks or more are needed, got {len(measurements)}")
    steady = [m for m in measurements if m.samples.warning is None]
    if len(steady) >= MIN_NETWORKS:
        measurements = steady
    a, b = per_run_and_kernel(
        np.array([m.latency_ms for m in measurements]),
        np.array([m.kernel_sum_ms for m in measurements]),
        np.array([len(m.kernels) for m in measurements]),
    )
    return Overhead(a, b, len(measurements))


def per_run_and_kernel(
    latency_ms: FloatArray,
    kernel_sum_ms: FloatArray,
    n_kernels: NDArray[Any],
    *,
    n_reweightings: int = 0,
) -> tuple[float, float]:
    """a and b of n networks, in ms, by least squares of relative errors.

    Args:
        latency_ms: End to end, `(n,)`.
        kernel_sum_ms: Of their profiles, `(n,)`.
        n_kernels: `(n,)`.
        n_reweightings: More of them bring it nearer to least absolute errors.
    """
    x = np.column_stack([np.ones(len(latency_ms)), n_kernels]) / latency_ms[:, None]
    rest = (latency_ms - kernel_sum_ms) / latency_ms
    weights = np.ones(len(rest))
    for _ in range(n_reweightings + 1):
        root = np.sqrt(weights)
        (a, b), *_ = np.linalg.lstsq(x * root[:, None], rest * root, rcond=None)
        weights = 1 / np.maximum(np.abs(x @ [a, b] - rest), MIN_RESIDUAL)
    return float(a), float(b)


def calibrate(
    profiler: AnyProfiler,
    store: MeasurementStore,
    device: Device,
    *,
    on_progress: Callable[[int, int], object] = lambda done, of: None,
) -> list[NetworkMeasurement]:
    """Measure the calibration networks that the store does not hold yet.

    One that was flagged is measured once more by the next call, and never again.

    Args:
        profiler: What measures.
        store: Where measurements go, each as soon as it is made.
        device: That it runs on.
        on_progress: Told how many networks are done, and of how many.

    Returns:
        The best measurement of each network that could be measured.

    Raises:
        ModelError: Fewer than three networks can be measured; what the last error said.
    """
    target = profiler.target
    found: dict[str, list[NetworkMeasurement]] = defaultdict(list)
    for measurement in store.networks(target):
        if CALIBRATION_TAG in measurement.tags:
            found[measurement.name].append(measurement)
    failure: ModelError | None = None
    for i, model in enumerate(_calibration_models(target.batch)):
        tries = found[model.name]
        if len(tries) < MAX_TRIES and all(m.samples.warning is not None for m in tries):
            tags = {CALIBRATION_TAG: "1", FAMILY_TAG: CALIBRATION_TAG}
            try:
                measurement = profiler.profile(model, seconds=SECONDS_EACH, tags=tags)
            except ModelError as error:  # the others are enough
                failure = error
            else:
                store.add(measurement, device)
                tries.append(measurement)
        on_progress(i + 1, N_CALIBRATION)
    best = [min(tries, key=_doubt) for tries in found.values() if tries]
    if len(best) < MIN_NETWORKS:
        raise ModelError(
            f"{target.runtime} could measure {len(best)} of the {N_CALIBRATION} networks that show "
            f"its overhead, and {MIN_NETWORKS} are needed; the last error: {failure}"
        )
    return best


def _doubt(measurement: NetworkMeasurement) -> tuple[bool, float]:
    """Sorts measurements of one network, the one to trust first."""
    return measurement.samples.warning is not None, measurement.samples.relative_error


def _calibration_models(batch: int) -> list[OnnxModel]:
    """Stacks of convolutions from 4 to 80 kernels, from microseconds to milliseconds."""
    rng = np.random.default_rng(0)
    return [
        make_model(
            conv_stack(rng, batch, n_layers=n, channels=channels, size=size),
            name=f"calibration-{n}x{channels}x{size}",
        )
        for n, channels, size in (
            (4, 16, 8), (8, 16, 16), (12, 32, 8), (16, 32, 16), (24, 16, 28),
            (32, 48, 14), (40, 32, 28), (48, 64, 14), (64, 24, 32), (80, 32, 16),
        )
    ]  # fmt: skip
