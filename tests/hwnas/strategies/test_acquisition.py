import numpy as np
import pytest

from hwnas import pareto
from hwnas.strategies.acquisition import LogNormal, expected_gain

FRONT = np.array([[0.5, 1.0], [0.3, 2.0], [0.1, 5.0], [0.6, 3.0]])  # the last is dominated
REFERENCE = (1.0, 8.0)


def certain(*values):
    return LogNormal(np.log(values), np.zeros(len(values)))


def test_without_doubt_the_gain_is_the_hypervolume_that_the_candidate_adds():
    errors, latencies = [0.2, 0.4, 0.05, 0.7, 0.2, 0.9], [3.0, 1.5, 9.0, 4.0, 0.5, 0.25]
    gain = expected_gain(certain(*errors), certain(*latencies), FRONT, REFERENCE)
    before = pareto.hypervolume(FRONT, REFERENCE)
    added = [
        pareto.hypervolume(np.vstack([FRONT, pair]), REFERENCE) - before
        for pair in zip(errors, latencies, strict=True)
    ]
    assert gain == pytest.approx(added, abs=1e-12)
    assert gain[2] == gain[3] == 0  # slower than the reference, and dominated


@pytest.mark.parametrize("doubt_of_latency", [0.0, 0.4])
def test_with_doubt_it_is_the_mean_over_what_may_come(doubt_of_latency):
    rng = np.random.default_rng(0)
    error = LogNormal(np.log([0.25]), np.array([0.5]))
    latency = LogNormal(np.log([2.5]), np.array([doubt_of_latency]))
    drawn = np.exp(rng.normal(size=(4000, 2)) * (0.5, doubt_of_latency) + np.log([0.25, 2.5]))
    before = pareto.hypervolume(FRONT, REFERENCE)
    added = [pareto.hypervolume(np.vstack([FRONT, pair]), REFERENCE) - before for pair in drawn]
    standard_error = np.std(added) / len(added) ** 0.5
    gain = expected_gain(error, latency, FRONT, REFERENCE)[0]
    assert gain == pytest.approx(np.mean(added), abs=4 * standard_error)


def test_before_anything_is_known_the_gain_is_the_whole_box():
    gain = expected_gain(certain(0.25), certain(2.0), np.empty((0, 2)), REFERENCE)
    assert gain == pytest.approx([0.75 * 6.0])


def test_many_candidates_are_the_same_as_one_at_a_time():
    rng = np.random.default_rng(1)
    error, latency = (
        LogNormal(rng.normal(size=5000), rng.uniform(0.1, 1, size=5000)) for _ in range(2)
    )
    gain = expected_gain(error, latency, FRONT, REFERENCE)
    for i in (0, 4095, 4096, 4999):
        one = slice(i, i + 1)
        alone = expected_gain(error.part(one), latency.part(one), FRONT, REFERENCE)
        assert gain[i] == pytest.approx(alone[0], rel=1e-12)
