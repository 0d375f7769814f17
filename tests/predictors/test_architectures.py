import numpy as np
import pytest

from predictors.architectures import ArchitectureFeatures
from predictors.errors import PredictorError

ALL = np.arange(3)


def test_options_are_counted_over_columns_that_offer_the_same():
    features = ArchitectureFeatures.from_columns(
        {"op_a": ["x", "x", "y"], "op_b": ["x", "y", "y"], "op_depth": [2, 3, 3]}
    )
    # Counts of x are 2, 1, 0 and of y 0, 1, 2; centred (1, 0, -1) and (-1, 0, 1), squared lengths
    # 2, 0, 2, mean 4/3. The depth is offered by one column: no count.
    np.testing.assert_allclose(
        np.square(features.totals), np.array([[1, 1], [0, 0], [1, 1]]) * 3 / 4
    )


def test_architectures_are_alike_by_the_choices_that_they_share():
    features = ArchitectureFeatures.from_columns({"op_0": [0, 0, 1], "op_1": [5, 6, 6]})
    shared = features.kernels(ALL, ALL)[3]
    # Differing in 0, 1 and 2 of 2 columns: exp(0), exp(-3/2), exp(-3).
    np.testing.assert_allclose(shared[0], np.exp([0, -1.5, -3]))
    np.testing.assert_allclose(shared, shared.T)


def test_the_diagonal_is_that_of_the_kernels():
    features = ArchitectureFeatures.from_columns(
        {"op_0": ["a", "b", "b"], "op_1": ["b", "b", "a"]}, {"macs": [1e6, 5e6, 2e6]}
    )
    kernels = features.kernels(ALL, ALL)
    np.testing.assert_allclose(
        features.self_kernels(), np.diagonal(kernels, axis1=1, axis2=2), atol=1e-12
    )


def test_text_and_integers_that_mean_the_same_give_the_same_features():
    rng = np.random.default_rng(0)
    codes = rng.integers(4, size=(50, 3))
    text = {f"op_{i}": np.array(["conv", "none", "pool", "skip"])[codes[:, i]] for i in range(3)}
    numbers = {f"op_{i}": codes[:, i] for i in range(3)}
    a, b = (ArchitectureFeatures.from_columns(columns) for columns in (text, numbers))
    np.testing.assert_allclose(a.totals, b.totals)
    np.testing.assert_allclose(a.choices, b.choices)


def test_a_column_of_many_numbers_is_a_quantity():
    width = np.arange(100) * 8
    features = ArchitectureFeatures.from_columns({"op_width": width})
    assert features.codes.shape == (100, 8)  # bins, not a hundred options
    assert np.corrcoef(features.totals[:, 0], width)[0, 1] == pytest.approx(1)


@pytest.mark.parametrize("missing", [None, np.nan])
def test_a_missing_choice_is_an_option_like_another(missing):
    known = ArchitectureFeatures.from_columns({"op_0": ["a", "-", "b"], "op_1": ["a", "b", "-"]})
    other = ArchitectureFeatures.from_columns(
        {"op_0": ["a", missing, "b"], "op_1": ["a", "b", missing]}
    )
    np.testing.assert_allclose(known.kernels(ALL, ALL), other.kernels(ALL, ALL))


def test_numbers_beside_missing_ones_are_the_numbers_of_other_columns():
    whole = {"op_0": [3, 5, 7, 3], "op_1": [5, 7, 3, 3]}
    gaps = {"op_0": [3, 5, 7, 3], "op_1": [5, 7, 3, None]}
    a, b = (ArchitectureFeatures.from_columns(columns).totals for columns in (whole, gaps))
    assert (a.shape[1], b.shape[1]) == (3, 4)  # counts of 3, 5 and 7, and of what is missing


def test_a_quantity_may_be_missing_too():
    width = np.arange(100) * 8.0
    width[::9] = np.nan
    features = ArchitectureFeatures.from_columns({"op_width": width})
    assert features.codes.shape == (100, 9)
    assert np.isfinite(features.totals).all()


@pytest.mark.parametrize(
    ("choices", "given", "message"),
    [
        ({}, {}, "at least one column"),
        ({"op_0": [str(i) for i in range(300)]}, {}, "'op_0' has 300 different values, 256 at"),
        ({"op_0": ["a", "b"]}, {"macs": [1.0, np.nan]}, "'macs' has missing or infinite"),
    ],
)
def test_a_column_that_cannot_be_read_is_named(choices, given, message):
    with pytest.raises(PredictorError, match=message):
        ArchitectureFeatures.from_columns(choices, given)
