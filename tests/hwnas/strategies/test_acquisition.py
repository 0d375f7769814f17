import numpy as np
import pytest

from hwnas import pareto
from hwnas.strategies.acquisition import LogNormal, Normal, expected_gain

FRONT = np.array([[0.5, 1.0], [0.3, 2.0], [0.1, 5.0], [0.6, 3.0]])  # the last is dominated
REFERENCE = (1.0, 8.0)


def certain(*values):
    return Normal(np.array(values), np.zeros(len(values)))


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


@pytest.mark.parametrize("doubt", [0.0, 0.4])
@pytest.mark.parametrize("kind", [Normal, LogNormal])
def test_with_doubt_it_is_the_mean_over_what_may_come(kind, doubt):
    rng = np.random.default_rng(0)
    mean = 2.5 if kind is Normal else np.log(2.5)
    error = LogNormal(np.log([0.25]), np.array([0.5]))
    latency = kind(np.array([mean]), np.array([doubt]))
    errors = np.exp(np.log(0.25) + 0.5 * rng.normal(size=4000))
    latencies = mean + doubt * rng.normal(size=4000)
    drawn = np.column_stack([errors, latencies if kind is Normal else np.exp(latencies)])
    before = pareto.hypervolume(FRONT, REFERENCE)
    added = [pareto.hypervolume(np.vstack([FRONT, pair]), REFERENCE) - before for pair in drawn]
    standard_error = np.std(added) / len(added) ** 0.5
    gain = expected_gain(error, latency, FRONT, REFERENCE)[0]
    assert gain == pytest.approx(np.mean(added), abs=4 * standard_error)
    assert latency.middle == pytest.approx([2.5])
    assert latency.hopeful[0] <= drawn[:, 1].min() + 1e-12


def test_before_anything_is_known_the_gain_is_the_whole_box():
    gain = expected_gain(certain(0.25), certain(2.0), np.empty((0, 2)), REFERENCE)
    assert gain == pytest.approx([0.75 * 6.0])


def test_many_candidates_are_the_same_as_one_at_a_time():
    rng = np.random.default_rng(1)
    error, latency = (
        kind(rng.normal(size=5000), rng.uniform(0.1, 1, size=5000)) for kind in (LogNormal, Normal)
    )
    gain = expected_gain(error, latency, FRONT, REFERENCE)
    for i in (0, 4095, 4096, 4999):
        one = slice(i, i + 1)
        alone = expected_gain(error.part(one), latency.part(one), FRONT, REFERENCE)
        assert gain[i] == pytest.approx(alone[0], rel=1e-12)
