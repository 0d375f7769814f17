import pytest

from hwnas.bench import workers
from hwnas.bench.workers import bench_workers
from hwnas.errors import ConfigError
from hwnas.progress import Silent

ASKED = {
    "n_workers": 2, "n_trials": 4, "n_rounds": 2, "epochs": 1.0, "seconds": 0.05,
    "progress": Silent(),
}  # fmt: skip


def test_rounds_alternate_and_ratios_are_of_each_round(monkeypatch, made_up_profiler):
    seconds = {1: iter([10.0, 20.0, 12.0]), 2: iter([5.0, 16.0, 6.0])}
    order = []

    def search_seconds(space, plan, *, n_workers, n_trials):
        order.append(n_workers)
        return next(seconds[n_workers])

    monkeypatch.setattr(workers, "_search_seconds", search_seconds)
    monkeypatch.setattr(workers, "IsolatedProfiler", made_up_profiler)
    record = bench_workers("wine", None, "mlp", **ASKED | {"n_rounds": 3})
    assert order == [1, 2, 2, 1, 1, 2]
    assert record["ratios"] == pytest.approx([2.0, 1.25, 2.0])
    assert record["ratio"] == 2.0 and record["latency_ratio"] == 1.0
    assert record["trials_per_minute"] == 60 * 4 / 6.0
    assert record["baseline_per_minute"] == 60 * 4 / 12.0
    assert made_up_profiler.measured == made_up_profiler.measured[:1] * 6


@pytest.mark.slow
def test_real_workers_train_and_leave_nothing_behind():
    record = bench_workers("wine", None, "mlp", **ASKED)
    assert record["ratio"] > 0 and len(record["ratios"]) == 2
    assert record["latency_ms"] > 0


@pytest.mark.parametrize("changes", [{"n_workers": 1}, {"n_trials": 1}, {"n_rounds": 0}])
def test_nothing_to_compare_is_refused(changes):
    with pytest.raises(ConfigError, match="at least 2 workers"):
        bench_workers("wine", None, "mlp", **ASKED | changes)
