import numpy as np
import pytest

from predictors.features import weight_bytes
from predictors.network_correction import (
    FEATURES,
    KNOTS,
    MAX_CORRECTION,
    NetworkCorrection,
    kernel_terms,
)

N = len(FEATURES)


@pytest.fixture(scope="module")
def sums():
    """Of forty networks: of a few KiB to many MiB."""
    return np.random.default_rng(0).lognormal(13, 2, (40, N))


@pytest.fixture(scope="module")
def prior(sums):
    return NetworkCorrection.prior(sums)


@pytest.fixture(scope="module")
def weights(prior, sums):
    return np.random.default_rng(1).normal(size=prior.basis(sums).shape[1])


def test_what_a_kernel_adds_to_its_network(make_conv, make_elementwise):
    conv, add = make_conv(16, 32, 8), make_elementwise(16, 8)
    weights = 4 * 16 * 32
    assert weight_bytes(conv) == weights
    assert kernel_terms([conv, add]).tolist() == [
        [weights, conv.n_bytes - weights],
        [0, add.n_bytes],
    ]
    assert kernel_terms([]).shape == (0, N)


def test_before_any_observation_it_changes_nothing(prior, sums):
    assert prior(sums).tolist() == [0] * len(sums)


def test_it_is_the_weighted_sum_of_its_basis(prior, sums, weights):
    between = np.random.default_rng(2).uniform(sums.min(axis=0), sums.max(axis=0), (50, N))
    for asked in (sums, between):
        expected = prior.basis(asked) @ weights
        assert np.ptp(expected) > 0.01
        found = prior.with_weights(weights)(asked)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_beyond_the_largest_network_seen_it_is_constant(prior, sums, weights):
    correction, largest = prior.with_weights(weights), sums.max(axis=0)[None]
    assert abs(correction(largest)[0]) > 0.01
    np.testing.assert_allclose(correction(1000 * largest), correction(largest), rtol=1e-9)


def test_networks_that_fit_into_any_cache_have_none(prior, sums, weights):
    small = np.full((3, N), np.expm1(KNOTS[0])) * [[0.0], [0.5], [1.0]]
    np.testing.assert_allclose(prior.with_weights(weights)(small), 0, atol=1e-12)
    tiny = NetworkCorrection.prior(small)
    correction = tiny.with_weights(np.ones(tiny.basis(small).shape[1]))
    np.testing.assert_allclose(correction(sums), 0, atol=1e-12)


def test_no_correction_is_boundless(prior, sums, weights):
    found = prior.with_weights(1e6 * weights)(sums)
    assert np.abs(found).max() == MAX_CORRECTION


def test_networks_that_are_all_alike_are_no_obstacle():
    same = np.full((5, N), 1e6)
    prior = NetworkCorrection.prior(same)
    weights = np.ones(prior.basis(same).shape[1])
    correction = prior.with_weights(weights)
    np.testing.assert_allclose(correction(same), prior.basis(same) @ weights, atol=1e-6)
    assert np.isfinite(correction(np.array([same[0] * 2, np.zeros(N)]))).all()


class TestPlainData:
    def test_it_gives_the_same_answers_back(self, prior, sums, weights):
        correction = prior.with_weights(weights)
        again = NetworkCorrection.from_arrays(correction.to_arrays())
        assert again(sums).tolist() == correction(sums).tolist()

    def test_what_describes_no_function_is_refused(self, prior):
        arrays = prior.to_arrays()
        for bad in (
            arrays | {"values": arrays["values"][:, 1:]},
            {name: array[1:] for name, array in arrays.items()},
            {name: array[:, :-1] for name, array in arrays.items()},
        ):
            with pytest.raises(ValueError, match="do not describe a correction"):
                NetworkCorrection.from_arrays(bad)
        with pytest.raises(ValueError, match="must rise"):
            NetworkCorrection.from_arrays(arrays | {"positions": -arrays["positions"]})
        with pytest.raises(KeyError):
            NetworkCorrection.from_arrays({"values": arrays["values"]})
