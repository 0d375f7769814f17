"""`hwnas fit`: where measurements come from, which target is chosen, what is said of the fit."""

import json
from dataclasses import replace

import numpy as np
import pytest

from predictors.cost import CostPredictor
from predictors.files import load_predictor
from profilers.devices import observed_device
from profilers.kernels import Kernel, Tensor
from profilers.measurement import FAMILY_TAG, KernelLatency, NetworkMeasurement
from profilers.store import MeasurementStore
from profilers.tables import write_measurements
from profilers.targets import make_target
from profilers.timing import LatencySamples


def measurement(number, target, family=None):
    """A few elementwise kernels of 1 µs and 0.1 ns a byte, and 10 µs beside them."""
    rng = np.random.default_rng(number)
    runs = []
    for i in range(rng.integers(2, 8)):
        tensor = Tensor("float", (1, int(rng.integers(8, 512)), 4, 4))
        kernel = Kernel("Relu", (), (tensor,), (tensor,))
        runs.append(KernelLatency(f"k{i}", kernel, 1e-3 + 1e-7 * kernel.n_bytes, 9))
    wall_ms, zeros = np.full(16, 0.01 + sum(r.latency_ms for r in runs)), np.zeros(16, np.int64)
    samples = LatencySamples(wall_ms, wall_ms, zeros, zeros, zeros, np.ones(16))
    tags = {FAMILY_TAG: family} if family else {}
    return NetworkMeasurement(
        f"net-{number}", f"{number}", target, samples, tuple(runs), None, tags=tags
    )


def write(path, measurements):
    with MeasurementStore(path) as store:
        for m in measurements:
            store.add(m, observed_device())


@pytest.fixture
def here():
    return make_target()


def far(target):
    return replace(target, device="ffff00001111", device_name="Far CPU")


def fit(hwnas, line):
    code, out, err = hwnas(f"fit {line} --json")
    assert code == 0, err
    return json.loads(out)


def test_the_record_has_both_splits_with_baselines_and_intervals(hwnas, tmp_path, here):
    families = ("a", "b", "c")
    write(tmp_path / "m.db", [measurement(i, here, families[i % 3]) for i in range(24)])
    found = fit(hwnas, "--measurements m.db --plot fit.html")
    assert (found["n_networks"], found["target"]) == (24, here.to_dict())
    by_network, by_family = found["splits"]
    assert by_network["n_groups"] == 5 and list(by_family["groups"]) == ["a", "b", "c"]
    for split in (by_network, by_family):
        assert list(split["predictors"]) == [
            "kernels + overhead", "roofline", "linear in MACs", "median of all"
        ]  # fmt: skip
        assert all(a["n"] == 24 for a in split["predictors"].values())
        assert 0 <= split["covered"] <= 1 and split["mean_half_width"] > 0
        assert sum(group["n"] for group in split["groups"].values()) == 24
    assert found["splits"][0]["predictors"]["kernels + overhead"] == found["held_out"]
    assert "are predicted" in (tmp_path / "fit.html").read_text()
    assert load_predictor(tmp_path / "predictor.npz").target_ == here


def test_energies_are_learned_where_they_were_measured(hwnas, tmp_path, here):
    networks = [measurement(i, here) for i in range(24)]
    write(tmp_path / "without.db", networks)
    assert fit(hwnas, "--measurements without.db")["energy"] is None
    watts = 15.0
    write(tmp_path / "m.db", [replace(m, energy_mj=watts * m.latency_ms) for m in networks])
    found = fit(hwnas, "--measurements m.db")["energy"]
    assert found["n_networks"] == 24 and found["watts_while_running"] == pytest.approx(watts)
    assert found["held_out"]["mape"] < 0.01
    costs = load_predictor(tmp_path / "predictor.npz", CostPredictor)
    assert costs.metrics == ("latency_ms", "energy_mj")
    _, out, _ = hwnas("fit --measurements m.db")
    assert "Energy of 24 networks" in out and "100 % within 10 %" in out


def test_the_table_is_readable_and_says_where_the_predictor_is(hwnas, tmp_path, here):
    write(tmp_path / "m.db", [measurement(i, here) for i in range(10)])
    code, out, err = hwnas("fit --measurements m.db --out p.npz --level 0.9")
    assert code == 0
    assert "Held-out networks" in out and "roofline" in out and "written to p.npz" in out
    assert "it was widened" in err  # ten are too few for 90 %


def test_databases_and_folders_of_tables_are_fitted_together(hwnas, tmp_path, here):
    write(tmp_path / "m.db", [measurement(i, here) for i in range(10)])
    alone = measurement(99, here).kernels[0]
    write_measurements(
        [measurement(i, here) for i in range(10, 20)], tmp_path / "tables",
        isolated={here: {alone.kernel: alone}},
    )  # fmt: skip
    found = fit(hwnas, "--measurements m.db --measurements tables")
    assert found["n_networks"] == 20
    shown = {run.kernel for i in range(20) for run in measurement(i, here).kernels}
    assert found["n_kernels"] == len(shown | {alone.kernel})


def test_another_machines_measurements_are_fitted_where_there_are_no_others(hwnas, tmp_path, here):
    write(tmp_path / "far.db", [measurement(i, far(here)) for i in range(10)])
    code, out, err = hwnas("fit --measurements far.db --json")
    assert code == 0
    assert json.loads(out)["target"]["device_name"] == "Far CPU"
    assert "for another machine than this one" in err
    write(tmp_path / "here.db", [measurement(i, here) for i in range(10)])
    both = "--measurements far.db --measurements here.db"
    assert fit(hwnas, both)["target"] == here.to_dict()
    assert fit(hwnas, f"{both} --device ffff00001111")["target"] == far(here).to_dict()


def test_two_other_machines_must_be_told_apart(hwnas, tmp_path, here):
    other = replace(far(here), device="ffff00002222")
    write(
        tmp_path / "m.db",
        [measurement(i, target) for target in (far(here), other) for i in range(8)],
    )
    code, out, err = hwnas("fit --measurements m.db")
    assert (code, out) == (2, "")
    assert "choose with --device (ffff00001111: " in err and "ffff00002222: " in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--measurements none.db", "there is no database none.db; measure first"),
        ("--measurements m.db --target torch-cpu", "holds no measurement of torch-cpu"),
        ("--measurements m.db --target torch-cp", "did you mean 'torch-cpu'"),
        ("--measurements m.db --device nobody", "on nobody, only of onnxruntime-cpu"),
        ("--measurements m.db --out m.db/x.npz", "cannot write m.db/x.npz"),
        ("--measurements text", "text"),
        ("--measurements few.db", "at least 8 different measured networks are needed, got 3"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(hwnas, tmp_path, here, options, words):
    write(tmp_path / "m.db", [measurement(i, here) for i in range(8)])
    write(tmp_path / "few.db", [measurement(i, here) for i in range(3)])
    (tmp_path / "text").write_text("no database")
    code, out, err = hwnas(f"fit {options}")
    messages = [text for text in err.splitlines() if text.startswith("error: ")]
    assert (code, out, len(messages)) == (2, "", 1), err
    assert words in messages[0]
