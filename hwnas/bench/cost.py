"""How many candidates a second the cached cost model predicts, against asking the runtime."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwnas.cost import CostTable
from hwnas.cost_fit import fit_costs
from hwnas.data import load_data
from hwnas.errors import ConfigError
from hwnas.profiling import profile_space, untrained_model
from hwnas.progress import Progress
from hwnas.spaces.for_data import space_for
from predictors.cost import CostPredictor
from predictors.network_latency import DEFAULT_LEVEL, MIN_NETWORKS
from profilers.devices import this_device
from profilers.isolation import AnyProfiler
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target

UNCACHED_PER_ROUND = 3


def bench_cost(
    space_name: str,
    data_name: str,
    data_path: Path | None,
    *,
    n_genotypes: int,
    n_rounds: int,
    measurements: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Genotypes a second: the cost table with a warm cache, against exporting each network.

    Both answer with latency, interval and known share of the same predictor; it is fitted on what
    the database holds, after measuring the least that is needed.

    Raises:
        ConfigError: The two ways give different answers; then a speed means nothing.
    """
    if n_genotypes < 1 or n_rounds < 1:
        raise ConfigError(
            f"at least one genotype and round are needed, got {n_genotypes=}, {n_rounds=}"
        )
    data = load_data(data_name, path=data_path)
    space = space_for(space_name, data)
    target = make_target()
    profiler = Profiler(target)
    with MeasurementStore(measurements) as store:
        found = profile_space(space, target, store, n_networks=MIN_NETWORKS, progress=progress)
        table = CostTable(space, profiler, store)
        costs = fit_costs(found, table, store, level=DEFAULT_LEVEL)
        return time_costing(
            table, costs, profiler, n_genotypes=n_genotypes, n_rounds=n_rounds, progress=progress
        )


def time_costing(
    table: CostTable,
    costs: CostPredictor,
    profiler: AnyProfiler,
    *,
    n_genotypes: int,
    n_rounds: int,
    progress: Progress,
) -> dict[str, Any]:
    """Genotypes a second that `table` prices by `costs`, on one core; see `bench_cost`.

    Raises:
        ConfigError: The two ways give different answers; then a speed means nothing.
    """
    torch.set_num_threads(1)
    space = table.space
    table.use(costs)
    table.warm(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    cached_s, uncached_s, worst = [], [], 0.0
    with progress.task("costing in turns", n_rounds) as task:
        for i in range(n_rounds):
            genotypes = space.sample(rng, n_genotypes)
            table.predict(genotypes)  # a piece never met before is no work of the cache
            start = time.perf_counter()
            fast = table.predict(genotypes)
            cached_s.append((time.perf_counter() - start) / n_genotypes)
            few = genotypes[:UNCACHED_PER_ROUND]
            start = time.perf_counter()
            kernels = [
                [node.kernel for node in profiler.kernels(
                    untrained_model(space.architecture(tuple(row)), batch=profiler.target.batch))]
                for row in few
            ]  # fmt: skip
            answer = costs.latency.predict(kernels)
            uncached_s.append((time.perf_counter() - start) / len(few))
            difference = answer.latency_ms / fast.latency_ms[: len(few)] - 1
            worst = max(worst, float(np.abs(difference).max()))
            task.update(i + 1)
    if worst > 1e-6:
        raise ConfigError(f"the cost table and whole networks disagree by up to {worst:.2%}")
    per_second = 1 / np.array(cached_s)
    return {
        "space": space.name,
        "space_size": float(space.size),
        "n_pieces": table.n_pieces,
        "n_genotypes": n_genotypes,
        "n_rounds": n_rounds,
        "genotypes_per_second": float(np.median(per_second)),
        "genotypes_per_second_min": float(per_second.min()),
        "genotypes_per_second_max": float(per_second.max()),
        "baseline": "export and optimize each network, then predict its kernels",
        "baseline_per_second": float(1 / np.median(uncached_s)),
        "ratio": float(np.median(np.array(uncached_s) / np.array(cached_s))),
        "largest_difference": worst,
        "threads": 1,
        "device": this_device().cpu,
    }
