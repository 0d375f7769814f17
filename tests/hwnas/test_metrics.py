import numpy as np
import pytest

from hwnas.metrics import Scores, score


def test_macro_scores_equal_those_computed_by_hand():
    # class 0: 2 of 3 predicted are right, 2 of 2 found; class 1: 1 of 1 right, 1 of 2 found
    scores = score(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]))
    f1 = (2 * (2 / 3 * 1) / (2 / 3 + 1) + 2 * (1 * 0.5) / (1 + 0.5)) / 2
    assert scores == Scores(0.75, pytest.approx((2 / 3 + 1) / 2), 0.75, pytest.approx(f1), 4)


def test_a_class_that_is_never_predicted_counts_zero_without_a_warning():
    scores = score(np.array([0, 1]), np.array([0, 0]))
    assert (scores.accuracy, scores.precision, scores.recall) == (0.5, 0.25, 0.5)


@pytest.mark.parametrize("predictions", [[0, 1, 1], [[0, 1]], []])
def test_shapes_that_do_not_match_are_refused(predictions):
    with pytest.raises(ValueError, match="labels and predictions must be"):
        score(np.array([0, 1]), np.array(predictions))
