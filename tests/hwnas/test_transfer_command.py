import dataclasses
import json
import sys

import numpy as np
import pandas as pd
import pytest

from hwnas import cli, transfer_targets
from hwnas.network_choice import random_networks
from hwnas.profiling import architecture_digest, network_tags
from hwnas.spaces.mobilenet import mobile_space
from predictors.files import describe_predictor, load_predictor
from predictors.transfer import TransferPredictor
from profilers.devices import Device
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.store import MeasurementStore
from profilers.targets import Target
from profilers.timing import LatencySamples

N_ROWS = 80
HERE = Target("onnxruntime-cpu", "1.0", "fp32", 1, 1, "0123456789ab", "Toy CPU")
THERE = dataclasses.replace(HERE, runtime="openvino-cpu", version="2026.1")
DEVICE = Device("Toy", "x86_64", 2, (), {}, None, None, (), "Linux 6", {}, False)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command; returns exit code, stdout and stderr."""

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["hwnas", *(str(argument) for argument in arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return invoke


@pytest.fixture
def truth():
    """Four devices, `(4, n)`, whose latencies are sums over three choices."""
    rng = np.random.default_rng(0)
    codes = rng.integers(4, size=(N_ROWS, 3))
    cost = rng.uniform(1, 3, size=(3, 4)) * rng.uniform(0.8, 1.2, size=(4, 3, 4))
    return codes, cost[:, np.arange(3), codes].sum(-1)


@pytest.fixture
def table(tmp_path, truth):
    """Of the third device every other row was measured, of the fourth none."""
    codes, latency = truth
    columns = {f"op_{i}": [f"conv{code}" for code in codes[:, i]] for i in range(3)}
    columns |= {"a_ms": latency[0], "b_ms": latency[1]}
    columns["c_ms"] = np.where(np.arange(N_ROWS) % 2, latency[2], np.nan)
    path = tmp_path / "table.parquet"
    pd.DataFrame(columns).to_parquet(path)
    return path


def test_first_what_to_measure_then_all_the_rest(run, table, truth, tmp_path):
    saved = tmp_path / "t.npz"
    code, out, err = run(
        "transfer", "--table", table, "--from", "a,b_ms,c", "--samples", 8, "--out", saved, "--json"
    )
    assert code == 0, err
    record = json.loads(out)
    assert record["from"] == ["a", "b", "c"]
    assert record["predictions"] is None
    rows = [each["row"] for each in record["to_measure"]]
    assert len(set(rows)) == 8
    first = truth[0][rows[0]]
    assert record["to_measure"][0]["name"] == ", ".join(f"conv{code}" for code in first)

    new_ms, measured = truth[1][3], tmp_path / "new.csv"
    pd.DataFrame({"row": rows, "latency_ms": new_ms[rows]}).to_csv(measured, index=False)
    adapted, everything = tmp_path / "adapted.npz", tmp_path / "all.csv"
    code, out, err = run(
        "transfer", "--predictor", saved, "--measured", measured, "--out", adapted,
        "--predictions", everything,
    )  # fmt: skip
    assert code == 0, err
    assert "Measure these" not in out
    frame = pd.read_csv(everything, index_col="row")
    assert np.abs(frame.latency_ms / new_ms - 1).mean() < 0.05
    assert (frame.low_ms < frame.high_ms).all()
    assert frame.measured_ms.notna().sum() == 8

    # What was measured is in the file: it answers by itself.
    code, out, err = run("transfer", "--predictor", adapted, "--json")
    assert code == 0, err
    again = json.loads(out)["predictions"]
    np.testing.assert_allclose(again["latency_ms"], frame.latency_ms, rtol=1e-4)
    code, out, _ = run("predictor", adapted)
    assert code == 0
    assert "devices: a, b, c" in out


def test_a_column_of_the_table_with_some_rows_says_which_come_next(run, table, truth, tmp_path):
    frame = pd.read_parquet(table)
    frame["d_ms"] = [truth[1][3][row] if row in (3, 30, 60) else np.nan for row in range(N_ROWS)]
    frame.to_parquet(table)
    code, out, err = run(
        "transfer", "--table", table, "--from", "a,b", "--measured", "d", "--samples", 5, "--json"
    )
    assert code == 0, err
    record = json.loads(out)
    assert record["n_measured"] == 3
    assert len(record["to_measure"]) == 2
    assert not {each["row"] for each in record["to_measure"]} & {3, 30, 60}
    assert len(record["predictions"]["latency_ms"]) == N_ROWS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "one of --table, --predictor and --measurements is"),
        (("--table", "TABLE"), "name the devices"),
        (("--table", "TABLE", "--from", "z"), "unknown device 'z'"),
        (("--table", "TABLE", "--from", "a", "--target", "x"), "is not used with --table"),
        (("--table", "TABLE", "--from", "a", "--measured", "z"), "unknown device 'z'"),
        (("--table", "TABLE", "--from", "a", "--measured", "CSV"), "names row 80, but rows are"),
        (("--table", "TABLE", "--from", "a", "--predictions", "p.csv"), "nothing to predict from"),
        (("--table", "TABLE", "--from", "a", "--level", "1"), "not between 0 and 1"),
        (("--predictor", "TABLE"), "no predictor file of hwnas"),
        (("--measurements", "none.db", "--from", "a", "--target", "b"), "no measurement database"),
        (("--measurements", "none.db"), "--from and --target are needed"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(run, table, tmp_path, arguments, message):
    csv = tmp_path / "new.csv"
    csv.write_text("row,latency_ms\n1,2.0\n80,3.0\n")
    places = {"TABLE": str(table), "CSV": str(csv)}
    code, _, err = run("transfer", *(places.get(each, each) for each in arguments))
    assert code == 2
    text = " ".join(err.replace("│", " ").split())
    assert message in text
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\n", "has no column 'row'"), ("row,latency_ms\n1,x\n", "text where numbers"),
     ("row,latency_ms\n1.5,2\n", "whole numbers"), ("", "as CSV"),
     ("row,latency_ms\n1,2\n1,3\n", "row 1 is there 2 times"),
     ("row,latency_ms\n1,2\n3,-1\n", "> 0")],
)  # fmt: skip
def test_a_csv_that_is_no_measurement_is_refused(run, table, tmp_path, text, message):
    csv = tmp_path / "new.csv"
    csv.write_text(text)
    code, _, err = run("transfer", "--table", table, "--from", "a,b", "--measured", csv)
    assert code == 2
    assert message in err


def kernel(kind, size):
    tensor = Tensor("float", (1, 8, size, size))
    return Kernel(kind, (), (tensor,), (tensor,))


def measurement(name, digest, target, conv_ms, add_ms, tags):
    """`openvino-cpu` runs convolutions twice as fast, and additions three times as slow."""
    factors = (1.0, 1.0) if target == HERE else (0.5, 3.0)
    runs = tuple(
        KernelLatency(kind, kernel(kind, 8), ms * factor, 9)
        for kind, ms, factor in zip(("Conv", "Add"), (conv_ms, add_ms), factors, strict=True)
    )
    wall_ms, zeros = np.full(10, sum(run.latency_ms for run in runs)), np.zeros(10, dtype=np.int64)
    samples = LatencySamples(wall_ms, wall_ms, zeros, zeros, zeros, np.ones(10))
    return NetworkMeasurement(name, digest, target, samples, runs, None, tags=tags)


@pytest.fixture
def networks():
    """Thirty networks of the space: `(measurement here, measurement there)`."""
    space = mobile_space((1, 8, 8), 10)
    rng = np.random.default_rng(0)
    found = {}
    for genotype in random_networks(space, rng, 30):
        digest = architecture_digest(space.architecture(genotype))
        parts = (*rng.uniform(0.5, 2, 2), network_tags(space, genotype))
        found[digest] = [measurement(digest[:12], digest, t, *parts) for t in (HERE, THERE)]
    return list(found.values())


@pytest.fixture
def database(tmp_path, networks):
    path = tmp_path / "m.db"
    with MeasurementStore(path) as store:
        for here, _ in networks:
            store.add(here, DEVICE)
        for _, there in networks[:6]:
            store.add(there, DEVICE)
    return path


def test_networks_measured_on_both_targets_predict_the_others(run, database, networks, tmp_path):
    code, out, err = run(
        "transfer", "--measurements", database, "--from", "onnxruntime-cpu", "--target",
        "openvino-cpu/fp32/threads=1", "--samples", 8, "--json", "--out", tmp_path / "t.npz",
    )  # fmt: skip
    assert code == 0, err
    assert describe_predictor(tmp_path / "t.npz").target.runtime == "openvino-cpu"
    assert load_predictor(tmp_path / "t.npz", TransferPredictor).target_.runtime == "openvino-cpu"
    record = json.loads(out)
    assert record["n_measured"] == 6
    assert len(record["to_measure"]) == 2
    there_ms = np.array([there.latency_ms for _, there in networks])
    error = np.abs(np.array(record["predictions"]["latency_ms"]) / there_ms - 1)
    here_ms = np.array([here.latency_ms for here, _ in networks])
    scaled = np.abs(here_ms * np.median(there_ms[:6] / here_ms[:6]) / there_ms - 1)
    assert error[6:].mean() < 0.5 * scaled[6:].mean()


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [("torch", "openvino-cpu", "unknown target 'torch'"),
     ("onnxruntime-cpu", "onnxruntime-cpu", "unknown target 'onnxruntime-cpu'"),
     ("fp32", "openvino-cpu", "may be any of")],
)  # fmt: skip
def test_targets_that_are_none_or_several_are_told(run, database, source, target, message):
    code, _, err = run("transfer", "--measurements", database, "--from", source, "--target", target)
    assert code == 2
    assert message in err


def test_a_target_is_not_transferred_to_itself(run, database, monkeypatch):
    monkeypatch.setattr(transfer_targets, "target_here", lambda text, *, batch: HERE)
    code, _, err = run(
        "transfer", "--measurements", database, "--from", "onnxruntime-cpu", "--target",
        "onnxruntime-cpu", "--measure",
    )  # fmt: skip
    assert code == 2
    assert "is what is transferred from" in " ".join(err.replace("│", " ").split())
