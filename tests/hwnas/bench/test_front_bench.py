"""The bench on runs that were made up: what it asks for, measures again, and says."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hwnas import profiling
from hwnas.bench import front as bench
from hwnas.bench.front import bench_front
from hwnas.config import SearchConfig, write_config
from hwnas.errors import ConfigError
from hwnas.progress import Silent
from hwnas.spaces import catalog
from profilers.timing import LatencySamples

# By run folder: measured latencies of the front, and of the same models later; the limit is 1 ms.
RUNS = {
    "p10-0": ([0.5, 0.9], [0.5, 0.94]),
    "p10-1": ([0.8], [0.88]),
    "p75-0": ([0.2, 0.6, 0.95], [0.2, 0.6, 1.02]),
    "p75-1": ([], []),
}


def samples(ms, *, slowdown=1.0):
    wall_ms, zeros = np.full(40, ms), np.zeros(40, np.int64)
    return LatencySamples(
        wall_ms, wall_ms, zeros, zeros, np.arange(40) % 10, np.full(40, slowdown)
    )  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """Runs and models that the bench asked for, with everything dear made up."""
    found = SimpleNamespace(runs=[], measured=[], stop_at=None, disturbed=set())

    def run_search(config, folder, *, measurements, predictor, progress):
        if len(found.runs) == found.stop_at:
            found.stop_at = None
            return SimpleNamespace(is_complete=False)
        found.runs.append((folder.name, config.budgets, config.seed, predictor))
        folder.mkdir()
        rows = [
            {"name": f"t{i}", "onnx": f"front/{folder.name}-{i}.onnx", "latency_ms": ms,
             "slack": 1 - ms, "kind": "searched", "verdict": "front"}
            for i, ms in enumerate(RUNS[folder.name][0])
        ]  # fmt: skip
        columns = ["name", "onnx", "latency_ms", "slack", "kind", "verdict"]
        over = {"name": "t9", "latency_ms": 2.0, "kind": "searched", "verdict": "over budget: x"}
        pd.DataFrame(rows, columns=columns).to_csv(folder / "front.csv", index=False)
        pd.DataFrame([*rows, over], columns=columns).to_csv(folder / "candidates.csv", index=False)
        write_config(folder, {"budget": {"latency_ms": 1.0}})
        return SimpleNamespace(is_complete=True)

    class Profiler:
        def __init__(self, target, *, references_ms):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def latency(self, models, *, seconds):
            found.measured.append([model.path for model in models])
            answers = []
            for model in models:
                run, i = model.path.removesuffix(".onnx").rsplit("-", 1)
                is_first = sum(model.path in paths for paths in found.measured) == 1
                slow = 2.0 if model.path in found.disturbed and is_first else 1.0
                answers.append(samples(RUNS[run][1][int(i)], slowdown=slow))
            return answers

    def load_model(path, *, batch):
        return SimpleNamespace(path=path.name, name=f"t{path.stem.rsplit('-', 1)[1]}")

    monkeypatch.setattr(bench, "run_search", run_search)
    monkeypatch.setattr(bench, "IsolatedProfiler", Profiler)
    monkeypatch.setattr(bench, "load_model", load_model)
    monkeypatch.setattr(
        bench, "shared_predictor", lambda config, target, out, *others: out / "p.npz"
    )
    return found


@pytest.fixture
def call(tmp_path, asked):
    def start(percentiles=(10, 75), n_searches=2):
        return bench_front(
            SearchConfig(), tmp_path, percentiles=percentiles, n_searches=n_searches,
            measurements=tmp_path / "m.db", progress=Silent(),
        )  # fmt: skip

    return start


def test_every_budget_is_searched_with_every_seed_by_one_predictor(call, asked, tmp_path):
    call()
    assert [(name, budgets, seed) for name, budgets, seed, _ in asked.runs] == [
        ("p10-0", ("latency_ms<=p10",), 0), ("p10-1", ("latency_ms<=p10",), 1),
        ("p75-0", ("latency_ms<=p75",), 0), ("p75-1", ("latency_ms<=p75",), 1),
    ]  # fmt: skip
    assert {predictor for *_, predictor in asked.runs} == {tmp_path / "p.npz"}


def test_what_holds_later_and_what_stays_unused_is_as_by_hand(call):
    record = call()
    assert (record["n_members"], record["n_within"], record["n_without_front"]) == (6, 5, 1)
    assert record["within_share"] == pytest.approx(5 / 6)
    slacks = [row["nearest_slack"] for row in record["searches"]]
    assert slacks == pytest.approx([0.06, 0.12, -0.02, 1.0])
    assert record["mean_nearest_slack"] == pytest.approx(sum(slacks) / 4)
    assert record["largest_change"] == pytest.approx(0.1)
    assert record["budgets"]["p10"]["within_share"] == 1.0
    assert record["budgets"]["p75"]["n_within"] == 2
    first = record["searches"][0]
    assert (first["nearest"], first["n_trained"], first["n_over"]) == ("t1", 3, 1)
    json.dumps(record)


def test_members_of_one_search_are_measured_in_turns_in_a_process_of_their_own(call, asked):
    call()
    assert asked.measured == [
        ["p10-0-0.onnx", "p10-0-1.onnx"], ["p10-1-0.onnx"],
        ["p75-0-0.onnx", "p75-0-1.onnx", "p75-0-2.onnx"],
    ]  # fmt: skip


def test_what_the_machine_disturbed_is_measured_once_more(call, asked):
    asked.disturbed = {"p10-0-1.onnx"}
    record = call(percentiles=(10,), n_searches=1)
    assert asked.measured == [["p10-0-0.onnx", "p10-0-1.onnx"], ["p10-0-1.onnx"]]
    assert record["n_within"] == 2


def test_taken_up_again_nothing_is_searched_or_measured_twice(call, asked):
    asked.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        call()
    first = call()
    again = call()
    assert len(asked.runs) == 4 and len(asked.measured) == 3
    assert again["searches"] == first["searches"]


def test_nothing_to_search_is_refused(call):
    with pytest.raises(ConfigError, match="at least one budget and search"):
        call(percentiles=())


@pytest.mark.slow
def test_searches_of_a_real_space_are_run_and_measured_again(
    tmp_path, monkeypatch, make_tiny_space
):
    monkeypatch.setitem(catalog.SPACES, "tiny", make_tiny_space)
    monkeypatch.setitem(profiling.profile_space.__kwdefaults__, "seconds", 0.1)
    config = SearchConfig(
        space="tiny",
        trials=6,
        finalists=2,
        search_epochs=0.25,
        final_epochs=0.5,
        networks=12,
        workers=0,
    )
    asked = {"percentiles": (75,), "n_searches": 1, "measurements": tmp_path / "m.db"}
    record = bench_front(config, tmp_path / "out", **asked, progress=Silent())
    (search,) = record["searches"]
    assert 2 <= search["n_trained"] <= 8 and 0 <= search["n_within"] <= search["n_members"]
    assert search["limit_ms"] > 0 and (tmp_path / "out" / "p75-0" / "front.csv").exists()
    again = bench_front(config, tmp_path / "out", **asked, progress=Silent())
    assert again["searches"] == record["searches"]
