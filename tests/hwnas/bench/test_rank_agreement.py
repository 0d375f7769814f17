import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from hwnas.bench.rank_agreement import rank_agreement


def test_orders_that_agree_or_are_reversed_have_one_and_minus_one():
    x = np.arange(12.0)
    same, reversed_ = rank_agreement(x, np.exp(x)), rank_agreement(x, -x)
    for name in ("spearman", "kendall"):
        assert same[name] == {"value": 1.0, "low": 1.0, "high": 1.0}
        assert reversed_[name] == {"value": -1.0, "low": -1.0, "high": -1.0}


def test_values_by_hand():
    # Ranks 1 2 3 4 and 2 1 4 3: differences 1 each, so rho = 1 - 6·4 / (4·15); of the 6 pairs 4
    # are in the same order and 2 are not.
    found = rank_agreement([1, 2, 3, 4], [20, 10, 40, 30])
    assert found["spearman"]["value"] == pytest.approx(0.6)
    assert found["kendall"]["value"] == pytest.approx(0.3333, abs=1e-4)


def test_values_are_those_of_scipy_where_scores_are_tied():
    rng = np.random.default_rng(0)
    x, y = rng.integers(4, size=(2, 20))
    found = rank_agreement(x, x + y)
    assert found["spearman"]["value"] == pytest.approx(spearmanr(x, x + y).statistic, abs=1e-4)
    assert found["kendall"]["value"] == pytest.approx(kendalltau(x, x + y).statistic, abs=1e-4)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # Of normal pairs with correlation r, Spearman's rho is 6/pi asin(r/2).
    r, n_covered = 0.8, 0
    truth = 6 / np.pi * np.arcsin(r / 2)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=40)
        found = rank_agreement(x, r * x + np.sqrt(1 - r**2) * rng.normal(size=40))["spearman"]
        assert found["low"] < found["value"] < found["high"]
        n_covered += found["low"] <= truth <= found["high"]
    assert n_covered >= 10


def test_a_score_that_does_not_vary_has_no_order():
    found = rank_agreement([1.0, 2.0, 3.0], [0.5, 0.5, 0.5])
    assert found["spearman"] == {"value": None, "low": None, "high": None}
