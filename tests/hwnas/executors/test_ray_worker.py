"""What a Ray worker does with a trial, called without Ray; the processes are real."""

import pickle
import subprocess
import sys
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import pytest

from hwnas.code_digest import own_digest
from hwnas.executors import ray_worker
from hwnas.executors.limits import Limits
from hwnas.executors.ray_worker import BROKEN, DONE, FAILED, Outcome, Setup, evaluate_here
from hwnas.strategies import Trial

NUMBER = attrgetter("number")
TRIAL = Trial(3, (1, 2), None)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """A Ray worker that has evaluated nothing yet."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(ray_worker, "_kept", None)
    yield
    if ray_worker._kept is not None:
        ray_worker._kept[1].shutdown()


class Caller:
    """Evaluates a trial by the setup of a key, and notes when one is fetched."""

    def __init__(self, folder):
        self.folder = folder
        self.fetched = []

    def __call__(self, function, key="first", initializer=print, version=None):
        def fetch():
            self.fetched.append(key)
            setup = Setup(key, pickle.dumps(initializer), str(self.folder), 1, Limits())
            return setup if version is None else replace(setup, version=version)

        report = {}.__setitem__
        return evaluate_here(key, fetch, pickle.dumps(function), TRIAL, report, node="n1")


@pytest.fixture
def call(tmp_path):
    return Caller(tmp_path)


def test_a_process_is_prepared_once_and_stands_where_the_driver_stands(call, tmp_path):
    # A second call of the initializer would fail.
    once = partial(Path.touch, Path("prepared"), exist_ok=False)
    for _ in range(2):
        found = call(NUMBER, initializer=once)
        assert (found.kind, pickle.loads(found.value), found.node) == (DONE, 3, "n1")
    assert (tmp_path / "prepared").exists() and call.fetched == ["first"]


def test_another_setup_and_other_gpus_get_another_process(call, monkeypatch):
    first = call(NUMBER) and ray_worker._kept[1]
    assert call(NUMBER, key="second").kind == DONE
    second = ray_worker._kept[1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert call(NUMBER, key="second").kind == DONE
    assert len({first, second, ray_worker._kept[1]}) == 3
    assert call.fetched == ["first", "second", "second"]
    with pytest.raises(RuntimeError, match="closed"):
        first.submit(NUMBER, TRIAL)


def test_a_trial_may_hold_its_part_of_the_memory_of_its_node(monkeypatch):
    seen = []

    def evaluate(key, fetch, function, trial, report, *, node):
        seen.append((fetch().limits, node))
        report(3, 0.5)

    monkeypatch.setattr(ray_worker, "evaluate_here", evaluate)
    monkeypatch.setattr(ray_worker, "default_memory_bytes", lambda n_workers: 1000 // n_workers)
    setups = [Setup("k", b"", "", 1, Limits(5.0)), Setup("k", b"", "", 1, Limits(5.0, 77))]
    nodes = [{"NodeID": "n1", "Resources": {"CPU": 4.0}}, {"NodeID": "n2", "Resources": {}}]
    ray = SimpleNamespace(
        get=lambda reference: setups[reference],
        nodes=lambda: nodes,
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "n1"),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    for reference in range(2):  # the queue of reports is gone, which is no trial's fault
        ray_worker.evaluate_task("k", [reference], b"", TRIAL, None, {"CPU": 2.0, "GPU": 0.0})
    assert seen == [(Limits(5.0, 500), "n1"), (Limits(5.0, 77), "n1")]


def test_a_ray_worker_itself_loads_neither_torch_nor_the_record():
    code = "import sys, hwnas.executors.ray_worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "optuna", "sqlalchemy", "onnxruntime"} & set(done.stdout.split())


def test_a_candidates_failure_is_its_reason(call):
    found = call(attrgetter("nothing"))
    assert found.kind == FAILED and found.value.startswith("AttributeError: 'Trial' object has no")


def test_a_node_with_another_version_is_said_to_be_unable(call):
    own = Setup("key", b"", ".", 1, Limits()).version
    edited = own.replace(own_digest(), "0" * 8)
    for other in ("9.9", edited):
        reason = f"it has hwnas {own}, the driver {other}"
        assert call(NUMBER, version=other) == Outcome(BROKEN, reason, "n1")


def test_a_node_that_cannot_prepare_is_said_to_be_unable(call):
    found = call(NUMBER, initializer=partial(Path.read_text, Path("missing.py")))
    assert found.kind == BROKEN and "FileNotFoundError" in found.value
