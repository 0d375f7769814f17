import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hwnas import pareto

# Few distinct values, so that ties and duplicates are common.
points = arrays(
    np.float64,
    st.tuples(st.integers(1, 12), st.integers(1, 3)),
    elements=st.sampled_from([0.0, 1.0, 2.0, 3.0]),
)


def dominates(a, b):
    return bool((a <= b).all() and (a < b).any())


def brute_force_front(rows):
    return np.array([not any(dominates(a, b) for a in rows) for b in rows])


@given(points)
def test_the_front_is_what_comparing_all_pairs_gives(rows):
    assert pareto.non_dominated(rows).tolist() == brute_force_front(rows).tolist()


@given(points)
def test_ranks_are_fronts_peeled_off_one_after_the_other(rows):
    expected = np.zeros(len(rows), dtype=int)
    left = np.arange(len(rows))
    rank = 0
    while len(left):
        on_front = brute_force_front(rows[left])
        expected[left[on_front]] = rank
        left = left[~on_front]
        rank += 1
    assert pareto.ranks(rows).tolist() == expected.tolist()


@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 8), st.just(2)),
        elements=st.sampled_from([0.0, 1.0, 2.0, 3.0]),
    )
)
def test_hypervolume_in_two_columns_is_the_number_of_dominated_unit_cells(rows):
    # All corners are whole numbers, so the volume up to (3, 3) is a count of 9 cells.
    cells = [(x, y) for x in range(3) for y in range(3)]
    dominated = sum(any(a <= x and b <= y for a, b in rows) for x, y in cells)
    assert pareto.hypervolume(rows, [3.0, 3.0]) == pytest.approx(dominated)


def test_all_of_equal_rows_are_kept():
    assert pareto.non_dominated([[1, 1], [1, 1], [2, 2]]).tolist() == [True, True, False]


@pytest.mark.parametrize("function", [pareto.non_dominated, pareto.ranks, pareto.crowding_distance])
def test_nan_is_refused_and_nothing_is_an_empty_front(function):
    with pytest.raises(ValueError, match="NaN"):
        function([[1.0, np.nan], [0.0, 0.0]])
    assert function(np.zeros((0, 2))).shape == (0,)


def test_a_reference_point_of_another_length_is_refused():
    with pytest.raises(ValueError, match="2 finite numbers"):
        pareto.hypervolume([[1.0, 2.0]], [3.0])
    assert pareto.hypervolume(np.zeros((0, 2)), [1.0, 1.0]) == 0.0


def test_crowding_distance_adds_the_gaps_between_neighbours_of_each_column():
    # Second row: (3 - 0) / 10 in the first column, (10 - 4) / 10 in the second. Third: the rest.
    distance = pareto.crowding_distance([[0, 10], [1, 6], [3, 4], [10, 0]])
    assert distance.tolist() == pytest.approx([np.inf, 0.3 + 0.6, 0.9 + 0.6, np.inf])


def test_a_repeated_row_has_no_crowding_distance_of_its_own():
    assert pareto.crowding_distance([[0, 2], [1, 1], [1, 1], [2, 0]]).tolist() == [
        np.inf,
        2,
        0,
        np.inf,
    ]


def test_the_best_come_first_by_rank_and_then_by_the_room_around_them():
    objectives = np.random.default_rng(0).random((60, 2))
    order = pareto.best_first(objectives)
    assert sorted(order) == list(range(60))
    dominates = (objectives[:, None] <= objectives).all(axis=2)
    np.fill_diagonal(dominates, False)
    position = np.argsort(order)
    # Nobody stands behind one that it dominates.
    better, worse = np.nonzero(dominates)
    assert (position[better] < position[worse]).all()
    # The two ends of the front are infinitely far from others: they come before all else.
    assert {int(objectives[:, 0].argmin()), int(objectives[:, 1].argmin())} == set(order[:2])
