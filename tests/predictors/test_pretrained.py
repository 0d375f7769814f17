"""The predictors that ship fit the tables that ship."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from predictors import pretrained
from predictors.cost import CostPredictor
from predictors.errors import PredictorError
from predictors.files import describe_predictor
from predictors.metrics import accuracy
from predictors.pretrained import find_pretrained, load_pretrained, pretrained_names
from predictors.pretrained.__main__ import MAX_SHIPPED_BYTES, main, make_pretrained, shipped_name
from profilers.tables import load_measurements, write_measurements

DATA = Path(__file__).parents[2] / "data"


def test_a_predictor_ships_for_every_table():
    devices = {path.parent.name for path in DATA.glob("*/networks.parquet")}
    assert devices
    assert {name.partition(".")[0] for name in pretrained_names()} == devices


@pytest.fixture(scope="module", params=pretrained_names())
def shipped(request):
    name = request.param
    return name, load_pretrained(name), load_measurements(DATA / name.partition(".")[0])


def test_it_is_of_a_target_of_its_table_and_named_after_it(shipped):
    name, predictor, measurements = shipped
    assert predictor.target_ in {m.target for m in measurements}
    assert name == shipped_name(name.partition(".")[0], predictor.target_)
    assert (pretrained.FOLDER / f"{name}.npz").stat().st_size <= MAX_SHIPPED_BYTES


def test_it_predicts_the_networks_of_its_table_as_well_as_it_says(shipped):
    name, predictor, measurements = shipped
    own = [m for m in measurements if m.target == predictor.target_]
    answer = predictor.latency.predict([[run.kernel for run in m.kernels] for m in own])
    measured_ms = np.array([m.latency_ms for m in own])
    stated = describe_predictor(pretrained.FOLDER / f"{name}.npz").training
    found = accuracy(answer.latency_ms, measured_ms)
    # It was fitted on these: no worse than on those that it had not seen.
    assert found.mape <= stated.held_out.mape + 0.005
    assert found.spearman >= stated.held_out.spearman - 0.005
    inside = (answer.low_ms <= measured_ms) & (measured_ms <= answer.high_ms)
    assert inside.mean() >= stated.level - 0.05
    assert np.median(answer.known_share) > 0.95


def test_it_is_found_by_its_target_and_by_no_other(shipped):
    _, predictor, _ = shipped
    found = find_pretrained(predictor.target_)
    assert found is not None
    assert found.target_ == predictor.target_
    for change in ({"threads": 64}, {"device": "0" * 12}, {"version": "0.1"}):
        assert find_pretrained(dataclasses.replace(predictor.target_, **change)) is None


def test_a_name_that_does_not_exist_gets_the_nearest_that_does():
    first = pretrained_names()[0]
    with pytest.raises(
        PredictorError, match=f"unknown pretrained predictor.*did you mean '{first}"
    ):
        load_pretrained(first[:-1])


def test_they_are_made_from_tables_one_for_each_target_with_enough_networks(
    tmp_path, measure, random_networks, target, monkeypatch, capsys
):
    two = dataclasses.replace(target, threads=2, batch=8)
    few = dataclasses.replace(target, threads=3)
    networks = random_networks(10)
    measurements = [
        *measure(networks), *measure(networks, target=two), *measure(networks[:3], target=few)
    ]  # fmt: skip
    tables, out = tmp_path / "cpu-toy", tmp_path / "out"
    write_measurements(measurements, tables, isolated={})
    monkeypatch.setattr(pretrained, "FOLDER", out)
    made = make_pretrained(tables, out)
    assert [path.name for path in made] == [
        "cpu-toy.onnxruntime-cpu.fp32.1-thread.npz",
        "cpu-toy.onnxruntime-cpu.fp32.2-threads.batch-8.npz",
    ]
    assert pretrained_names() == tuple(path.name.removesuffix(".npz") for path in made)
    found = find_pretrained(two)
    assert isinstance(found, CostPredictor)
    assert found.target_ == two


def test_tables_that_cannot_be_used_are_one_message_and_exit_code_2(
    tmp_path, measure, random_networks, capsys
):
    write_measurements(measure(random_networks(3)), tmp_path / "few", isolated={})
    assert main([str(tmp_path / "few")]) == 2
    assert "no target in" in capsys.readouterr().err
    assert main([str(tmp_path / "missing")]) == 2
    assert "cannot read" in capsys.readouterr().err
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
