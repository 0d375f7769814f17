import numpy as np
import pytest

from predictors.intervals import conformal_bounds, min_examples


def test_bounds_are_order_statistics():
    # n = 39, level 0.9: rank ceil(40 · 0.95) = 38 from each side
    assert conformal_bounds(range(1, 40), level=0.9) == (2, 38)
    # n = 19: rank 19, the outermost ones
    assert conformal_bounds(np.arange(19)[::-1], level=0.9) == (0, 18)


@pytest.mark.parametrize("level", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])
def test_min_examples_is_where_widening_ends(level):
    n = min_examples(level)
    assert conformal_bounds(range(n), level=level) == (0, n - 1)
    low, high = conformal_bounds(range(n - 1), level=level)
    assert low < 0
    assert high > n - 2


def test_too_few_errors_widen_in_proportion():
    # n = 10, level 0.9: rank ceil(11 · 0.95) = 11 of 10, so 1.1 times the distance to the median
    low, high = conformal_bounds(range(10), level=0.9)
    assert (low, high) == pytest.approx((4.5 - 1.1 * 4.5, 4.5 + 1.1 * 4.5))


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_coverage_of_new_errors_is_the_level(level):
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        *errors, new = rng.standard_t(3, size=61)
        low, high = conformal_bounds(errors, level=level)
        covered.append(low <= new <= high)
    assert np.mean(covered) == pytest.approx(level, abs=0.06)


@pytest.mark.parametrize(
    ("errors", "level"), [([], 0.9), ([1.0], 0), ([1.0], 1), ([1.0], 1.5), ([1.0], float("nan"))]
)
def test_no_errors_and_no_level_are_refused(errors, level):
    with pytest.raises(ValueError, match="at least one error and a level"):
        conformal_bounds(errors, level=level)
