"""The tables that ship: readable, complete, and good enough to fit a predictor on."""

from pathlib import Path

import pytest

import profilers
from predictors.metrics import accuracy
from predictors.network_latency import NetworkLatencyPredictor
from profilers.tables import load_isolated, load_measurements

DATA = Path(__file__).parents[1] / "data"
FOLDERS = sorted(path.parent for path in DATA.glob("*/networks.parquet"))


def test_there_are_tables():
    assert FOLDERS


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


def test_networks_and_kernels_belong_together(folder):
    networks = profilers.read_measurements(folder)
    kernels = profilers.read_measurements(folder, kind="kernels")
    assert (networks.latency_ms > 0).all()
    assert (networks.min_ms <= networks.p50_ms).all()
    sums = kernels.groupby("network").latency_ms.sum()
    assert sums.to_numpy() == pytest.approx(networks.set_index("network").kernel_sum_ms.to_numpy())
    assert set(kernels.network) == set(networks.network)


def test_memory_computed_is_memory_measured(folder):
    networks = profilers.read_measurements(folder).dropna(subset=["computed_peak_memory_bytes"])
    error = (networks.computed_peak_memory_bytes / networks.peak_memory_bytes - 1).abs()
    assert len(networks)
    assert (error <= 0.1).mean() >= 0.9


def test_a_predictor_fitted_on_them_predicts_networks_that_it_did_not_see(folder):
    mobile = [m for m in load_measurements(folder) if m.tags.get("family") == "mobile"]
    (target,) = {m.target for m in mobile}
    predictor = NetworkLatencyPredictor().fit(mobile, isolated=load_isolated(folder, target))
    scores = accuracy(*predictor.held_out_)
    assert scores.within_10 >= 0.8
    assert scores.spearman >= 0.98
