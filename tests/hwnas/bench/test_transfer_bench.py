import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from hwnas.bench.transfer import bench_transfer, read_latency_table
from hwnas.cli.bench_transfer import transfer
from hwnas.errors import ConfigError, DataError
from hwnas.progress import Silent
from predictors.errors import PredictorError

N_ROWS = 300
CONVS = np.array(["conv", "none", "pool"])


@pytest.fixture(scope="module")
def table():
    """Cells of four edges; a device's cost of an option is its own, of an edge the same."""
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=(N_ROWS, 4))
    frame = pd.DataFrame({f"op_{i}": CONVS[codes[:, i]] for i in range(4)})
    frame["macs"] = 1000 + 90 * (codes == 0).sum(axis=1)
    for device in ("a", "b", "c", "d"):
        cost = np.array([rng.uniform(2, 4), 0.2, rng.uniform(0.5, 1.5)])
        noise = rng.lognormal(0, 0.01, N_ROWS)
        frame[f"{device}_ms"] = (1 + cost[codes].sum(axis=1)) * noise
    return frame


@pytest.fixture
def path(table, tmp_path):
    table.to_parquet(tmp_path / "table.parquet")
    return tmp_path / "table.parquet"


def bench(path, **changes):
    options = {
        "train": ["a", "b_ms", "c"], "test": ["d"],
        "n_samples": 6, "n_train_samples": 100, "n_seeds": 2,
    }  # fmt: skip
    return bench_transfer(path, **{**options, **changes}, progress=Silent())


def shared_table():
    root = os.environ.get("HWNAS_SHARED_DATA")
    folder = Path(root) if root else Path(__file__).parents[4] / "shared" / "data"
    found = folder / "nb201" / "latency.parquet"
    return found if found.exists() else None


def test_every_row_that_was_not_measured_is_scored_beside_baselines(path):
    record = bench(path)
    found = record["devices"]["d"]
    assert found["spearman"] > 0.95 and found["mape"] < 0.05
    assert found["spearman_min"] <= found["spearman"]
    assert set(found["baselines"]) == {"mean of the training devices", "macs"}
    assert found["spearman"] > found["baselines"]["macs"]["spearman"]
    assert "published_spearman" not in found  # of another table
    assert [len(run["rows"]) for run in record["runs"]] == [6, 6]
    assert record["runs"][0]["rows"] != record["runs"][1]["rows"]


def test_the_same_seeds_give_the_same_record(path):
    first, second = ({**bench(path), "seconds": 0} for _ in range(2))
    assert first == second


def test_no_row_of_a_training_device_is_looked_at_unless_it_was_drawn(path, table, tmp_path):
    changed = table.copy()
    drawn = np.random.default_rng(0).choice(N_ROWS, 100, replace=False)
    other = np.setdiff1d(np.arange(N_ROWS), drawn)
    changed.loc[other, ["a_ms", "b_ms", "c_ms"]] = 1e6
    changed.to_parquet(tmp_path / "changed.parquet")
    assert bench(path, n_seeds=1)["runs"] == bench(tmp_path / "changed.parquet", n_seeds=1)["runs"]


def test_integers_in_place_of_names_change_nothing(path, table, tmp_path):
    coded = table.copy()
    for i in range(4):
        coded[f"op_{i}"] = coded[f"op_{i}"].map({name: j for j, name in enumerate(CONVS)})
    coded.to_parquet(tmp_path / "coded.parquet")
    assert bench(tmp_path / "coded.parquet")["runs"] == bench(path)["runs"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train": ["a", "phone"]}, DataError, r"unknown device 'phone'.*known: a, b, c, d"),
        ({"test": ["a_ms"]}, ConfigError, "a: a device is named once"),
        ({"test": []}, ConfigError, "at least one training and one test device"),
        ({"n_samples": 1}, ConfigError, "between 2 and 100 samples.*got 1"),
        ({"n_samples": 101}, ConfigError, "between 2 and 100 samples.*got 101"),
        ({"n_train_samples": 9}, ConfigError, "at least 10 rows"),
        ({"n_seeds": 0}, ConfigError, "one seed"),
    ],
)
def test_options_that_cannot_be_used_get_one_message(path, changes, error, message):
    with pytest.raises(error, match=message):
        bench(path, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.drop(columns=[f"op_{i}" for i in range(4)]),
            "no column that starts with 'op'",
        ),
        (lambda t: t.assign(op_name=[f"cell {i}" for i in t.index]), "'op_name' has 300 different"),
        (lambda t: t.assign(d_ms=t["d_ms"] - t["d_ms"].min()), "d_ms has 1 of 300 rows"),
        (lambda t: t.assign(d_ms="fast"), "numbers are needed"),
    ],
)
def test_a_table_that_cannot_be_used_gets_one_message(table, tmp_path, change, message):
    change(table).to_parquet(tmp_path / "wrong.parquet")
    with pytest.raises((DataError, PredictorError), match=message):
        read_latency_table(tmp_path / "wrong.parquet", ["a", "d"])


def test_rows_that_a_device_was_not_measured_at_are_left_out(table, tmp_path):
    gaps = table.assign(d_ms=table["d_ms"].where(table.index >= 200), macs="7.8M")
    gaps.to_parquet(tmp_path / "gaps.parquet")
    record = bench(tmp_path / "gaps.parquet")
    assert record["n_rows"] == 100
    assert set(record["devices"]["d"]["baselines"]) == {"mean of the training devices"}
    gaps.assign(d_ms=table["d_ms"].where(table.index >= 295)).to_parquet(tmp_path / "few.parquet")
    with pytest.raises(DataError, match=r"all of a, b, c, d\s+were measured at are needed, got 5"):
        bench(tmp_path / "few.parquet")


def test_what_cannot_be_ranked_is_null_in_json(table, tmp_path):
    table.assign(params=5.0, d_ms=1.0).to_parquet(tmp_path / "flat.parquet")
    app = typer.Typer()
    app.command()(transfer)
    options = ["--table", str(tmp_path / "flat.parquet"), "--train", "a,b", "--test", "d"]
    options += ["--seeds", "1", "--train-samples", "50"]
    as_json = CliRunner().invoke(app, [*options, "--json"])
    record = json.loads(as_json.stdout, parse_constant=pytest.fail)
    assert record["spearman"] is None
    assert record["devices"]["d"]["baselines"]["params"]["spearman"] is None
    assert CliRunner().invoke(app, options).exit_code == 0


def test_a_file_that_is_no_table_is_named(tmp_path):
    (tmp_path / "x.parquet").write_text("no")
    for name in ("x.parquet", "missing.parquet"):
        with pytest.raises(DataError, match=name):
            read_latency_table(tmp_path / name, ["a"])


def test_the_command_prints_json_or_tables(path):
    app = typer.Typer()
    app.command()(transfer)
    options = ["--table", str(path), "--train", "a,b,c", "--test", "d", "--samples", "5"]
    options += ["--seeds", "1", "--train-samples", "100"]
    as_json = CliRunner().invoke(app, [*options, "--json"])
    assert as_json.exit_code == 0, as_json.output
    record = json.loads(as_json.stdout)
    assert record["n_samples"] == 5 and list(record["devices"]) == ["d"]
    as_tables = CliRunner().invoke(app, options)
    assert f"{record['devices']['d']['spearman']:.4f}" in as_tables.stdout
    assert "macs, 0 samples" in as_tables.stdout


def test_published_few_sample_figures_are_reached_where_their_table_is_at_hand(path):
    nb201 = shared_table()
    if nb201 is None:
        assert bench(path)["spearman"] > 0.95
        return
    record = bench(
        nb201,
        train=["1080ti_1", "1080ti_256", "silver_4114", "samsung_a50", "pixel3", "samsung_s7"],
        test=["titan_rtx_256", "gold_6226", "fpga"],
        n_samples=10, n_train_samples=300, n_seeds=1,
    )  # fmt: skip
    for found in record["devices"].values():
        assert found["spearman"] > 0.97 and found["mape"] < 0.1
        assert found["published_spearman"]["HELP, 10 samples"] > 0.98
