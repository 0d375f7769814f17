"""The long training: who is trained, how many at once, what is kept, what fails."""

import shutil
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from hwnas.baselines import baselines
from hwnas.config import SearchConfig
from hwnas.data import load_data
from hwnas.errors import RunFolderError
from hwnas.evaluators import training
from hwnas.evaluators.plan import EvaluatorPlan
from hwnas.executors.errors import AccidentError, EvaluationFailedError, ExecutorError
from hwnas.front import final_training
from hwnas.front.final_training import Finalist, train_finalists
from hwnas.front.finalist_weights import load_weights, weights_path
from hwnas.progress import Silent
from hwnas.run_workers import Workers
from hwnas.spaces.for_data import space_for
from hwnas.training import Recipe, TrainingDivergedError
from hwnas.weight_files import pack_weights


class Shown(Silent):
    """Keeps what is said, and how far the bar is."""

    def __init__(self):
        self.said, self.updates = [], []

    def say(self, text):
        self.said.append(text)

    def update(self, done, total=None, note=""):
        self.updates.append(done)

    @contextmanager
    def task(self, name, total):
        yield self


@pytest.fixture(scope="module")
def data():
    return load_data("iris")


@pytest.fixture(scope="module")
def space(data):
    return space_for("mlp", data)


def some_of(space, n):
    return [tuple(row) for row in space.sample(np.random.default_rng(0), n).tolist()]


@pytest.fixture
def finalists(data, space):
    """Two of the space, and a baseline."""
    found = [
        Finalist(f"t{i:03d}", space.architecture(row), row, "searched", i)
        for i, row in enumerate(some_of(space, 2))
    ]
    return [*found, Finalist("linear", baselines(data)["linear"], None, "baseline", 7)]


@pytest.fixture
def train(data, space, tmp_path):
    """Train in the folder of the test; gives what came of it, and what was said."""

    def call(finalists, *, workers=None, **options):
        plan = EvaluatorPlan("training", data, "mlp", space.fingerprint, Recipe(2, 16), seed=0)
        shown = Shown()
        workers = workers or Workers(SearchConfig(**{"workers": 0} | options), 1, print)
        return train_finalists(finalists, plan, workers, tmp_path, shown), shown

    return call


class Trainings:
    """Stands in for the training of one network; notes the seeds, and may raise."""

    def __init__(self, monkeypatch, errors=None):
        self.seeds, self.errors = [], errors or {}
        self.train = training.train
        monkeypatch.setattr(training, "train", self)

    def __call__(self, *arguments, seed, **options):
        self.seeds.append(seed)
        if self.errors.get(seed):
            raise self.errors[seed].pop(0)
        return self.train(*arguments, seed=seed, **options)


def weights_of(trained):
    return {item.name: item.network.state_dict() for item in trained}


def assert_same(first, second):
    assert list(first) == list(second)
    for name, weights in first.items():
        assert list(weights) == list(second[name])
        assert all(torch.equal(weights[key], second[name][key]) for key in weights)


def test_all_are_trained_in_their_order_by_their_own_seeds(train, finalists, data, tmp_path):
    trained, shown = train(finalists)
    assert [(item.name, item.kind) for item in trained] == [
        ("t000", "searched"), ("t001", "searched"), ("linear", "baseline"),
    ]  # fmt: skip
    alone, _ = training.train_network(
        finalists[2].architecture, data, Recipe(2, 16), seed=finalists[2].seed
    )
    assert_same({"linear": alone.state_dict()}, {"linear": weights_of(trained)["linear"]})
    assert shown.updates == sorted(shown.updates) and shown.updates[-1] == 3
    assert not list(tmp_path.rglob("*.part")) and shown.said == []


@pytest.mark.slow
def test_worker_processes_train_the_same_weights(train, finalists, tmp_path):
    here = weights_of(train(finalists)[0])
    for path in (tmp_path / "weights").iterdir():
        path.unlink()
    for n in (1, 2):
        there, shown = train(finalists, workers=Workers(SearchConfig(workers=n), 1, print))
        assert_same(here, weights_of(there))
        assert shown.updates[-1] == 3
        for path in (tmp_path / "weights").iterdir():
            path.unlink()


def test_what_was_trained_before_is_not_trained_again(train, finalists, monkeypatch):
    noted = Trainings(monkeypatch, {1: [KeyboardInterrupt()]})
    with pytest.raises(KeyboardInterrupt):
        train(finalists)
    whole = weights_of(train(finalists)[0])
    assert noted.seeds == [0, 1, 1, 7]
    assert_same(weights_of(train(finalists)[0]), whole)
    assert noted.seeds == [0, 1, 1, 7]


def test_no_worker_is_started_where_nothing_is_left_to_train(train, finalists):
    train(finalists)

    class Nobody:
        def open(self, *_, **__):
            raise AssertionError("started")

    assert len(train(finalists, workers=Nobody())[0]) == 3


def test_what_fails_is_left_out_with_its_reason_and_not_tried_again(
    train, finalists, monkeypatch, tmp_path
):
    noted = Trainings(monkeypatch, {1: [TrainingDivergedError("the loss became nan")]})
    trained, shown = train(finalists)
    assert [item.name for item in trained] == ["t000", "linear"]
    assert shown.said == ["t001 is left out: TrainingDivergedError: the loss became nan"]
    again, shown = train(finalists)
    assert [item.name for item in again] == ["t000", "linear"] and noted.seeds == [0, 1, 7]
    path = tmp_path / "weights" / "t001.failed"
    assert shown.said == [
        f"t001 is left out, as before: TrainingDivergedError: the loss became nan. Remove {path} "
        f"to train it"
    ]
    path.unlink()
    assert len(train(finalists)[0]) == 3 and noted.seeds == [0, 1, 7, 1]


def test_an_accident_is_tried_once_more(train, finalists, monkeypatch):
    errors = {0: [MemoryError()], 1: [MemoryError(), ValueError("no")], 7: [MemoryError()] * 2}
    noted = Trainings(monkeypatch, errors)
    trained, shown = train(finalists)
    assert [item.name for item in trained] == ["t000"] and noted.seeds == [0, 0, 1, 1, 7, 7]
    assert shown.said == [
        "t000 is trained once more: out of memory: MemoryError",
        "t001 is trained once more: out of memory: MemoryError",
        "t001 is left out: ValueError: no (before that: out of memory: MemoryError)",
        "linear is trained once more: out of memory: MemoryError",
        "linear is left out: out of memory: MemoryError (twice)",
    ]


class Crowd:
    """Workers that are told by the test when a training ends."""

    def __init__(self, n, ends):
        self.n_at_once, self.ends = n, ends
        self.running, self.most, self.is_open = {}, 0, False

    def open(self, initializer, *, on_progress, past_s, length):
        initializer()
        self.on_progress = on_progress
        return self

    def __enter__(self):
        self.is_open = True
        return self

    def __exit__(self, *_):
        self.is_open = False

    def submit(self, fn, trial):
        future = Future()
        self.running[trial.number] = future, fn, trial
        self.on_progress(trial.number, 0.5)
        self.most = max(self.most, len(self.running))
        if len(self.running) == self.n_at_once or trial.number == 2:
            self.end(min(self.running))
            for number in sorted(self.running) if trial.number == 2 else ():
                self.end(number)
        return future

    def end(self, number):
        future, fn, trial = self.running.pop(number)
        error = self.ends.pop(number, None)
        future.set_exception(error) if error else future.set_result(fn(trial))


def test_a_network_may_start_from_the_weights_of_another(train, finalists, space, tmp_path):
    (parent,), _ = train(finalists[:1])
    row = tuple(space.neighbours(finalists[0].genotype)[-1].tolist())
    child = Finalist("n1-of-t000", space.architecture(row), row, "searched", 5, finalists[0])
    (grown,), _ = train([child])
    assert grown.parent == "t000"
    assert parent.network.state_dict().keys() & grown.network.state_dict().keys()
    weights_path(tmp_path, "n1-of-t000").unlink()
    (alone,), _ = train([replace(child, parent=None)])
    assert alone.parent == ""
    assert any(
        not torch.equal(a, b)
        for a, b in zip(alone.network.parameters(), grown.network.parameters(), strict=True)
    )
    weights_path(tmp_path, "n1-of-t000").unlink()
    weights_path(tmp_path, "t000").unlink()
    with pytest.raises(RunFolderError, match="from which n1-of-t000 starts"):
        train([child])


def test_as_many_are_trained_at_once_as_there_are_workers(train, finalists):
    crowd = Crowd(2, {})
    trained, shown = train(finalists, workers=crowd)
    assert len(trained) == 3 and crowd.most == 2 and not crowd.is_open
    assert 1.0 in shown.updates  # two of them half done
    assert shown.updates[-1] == 3


def test_workers_that_cannot_train_end_the_run_and_nothing_has_failed(train, finalists, tmp_path):
    crowd = Crowd(1, {0: ExecutorError("no node")})
    with pytest.raises(ExecutorError, match="no node"):
        train(finalists, workers=crowd)
    assert not crowd.is_open and not (tmp_path / "weights").exists()


def test_what_was_trained_when_the_workers_fail_or_ctrl_c_comes_is_kept(
    train, finalists, tmp_path, monkeypatch
):
    crowd = Crowd(3, {1: ExecutorError("no node")})
    with pytest.raises(ExecutorError, match="no node"):
        train(finalists, workers=crowd)
    assert {path.stem for path in (tmp_path / "weights").iterdir()} == {"t000", "linear"}
    shutil.rmtree(tmp_path / "weights")

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(final_training, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(finalists, workers=Crowd(3, {}))
    assert len(list((tmp_path / "weights").iterdir())) == 3


def test_accidents_and_failures_of_workers_are_told_apart(train, finalists):
    crowd = Crowd(1, {0: AccidentError("hung"), 1: EvaluationFailedError("the worker crashed")})
    trained, shown = train(finalists, workers=crowd)
    assert [item.name for item in trained] == ["t000", "linear"]
    assert shown.said == [
        "t000 is trained once more: hung", "t001 is left out: the worker crashed",
    ]  # fmt: skip


def test_a_folder_that_cannot_be_written_is_one_message(train, finalists, tmp_path):
    (tmp_path / "weights").write_text("a file")
    with pytest.raises(RunFolderError, match="cannot write .*t000.safetensors"):
        train(finalists)


def test_damaged_weights_count_as_none(train, finalists, tmp_path):
    train(finalists[:1])
    path = weights_path(tmp_path, "t000")
    path.write_bytes(path.read_bytes()[:50])
    assert load_weights(path, finalists[0].architecture) is None


def test_weights_of_another_network_with_the_same_shapes_count_as_none(train, finalists, tmp_path):
    (trained, *_), _ = train(finalists[:1])
    path, own = weights_path(tmp_path, "t000"), finalists[0].architecture
    assert load_weights(path, own) is not None
    path.write_bytes(pack_weights(trained.network.state_dict()))  # says not whose they are
    assert load_weights(path, own) is None


@pytest.mark.parametrize("workers", [None, 3])
def test_the_time_that_a_trial_may_take_grows_with_the_training(workers):
    config = SearchConfig(workers=workers, trial_seconds=10.0, trial_memory_mb=500.0)
    made = Workers(config, 2, print)
    assert made.n_at_once == (workers or 1)
    with made.open(print, on_progress=print, length=4.0) as executor:
        assert executor._time_limit.seconds(1.0) == 40.0
        assert executor._memory_bytes == 500_000_000
        assert executor._n_threads == (2 if workers is None else 1)
