"""How many networks a run trains at once, and where."""

from types import SimpleNamespace

import pytest

from hwnas import run_workers
from hwnas.config import SearchConfig
from hwnas.executors.progress import report
from hwnas.executors.this_thread import ThisThreadExecutor
from hwnas.run_workers import Workers
from hwnas.strategies import Trial


def cluster(n, *, gpus=0):
    """Of `n` GPUs or cores; notes what is asked for."""
    asked = []

    def n_fitting(needed):
        asked.append(needed)
        return n

    return SimpleNamespace(n_fitting=n_fitting, total=lambda name: gpus, asked=asked)


@pytest.mark.parametrize(
    ("workers", "on_cluster", "n_at_once"),
    [(None, None, 1), (0, None, 1), (3, None, 3), (None, 5, 5), (2, 5, 2), (0, 5, 1)],
)
def test_as_many_at_once_as_were_asked_for_or_fit(workers, on_cluster, n_at_once):
    executor = "processes" if on_cluster is None else "ray"
    nodes = None if on_cluster is None else cluster(on_cluster)
    config = SearchConfig(workers=workers, executor=executor)
    assert Workers(config, 2, print, nodes).n_at_once == n_at_once


def test_a_training_on_a_cluster_asks_for_a_gpu_where_it_has_any_and_for_its_memory():
    nodes = cluster(4, gpus=4)
    config = SearchConfig(executor="ray", trial_memory_mb=500.0)
    assert Workers(config, 1, print, nodes).n_at_once == 4
    assert nodes.asked == [{"CPU": 1.0, "GPU": 1.0, "memory": 500_000_000}]


def test_no_workers_is_this_thread_which_is_prepared_at_once():
    prepared, shown = [], []
    workers = Workers(SearchConfig(workers=0), 1, print)
    with workers.open(
        lambda: prepared.append(True), on_progress=lambda *of: shown.append(of)
    ) as executor:
        assert isinstance(executor, ThisThreadExecutor) and prepared == [True]
        assert executor.submit(lambda trial: report(0.5), Trial(3, (1,), None)).done()
        failed = executor.submit(lambda trial: 1 / 0, Trial(4, (1,), None))
    assert shown == [(3, 0.5)]
    with pytest.raises(ZeroDivisionError):
        failed.result()


def test_what_is_no_trial_is_refused():
    with pytest.raises(TypeError, match="evaluations take one trial"):
        ThisThreadExecutor().submit(print, 3)


@pytest.mark.parametrize(("length", "seconds"), [(2.0, 20.0), (None, None)])
def test_a_training_may_take_longer_than_a_trial_and_is_free_where_trials_train_nothing(
    monkeypatch, length, seconds
):
    limits = []
    monkeypatch.setattr(
        run_workers, "ProcessExecutor", lambda n, **options: limits.append(options["limits"])
    )
    Workers(SearchConfig(trial_seconds=10.0), 1, print).open(
        print, on_progress=print, length=length
    )
    assert [found.seconds for found in limits] == [seconds]
