from hwnas.front.filling import MAX_SLACK
from hwnas.front.finalists import choose_finalists, whole_trials
from hwnas.strategies import Trial


def trials(points, **changes):
    return [Trial(i, (i,), point, **changes) for i, point in enumerate(points)]


def numbers(chosen):
    return [trial.number for trial in chosen]


POINTS = [(0.5, 1.0), (0.2, 4.0), (0.3, 2.0), (0.6, 1.5), (0.35, 3.0), (0.9, 9.0)]


def test_finalists_are_the_best_ranks_fastest_first():
    found = [*trials(POINTS), Trial(6, (6,), None, "failed")]
    assert numbers(choose_finalists(found, 3)) == [0, 2, 1]  # the first front
    assert numbers(choose_finalists(found, 5)) == [0, 3, 2, 4, 1]  # and the second
    assert len(choose_finalists(found, 99)) == 6


def test_where_nothing_was_trained_there_are_no_finalists():
    assert choose_finalists([], 3) == []
    assert choose_finalists([Trial(0, (0,), None, "failed")], 3) == []
    assert choose_finalists(trials(POINTS), 0) == []


def test_what_had_less_training_is_no_finalist():
    parts = [Trial(10, (10,), (0.01, 0.5), share=0.5)]
    assert numbers(whole_trials([*trials(POINTS), *parts])) == [0, 1, 2, 3, 4, 5]
    assert 10 not in numbers(choose_finalists([*trials(POINTS), *parts], 9))
    assert whole_trials(parts) == parts  # where no training was whole, these compare


def test_a_quarter_of_the_finalists_uses_nearly_all_of_the_budget():
    # A front of six that ends at half of the budget, and worse networks up to all of it.
    front = [(0.30 - 0.01 * i, 1.0 + 0.1 * i) for i in range(12)]
    near = [(0.60 + 0.01 * i, 4.0 - 0.1 * i) for i in range(9)]
    found = trials([*front, *near])
    limit_ms = 4.0
    is_near = [trial.number for trial in found if trial.objectives[1] >= limit_ms * (1 - MAX_SLACK)]
    assert is_near == [12, 13, 14, 15, 16, 17, 18]
    assert sum(n in is_near for n in numbers(choose_finalists(found, 8))) == 1
    chosen = numbers(choose_finalists(found, 8, limit_ms=limit_ms))
    assert len(chosen) == len(set(chosen)) == 8
    assert sorted(set(chosen) & set(is_near)) == [12, 13]  # the most accurate of them


def test_those_of_the_front_near_the_budget_count():
    found = trials([(0.5, 1.0), (0.4, 1.5), (0.3, 3.9), (0.7, 3.8), (0.8, 1.2), (0.9, 2.0)])
    # Two by rank, the quarter is on it already, then the best of each range of latency.
    assert numbers(choose_finalists(found, 4, limit_ms=4.0)) == numbers(choose_finalists(found, 4))


def test_no_trial_near_the_budget_changes_nothing():
    assert choose_finalists(trials(POINTS), 5, limit_ms=100.0) == choose_finalists(
        trials(POINTS), 5
    )
