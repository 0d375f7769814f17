"""Target `onnxruntime-cpu`: kernels in situ from ONNX Runtime's own profile and optimized graph.

The profile gives every kernel's time and tensor shapes, the saved optimized graph its attributes,
its fused activation and what it is connected to; both know a node by its name.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from profilers.errors import ModelError
from profilers.kernels import AttributeValue, Kernel, Tensor
from profilers.measurement import KernelLatency, KernelNode, NetworkMeasurement
from profilers.onnx_models import OnnxModel
from profilers.reference import reference_model
from profilers.targets import Target
from profilers.timing import (
    FAST_CHUNKS_PERCENTILE,
    SLOW_CHUNK,
    SLOW_REFERENCE,
    LatencySamples,
    sample_latency,
)

Feed = Mapping[str, NDArray[np.generic]]

N_WARMUP = 3
N_ROUNDS = 24  # chunks: enough to tell slow ones from fast ones
PROFILED_SHARE = 0.35  # of the time: the rest goes to the end-to-end latency
PATIENCE = 4  # times the seconds asked for, while the machine is slow
REFERENCE_SAMPLES = 8  # the first few find the caches cold
REFERENCE_HISTORY = 1000
MIN_ROUNDS = 6  # for networks of which the time allows few runs
MAX_PROFILE_EVENTS = 60_000  # about 40 MB of JSON to parse
MIN_KERNEL_US = 0.05
_SUFFIX = "_kernel_time"
_CONTROL_FLOW = ("If", "Loop", "Scan")


class OnnxRuntimeProfiler:
    """Measures ONNX models with ONNX Runtime's CPU kernels, interleaved and end to end.

    Example:
        >>> from profilers.targets import make_target
        >>> profiler = OnnxRuntimeProfiler(make_target("onnxruntime-cpu", threads=1))
        >>> profiler.target.threads
        1
    """

    def __init__(self, target: Target, *, seed: int = 0) -> None:
        self.target = target
        self._seed = seed
        self._reference: Callable[[], object] | None = None
        self._references_ms: deque[float] = deque(maxlen=REFERENCE_HISTORY)

    def kernels(self, model: OnnxModel) -> tuple[KernelNode, ...]:
        """The kernels that ONNX Runtime makes of `model`, in the order in which they run."""
        with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
            session = self._profiled_session(model, Path(folder))
            self._run(session, model, self._feed(model))
            return _join(*_read_profile(session, Path(folder)))[0]

    def profile(
        self, model: OnnxModel, *, seconds: float = 2.0, tags: Mapping[str, str] | None = None
    ) -> NetworkMeasurement:
        """Measure `model` end to end and by kernel, in turns, for about `seconds`.

        While the machine is slow it takes up to four times that.

        Raises:
            ModelError: ONNX Runtime cannot load or run the model.
        """
        feed = self._feed(model)
        with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
            plain = self._session(model, ort.SessionOptions())
            profiled = self._profiled_session(model, Path(folder))
            names = [output.name for output in plain.get_outputs()]
            for _ in range(N_WARMUP):
                self._run(plain, model, feed)
                self._run(profiled, model, feed)
            start = time.perf_counter()
            plain.run(names, feed)
            once_s = max(time.perf_counter() - start, 1e-6)
            n_plain = max(2, round(seconds * (1 - PROFILED_SHARE) / once_s / N_ROUNDS))
            n_profiled = max(2, round(seconds * PROFILED_SHARE / once_s / N_ROUNDS))
            n_profiled = min(
                n_profiled,
                1 + MAX_PROFILE_EVENTS // (N_ROUNDS * max(1, len(model.proto.graph.node))),
            )

            samples: LatencySamples | None = None
            slowdowns: list[float] = []
            start = time.perf_counter()
            while not self._is_enough(slowdowns, time.perf_counter() - start, seconds):
                slowdown = self._slowdown()
                new = sample_latency(
                    partial(plain.run, names, feed), n_samples=n_plain, slowdown=slowdown
                )
                samples = samples.extended(new) if samples else new
                for _ in range(n_profiled):
                    profiled.run(names, feed)
                slowdowns.append(slowdown)
            assert samples is not None
            is_steady = np.repeat(np.array(slowdowns) <= SLOW_REFERENCE, n_profiled)
            nodes, latencies, peak = _join(*_read_profile(profiled, Path(folder)), is_steady)
        kernels = tuple(
            KernelLatency(node.name, node.kernel, ms, n)
            for node, (ms, n) in zip(nodes, latencies, strict=True)
        )
        return NetworkMeasurement(
            model.name, model.digest, self.target, samples, kernels, peak, dict(tags or {})
        )

    def _is_enough(self, slowdowns: Sequence[float], elapsed_s: float, seconds: float) -> bool:
        """Whether the rounds so far do: those in which the machine was slow count little."""
        n_steady = sum(slowdown <= SLOW_REFERENCE for slowdown in slowdowns)
        if n_steady >= N_ROUNDS or elapsed_s > PATIENCE * seconds:
            return len(slowdowns) >= MIN_ROUNDS
        return len(slowdowns) >= MIN_ROUNDS and n_steady >= MIN_ROUNDS and elapsed_s > seconds

    def _slowdown(self) -> float:
        """How much slower a small fixed network runs now than in the best tenth of such moments.

        Not than ever: back to back, with nothing between, it is faster than beside other work.
        """
        if self._reference is None:
            model = reference_model()
            session = self._session(model, ort.SessionOptions())
            self._reference = partial(session.run, None, self._feed(model))
            self._reference_ms()
        self._references_ms.append(self._reference_ms())
        return self._references_ms[-1] / float(np.percentile(self._references_ms, 10))

    def _reference_ms(self) -> float:
        assert self._reference is not None
        return sample_latency(self._reference, n_samples=REFERENCE_SAMPLES).min_ms

    def latency(
        self,
        models: Sequence[OnnxModel],
        *,
        seconds: float,
        on_round: Callable[[int, int], object] = lambda done, of: None,
    ) -> list[LatencySamples]:
        """End-to-end samples of several models in turns, so that all meet the same machine.

        `seconds` is for each model; while the machine is slow it takes up to four times that.
        """
        runs = []
        for model in models:
            session = self._session(model, ort.SessionOptions())
            feed = self._feed(model)
            names = [output.name for output in session.get_outputs()]
            for _ in range(N_WARMUP):
                self._run(session, model, feed)
            start = time.perf_counter()
            session.run(names, feed)
            once_s = max(time.perf_counter() - start, 1e-6)
            n_samples = max(2, round(seconds / once_s / N_ROUNDS))
            runs.append((partial(session.run, names, feed), n_samples))
        samples: list[LatencySamples | None] = [None] * len(models)
        slowdowns: list[float] = []
        start = time.perf_counter()
        while not self._is_enough(
            slowdowns, time.perf_counter() - start, seconds * max(1, len(models))
        ):
            slowdown = self._slowdown()
            for i, (run, n_samples) in enumerate(runs):
                run()  # the others' runs have taken its place in the caches
                new = sample_latency(run, n_samples=n_samples, slowdown=slowdown)
                before = samples[i]
                samples[i] = before.extended(new) if before else new
            slowdowns.append(slowdown)
            on_round(min(len(slowdowns), N_ROUNDS), N_ROUNDS)
        return [s for s in samples if s is not None]

    def _feed(self, model: OnnxModel) -> Feed:
        return model.random_inputs(np.random.default_rng(self._seed))

    def _session(self, model: OnnxModel, options: ort.SessionOptions) -> ort.InferenceSession:
        options.intra_op_num_threads = self.target.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what matters is raised
        for name, size in model.dimensions.items():
            options.add_free_dimension_override_by_name(name, size)
        try:
            return ort.InferenceSession(
                model.proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's exceptions share no other base
            raise ModelError(
                f"ONNX Runtime {self.target.version} cannot load {model.name}: {_first_line(error)}"
            ) from None

    def _profiled_session(self, model: OnnxModel, folder: Path) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        options.enable_mem_pattern = False  # so that the profile shows each tensor's bytes
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        # Only the graph is read: keep the weights, often hundreds of megabytes, out of it.
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "weights.bin"
        )
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_min_size_in_bytes", "1024"
        )
        return self._session(model, options)

    def _run(self, session: ort.InferenceSession, model: OnnxModel, feed: Feed) -> None:
        try:
            session.run(None, feed)
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime {self.target.version} cannot run {model.name}: {_first_line(error)}"
            ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _read_profile(
    session: ort.InferenceSession, folder: Path
) -> tuple[list[dict[str, Any]], onnx.GraphProto]:
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    graph = onnx.load_model(str(folder / "optimized.onnx"), load_external_data=False).graph
    kernel_events = [
        event for event in events if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX)
    ]
    return _top_level(kernel_events), graph


def _top_level(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what runs inside an If, Loop or Scan: its time is in that node's own event."""
    kept: list[dict[str, Any]] = []
    parent_start = float("inf")
    for event in reversed(events):  # an event is written at its end: the parent's comes last
        if event["ts"] >= parent_start:
            continue
        parent_start = event["ts"] if event["args"]["op_name"] in _CONTROL_FLOW else float("inf")
        kept.append(event)
    return kept[::-1]


def _join(
    events: list[dict[str, Any]],
    graph: onnx.GraphProto,
    is_steady: NDArray[np.bool_] | None = None,
) -> tuple[tuple[KernelNode, ...], list[tuple[float, int]], int | None]:
    """Nodes in running order, `(latency_ms, n_samples)` of each, and the peak of bytes in use.

    `is_steady` says of every run after the warm-up whether the machine was at its best, `(runs,)`.
    """
    by_name = {node.name: node for node in graph.node if node.name}
    unnamed: dict[str, list[onnx.NodeProto]] = defaultdict(list)  # by operator, in running order
    for node in graph.node:
        if not node.name:
            unnamed[node.op_type].append(node)
    durations: dict[str, list[int]] = defaultdict(list)
    intervals: dict[str, list[int]] = defaultdict(list)
    first: dict[str, dict[str, Any]] = {}
    peak = 0
    for event, following in zip_longest(events, events[1:]):
        name = event["name"].removesuffix(_SUFFIX)
        if name not in first:
            first[name] = event["args"]
            peak = max(peak, int(event["args"].get("mem_in_use_peak", 0)))
        durations[name].append(event["dur"])
        if following is not None:
            intervals[name].append(following["ts"] - event["ts"])
    nodes = []
    for name, args in first.items():
        node = by_name.get(name)
        if node is None and unnamed[args["op_name"]]:
            node = unnamed[args["op_name"]].pop(0)
        nodes.append(KernelNode(
            name,
            Kernel(
                kind=_kind(node) if node is not None else args["op_name"],
                attributes=_attributes(node) if node is not None else (),
                inputs=_tensors(args["input_type_shape"]),
                outputs=_tensors(args["output_type_shape"]),
            ),
            tuple(node.input) if node is not None else (),
            tuple(node.output) if node is not None else (),
        ))  # fmt: skip
    return tuple(nodes), _kernel_latencies(durations, intervals, is_steady), peak or None


def _kernel_latencies(
    durations: Mapping[str, Sequence[int]],
    intervals: Mapping[str, Sequence[int]],
    is_steady: NDArray[np.bool_] | None,
) -> list[tuple[float, int]]:
    """`(latency_ms, n_samples)` of each node, from whole microseconds.

    A duration is rounded down, so a kernel of 2.9 µs reads as 2 however often it is run. The
    interval from a node's start to the next one's is a difference of two roundings: its mean over
    runs is exact, but has the runtime's step between nodes in it. That step is the same for all
    nodes; it is estimated as the median of interval - duration, and taken off.
    """
    names = list(durations)
    if not names:  # the runtime folded the whole graph into a constant
        return []
    n_runs = min(len(us) for us in durations.values())
    runs = np.array([durations[name][:n_runs] for name in names], dtype=np.float64)
    starts = np.array([intervals[name][: n_runs - 1] for name in names[:-1]], dtype=np.float64)
    total_us = runs.sum(axis=0)
    kept = np.ones(n_runs, dtype=bool)
    if is_steady is not None and len(is_steady) == n_runs - N_WARMUP:
        kept[:N_WARMUP] = False
        kept[N_WARMUP:] = is_steady | ~is_steady.any()
    kept &= total_us <= SLOW_CHUNK * np.percentile(total_us[kept], FAST_CHUNKS_PERCENTILE)
    mean_us = _undisturbed_mean(runs[:, kept])
    if len(names) > 1 and kept[: n_runs - 1].any():
        # The last node's interval leads into the next run: it is no step between nodes.
        steady_us = _undisturbed_mean(starts[:, kept[: n_runs - 1]])
        step_us = np.median(steady_us - mean_us[:-1])
        mean_us[:-1] = steady_us - step_us
    return [(max(float(us), MIN_KERNEL_US) / 1e3, int(kept.sum())) for us in mean_us]


def _undisturbed_mean(samples_us: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the runs `(n, runs)` that are at most 1 µs, the clock's step, above the median."""
    is_high = samples_us > np.median(samples_us, axis=1, keepdims=True) + 1
    return np.asarray(np.ma.masked_array(samples_us, is_high).mean(axis=1).filled(np.nan))


def _kind(node: onnx.NodeProto) -> str:
    return f"{node.domain}:{node.op_type}" if node.domain else str(node.op_type)


def _attributes(node: onnx.NodeProto) -> tuple[tuple[str, AttributeValue], ...]:
    found: list[tuple[str, AttributeValue]] = []
    for attribute in sorted(node.attribute, key=lambda a: a.name):
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif isinstance(value, list | tuple):
            if not all(isinstance(item, int | float) for item in value):
                continue
            value = tuple(value)
        elif not isinstance(value, int | float):
            continue  # tensors and graphs: their size shows in the shapes
        found.append((str(attribute.name), value))
    return tuple(found)


def _tensors(typed_shapes: Sequence[Mapping[str, Sequence[int]]]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(dtype, tuple(shape)) for item in typed_shapes for dtype, shape in item.items()
    )
