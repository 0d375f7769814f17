import itertools

import numpy as np
import pytest

from hwnas.record import Record
from hwnas.search import Evaluation, search
from hwnas.strategies import Problem, make_strategy


class Killed(BaseException):
    """Ends the process' work at once, as a kill would: nothing catches it."""


def run(path, toy, n_trials, *, evaluate=None, strategy="evolution", **options):
    """What one call of the command does: a new strategy, the record as it is."""

    def truth(genotype, number):
        return Evaluation(toy.objectives(genotype), {"number": number})

    with Record.open(path, toy.problem.space, create=True) as record:
        return search(
            toy.problem,
            make_strategy(strategy, toy.problem, seed=0),
            evaluate or truth,
            record,
            n_trials=n_trials,
            **options,
        )


@pytest.fixture
def toy(make_toy):
    return make_toy(n_stages=2, n_layers=2, limit_ms=1.0)


def interrupting(toy, at, error):
    """An evaluation that is ended by `error` in its call number `at`, counted from 0."""
    calls = itertools.count()

    def evaluate(genotype, number):
        if next(calls) == at:
            raise error
        return Evaluation(toy.objectives(genotype))

    return evaluate


def test_trials_are_recorded_and_returned_in_order(tmp_path, toy):
    trials = run(tmp_path / "search.db", toy, 8)
    assert [trial.number for trial in trials] == list(range(8))
    assert all(trial.objectives == toy.objectives(trial.genotype) for trial in trials)
    with Record.open(tmp_path / "search.db", toy.problem.space, create=False) as record:
        assert record.trials() == trials
        results = record.results()
        row = record.study.trials[0]
    assert [results[number]["number"] for number in range(8)] == list(range(8))
    costs = toy.problem.predict(np.array([trials[0].genotype]))
    assert results[0]["predicted"]["high_ms"] == costs.high_ms[0]
    assert row.constraints == pytest.approx({"latency_ms <= 1": costs.high_ms[0] - 1.0})


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_ctrl_c_keeps_the_record_and_the_same_call_goes_on(tmp_path, toy, strategy):
    whole = run(tmp_path / "whole.db", toy, 18, strategy=strategy)
    for at in (0, 6, 13, 17):
        path = tmp_path / f"{at}.db"
        evaluate = interrupting(toy, at, KeyboardInterrupt())
        events = []
        first = run(path, toy, 18, evaluate=evaluate, strategy=strategy, on_event=events.append)
        assert first == whole[:at]
        assert (events[-1].kind, events[-1].n_told) == ("interrupted", at)
        assert run(path, toy, 18, strategy=strategy) == whole


def test_a_search_that_is_killed_again_and_again_loses_and_repeats_nothing(tmp_path, toy):
    whole = run(tmp_path / "whole.db", toy, 16)
    evaluated = []

    def evaluate(genotype, number):
        evaluated.append(number)
        if len(evaluated) % 3 == 0:
            raise Killed
        return Evaluation(toy.objectives(genotype))

    for _ in range(20):
        try:
            assert run(tmp_path / "search.db", toy, 16, evaluate=evaluate) == whole
            break
        except Killed:
            continue
    else:
        pytest.fail("the search did not end")
    # Every third evaluation was killed: that proposal comes once more, first in the next call.
    assert evaluated == sorted(evaluated)
    assert len(evaluated) == 16 + (len(evaluated) // 3)


def test_an_exception_is_a_failed_trial_and_not_the_end(tmp_path, toy):
    def evaluate(genotype, number):
        if number % 3 == 0:
            raise ValueError("no such layer")
        if number % 3 == 1:
            return Evaluation((float("nan"), 1.0), {"epochs": 2})
        return Evaluation(toy.objectives(genotype))

    trials = run(tmp_path / "search.db", toy, 20, evaluate=evaluate)
    assert len({trial.genotype for trial in trials}) == 20
    assert {trial.failure for trial in trials[0::3]} == {"ValueError: no such layer"}
    assert {trial.failure for trial in trials[1::3]} == {"objectives are not finite: (nan, 1.0)"}
    assert all(trial.objectives is not None for trial in trials[2::3])
    with Record.open(tmp_path / "search.db", toy.problem.space, create=False) as record:
        assert record.trials() == trials
        assert record.results()[1]["epochs"] == 2


def test_failed_trials_are_replayed_as_failed(tmp_path, toy):
    def evaluate(genotype, number):
        if number % 2:
            raise MemoryError
        return Evaluation(toy.objectives(genotype))

    whole = run(tmp_path / "whole.db", toy, 20, evaluate=evaluate)
    run(tmp_path / "search.db", toy, 15, evaluate=evaluate)
    assert run(tmp_path / "search.db", toy, 20, evaluate=evaluate) == whole


def test_a_finished_search_evaluates_nothing(tmp_path, toy):
    whole = run(tmp_path / "search.db", toy, 6)
    assert run(tmp_path / "search.db", toy, 6, evaluate=interrupting(toy, 0, Killed())) == whole


def test_the_clock_ends_a_search_and_a_longer_one_goes_on(tmp_path, toy):
    clock_s = iter(range(0, 1000, 10)).__next__
    assert len(run(tmp_path / "search.db", toy, 12, seconds=35.0, clock_s=clock_s)) == 3
    assert len(run(tmp_path / "search.db", toy, 12, seconds=0.0)) == 3
    assert run(tmp_path / "search.db", toy, 12) == run(tmp_path / "whole.db", toy, 12)


def test_a_space_that_is_exhausted_ends_the_search(tmp_path, make_toy):
    toy = make_toy(n_stages=1, n_layers=1, limit_ms=0.07)
    events = []
    trials = run(tmp_path / "search.db", toy, 1000, on_event=events.append)
    assert 1 < len(trials) < 54
    assert (events[-1].kind, events[-1].n_told) == ("exhausted", len(trials))
    assert run(tmp_path / "search.db", toy, 1000) == trials


def test_events_tell_what_happens(tmp_path, toy):
    run(tmp_path / "search.db", toy, 2)
    events = []
    trials = run(tmp_path / "search.db", toy, 3, on_event=events.append)
    assert [(event.kind, event.n_told) for event in events] == [
        ("replayed", 2),
        ("started", 2),
        ("told", 3),
    ]
    assert events[1].trial.is_running
    assert events[2].trial == trials[2]


def test_what_no_longer_meets_the_budget_is_not_trained(tmp_path, toy):
    run(tmp_path / "search.db", toy, 5, evaluate=interrupting(toy, 2, KeyboardInterrupt()))
    space, predict = toy.problem.space, toy.problem.predict

    def predict_slower(genotypes):  # the predictor has learnt since
        costs = predict(genotypes)
        return type(costs)(**vars(costs) | {"high_ms": costs.high_ms + 1.0})

    problem = Problem(space, predict_slower, toy.problem.budgets)
    with Record.open(tmp_path / "search.db", space, create=True) as record:
        strategy = make_strategy("random", toy.problem, seed=0)
        evaluate = interrupting(toy, 0, Killed())
        trials = search(problem, strategy, evaluate, record, n_trials=3)
    assert trials[2].failure == "over the budget latency_ms <= 1: not trained"
