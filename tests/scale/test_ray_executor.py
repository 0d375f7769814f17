"""Trials as tasks of a real Ray cluster."""

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from hwnas.config import SearchConfig
from hwnas.data import load_data
from hwnas.evaluators import training
from hwnas.evaluators.plan import EvaluatorPlan, evaluate, prepare
from hwnas.executors.errors import AccidentError, EvaluationFailedError, ExecutorError
from hwnas.executors.limits import Limits
from hwnas.executors.ray_cluster import RayCluster
from hwnas.executors.ray_executor import RayExecutor, TrialResources
from hwnas.front.final_training import Finalist, train_finalists
from hwnas.progress import Silent
from hwnas.run_workers import Workers
from hwnas.spaces.for_data import space_for
from hwnas.strategies import Trial
from hwnas.training import Recipe

TIMEOUT_S = 300.0  # machines may be busy
EVALUATOR = f"{Path(__file__).with_name('given.py')}:waiting"


@pytest.fixture(scope="module")
def plan():
    data = load_data("iris")
    fingerprint = space_for("mlp", data).fingerprint
    return EvaluatorPlan(EVALUATOR, data, "mlp", fingerprint, Recipe(epochs=1), seed=0)


@pytest.fixture(scope="module")
def cluster(ray_cluster):
    with RayCluster(ray_cluster.address) as connected:
        yield connected


@pytest.fixture
def make_executor(cluster, plan, tmp_path, monkeypatch):
    """Make an executor, once the evaluator is told how long a trial takes."""
    monkeypatch.chdir(tmp_path)  # the evaluator finds its files there

    def make(seconds, resources=TrialResources(), **options):  # noqa: B008  (frozen)
        Path("seconds.txt").write_text(str(seconds))
        options = {"initializer": partial(prepare, plan)} | options
        return RayExecutor(cluster, resources=resources, **options)

    return make


def submit(executor, n):
    return [executor.submit(evaluate, Trial(i, (i % 3, 1), None)) for i in range(n)]


def started():
    """The numbers of the trials that were started, in that order."""
    path = Path("started.txt")
    lines = path.read_text().splitlines() if path.exists() else []
    return [int(line.split()[0]) for line in lines]


def started_by():
    """The processes that did."""
    return [int(line.split()[1]) for line in Path("started.txt").read_text().splitlines()]


def wait_for(condition, seconds=TIMEOUT_S):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_trials_run_on_all_nodes_and_say_where(ray_cluster, make_executor):
    shares = []
    with make_executor(3, on_progress=lambda number, share: shares.append((number, share))) as ray:
        assert ray.n_slots == 2
        found = [future.result(timeout=TIMEOUT_S) for future in submit(ray, 4)]
    assert [evaluation.objectives for evaluation in found] == [(0.05,), (0.1,), (0.15,), (0.05,)]
    nodes = [evaluation.result["node"] for evaluation in found]
    assert set(nodes) == {ray_cluster.head, ray_cluster.target}
    assert sorted(started()) == [0, 1, 2, 3]
    assert set(shares) <= {(i, 0.5) for i in range(4)} and shares


def test_finalists_are_trained_on_the_nodes_to_the_same_weights(
    cluster, plan, tmp_path, monkeypatch
):
    plan = replace(plan, evaluator="training")
    space = space_for("mlp", plan.data)
    rows = [tuple(row) for row in space.sample(np.random.default_rng(0), 3).tolist()]
    finalists = [
        Finalist(f"t{i}", space.architecture(row), row, "searched", i) for i, row in enumerate(rows)
    ]

    def trained(name, **options):
        (tmp_path / name).mkdir()
        workers = Workers(SearchConfig(**options), 1, print, cluster)
        found = train_finalists(finalists, plan, workers, tmp_path / name, Silent())
        return [item.network.state_dict() for item in found]

    here = trained("here", workers=0)
    monkeypatch.setattr(training, "train", None)  # of this process
    there = trained("there", executor="ray")
    assert len(there) == 3
    for one, other in zip(here, there, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_trial_of_a_node_that_dies_runs_again_on_another(ray_cluster, make_executor, extra_node):
    said = []
    with make_executor(600, say=said.append) as ray:
        assert ray.n_slots == 3
        futures = submit(ray, 3)
        wait_for(lambda: len(started()) == 3)
        ray_cluster.kill(extra_node)
        wait_for(lambda: not all(is_alive(pid) for pid in started_by()))
        Path("seconds.txt").write_text("0")
        found = [future.result(timeout=TIMEOUT_S) for future in futures]
        wait_for(lambda: said)
    assert [len(f.result) for f in found] == [2, 2, 2]
    assert {f.result["node"] for f in found} <= {ray_cluster.head, ray_cluster.target}
    assert len(started()) == 4 and set(started()) == {0, 1, 2}
    assert said == [s for s in said if "left the cluster: what ran there runs again" in s]


def test_a_candidate_that_takes_its_process_down_is_an_accident_of_its_own(make_executor):
    with make_executor(0) as ray:
        Path("crash.txt").touch()
        with pytest.raises(AccidentError, match="the worker was killed: SIGKILL"):
            submit(ray, 1)[0].result(timeout=TIMEOUT_S)
        Path("crash.txt").unlink()
        assert submit(ray, 1)[0].result(timeout=TIMEOUT_S).objectives == (0.05,)
    assert started() == [0, 0]


def test_limits_hold_on_nodes(make_executor):
    hung = pytest.raises(AccidentError, match="hung: no result in 3 s")
    with make_executor(600, limits=Limits(seconds=3)) as ray, hung:
        submit(ray, 1)[0].result(timeout=TIMEOUT_S)
    full = pytest.raises(AccidentError, match="out of memory: .* 700 MB")
    Path("hungry.txt").touch()
    with make_executor(600, limits=Limits(memory_bytes=700_000_000)) as ray, full:
        submit(ray, 1)[0].result(timeout=TIMEOUT_S)


def test_an_exception_is_the_candidates_own_failure(make_executor):
    with make_executor(0) as ray:
        Path("seconds.txt").unlink()
        with pytest.raises(EvaluationFailedError, match="FileNotFoundError: .*seconds.txt"):
            submit(ray, 1)[0].result(timeout=TIMEOUT_S)


def test_leaving_ends_what_runs_at_once(make_executor):
    with make_executor(600) as ray:
        futures = submit(ray, 3)  # one of them waits for a node
        wait_for(lambda: len(started()) == 2)
        pids = started_by()
    assert all(future.cancelled() for future in futures)
    wait_for(lambda: not any(is_alive(pid) for pid in pids))
    assert len(started()) == 2


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_what_cannot_be_evaluated_at_all_is_an_error_of_the_executor(make_executor, plan):
    broken = EvaluatorPlan(EVALUATOR, plan.data, "mlp", "other", plan.recipe, seed=0)
    cannot = pytest.raises(ExecutorError, match="node .* cannot evaluate: .* another one")
    with make_executor(0, initializer=partial(prepare, broken)) as ray, cannot:
        submit(ray, 1)[0].result(timeout=TIMEOUT_S)


def test_a_trial_that_fits_on_no_node_is_refused_at_once(make_executor):
    with pytest.raises(ExecutorError, match="fits a trial .1 CPU, 1 GPU.: node .* has 1 CPU, 0"):
        make_executor(0, TrialResources(gpus=1))


def test_each_trial_sees_the_gpu_that_it_was_given(ray_cluster, cluster, make_executor):
    node = ray_cluster.add_node(num_gpus=2)
    try:
        resources = TrialResources.of(cluster)
        assert resources.gpus == 1
        with make_executor(1, TrialResources(cpus=0.5, gpus=1)) as ray:
            assert ray.n_slots == 2
            found = [future.result(timeout=TIMEOUT_S) for future in submit(ray, 4)]
        assert {evaluation.result["gpus"] for evaluation in found} == {"0", "1"}
        assert {evaluation.result["node"] for evaluation in found} == {node.node_id}
    finally:
        ray_cluster.remove(node)
        wait_for(lambda: cluster.total("GPU") == 0)  # what comes next must not ask for one
