"""The process in the space of its weights against the exact one, written out with matrices."""

import itertools

import numpy as np
import pytest

from predictors.gaussian_process import Covariance, GroupProcess, spread

COVARIANCE = Covariance()
NOISE = 0.1


def some_rows(n, seed=0):
    """Two features of size about 1, and a category 0 or 1."""
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.normal(size=(n, 2)), rng.integers(0, 2, n)])


def observe(process, rows, values):
    """The posterior after `rows @ weights = values`, each with `NOISE`."""
    precision = np.eye(len(process.mean)) + rows.T @ rows / NOISE**2
    covariance = np.linalg.inv(precision)
    return process.posterior(covariance @ (rows.T @ values) / NOISE**2, covariance)


def exact(x, sums, values, new):
    """Mean and standard deviation at `new` after observing `sums @ f(x) = values`."""
    between = COVARIANCE.between
    gram = sums @ between(x, x) @ sums.T + NOISE**2 * np.eye(len(values))
    cross = between(new, x) @ sums.T
    mean = cross @ np.linalg.solve(gram, values)
    left = np.diag(between(new, new)) - np.diag(cross @ np.linalg.solve(gram, cross.T))
    return mean, np.sqrt(left)


def test_the_covariance_by_hand():
    covariance = Covariance(smooth=0.5, shared=0.2, category=0.1)
    here, there = np.array([[0.0, 0.0, 1.0]]), np.array([[1.0, 2.0, 1.0], [0.0, 0.0, 3.0]])
    expected = [[0.25 * np.exp(-2.5) + 0.04 + 0.01, 0.25 + 0.04]]
    np.testing.assert_allclose(covariance.between(here, there), expected)
    assert covariance.between(here, here)[0, 0] == pytest.approx(covariance.variance)


@pytest.mark.parametrize("what", ["single kernels", "sums"])
def test_the_posterior_is_the_exact_one_where_all_kernels_are_inducing(what):
    x, new = some_rows(7), some_rows(20, seed=1) * [2, 2, 1]
    rng = np.random.default_rng(2)
    sums = np.eye(7) if what == "single kernels" else rng.integers(0, 3, (5, 7)).astype(float)
    values = rng.normal(0, 0.3, len(sums))
    prior = GroupProcess.prior(x, n_inducing=99)
    found = observe(prior, sums @ prior.features(x), values).predict(new)
    for one, other in zip(found, exact(x, sums, values, new), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_few_inducing_kernels_are_nearly_as_good_as_all():
    x, new = some_rows(60), some_rows(20, seed=1)
    values = 0.3 * np.sin(x[:, 0])
    prior = GroupProcess.prior(x, n_inducing=25)
    assert prior.inducing.shape == (25, 3)
    mean, _ = observe(prior, prior.features(x), values).predict(new)
    expected, _ = exact(x, np.eye(60), values, new)
    np.testing.assert_allclose(mean, expected, atol=0.02)


def test_before_any_observation_every_kernel_has_the_error_of_the_prior():
    mean, std = GroupProcess.prior(some_rows(10), n_inducing=5).predict(some_rows(30, seed=1))
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    np.testing.assert_allclose(std, np.sqrt(COVARIANCE.variance), rtol=1e-4)


def test_far_from_what_was_observed_only_what_the_group_shares_is_known():
    x = some_rows(40) * [1, 1, 0]
    prior = GroupProcess.prior(x, n_inducing=40)
    process = observe(prior, prior.features(x), np.full(40, 0.3))
    near, far, other = x[:1], np.array([[50.0, 50.0, 0.0]]), np.array([[50.0, 50.0, 1.0]])
    (at_near, at_far, at_other), std = process.predict(np.vstack([near, far, other]))
    assert at_near == pytest.approx(0.3, abs=0.03)
    assert 0.05 < at_other < at_far < at_near  # part of the 0.3 is held to be of the group
    assert std[0] < 0.05
    # Of the shared part some is known, of the smooth part nothing.
    assert COVARIANCE.smooth < std[1] < std[2] < np.sqrt(COVARIANCE.variance)


def test_rows_far_from_each_other_are_picked():
    crowd = np.random.default_rng(0).normal(0, 0.01, (50, 2))
    x = np.vstack([crowd, [[9, 0], [0, -9]]])
    first, *rest = spread(x, 3)
    assert first < 50  # the most ordinary one
    assert sorted(rest) == [50, 51]


def test_no_row_is_farther_from_those_picked_than_twice_what_the_best_choice_could_do():
    def radius(x, chosen):
        return np.linalg.norm(x[:, None] - x[list(chosen)], axis=-1).min(axis=1).max()

    for seed in range(10):
        x = np.random.default_rng(seed).normal(size=(9, 2))
        best = min(radius(x, chosen) for chosen in itertools.combinations(range(9), 3))
        assert radius(x, spread(x, 3)) <= 2 * best


def test_equal_rows_are_picked_once():
    x = np.array([[0.0, 0.0], [1.0, 1.0]] * 5)
    assert len(spread(x, 8)) == 2
    assert spread(np.zeros((0, 2)), 3).shape == (0,)


@pytest.fixture(scope="module")
def process():
    x = some_rows(8)
    prior = GroupProcess.prior(x, n_inducing=6)
    return observe(prior, prior.features(x), x[:, 0] / 10)


class TestPlainData:
    def test_it_gives_the_same_answers_back(self, process):
        again = GroupProcess.from_arrays(process.to_arrays(), 3)
        new = some_rows(20, seed=1)
        for one, other in zip(process.predict(new), again.predict(new), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)

    @pytest.mark.parametrize("name", ["inducing", "mean", "root"])
    def test_arrays_that_do_not_belong_together_are_refused(self, process, name):
        arrays = process.to_arrays()
        with pytest.raises(ValueError, match="do not describe a Gaussian process"):
            GroupProcess.from_arrays(arrays | {name: arrays[name][:-1]}, 3)
        with pytest.raises(KeyError):
            GroupProcess.from_arrays({k: v for k, v in arrays.items() if k != name}, 3)
