from dataclasses import replace

import numpy as np
import pytest

from predictors.cost import CostPredictor
from predictors.errors import WrongTargetError
from predictors.files import load_predictor, save_predictor
from predictors.network_latency import NetworkLatencyPredictor

N = 12


@pytest.fixture(scope="module")
def measured(random_networks, measure):
    """Networks with an energy of 10 W and a peak of 1000 bytes for each kernel."""
    return [
        replace(m, energy_mj=10 * m.latency_ms, peak_memory_bytes=1000 * len(m.kernels))
        for m in measure(random_networks(N), noise=0.02)
    ]


@pytest.fixture(scope="module")
def estimates(measured):
    return np.array([500.0 * len(m.kernels) for m in measured])


@pytest.fixture(scope="module")
def costs(measured, estimates):
    return CostPredictor.fit(measured, estimated_peak_bytes=estimates, level=0.8)


def test_what_was_measured_is_predicted(costs, estimates, measured):
    assert costs.metrics == ("latency_ms", "peak_memory_bytes", "energy_mj")
    found = costs.peak_memory.predict(estimates)
    np.testing.assert_allclose(found.peak_memory_bytes, 2 * estimates, rtol=0.01)
    assert costs.energy.coef_[0] == pytest.approx(10, rel=0.05)
    assert (costs.level, costs.target_) == (0.8, measured[0].target)
    assert {costs.latency.level, costs.energy.level, costs.peak_memory.level} == {0.8}


def test_what_was_not_measured_is_not_predicted(measured, estimates):
    silent = [replace(m, energy_mj=None, peak_memory_bytes=None) for m in measured]
    for found in (
        CostPredictor.fit(silent, estimated_peak_bytes=estimates),
        CostPredictor.fit([replace(m, energy_mj=None) for m in measured]),
    ):
        assert found.energy is None and found.peak_memory is None
        assert found.metrics == ("latency_ms",)


def test_of_networks_without_an_estimate_no_peak_is_learned(measured, estimates):
    few = np.where(np.arange(N) < 7, estimates, np.nan)
    assert CostPredictor.fit(measured, estimated_peak_bytes=few).peak_memory is None
    enough = np.where(np.arange(N) < 8, estimates, np.nan)
    peaks = CostPredictor.fit(measured, estimated_peak_bytes=enough).peak_memory
    assert peaks.held_out_.shape == (2, 8)


def test_its_file_holds_all_of_it_and_can_be_read_for_the_latency_alone(
    costs, tmp_path, random_networks, estimates
):
    path = tmp_path / "costs.npz"
    save_predictor(costs, path)
    again, latency = load_predictor(path, CostPredictor), load_predictor(path)
    networks = random_networks(3, seed=7)
    answers = [p.predict(networks).high_ms for p in (costs.latency, again.latency, latency)]
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-6)
    assert answers[1].tolist() == answers[2].tolist()
    assert again.metrics == costs.metrics
    assert again.energy.coef_.tolist() == costs.energy.coef_.tolist()
    assert (
        again.peak_memory.predict(estimates).high_bytes.tolist()
        == costs.peak_memory.predict(estimates).high_bytes.tolist()
    )


def test_a_file_of_a_latency_predictor_says_nothing_else(fitted, tmp_path):
    path = tmp_path / "latency.npz"
    save_predictor(fitted, path)
    found = load_predictor(path, CostPredictor)
    assert isinstance(found.latency, NetworkLatencyPredictor)
    assert found.metrics == ("latency_ms",)


def test_another_target_is_refused(costs, target):
    costs.check_target(target)
    with pytest.raises(WrongTargetError):
        costs.check_target(replace(target, threads=2))
