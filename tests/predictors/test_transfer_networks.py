import dataclasses

import numpy as np
import pytest

from predictors.errors import PredictorError
from predictors.files import load_predictor, save_predictor
from predictors.transfer import TransferPredictor
from predictors.transfer_networks import network_features, transfer_between_targets
from profilers.timing import LatencySamples

N = 60


def with_latency(measurement, ms, **changes):
    wall_ms, zeros = np.full(10, ms), np.zeros(10, dtype=np.int64)
    samples = LatencySamples(wall_ms, wall_ms, zeros, zeros, zeros, np.ones(10))
    return dataclasses.replace(measurement, samples=samples, **changes)


@pytest.fixture(scope="module")
def source(measure, random_networks):
    return measure(random_networks(N), noise=0.01)


@pytest.fixture(scope="module")
def on_other_ms(source):
    """A runtime whose convolutions take half as long, and whose additions take three times."""
    rng = np.random.default_rng(1)
    found = []
    for m in source:
        factor = {"Conv": 0.5, "Add": 3.0}
        ms = sum(run.latency_ms * factor[run.kernel.kind] for run in m.kernels)
        found.append(ms * rng.lognormal(0, 0.01))
    return np.array(found)


@pytest.fixture(scope="module")
def predictor(source):
    return transfer_between_targets(source)


def test_ten_networks_on_the_new_target_predict_the_others(source, predictor, on_other_ms):
    rows = predictor.choose(10)
    answer = predictor.predict(rows, on_other_ms[rows])
    rest = np.setdiff1d(np.arange(N), rows)
    error = np.abs(answer.latency_ms[rest] / on_other_ms[rest] - 1)
    # Beside it: the source's latencies, times the one factor that fits best.
    here_ms = np.array([m.latency_ms for m in source])
    factor = np.median(on_other_ms[rows] / here_ms[rows])
    scaled = np.abs(factor * here_ms[rest] / on_other_ms[rest] - 1)
    assert error.mean() < 0.06
    assert error.mean() < 0.6 * scaled.mean()
    inside = (answer.low_ms <= on_other_ms) & (on_other_ms <= answer.high_ms)
    assert inside[rest].mean() > 0.8


def test_a_target_that_only_has_another_unit_is_predicted_from_two(source, predictor):
    here_ms = np.array([m.latency_ms for m in source])
    answer = predictor.predict([3, 8], 7 * here_ms[[3, 8]])
    np.testing.assert_allclose(answer.latency_ms, 7 * here_ms, rtol=0.02)


def test_networks_are_described_by_what_they_spend_their_time_on(source):
    features = network_features(source)
    assert len(features) == N
    assert features.n_columns == 1
    # Shares of Conv and Add, log latency, log kernels; of kinds that take next to nothing, none.
    assert features.totals.shape == (N, 4)


def test_it_can_be_saved_with_what_was_measured(tmp_path, predictor, on_other_ms):
    rows = predictor.choose(5)
    path = tmp_path / "transfer.npz"
    other = transfer_like(predictor).adapt(rows, on_other_ms[rows])
    save_predictor(other, path)
    again = load_predictor(path, TransferPredictor)
    np.testing.assert_array_equal(again.predict_adapted().high_ms, other.predict_adapted().high_ms)


def transfer_like(predictor):
    return TransferPredictor.from_data(*predictor.to_data())


def test_mistakes_get_one_clear_message(source):
    with pytest.raises(PredictorError, match="exactly one source target are needed, got 0"):
        transfer_between_targets([])
    other = dataclasses.replace(source[0].target, threads=2)
    with pytest.raises(PredictorError, match="exactly one source target are needed, got 2"):
        transfer_between_targets([*source, with_latency(source[0], 1.0, target=other)])
    with pytest.raises(PredictorError, match="at least 10 networks, each once, .* got 9"):
        transfer_between_targets(source[:9])
    with pytest.raises(PredictorError, match="got 60 in 61 measurements"):
        transfer_between_targets([*source, source[0]])
