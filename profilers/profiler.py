"""Measure a model on a target: end to end and by kernel, in turns, until the figures are tight.

What is the same for all runtimes is here; what differs is behind `profilers/runtimes/base.py`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing

import numpy as np
from numpy.typing import NDArray

from profilers.energy import EnergyPerRun, energy_counter, measure_energy
from profilers.errors import ModelError, TargetError
from profilers.excerpts import make_excerpt
from profilers.kernel_times import kernel_latencies_ms
from profilers.kernels import HIDES_WORK, Kernel
from profilers.measurement import KernelLatency, KernelNode, NetworkMeasurement
from profilers.memory import computed_peak_bytes, process_peak_bytes
from profilers.nvidia import gpu_slowdown
from profilers.onnx_models import OnnxModel
from profilers.reference import reference_model
from profilers.runtimes.base import Feed, KernelTrace, Runtime, Session
from profilers.runtimes.catalog import make_runtime, runtime_spec
from profilers.targets import Target
from profilers.timing import (
    MAX_OVER_MIN,
    MIN_INTERVAL,
    SLOW_REFERENCE,
    Basis,
    LatencySamples,
    process_disturbances,
    sample_latency,
)

N_WARMUP = 3
TOLERANCE = 0.005  # half-width of the 95 % interval over the latency, at which sampling ends
ROUND_MS = 20.0  # of end-to-end samples in one chunk: short against what comes and goes
PROFILED_ROUND_MS = 12.0
MIN_ROUNDS = 6  # for networks of which the time allows few runs
ENOUGH_ROUNDS = 16  # for a tight interval to be believed
NEAR_MIN = 1.06  # latency over the fastest run: beyond it, it may be a slow stretch, so go on
LONG_ROUNDS_S = 20.0  # beyond the time there is, for the fewest rounds
PATIENCE = 4  # times the seconds asked for, while the machine is slow
REFERENCE_SAMPLES = 8  # the first few find the caches cold
REFERENCE_HISTORY = 1000
GOOD_MOMENTS_PERCENTILE = 10
# The counter steps every 20 to 100 ms.
ENERGY_SECONDS, MIN_ENERGY_SECONDS, ENERGY_REPEATS = 5.0, 0.9, 3
MAX_PROFILE_EVENTS = 60_000  # about 40 MB of JSON to parse
EVENT_US = 3.0  # of the body of a loop: with little to compute, it takes as long to record


class Profiler:
    """Measures models on one target.

    Args:
        target: Where, and how.
        runtime: What runs the models; None: the target's own.
        references_ms: What the reference network took earlier (`MeasurementStore.references_ms`): a
            machine that is slow from the first second on is noticed by it alone.
        seed: Of the random inputs.

    Example:
        >>> from profilers.targets import make_target
        >>> Profiler(make_target("onnxruntime-cpu", threads=1)).target.threads
        1
    """

    def __init__(
        self,
        target: Target,
        *,
        runtime: Runtime | None = None,
        references_ms: Sequence[float] = (),
        seed: int = 0,
    ) -> None:
        self.target = target
        self._runtime = runtime or make_runtime(target)
        self._spec = runtime_spec(target.runtime)
        self._counter = energy_counter(target)
        self._seed = seed
        self._reference: Session | None = None
        self._references_ms: deque[float] = deque(maxlen=REFERENCE_HISTORY)
        self._earlier_ms = _good_moments_ms(references_ms) if references_ms else float("inf")

    def kernels(self, model: OnnxModel) -> tuple[KernelNode, ...]:
        """The kernels that the runtime makes of `model`, in running order, without timing it.

        Raises:
            ModelError: The runtime cannot load or run the model.
        """
        with closing(self._runtime.profiled_session(model, self._feed(model))) as session:
            return session.trace().nodes

    def excerpt(self, model: OnnxModel, kernels: Collection[Kernel]) -> OnnxModel:
        """Cut some kernels of `model` out, to be measured without the rest; see `excerpts.py`.

        Raises:
            ModelError: The runtime cannot run the model, or does not show the graph it runs.
        """
        feed = self._feed(model)
        with closing(self._runtime.profiled_session(model, feed)) as session:
            trace = session.trace()
            if trace.graph is None:
                raise ModelError(
                    f"{self.target.runtime} does not show what it makes of {model.name}: its "
                    f"kernels cannot be measured without the rest"
                )
            graph = trace.graph()
        return make_excerpt(model, graph, trace.nodes, kernels, feed)

    def outputs(self, model: OnnxModel, inputs: NDArray[np.generic]) -> NDArray[np.generic]:
        """What the target computes of some inputs of a model that has one; nothing is timed.

        Args:
            model: Of one input `(batch, ...)`; the last batch is filled up with zeros.
            inputs: `(n, ...)`.

        Returns:
            Its first output, a row for each of the n inputs.

        Raises:
            ModelError: The runtime cannot load or run the model.
        """
        (spec,) = model.inputs
        batch = spec.shape[0]
        filled = np.zeros((-(-len(inputs) // batch) * batch, *inputs.shape[1:]), spec.dtype)
        filled[: len(inputs)] = inputs
        feeds = ({spec.name: part} for part in np.split(filled, len(filled) // batch))
        rows = [first for first, *_ in self._runtime.outputs(model, feeds)]
        return np.concatenate(rows)[: len(inputs)]

    def profile(
        self, model: OnnxModel, *, seconds: float = 2.0, tags: Mapping[str, str] | None = None
    ) -> NetworkMeasurement:
        """Measure `model` end to end and by kernel, in turns.

        Sampling ends when the latency's interval is within `TOLERANCE`, or after about `seconds`;
        while the machine is slow it may take up to four times that.

        Raises:
            ModelError: The runtime cannot load or run the model.
        """
        feed = self._feed(model)
        with ExitStack() as stack:
            plain = stack.enter_context(closing(self._runtime.session(model, feed)))
            profiled = stack.enter_context(closing(self._runtime.profiled_session(model, feed)))
            once_ms = self._warm_up(plain)
            n_plain = max(2, round(ROUND_MS / once_ms))
            # By the wall clock: recording may cost more than the run, and is in no device's time.
            start = time.perf_counter()
            self._warm_up(profiled)
            recorded_ms = 1e3 * (time.perf_counter() - start) / N_WARMUP
            n_profiled = max(1, round(PROFILED_ROUND_MS / max(recorded_ms, once_ms)))
            n_events = _events_of_a_run(model, recorded_ms)
            samples: LatencySamples | None = None
            profiled_rounds: list[int] = []
            start = time.perf_counter()
            while not self._is_enough(samples, time.perf_counter() - start, seconds):
                slowdown = self._slowdown()
                plain.run()  # the profiled runs have taken its place in the caches
                new = self._sample(plain, n_plain, slowdown)
                samples = samples.extended(new) if samples else new
                if sum(profiled_rounds) * n_events < MAX_PROFILE_EVENTS:
                    for _ in range(n_profiled):
                        profiled.run()
                    profiled_rounds.append(n_profiled)
            assert samples is not None
            trace = profiled.trace().without_first(1 + N_WARMUP)
            is_steady = np.repeat(
                samples.chunk_slowdowns[: len(profiled_rounds)] <= SLOW_REFERENCE, profiled_rounds
            )
            energy = self._energy(plain, seconds)
        latencies_ms, n_runs = kernel_latencies_ms(trace, is_steady)
        return NetworkMeasurement(
            name=model.name,
            digest=model.digest,
            target=self.target,
            samples=samples,
            kernels=tuple(
                KernelLatency(node.name, node.kernel, float(ms), n_runs)
                for node, ms in zip(trace.nodes, latencies_ms, strict=True)
            ),
            peak_memory_bytes=trace.peak_memory_bytes,
            computed_peak_memory_bytes=self._computed_peak_bytes(trace, model),
            process_peak_bytes=process_peak_bytes(),
            energy_mj=energy.energy_mj if energy else None,
            energy_relative_spread=energy.relative_spread if energy else None,
            reference_ms=_good_moments_ms(
                list(self._references_ms)[-len(samples.chunk_slowdowns) :]
            ),
            tags=dict(tags or {}),
        )

    def latency(
        self,
        models: Sequence[OnnxModel],
        *,
        seconds: float,
        patience: float = PATIENCE,
        on_round: Callable[[int, int], object] = lambda done, of: None,
    ) -> list[LatencySamples]:
        """End-to-end samples of several models in turns, so that all meet the same machine.

        `seconds` is for each model; while the machine is slow it takes up to `patience` times that.
        """
        with ExitStack() as stack:
            sessions = [
                stack.enter_context(closing(self._runtime.session(model, self._feed(model))))
                for model in models
            ]
            counts = [max(2, round(ROUND_MS / self._warm_up(session))) for session in sessions]
            samples: list[LatencySamples | None] = [None] * len(models)
            n_rounds = 0
            start = time.perf_counter()
            while not all(
                self._is_enough(s, time.perf_counter() - start, seconds * len(models), patience)
                for s in samples
            ):
                slowdown = self._slowdown()
                for i, (session, n_samples) in enumerate(zip(sessions, counts, strict=True)):
                    session.run()  # the others' runs have taken its place in the caches
                    new = self._sample(session, n_samples, slowdown)
                    before = samples[i]
                    samples[i] = before.extended(new) if before else new
                n_rounds += 1
                on_round(min(n_rounds, ENOUGH_ROUNDS), ENOUGH_ROUNDS)
        return [s for s in samples if s is not None]

    def _feed(self, model: OnnxModel) -> Feed:
        return model.random_inputs(np.random.default_rng(self._seed))

    def _sample(self, session: Session, n_samples: int, slowdown: float) -> LatencySamples:
        """One chunk; what disturbs it shows in this thread only where this thread does the work."""
        if self._spec.accelerator is not None:
            return sample_latency(
                session.run, n_samples=n_samples, slowdown=slowdown, cpu_clock_ns=None
            )
        if self.target.threads > 1 or not self._spec.works_in_caller:
            return sample_latency(
                session.run,
                n_samples=n_samples,
                slowdown=slowdown,
                cpu_clock_ns=None,
                disturbances=process_disturbances,
            )
        return sample_latency(session.run, n_samples=n_samples, slowdown=slowdown)

    def _computed_peak_bytes(self, trace: KernelTrace, model: OnnxModel) -> int | None:
        if self._spec.provider != "CPUExecutionProvider":  # the rules are those of that allocator
            return None
        return computed_peak_bytes(trace.nodes, model, threads=self.target.threads)

    def _energy(self, session: Session, seconds: float) -> EnergyPerRun | None:
        if self._counter is None:
            return None
        try:
            return measure_energy(
                session.run,
                self._counter,
                seconds=min(ENERGY_SECONDS, max(seconds, MIN_ENERGY_SECONDS)),
                repeats=ENERGY_REPEATS,
            )
        except (TargetError, OSError, ValueError):  # it stands still, or is gone
            self._counter = None
            return None

    def _warm_up(self, session: Session) -> float:
        """Run a few times; milliseconds of the fastest run."""
        return max(sample_latency(session.run, n_samples=N_WARMUP).min_ms, 1e-3)

    def _is_enough(
        self,
        samples: LatencySamples | None,
        elapsed_s: float,
        seconds: float,
        patience: float = PATIENCE,
    ) -> bool:
        """Whether the samples so far do: rounds in which the machine was slow count little."""
        if samples is None:
            return False
        slowdowns = samples.chunk_slowdowns
        n_steady = int((slowdowns <= SLOW_REFERENCE).sum())
        if elapsed_s > patience * seconds:
            # Of networks that take seconds a run: fewer samples would have no interval.
            is_long = elapsed_s > patience * seconds + LONG_ROUNDS_S
            return len(slowdowns) >= MIN_ROUNDS or (
                is_long and len(samples.wall_ms) >= MIN_INTERVAL
            )
        if elapsed_s > seconds and n_steady >= MIN_ROUNDS:
            return samples.over_min <= MAX_OVER_MIN
        return (
            n_steady >= ENOUGH_ROUNDS
            and samples.basis is not Basis.FASTEST
            and samples.relative_error <= TOLERANCE
            and samples.over_min <= NEAR_MIN
        )

    def _slowdown(self) -> float:
        """How much slower a small fixed network runs now than in the best tenth of such moments.

        Not than ever: back to back, with nothing between, it is faster than beside other work.
        """
        if self._reference is None:
            model = reference_model()
            self._reference = self._runtime.session(model, self._feed(model))
            self._reference_ms(self._reference)
        self._references_ms.append(self._reference_ms(self._reference))
        good_ms = min(_good_moments_ms(self._references_ms), self._earlier_ms)
        slowdown = self._references_ms[-1] / good_ms
        # Right after work: an idle GPU lowers its clocks.
        return max(slowdown, gpu_slowdown()) if self._spec.accelerator == "cuda" else slowdown

    def _reference_ms(self, reference: Session) -> float:
        return sample_latency(reference.run, n_samples=REFERENCE_SAMPLES).min_ms


def _good_moments_ms(references_ms: Iterable[float]) -> float:
    return float(np.percentile(list(references_ms), GOOD_MOMENTS_PERCENTILE))


def _events_of_a_run(model: OnnxModel, recorded_ms: float) -> int:
    """How many events a profile gets at most from one run, which takes `recorded_ms`."""
    nodes = model.proto.graph.node
    if any(node.op_type in HIDES_WORK for node in nodes):  # how often bodies run, nobody knows
        return max(len(nodes), round(1e3 * recorded_ms / EVENT_US))
    return max(1, len(nodes))
