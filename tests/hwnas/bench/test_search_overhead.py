import itertools
import json

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from hwnas.bench.overhead import N_ASKED, bench_overhead
from hwnas.cli.bench_search import search
from hwnas.errors import ConfigError
from hwnas.progress import Silent
from hwnas.strategies.hyperband import Hyperband


@pytest.fixture
def path(tmp_path):
    genotypes = np.array(list(itertools.product(range(3), repeat=4)))
    frame = pd.DataFrame(genotypes, columns=[f"op_{i}" for i in range(4)])
    frame["acc"] = 0.5 + genotypes.sum(axis=1) / 20
    frame["phone_ms"] = 1.0 + genotypes[:, 0] + 0.5 * genotypes[:, 1]
    frame.to_parquet(tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def overhead(path, strategies, n_told=30):
    return bench_overhead(
        path, accuracy="acc", latency="phone_ms", strategies=strategies, n_told=n_told,
        latency_is_known=True, progress=Silent(),
    )  # fmt: skip


def test_strategies_and_samplers_are_timed_and_others_named(path):
    record = overhead(path, ["default", "evolution", "optuna-tpe", "pymoo-nsga2"])
    assert json.loads(json.dumps(record)) == record
    assert list(record["strategies"]) == ["default", "evolution", "optuna-tpe"]
    assert "pymoo-nsga2" in record["not_available"]
    for found in record["strategies"].values():
        assert 0 < found["ask_tell_s"] <= found["ask_tell_longest_s"]
        assert found["ask_tell_cpu_s"] > 0
    assert record["strategies"]["default"]["candidates_per_cpu_s"] > 0
    assert record["strategies"]["evolution"]["candidates_per_cpu_s"] is None
    assert record["strategies"]["optuna-tpe"]["version"].startswith("optuna ")


def test_strategies_that_ask_for_shares_of_a_training_are_told_those(path, monkeypatch):
    told = []
    original = Hyperband.tell

    def tell(self, trial):
        told.append(trial.share)
        original(self, trial)

    monkeypatch.setattr(Hyperband, "tell", tell)
    assert overhead(path, ["hyperband"])["strategies"]["hyperband"]["ask_tell_s"] > 0
    assert len(told) == 30 + N_ASKED and len(set(told)) > 1


def test_what_is_timed_is_the_ask_and_the_tell_and_nothing_else(path, monkeypatch):
    now = [0.0]

    class Sleepy:
        def ask(self):
            now[0] += 3
            return next(self.left)

        def tell(self, trial):
            self.told += 1
            now[0] += 4 if self.told > 30 else 100

        def __init__(self, problem):
            self.told = 0
            self.left = iter(map(tuple, problem.space.rows.tolist()))

    monkeypatch.setattr("hwnas.bench.overhead.time.perf_counter", lambda: now[0])
    monkeypatch.setattr(
        "hwnas.bench.overhead.make_strategy", lambda name, problem, seed: Sleepy(problem)
    )
    found = overhead(path, ["random"])["strategies"]["random"]
    assert found["ask_tell_s"] == found["ask_tell_longest_s"] == 7


def test_a_table_that_is_too_small_is_refused(path):
    with pytest.raises(ConfigError, match=f"81 architectures, too few for 80 known and {N_ASKED}"):
        overhead(path, ["random"], n_told=80)


def test_the_command_prints_milliseconds(path):
    app = typer.Typer()
    app.command()(search)
    asked = ["--table", str(path), "--accuracy", "acc", "--latency", "phone_ms",
             "--strategies", "random", "--overhead", "20"]  # fmt: skip
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert "ms, median" in result.output
