"""How far the profiler's figures can be trusted: repeats under load, parts against the whole.

Peers answer on the same networks in the same run, with the same time: the plain way (10 warm-ups,
then the mean by wall clock) and `torch.utils.benchmark`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import numpy as np
from torch.utils import benchmark

from hwnas.errors import ConfigError
from hwnas.families import FAMILIES, sample_network
from hwnas.progress import Progress
from profilers.devices import observed_device, this_device
from profilers.measurement import FAMILY_TAG, NetworkMeasurement
from profilers.onnx_models import OnnxModel
from profilers.overhead import fit_overhead
from profilers.profiler import PATIENCE, Profiler
from profilers.runtimes.catalog import make_runtime
from profilers.store import MeasurementStore
from profilers.targets import Target

# Ten kinds of networks, from 0.2 to 60 ms on one core of a server CPU of 2022.
LOAD_NETWORKS = (
    ("dense", 4), ("bottleneck", 0), ("recurrent", 1), ("temporal", 7), ("squeeze", 3),
    ("transformer", 9), ("residual", 8), ("bottleneck", 4), ("dense", 10), ("plain", 24),
)  # fmt: skip
PEER_NETWORKS = (("bottleneck", 0), ("squeeze", 3), ("residual", 8))
N_PLAIN_WARMUP, N_PLAIN_RUNS = 10, 50
SETTLE_S = 0.5
# Ends when the process of the id that it is given is no longer its parent. That is asked seldom: it
# shall compute, not call the system.
BUSY_LOOP = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""


def bench_load(
    target: Target,
    *,
    n_repeats: int,
    seconds: float,
    progress: Progress,
    networks: Sequence[tuple[str, int]] = LOAD_NETWORKS,
) -> dict[str, Any]:
    """Latency of each network on a quiet machine and beside a busy loop on every core, in turns.

    `seconds` is the limit of one measurement on a quiet machine. While it is slow it may be
    `PATIENCE` times that, which is the `limit_s` of the record. A flagged measurement is one that
    says itself that it is not to be trusted; it is left out of the differences and counted.
    """
    if n_repeats < 1:
        raise ConfigError(f"at least one repeat is needed, got {n_repeats=}")
    profiler = Profiler(target)
    rows: list[dict[str, Any]] = []
    differences: list[float] = []
    n_flagged = 0
    with progress.task("measuring quiet and loaded", len(networks) * n_repeats) as task:
        for family, seed in networks:
            model = sample_network(family, seed, batch=target.batch)
            found: dict[str, list[NetworkMeasurement]] = {"quiet": [], "loaded": []}
            spent_s = []
            for _ in range(n_repeats):
                for state, measurements in found.items():
                    with _busy_loops(this_device().cores if state == "loaded" else 0):
                        start = time.perf_counter()
                        measurements.append(profiler.profile(model, seconds=seconds))
                        spent_s.append(time.perf_counter() - start)
                task.update(len(rows) * n_repeats + len(found["loaded"]), note=model.name)
            pairs = list(zip(found["quiet"], found["loaded"], strict=True))
            trusted = [
                abs(loaded.latency_ms / quiet.latency_ms - 1)
                for quiet, loaded in pairs
                if not quiet.samples.warning and not loaded.samples.warning
            ]
            differences += trusted
            n_flagged += len(trusted) < len(pairs)
            rows.append({
                "network": model.name,
                "quiet_ms": [m.latency_ms for m in found["quiet"]],
                "loaded_ms": [m.latency_ms for m in found["loaded"]],
                "basis_loaded": [m.samples.basis.value for m in found["loaded"]],
                "contended_share_loaded": [m.samples.contended_share for m in found["loaded"]],
                "n_flagged": len(pairs) - len(trusted),
                "longest_s": max(spent_s),
            })  # fmt: skip
    return {
        "networks": rows,
        "n_repeats": n_repeats,
        "limit_s": PATIENCE * seconds,
        "longest_s": max(row["longest_s"] for row in rows),
        "median_difference": float(np.median(differences)) if differences else None,
        "largest_difference": max(differences, default=None),
        "n_networks_flagged": n_flagged,
    }


def bench_parts(
    target: Target,
    *,
    n_networks: int,
    seconds: float,
    progress: Progress,
    store: MeasurementStore,
) -> dict[str, Any]:
    """Whether kernels and overhead add up to the whole network, and computed memory to measured.

    The overhead of each network is fitted on the other families. What the store holds already is
    not measured again.
    """
    families = tuple(FAMILIES)
    if n_networks < 2 * len(families):
        raise ConfigError(f"{2 * len(families)} networks or more are needed, got {n_networks=}")
    profiler = Profiler(target)
    device = observed_device()
    known = {m.digest: m for m in store.networks(target)}
    measured: dict[str, list[NetworkMeasurement]] = {family: [] for family in families}
    with progress.task("measuring networks of all families", n_networks) as task:
        for i in range(n_networks):
            family = families[i % len(families)]
            model = sample_network(family, i // len(families), batch=target.batch)
            measurement = known.get(model.digest)
            if measurement is None:
                measurement = profiler.profile(model, seconds=seconds, tags={FAMILY_TAG: family})
                store.add(measurement, device)
            measured[family].append(measurement)
            task.update(i + 1, note=f"{model.name} {measurement.latency_ms:.3g} ms")
    rows: list[dict[str, Any]] = []
    for family, ours in measured.items():
        others = [m for other, found in measured.items() if other != family for m in found]
        overhead = fit_overhead(others)
        for m in ours:
            computed, peak = m.computed_peak_memory_bytes, m.peak_memory_bytes
            rows.append({
                "network": m.name,
                "family": family,
                "latency_ms": m.latency_ms,
                "n_kernels": len(m.kernels),
                "explained_share": overhead.explain_ms(m) / m.latency_ms,
                "computed_over_measured_memory": computed / peak if computed and peak else None,
                "warning": m.samples.warning,
            })  # fmt: skip
    errors = np.array([abs(row["explained_share"] - 1) for row in rows])
    memory = np.array([
        np.inf if row["computed_over_measured_memory"] is None
        else abs(row["computed_over_measured_memory"] - 1)
        for row in rows
    ])  # fmt: skip
    return {
        "n_networks": len(rows),
        "n_families": len(families),
        "latency_within_5_percent": float((errors <= 0.05).mean()),
        "latency_within_10_percent": float((errors <= 0.10).mean()),
        "latency_largest_error": float(errors.max()),
        "memory_within_10_percent": float((memory <= 0.10).mean()),
        "memory_largest_error": float(memory.max()) if np.isfinite(memory).all() else None,
        "memory_pattern": "off in the session that is profiled",
        "n_flagged": sum(row["warning"] is not None for row in rows),
        "networks": rows,
    }


def bench_peers(
    target: Target,
    *,
    n_repeats: int,
    seconds: float,
    progress: Progress,
    networks: Sequence[tuple[str, int]] = PEER_NETWORKS,
) -> dict[str, Any]:
    """Spread of repeated answers under load: ours and the peers', with the same time for each.

    In every second repeat a busy loop runs on each core, as others' work comes and goes on a shared
    machine. The spread is the range of the answers over their median.
    """
    if n_repeats < 4:
        raise ConfigError(f"two spreads need four repeats or more, got {n_repeats=}")
    profiler = Profiler(target)
    runtime = make_runtime(target)
    rows: list[dict[str, Any]] = []
    with progress.task("asking each in turns", len(networks) * n_repeats) as task:
        for family, seed in networks:
            model = sample_network(family, seed, batch=target.batch)
            feed = model.random_inputs(np.random.default_rng(0))
            with closing(runtime.session(model, feed)) as session:
                ways: dict[str, Callable[[], float]] = {
                    "hwnas": partial(_ours, profiler, model, seconds),
                    "plain mean": partial(_plain_mean, session.run, seconds),
                    "torch.utils.benchmark": partial(_torch, session.run, seconds),
                }
                answers: dict[str, list[float]] = {way: [] for way in ways}
                for repeat in range(n_repeats):
                    with _busy_loops(this_device().cores if repeat % 2 else 0):
                        for way, ask in ways.items():
                            answers[way].append(ask())
                    task.update(len(rows) * n_repeats + repeat + 1, note=model.name)
            rows.append({
                "network": model.name,
                "answers_ms": answers,
                "spread_loaded": {way: _spread(ms[1::2]) for way, ms in answers.items()},
                "spread": {way: _spread(ms) for way, ms in answers.items()},
            })  # fmt: skip
    ways_spread = {
        kind: {way: float(np.median([row[kind][way] for row in rows])) for way in rows[0][kind]}
        for kind in ("spread_loaded", "spread")
    }
    return {
        "seconds_each": seconds,
        "n_repeats": n_repeats,
        **ways_spread,
        "spread_over_ours": {
            way: value / ways_spread["spread"]["hwnas"]
            for way, value in ways_spread["spread"].items()
        },
        "spread_loaded_over_ours": {
            way: value / ways_spread["spread_loaded"]["hwnas"]
            for way, value in ways_spread["spread_loaded"].items()
        },
        "networks": rows,
    }


def _ours(profiler: Profiler, model: OnnxModel, seconds: float) -> float:
    # The limit is stretched while the machine is slow; here all get the same time.
    (samples,) = profiler.latency([model], seconds=seconds, patience=1)
    return samples.latency_ms


def _plain_mean(run: Callable[[], object], seconds: float) -> float:
    for _ in range(N_PLAIN_WARMUP):
        run()
    times_ms: list[float] = []
    stop = time.perf_counter() + seconds
    while len(times_ms) < N_PLAIN_RUNS or time.perf_counter() < stop:
        start = time.perf_counter()
        run()
        times_ms.append(1e3 * (time.perf_counter() - start))
    return float(np.mean(times_ms))


def _torch(run: Callable[[], object], seconds: float) -> float:
    timer = benchmark.Timer("run()", globals={"run": run}, num_threads=1)
    return float(1e3 * timer.blocked_autorange(min_run_time=seconds).median)


def _spread(answers_ms: Sequence[float]) -> float:
    return float((max(answers_ms) - min(answers_ms)) / np.median(answers_ms))


@contextmanager
def _busy_loops(n: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep `n` cores busy until the block ends, or this process."""
    command = [sys.executable, "-c", BUSY_LOOP, str(os.getpid())]
    loops = [subprocess.Popen(command) for _ in range(n)]
    try:
        time.sleep(SETTLE_S)
        yield loops
    finally:
        for loop in loops:
            loop.kill()
        for loop in loops:
            loop.wait()
