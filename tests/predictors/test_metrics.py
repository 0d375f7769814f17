import math

import numpy as np
import pytest

from predictors.metrics import accuracy


def test_by_hand():
    found = accuracy([1.04, 2.2, 3.0, 5.0], [1.0, 2.0, 4.0, 5.0])
    assert found.n == 4
    assert found.mape == pytest.approx((0.04 + 0.1 + 0.25 + 0) / 4)
    assert found.within_5 == 0.5
    assert found.within_10 == 0.75  # 2.2 / 2 - 1 is 0.1 up to rounding, and counts
    assert found.spearman == 1


def test_rank_correlation_ignores_size_and_averages_ties():
    assert accuracy([9, 4, 1], [1, 2, 3]).spearman == -1
    # ranks (1.5, 1.5, 3) and (1, 2, 3): covariance 1.5, variances 1.5 and 2
    assert accuracy([1, 1, 2], [1, 2, 3]).spearman == pytest.approx(1.5 / math.sqrt(3), abs=1e-4)


def test_one_network_and_equal_predictions_have_no_rank():
    assert math.isnan(accuracy([1.0], [1.0]).spearman)
    assert math.isnan(accuracy([1.0, 1.0], [1.0, 2.0]).spearman)


@pytest.mark.parametrize(
    ("predicted", "measured"), [([], []), ([1.0], [1.0, 2.0]), (np.ones((2, 2)), np.ones((2, 2)))]
)
def test_shapes_that_do_not_match_are_refused(predicted, measured):
    with pytest.raises(ValueError, match="two arrays of equal length"):
        accuracy(predicted, measured)
