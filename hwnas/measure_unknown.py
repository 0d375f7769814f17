"""Answer again: measure, without the rest of its network, what a prediction only estimated."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from hwnas.progress import Progress, Silent, Task
from predictors.errors import NotFittedError
from predictors.kernel_latency import KernelLatencyPredictor
from predictors.network_latency import NetworkLatencyPredictor
from profilers.devices import observed_device
from profilers.errors import ModelError
from profilers.excerpts import excerpt_digest
from profilers.isolation import AnyProfiler
from profilers.kernels import Kernel
from profilers.measurement import EXCERPT_FAMILY, EXCERPT_TAG, FAMILY_TAG, NetworkMeasurement
from profilers.onnx_models import OnnxModel
from profilers.store import MeasurementStore

# Of a kernel that is known but was not measured: expected error, as a share of the latency.
MIN_VALUE = 5e-4
SECONDS_EACH, MIN_SECONDS = 1.0, 0.3


def measure_unknown(
    model: OnnxModel,
    kernels: Sequence[Kernel],
    predictor: NetworkLatencyPredictor,
    profiler: AnyProfiler,
    *,
    seconds: float,
    store: MeasurementStore | None = None,
    progress: Progress | None = None,
) -> NetworkLatencyPredictor:
    """Measure what of a network `predictor` does not know, and let it answer with that.

    The kernels that it does not know, and those that it estimates from similar ones and that
    matter, are cut out of the network with what feeds them, and run without the rest. While the
    machine is too slow to trust, that is repeated as long as there is time. What the store holds is
    not measured again.

    Args:
        model: The network.
        kernels: Of the network, repeated as they occur in it.
        predictor: Fitted on the profiler's target; it is not changed.
        profiler: What measures.
        seconds: How long it may take; one measurement is made whatever it says.
        store: Where measurements come from and go to; None: they are not kept.
        progress: Told how it goes on.

    Returns:
        A predictor that knows those kernels of this network too; the same one where the target's
        runtime does not show what it runs, or there is nothing to measure.

    Raises:
        NotFittedError: The predictor was not fitted.
        WrongTargetError: It was fitted on another target.
    """
    start = time.perf_counter()
    progress = progress or Silent()
    predictor.check_target(profiler.target)
    with ExitStack() as stack:
        if store is None:
            store = stack.enter_context(MeasurementStore(":memory:"))
        wanted, found = _stored(model.digest, kernels, predictor, store)
        if wanted and (found is None or found.samples.warning is not None):
            task = stack.enter_context(progress.task("measuring kernels", seconds))
            try:
                found = _measured(model, wanted, profiler, start, seconds, task)
            except ModelError as error:
                progress.say(f"not measured: {error}")
                return predictor
            store.add(found, observed_device())
            if found.samples.warning is not None:
                progress.say(f"measured kernels of {model.name}: {found.samples.warning}")
    informed = _informed(predictor, wanted, found)
    if wanted and informed is predictor:
        progress.say(
            f"not measured: without the rest of {model.name} other kernels run than those asked for"
        )
    return informed


def with_stored(
    digest: str,
    kernels: Sequence[Kernel],
    predictor: NetworkLatencyPredictor,
    store: MeasurementStore,
) -> NetworkLatencyPredictor:
    """What `measure_unknown` would return if nothing could be measured any more.

    Args:
        digest: Of the network.
        kernels: Of the network, repeated as they occur in it.
        predictor: Fitted; it is not changed.
        store: What `measure_unknown` has filled.
    """
    return _informed(predictor, *_stored(digest, kernels, predictor, store))


def worth_measuring(kernels: Sequence[Kernel], known: KernelLatencyPredictor) -> list[Kernel]:
    """The kernels of a network to measure: those that are not known, and others by their worth.

    That is a kernel's share of the predicted latency, times the error that is expected of it.
    Kernels that were measured are left out, and those that are known and hardly worth anything.
    """
    counts = Counter(kernels)
    distinct = [kernel for kernel in counts if kernel.key not in known.measured_]
    ms, error = known.estimate(distinct)
    _, is_known = known.predict(distinct)
    all_ms = known.estimate(kernels)[0].sum()
    value = ms * np.array([counts[kernel] for kernel in distinct]) / max(all_ms, 1e-12) * error
    return [
        kernel
        for kernel, known_well, worth in zip(distinct, is_known, value, strict=True)
        if not known_well or worth >= MIN_VALUE
    ]


def _stored(
    digest: str,
    kernels: Sequence[Kernel],
    predictor: NetworkLatencyPredictor,
    store: MeasurementStore,
) -> tuple[list[Kernel], NetworkMeasurement | None]:
    """What is worth measuring, and the last measurement of exactly that, a trusted one if any."""
    if predictor.kernels_ is None or predictor.target_ is None:
        raise NotFittedError("measuring what a predictor does not know comes after its fit")
    wanted = worth_measuring(kernels, predictor.kernels_)
    found = store.networks(predictor.target_, digest=excerpt_digest(digest, wanted))
    trusted = [measurement for measurement in found if measurement.samples.warning is None]
    usable = trusted or found
    return wanted, usable[-1] if usable else None


def _measured(
    model: OnnxModel,
    wanted: Sequence[Kernel],
    profiler: AnyProfiler,
    start: float,
    seconds: float,
    task: Task,
) -> NetworkMeasurement:
    """The excerpt of those kernels, measured until it can be trusted or the time is over."""
    excerpt = profiler.excerpt(model, wanted)
    tags = {FAMILY_TAG: EXCERPT_FAMILY, EXCERPT_TAG: model.digest}
    longest_s = 0.0
    while True:
        begun = time.perf_counter()
        left_s = max(MIN_SECONDS, seconds - (begun - start))
        found = profiler.profile(excerpt, seconds=min(SECONDS_EACH, left_s), tags=tags)
        now = time.perf_counter()
        longest_s = max(longest_s, now - begun)
        task.update(min(now - start, seconds))
        if found.samples.warning is None or now - start + longest_s > seconds:
            return found


def _informed(
    predictor: NetworkLatencyPredictor,
    wanted: Sequence[Kernel],
    measurement: NetworkMeasurement | None,
) -> NetworkLatencyPredictor:
    if measurement is None:
        return predictor
    runs: dict[Kernel, list[float]] = {kernel: [] for kernel in wanted}
    for run in measurement.kernels:
        if run.kernel in runs:
            runs[run.kernel].append(run.latency_ms)
    shown_ms = {kernel: float(np.mean(ms)) for kernel, ms in runs.items() if ms}
    return predictor.with_excerpt(shown_ms) if shown_ms else predictor
