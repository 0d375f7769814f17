"""The driver of a search on a Ray cluster, its record in PostgreSQL; costs are made up.

Started as a process of its own: `driver.py ADDRESS URL N_TRIALS`, in a folder with `seconds.txt`.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np

from hwnas.data import load_data
from hwnas.evaluators.plan import EvaluatorPlan, evaluate, prepare
from hwnas.executors.ray_cluster import RayCluster
from hwnas.executors.ray_executor import RayExecutor, TrialResources
from hwnas.record import Record
from hwnas.search import search
from hwnas.spaces.for_data import space_for
from hwnas.strategies import Costs, Problem, make_strategy
from hwnas.training import Recipe

STUDY = "on-a-cluster"
EVALUATOR = f"{Path(__file__).with_name('given.py')}:waiting"


def make_plan():
    """The data are small, and the evaluator waits."""
    data = load_data("iris")
    fingerprint = space_for("mlp", data).fingerprint
    return EvaluatorPlan(EVALUATOR, data, "mlp", fingerprint, Recipe(epochs=1), seed=0)


def predict(genotypes):
    """Deeper options take longer."""
    latency_ms = 1.0 + genotypes.sum(axis=1)
    counts = latency_ms.astype(np.int64)
    known = np.ones(len(genotypes))
    return Costs(latency_ms, 0.9 * latency_ms, 1.1 * latency_ms, known, counts, counts)


def main(address, url, n_trials):
    plan = make_plan()
    space = space_for("mlp", plan.data)
    problem = Problem(space, predict, ())
    with (
        Record.open(url, space, create=True, study=STUDY) as record,
        RayCluster(address) as cluster,
        RayExecutor(
            cluster,
            resources=TrialResources.of(cluster),
            initializer=partial(prepare, plan),
            say=partial(print, file=sys.stderr, flush=True),
        ) as executor,
    ):
        search(
            problem,
            make_strategy("evolution", problem, seed=0),
            evaluate,
            record,
            n_trials=int(n_trials),
            executor=executor,
            n_workers=executor.n_slots,
        )
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
