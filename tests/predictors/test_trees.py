import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor

from predictors.trees import TreeEnsemble


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 6))
    x[:, 0] = np.round(x[:, 0])  # ties
    return x, np.sin(x[:, 0]) + x[:, 1] ** 2 + rng.normal(0, 0.1, 300)


@pytest.fixture(scope="module")
def ensemble(data):
    return TreeEnsemble.fit(*data, n_trees=12, min_leaf=2, seed=3)


def stump(**changes):
    """x[0] <= 0.5 is 1.0, else 2.0."""
    arrays = {
        "roots": [0], "left": [1, -1, -1], "right": [2, -1, -1], "feature": [0, 0, 0],
        "threshold": [0.5, 0.0, 0.0], "value": [0.0, 1.0, 2.0],
    } | changes  # fmt: skip
    return TreeEnsemble.from_arrays({name: np.array(value) for name, value in arrays.items()})


@pytest.mark.parametrize("min_leaf", [1, 2, 5])
def test_it_answers_what_scikit_learn_answers(data, min_leaf):
    x, y = data
    ours = TreeEnsemble.fit(x, y, n_trees=12, min_leaf=min_leaf, seed=3)
    theirs = ExtraTreesRegressor(12, min_samples_leaf=min_leaf, random_state=3).fit(x, y)
    new = np.random.default_rng(1).standard_normal((500, 6)) * 3
    for points in (x, new, x.astype(np.float32).astype(np.float64)):
        np.testing.assert_allclose(ours.predict(points), theirs.predict(points), rtol=1e-12)


def test_a_stump_by_hand():
    assert stump().predict(np.array([[0.4], [0.5], [0.6]])).tolist() == [1.0, 1.0, 2.0]


def test_several_trees_answer_with_their_mean():
    both = stump(roots=[0, 1])  # the second tree is the leaf 1.0
    assert both.predict(np.array([[0.4], [0.6]])).tolist() == [1.0, 1.5]


def test_no_rows_no_answers(ensemble):
    assert ensemble.predict(np.zeros((0, 6))).shape == (0,)


def test_arrays_give_the_same_trees_back(data, ensemble):
    again = TreeEnsemble.from_arrays(ensemble.to_arrays())
    assert np.array_equal(again.predict(data[0]), ensemble.predict(data[0]))


@pytest.mark.parametrize(
    "changes",
    [
        {"left": [0, -1, -1]},  # a node that is its own child: walking would never end
        {"left": [1, 0, -1], "right": [2, 2, -1]},  # a cycle of two
        {"right": [3, -1, -1]},  # a child that is not there
        {"left": [-2, -1, -1]},
        {"right": [-1, -1, -1]},  # one child only
        {"roots": []},
        {"roots": [3]},
        {"roots": [-1]},
        {"roots": [[0]]},
        {"value": [0.0, 1.0]},  # too short
        {"value": [[0.0], [1.0], [2.0]]},
        {"feature": [-1, 0, 0]},
        {"left": [[1, -1, -1]]},
        {"left": 1},
        {"left": [], "right": [], "feature": [], "threshold": [], "value": []},
    ],
)
def test_arrays_that_are_no_trees_are_refused(changes):
    with pytest.raises(ValueError, match="do not describe trees"):
        stump(**changes)


def test_a_missing_array_is_refused(ensemble):
    arrays = ensemble.to_arrays()
    del arrays["value"]
    with pytest.raises(KeyError):
        TreeEnsemble.from_arrays(arrays)
