"""The executor and the profiler of a Ray cluster, without Ray; `tests/scale` has a real one."""

import pickle
import queue
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from hwnas.errors import ConfigError
from hwnas.executors import ray_executor, ray_profiler
from hwnas.executors.errors import AccidentError, EvaluationFailedError, ExecutorError
from hwnas.executors.ray_cluster import Node, RayCluster
from hwnas.executors.ray_executor import RayExecutor, TrialResources
from hwnas.executors.ray_worker import ACCIDENT, BROKEN, DONE, FAILED, Outcome
from hwnas.search import Evaluation
from hwnas.strategies import Trial
from profilers.errors import ModelError, TargetError
from profilers.targets import make_target

TRIAL = Trial(7, (1, 2), None)


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class WorkerCrashedError(RayError):
    pass


class OutOfMemoryError(RayError):
    pass


class NodeDiedError(RayError):
    pass


class Reference:
    """A task, or an object, of the fake cluster."""

    def __init__(self, function=None, arguments=(), options=None):
        self.function, self.arguments, self.options = function, arguments, options
        self.found = Future()

    def future(self):
        return self.found


class FakeRay:
    """As much of the module `ray` as is used; tasks wait until a test ends them."""

    exceptions = SimpleNamespace(
        RayError=RayError, RayTaskError=RayTaskError, WorkerCrashedError=WorkerCrashedError,
        OutOfMemoryError=OutOfMemoryError, NodeDiedError=NodeDiedError,
    )  # fmt: skip

    def __init__(self):
        self.tasks, self.objects, self.cancelled = [], [], []
        self.run_at_once = False
        self.listed = [self.node("a" * 16, CPU=2), self.node("b" * 16, CPU=1, GPU=1)]

    @staticmethod
    def node(id_, alive=True, **resources):
        return {
            "NodeID": id_, "Alive": alive, "NodeManagerAddress": "10.0.0.1", "Resources": resources
        }  # fmt: skip

    joined = None

    def is_initialized(self):
        return self.joined is not None

    def init(self, *, address, **options):
        self.joined = address or "here"

    def shutdown(self):
        self.joined = None

    def nodes(self):
        return self.listed

    def put(self, value):
        self.objects.append(value)
        return Reference()

    def remote(self, function):
        def start(*arguments, options):
            task = Reference(function, arguments, options)
            self.tasks.append(task)
            if self.run_at_once:
                task.found.set_result(function(*arguments))
            return task

        return SimpleNamespace(
            options=lambda **options: SimpleNamespace(remote=partial(start, options=options))
        )

    def cancel(self, reference, *, force):
        assert force
        self.cancelled.append(reference)

    def wait(self, references, timeout):
        done = [r for r in references if r.found.done()]
        return done, [r for r in references if r not in done]

    def get(self, reference):
        return reference.found.result()

    def get_runtime_context(self):
        return SimpleNamespace(get_node_id=lambda: "b" * 16)


class FakeQueue(queue.SimpleQueue):
    def __init__(self, actor_options=None):
        super().__init__()

    def shutdown(self, force=False):
        pass


@pytest.fixture
def ray(monkeypatch):
    fake = FakeRay()
    modules = {
        "ray": fake,
        "ray._private.worker": SimpleNamespace(),
        "ray.util.queue": SimpleNamespace(Queue=FakeQueue),
        "ray.util.scheduling_strategies": SimpleNamespace(
            NodeAffinitySchedulingStrategy=lambda *_, **__: None
        ),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_executor, "REPORT_WAIT_S", 0.02)
    monkeypatch.setattr(ray_profiler, "POLL_S", 0.0)
    return fake


@pytest.fixture
def cluster(ray):
    with RayCluster() as connected:
        yield connected


@pytest.fixture
def executor(cluster):
    with RayExecutor(cluster, resources=TrialResources(), initializer=print) as made:
        yield made


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="pip install 'hwnas\\[ray\\]'"):
        RayCluster()


def test_an_address_where_nobody_listens_is_one_clear_message(ray):
    with pytest.raises(ExecutorError, match="cluster at 127.0.0.1:1: .*refused. Check --ray-addr"):
        RayCluster("127.0.0.1:1")


def test_a_cluster_that_was_joined_before_is_used_and_not_left(ray):
    with RayCluster() as first:
        assert ray.joined == "here"
        with RayCluster("10.0.0.1:6379"):
            assert ray.joined == "here"
        assert ray.joined == "here" and first.nodes()
    assert ray.joined is None


def test_what_fits_is_counted_node_by_node_on_those_that_are_alive(ray, cluster):
    ray.listed = [FakeRay.node(i, CPU=3, GPU=1) for i in "abc"]
    ray.listed.append(FakeRay.node("d", alive=False, CPU=100, GPU=100))
    assert cluster.n_fitting({"CPU": 2, "GPU": 0}) == 3  # the third core of each is too little
    assert cluster.n_fitting({"CPU": 1, "GPU": 0.5}) == 6
    assert cluster.n_fitting({"CPU": 4}) == 0
    assert cluster.total("GPU") == 3
    assert Node("a", "", {"CPU": 0.3}).n_fitting({"CPU": 0.1}) == 3  # not 2, as 0.3 / 0.1 rounds


def test_a_trial_asks_for_a_gpu_if_the_cluster_has_one(ray, cluster):
    assert TrialResources.of(cluster).needed == {"CPU": 1, "GPU": 1, "memory": 0}
    assert TrialResources.of(cluster, gpus=0.5).gpus == 0.5
    ray.listed = ray.listed[:1]
    assert TrialResources.of(cluster, memory_bytes=10).needed == {"CPU": 1, "GPU": 0, "memory": 10}


def test_a_trial_is_a_task_with_its_resources_and_retries(ray, cluster):
    resources = TrialResources(cpus=2, gpus=0.5, memory_bytes=10**9)
    ray.listed = [FakeRay.node("a", CPU=4, GPU=1, memory=3e9)]
    with RayExecutor(cluster, resources=resources, initializer=print) as executor:
        assert executor.n_slots == 2
        executor.submit(repr, TRIAL)
        executor.submit(repr, replace(TRIAL, number=8))
    first, second = ray.tasks
    assert first.options == {
        "num_cpus": 2, "num_gpus": 0.5, "memory": 10**9, "max_retries": 3, "name": "trial 7"
    }  # fmt: skip
    assert second.options["name"] == "trial 8"
    (setup,) = ray.objects  # once, however many trials
    assert setup.n_threads == 2 and pickle.loads(setup.initializer) is print
    assert first.arguments[1] == second.arguments[1] and isinstance(first.arguments[1], list)


def test_results_say_on_which_node_they_were_found(ray, executor):
    future = executor.submit(repr, TRIAL)
    found = pickle.dumps(Evaluation((0.5,), {"val_accuracy": 0.5}))
    ray.tasks[0].found.set_result(Outcome(DONE, found, "b" * 16))
    assert future.result() == Evaluation((0.5,), {"val_accuracy": 0.5, "node": "b" * 16})


@pytest.mark.parametrize(
    ("found", "error", "text"),
    [
        (Outcome(FAILED, "ValueError: no", "x"), EvaluationFailedError, "^ValueError: no$"),
        (Outcome(ACCIDENT, "hung", "x"), AccidentError, "^hung$"),
        (Outcome(DONE, b"cno_such\nmodule\n.", "x"), EvaluationFailedError, "cannot be read here"),
        (Outcome(BROKEN, "no torch", "b" * 16), ExecutorError, "node bbbbbbbb at 10.0.0.1 cannot"),
        (RayTaskError("a\n  b\nModuleNotFoundError: x"), ExecutorError, "NotFoundError: x. The sa"),
        (WorkerCrashedError("It died. See logs"), AccidentError, "worker ended 4 times: It died$"),
        (OutOfMemoryError("The node ran low. See"), AccidentError, "The node ran low$"),
        (NodeDiedError("It is gone. See"), ExecutorError, "lost a trial: NodeDiedError: It is g"),
    ],
)  # fmt: skip
def test_what_a_task_ends_with_is_told_apart(ray, executor, found, error, text):
    future = executor.submit(repr, TRIAL)
    if isinstance(found, Outcome):
        ray.tasks[0].found.set_result(found)
    else:
        ray.tasks[0].found.set_exception(found)
    with pytest.raises(error, match=text) as caught:
        future.result()
    assert type(caught.value) is error


def test_leaving_ends_the_tasks_that_run_and_no_others(ray, cluster):
    with RayExecutor(cluster, resources=TrialResources(), initializer=print) as executor:
        done, running = (executor.submit(repr, TRIAL) for _ in range(2))
        ray.tasks[0].found.set_result(Outcome(FAILED, "no", "x"))
    assert done.exception() is not None and running.cancelled()
    assert ray.cancelled == ray.tasks[1:]
    ray.tasks[1].found.set_exception(RayError("cancelled"))  # comes when it has ended; no harm
    with pytest.raises(RuntimeError, match="takes no more"):
        executor.submit(repr, TRIAL)


def test_a_trial_that_fits_on_no_node_is_refused_at_once(ray, cluster):
    ray.listed = ray.listed[:1]
    with pytest.raises(
        ExecutorError, match="no node .* fits a trial .1 CPU, 1 GPU.: node aaaaaaaa"
    ):
        RayExecutor(cluster, resources=TrialResources(gpus=1), initializer=print)


def test_it_is_said_which_nodes_come_and_go_and_how_far_trials_are(ray, cluster, monkeypatch):
    monkeypatch.setattr(ray_executor, "WATCH_INTERVAL_S", 0.0)
    said, shares = [], []
    with RayExecutor(
        cluster, resources=TrialResources(), initializer=print, say=said.append,
        on_progress=lambda *share: shares.append(share),
    ) as executor:  # fmt: skip
        executor._reports.put((7, 0.5))
        ray.listed = [ray.listed[0], FakeRay.node("c" * 16, CPU=1)]
        executor._reports.put((7, 0.6))
        wait_for(lambda: len(said) == 2 and len(shares) == 2)
    assert said == [
        "node bbbbbbbb at 10.0.0.1 left the cluster: what ran there runs again on another node",
        "node cccccccc at 10.0.0.1 joined the cluster",
    ]
    assert shares == [(7, 0.5), (7, 0.6)]


@pytest.mark.parametrize("is_gone", [False, True])
def test_trials_that_fit_on_no_node_any_more_end_the_search(ray, executor, monkeypatch, is_gone):
    cancel = ray.cancel

    def cancel_or_fail(reference, *, force):
        cancel(reference, force=force)
        if is_gone:
            raise RayError("there is no cluster")

    monkeypatch.setattr(ray, "cancel", cancel_or_fail)
    monkeypatch.setattr(ray_executor, "WATCH_INTERVAL_S", 0.0)
    monkeypatch.setattr(ray_executor, "PATIENCE_S", 0.0)
    future = executor.submit(repr, TRIAL)
    ray.listed = []
    with pytest.raises(ExecutorError, match="no node of the cluster fits a trial .* Add a node"):
        future.result(timeout=20)
    wait_for(lambda: ray.cancelled == ray.tasks)
    ray.tasks[0].found.set_exception(RayError("cancelled"))


class FakeProfiler:
    """Stands in for `IsolatedProfiler`; notes which were made and closed."""

    made, closed = 0, 0

    def __init__(self, target, *, references_ms):
        self.references_ms = tuple(references_ms)
        type(self).made += 1

    def close(self):
        type(self).closed += 1

    def kernels(self, model):
        if model == "bad":
            raise ModelError("cannot be loaded")
        return (model, *self.references_ms)

    def outputs(self, model, inputs):
        return [(model, x) for x in inputs]

    def profile(self, model, *, seconds, tags):
        return SimpleNamespace(tags=tags, reference_ms=2.5)

    def latency(self, models, *, seconds, patience, on_round=None):
        if on_round is not None:
            on_round(1, 2)
        return list(models)


@pytest.fixture
def place(ray, cluster, monkeypatch):
    """The target, on the second node."""
    ray.listed[1]["Resources"]["target:onnxruntime-cpu"] = 1.0
    ray.run_at_once = True
    monkeypatch.setattr(ray_profiler, "IsolatedProfiler", FakeProfiler)
    monkeypatch.setattr(ray_profiler, "_kept", {})
    FakeProfiler.made = FakeProfiler.closed = 0
    return ray_profiler.target_place(cluster, "onnxruntime-cpu")


def test_measuring_takes_all_of_the_target_and_no_core(ray, place):
    assert place.target == make_target("onnxruntime-cpu")
    with place.open_profiler(references_ms=[1.5]) as profiler:
        assert profiler.kernels("m") == ("m", 1.5)
        rounds = []
        found = profiler.latency(["m", "n"], seconds=1, on_round=lambda *r: rounds.append(r))
        assert found == ["m", "n"] and rounds == [(1, 2)]
        assert profiler.outputs("m", [3, 4]) == [("m", 3), ("m", 4)]
        assert profiler.node_ids == {"b" * 16}
    assert {tuple(task.options["resources"].items()) for task in ray.tasks} == {
        (("target:onnxruntime-cpu", 1.0),)
    }
    assert {task.options["num_cpus"] for task in ray.tasks} == {0}


def test_a_measurement_says_on_which_node_it_was_made(place):
    with place.open_profiler() as profiler:
        assert profiler.profile("m", tags={"space": "s"}).tags == {"space": "s", "node": "b" * 16}
        assert profiler.kernels("m") == ("m",)  # by the process that there was
    with place.open_profiler(references_ms=[1.0]) as profiler:
        profiler.profile("m")
        profiler.close()
        assert profiler.kernels("m") == ("m", 1.0, 2.5)  # a new one is told what the last one saw


def test_each_profiler_has_a_process_of_its_own_and_two_of_them_take_turns(place):
    with place.open_profiler() as first, place.open_profiler() as second:
        for _ in range(3):
            first.kernels("m")
            second.kernels("m")
        assert (FakeProfiler.made, FakeProfiler.closed) == (2, 0)
        with place.open_profiler() as third:
            third.kernels("m")
        second.kernels("m")  # the first was not used for longest
        assert (FakeProfiler.made, FakeProfiler.closed) == (3, 1)


def test_errors_of_the_profiler_come_back_as_they_are(place):
    with place.open_profiler() as profiler, pytest.raises(ModelError, match="cannot be loaded"):
        profiler.kernels("bad")


def test_targets_that_differ_are_refused(place, cluster):
    other = replace(place.target, version="0.1")
    with pytest.raises(TargetError, match="targets that differ: onnxruntime-cpu .*0.1.* Only one"):
        ray_profiler.RayProfiler(cluster, other).kernels("m")


def test_a_target_node_that_stays_away_is_one_clear_message(ray, place, monkeypatch):
    monkeypatch.setattr(ray_profiler, "PATIENCE_S", 0.0)
    ray.run_at_once, ray.listed = False, []
    gone = pytest.raises(ExecutorError, match="no node .* has had target:onnxruntime-cpu for")
    with place.open_profiler() as profiler, gone:
        profiler.kernels("m")
    assert ray.cancelled == ray.tasks[-1:]


def test_a_cluster_without_the_target_is_measured_from_here(ray, cluster):
    place = ray_profiler.target_place(cluster, "onnxruntime-cpu")
    assert place.target == make_target("onnxruntime-cpu") and ray.tasks == []
    with place.open_asker() as asker:
        assert asker.target == place.target
