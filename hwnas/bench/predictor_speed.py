"""How fast predictions are: genotypes a second, and seconds to answer for an ONNX file."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.bench.cost import time_costing
from hwnas.bench.predictor_setup import SURVEY, TRAINING, PredictorBench
from hwnas.bench.predictor_space import measure_space
from hwnas.cost import CostTable
from hwnas.cost_fit import fit_costs
from hwnas.errors import ConfigError
from hwnas.families import sample_network
from predictors.files import save_predictor
from predictors.network_latency import DEFAULT_LEVEL, NetworkLatencyPredictor
from profilers.onnx_models import load_model
from profilers.profiler import Profiler
from profilers.store import MeasurementStore

N_GENOTYPES, N_ROUNDS = 100_000, 5
N_REPEATS = 5
MAX_QUOTED = 300
MODELS = (("residual", 13), ("transformer", 0))  # 103 and 98 nodes
_MAIN = "from hwnas.cli import main; main()"


def bench_speed(bench: PredictorBench) -> dict[str, Any]:
    """Genotypes costed a second on one core, and how long an arbitrary ONNX file takes to answer.

    The files have about 100 nodes. Answering is reading one, asking the runtime for its kernels and
    predicting them; in a process that is already up, and as a whole `hwnas predict`.

    Returns:
        Plain data: `costing` as `hwnas bench cost` has it, and `answering`.

    Raises:
        PredictorError: Too little was measured.
    """
    measure_space(bench)
    networks, _ = bench.measured(TRAINING, SURVEY)
    profiler = Profiler(bench.target)
    with MeasurementStore(bench.measurements) as store:
        table = CostTable(bench.space, profiler, store)
        costs = fit_costs(networks, table, store, level=DEFAULT_LEVEL)
        costing = time_costing(
            table, costs, profiler, n_genotypes=N_GENOTYPES, n_rounds=N_ROUNDS,
            progress=bench.progress,
        )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
        saved = Path(folder) / "predictor.npz"
        save_predictor(costs.latency, saved)
        answering = []
        with bench.progress.task("answering", len(MODELS)) as task:
            for i, (family, seed) in enumerate(MODELS):
                model = sample_network(family, seed, batch=bench.target.batch)
                path = Path(folder) / f"{model.name}.onnx"
                path.write_bytes(model.proto.SerializeToString())
                answering.append(_answering(bench, costs.latency, path, saved))
                task.update(i + 1)
    return {"costing": costing, "answering": answering}


def _answering(
    bench: PredictorBench, predictor: NetworkLatencyPredictor, path: Path, saved: Path
) -> dict[str, Any]:
    answers_s, processes_s = [], []
    for _ in range(N_REPEATS):
        start = time.perf_counter()
        model = load_model(path)
        kernels = [node.kernel for node in Profiler(bench.target).kernels(model)]
        predictor.predict([kernels])
        answers_s.append(time.perf_counter() - start)
    for _ in range(N_REPEATS):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _MAIN, "predict", path, "--predictor", saved, "--json"],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise ConfigError(f"`hwnas predict` failed: {done.stderr.strip()[-MAX_QUOTED:]}")
        processes_s.append(time.perf_counter() - start)
    return {
        "model": path.stem,
        "n_nodes": len(model.proto.graph.node),
        "n_kernels": len(kernels),
        "first_s": answers_s[0],
        "median_s": float(np.median(answers_s)),
        "process_s": float(np.median(processes_s)),
        "process_longest_s": max(processes_s),
    }
