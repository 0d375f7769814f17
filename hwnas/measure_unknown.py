"""Answer again: measure, outside of any network, the kernels that a prediction only estimated."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from hwnas.campaign_report import CampaignReport
from hwnas.missing_kernels import measure_alone
from hwnas.progress import Progress, Silent
from predictors.kernel_latency import KernelLatencyPredictor
from predictors.network_latency import NetworkLatencyPredictor
from profilers.isolated_kernels import can_isolate
from profilers.isolation import AnyProfiler
from profilers.kernels import Kernel
from profilers.store import MeasurementStore

# Of a kernel that is known but was not measured: expected error, as a share of the latency.
MIN_VALUE = 5e-4


def measure_unknown(
    kernels: Sequence[Kernel],
    predictor: NetworkLatencyPredictor,
    profiler: AnyProfiler,
    *,
    seconds: float,
    store: MeasurementStore | None = None,
    progress: Progress | None = None,
) -> NetworkLatencyPredictor:
    """Measure what of a network `predictor` does not know, and let it answer with that.

    Kernels that it does not know come first by what they are worth; then, while time is left, those
    that it estimates from similar ones and that matter. What the store holds is not measured again,
    and what could not be run alone before is not tried again.

    Args:
        kernels: Of one network, repeated as they occur in it.
        predictor: Fitted on the profiler's target; it is not changed.
        profiler: What measures.
        seconds: How long it may take; a few kernels are measured whatever it says.
        store: Where measurements come from and go to; None: they are not kept.
        progress: Told how it goes on.

    Returns:
        A predictor that knows those kernels too; the same one where the target's runtime cannot run
        kernels alone, or there is nothing to measure.

    Raises:
        NotFittedError: The predictor was not fitted.
        WrongTargetError: It was fitted on another target.
    """
    start = time.perf_counter()
    progress = progress or Silent()
    target = profiler.target
    predictor.check_target(target)
    known = predictor.kernels_
    assert known is not None  # or it had no target
    if not can_isolate(target):
        progress.say(
            f"{target.runtime} in {target.precision} cannot run kernels alone: none is measured so"
        )
        return predictor
    with ExitStack() as stack:
        if store is None:
            store = stack.enter_context(MeasurementStore(":memory:"))
        wanted = worth_measuring(kernels, known)
        isolated, failed = store.isolated(target), store.failures(target)
        todo = [k for k in wanted if k not in isolated and k.key not in failed]
        if todo:
            with progress.task("measuring kernels alone", len(todo)) as task:
                measure_alone(
                    todo, store, profiler, stop=start + seconds, task=task, report=CampaignReport()
                )
            isolated = store.isolated(target)
    found = {kernel: isolated[kernel] for kernel in wanted if kernel in isolated}
    return predictor.with_isolated(found) if found else predictor


def worth_measuring(kernels: Sequence[Kernel], known: KernelLatencyPredictor) -> list[Kernel]:
    """The kernels of a network to measure alone: those not known first, others by their worth.

    That is a kernel's share of the predicted latency, times the error that is expected of it.
    Kernels that were measured are left out, and those that are known and hardly worth anything.
    """
    counts = Counter(kernels)
    distinct = [kernel for kernel in counts if kernel.key not in known.measured_]
    ms, error = known.estimate(distinct)
    _, is_known = known.predict(distinct)
    all_ms = known.estimate(kernels)[0].sum()
    value = ms * np.array([counts[kernel] for kernel in distinct]) / max(all_ms, 1e-12) * error
    order = np.lexsort((-value, is_known))
    return [distinct[i] for i in order if not is_known[i] or value[i] >= MIN_VALUE]
