import itertools
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime

import numpy as np
import pytest

from hwnas.executors.errors import AccidentError, EvaluationFailedError, ExecutorError
from hwnas.record import Record
from hwnas.search import Evaluation, search
from hwnas.stopping import Stall
from hwnas.strategies import Problem, make_strategy
from hwnas.strategies.base import SpaceExhaustedError
from hwnas.strategies.successive_halving import SuccessiveHalving


class Killed(BaseException):
    """Ends the process' work at once, as a kill would: nothing catches it."""


class InTurn(Executor):
    """Evaluates at once, but for slow trials: those end when a later one is submitted.

    Args:
        ends_with: By number of a slow trial, the number of the one that it ends together with.
    """

    def __init__(self, ends_with, interrupts_at=None):
        self.ends_with = ends_with
        self.interrupts_at = interrupts_at
        self.slow = {}
        self.n_at_once = 0

    def submit(self, evaluate, trial):
        if trial.number == self.interrupts_at:
            raise KeyboardInterrupt
        future = Future()
        future.set_running_or_notify_cancel()
        self.n_at_once = max(self.n_at_once, len(self.slow) + 1)
        if trial.number in self.ends_with:
            self.slow[self.ends_with[trial.number]] = future, evaluate, trial
        else:
            future.set_result(evaluate(trial))
        if trial.number in self.slow:
            slow_future, slow_evaluate, slow_trial = self.slow.pop(trial.number)
            slow_future.set_result(slow_evaluate(slow_trial))
        return future


def truth_of(toy):
    return lambda trial: Evaluation(toy.objectives(trial.genotype), {"number": trial.number})


def run(path, toy, n_trials, *, evaluate=None, strategy="evolution", **options):
    """What one call of the command does: a new strategy, the record as it is."""
    if isinstance(strategy, str):
        strategy = make_strategy(strategy, toy.problem, seed=0)
    with Record.open(path, toy.problem.space, create=True) as record:
        evaluate = evaluate or truth_of(toy)
        return search(toy.problem, strategy, evaluate, record, n_trials=n_trials, **options)


@pytest.fixture
def toy(make_toy):
    return make_toy(n_stages=2, n_layers=2, limit_ms=1.0)


def interrupting(toy, at, error):
    """An evaluation that is ended by `error` in its call number `at`, counted from 0."""
    calls = itertools.count()

    def evaluate(trial):
        if next(calls) == at:
            raise error
        return Evaluation(toy.objectives(trial.genotype))

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

    def evaluate(trial):
        evaluated.append(trial.number)
        if len(evaluated) % 3 == 0:
            raise Killed
        return Evaluation(toy.objectives(trial.genotype))

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
    def evaluate(trial):
        if trial.number % 3 == 0:
            raise ValueError("no such layer")
        if trial.number % 3 == 1:
            return Evaluation((float("nan"), 1.0), {"epochs": 2})
        return Evaluation(toy.objectives(trial.genotype))

    trials = run(tmp_path / "search.db", toy, 20, evaluate=evaluate)
    assert len({trial.genotype for trial in trials}) == 20
    assert {trial.failure for trial in trials[0::3]} == {"ValueError: no such layer"}
    assert {trial.failure for trial in trials[1::3]} == {"objectives are not finite: (nan, 1.0)"}
    assert all(trial.objectives is not None for trial in trials[2::3])
    with Record.open(tmp_path / "search.db", toy.problem.space, create=False) as record:
        assert record.trials() == trials
        assert record.results()[1]["epochs"] == 2


def test_failed_trials_are_replayed_as_failed(tmp_path, toy):
    def evaluate(trial):
        if trial.number % 2:
            raise MemoryError
        return Evaluation(toy.objectives(trial.genotype))

    whole = run(tmp_path / "whole.db", toy, 20, evaluate=evaluate)
    run(tmp_path / "search.db", toy, 15, evaluate=evaluate)
    assert run(tmp_path / "search.db", toy, 20, evaluate=evaluate) == whole


def test_the_error_alone_will_do_and_the_latency_is_the_predicted_one(tmp_path, toy):
    def evaluate(trial):
        return Evaluation((toy.error(trial.genotype),))

    assert run(tmp_path / "alone.db", toy, 6, evaluate=evaluate) == run(
        tmp_path / "both.db", toy, 6
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: 0.5, "TypeError: expected an Evaluation, the evaluator gave float"),
        (lambda: Evaluation((0.5, 1.0, 2.0)), "ValueError: expected error, latency_ms, or error"),
        (lambda: Evaluation(("high",)), "ValueError: could not convert"),
        (lambda: Evaluation((0.5,), {"array": np.ones(2)}), "TypeError: Object of type ndarray"),
    ],
)
def test_an_evaluator_that_gives_something_else_is_a_failed_trial(tmp_path, toy, make, reason):
    (trial,) = run(tmp_path / "search.db", toy, 1, evaluate=lambda trial: make())
    assert trial.failure.startswith(reason)


def test_an_accident_is_tried_a_second_time_and_no_third(tmp_path, toy):
    tried = []

    def evaluate(trial):
        tried.append(trial.number)
        if trial.number == 1 or (trial.number in (2, 5) and tried.count(trial.number) == 1):
            raise AccidentError("the worker was killed")
        if trial.number in (3, 5):
            raise EvaluationFailedError("the worker crashed")
        return Evaluation(toy.objectives(trial.genotype))

    events = []
    trials = run(tmp_path / "search.db", toy, 7, evaluate=evaluate, on_event=events.append)
    assert tried == [0, 1, 1, 2, 2, 3, 4, 5, 5, 6]
    assert [trial.failure for trial in trials] == [
        None,
        "the worker was killed (twice)",
        None,
        "the worker crashed",
        None,
        "the worker crashed (before that: the worker was killed)",
        None,
    ]
    retried = [event.trial for event in events if event.kind == "retried"]
    assert [trial.number for trial in retried] == [1, 2, 5]
    assert retried[0].failure == "the worker was killed"
    with Record.open(tmp_path / "search.db", toy.problem.space, create=False) as record:
        results = record.results()
    assert [n for n in results if "accident" in results[n]] == [2]
    strategy = make_strategy("evolution", toy.problem, seed=0)
    for trial in trials:  # the strategy was told of failures, and went on from there
        assert strategy.ask() == trial.genotype
        strategy.tell(trial)


def test_an_executor_that_cannot_work_ends_the_search_and_fails_no_trial(tmp_path, toy):
    with pytest.raises(ExecutorError, match="no worker"):
        run(
            tmp_path / "search.db",
            toy,
            5,
            evaluate=interrupting(toy, 2, ExecutorError("no worker")),
        )
    with Record.open(tmp_path / "search.db", toy.problem.space, create=False) as record:
        assert len(record.trials()) == 2
        assert [trial.number for trial in record.interrupted()] == [2]
    assert run(tmp_path / "search.db", toy, 5) == run(tmp_path / "whole.db", toy, 5)


def test_a_wall_clock_that_jumps_changes_nothing(tmp_path, toy, monkeypatch):
    class Jumping(datetime):
        """Ten years back and forth at each look."""

        n_looks = itertools.count()

        @classmethod
        def now(cls, tz=None):
            return datetime(2030 - 10 * (next(cls.n_looks) % 2), 1, 1, tzinfo=tz)

    whole = run(tmp_path / "whole.db", toy, 14)
    monkeypatch.setattr("optuna.storages._rdb.storage.datetime", Jumping)
    monkeypatch.setattr("time.time", lambda: float(next(Jumping.n_looks) % 2) * 1e9)
    run(tmp_path / "search.db", toy, 14, evaluate=interrupting(toy, 9, KeyboardInterrupt()))
    assert run(tmp_path / "search.db", toy, 14) == whole
    assert next(Jumping.n_looks) > 14


def test_the_record_says_in_which_order_was_asked_and_told(tmp_path, toy):
    # Whatever ends when: a new strategy that is asked and told in the recorded order says the same.
    executor = InTurn({2: 9, 4: 6, 10: 13})
    path = tmp_path / "search.db"
    run(path, toy, 16, executor=executor, n_workers=3)
    with Record.open(path, toy.problem.space, create=False) as record:
        trials = record.trials()
        after = {row.user_attrs["proposal"]: row.user_attrs["after"] for row in record.study.trials}
    strategy = make_strategy("evolution", toy.problem, seed=0)
    n_told = 0
    for number, genotype in sorted((trial.number, trial.genotype) for trial in trials):
        for trial in trials[n_told : after[number]]:
            strategy.tell(trial)
        n_told = after[number]
        assert strategy.ask() == genotype


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
    assert [(event.kind, event.n_told, event.n_spent) for event in events] == [
        ("replayed", 2, 2.0),
        ("started", 2, 2.0),
        ("told", 3, 3.0),
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


def in_parts(toy):
    """An evaluation that is less exact with a smaller share of the training."""

    def evaluate(trial):
        error, latency_ms = toy.objectives(trial.genotype)
        return Evaluation((error + 0.1 * (1 - trial.share), latency_ms))

    return evaluate


def halving(toy):
    return SuccessiveHalving(toy.problem, seed=0)


def test_shares_of_the_training_are_recorded_and_add_up_to_the_trials_asked_for(tmp_path, toy):
    events = []
    trials = run(
        tmp_path / "search.db",
        toy,
        7,
        strategy=halving(toy),
        evaluate=in_parts(toy),
        on_event=events.append,
    )
    assert {round(9 * trial.share) for trial in trials} == {1, 3, 9}
    n_spent = sum(trial.share for trial in trials)
    assert 7 - 1e-9 <= n_spent < 8
    assert trials[-1].share > n_spent - 7  # without the last one, there was still something left
    assert events[-1].n_spent == pytest.approx(n_spent)
    assert events[-1].n_told == len(trials)
    with Record.open(tmp_path / "search.db", toy.problem.space, create=False) as record:
        assert record.trials() == trials


def test_thirds_that_add_up_to_a_whole_number_are_that_number(tmp_path, toy):
    # 9 ninths, 3 thirds and a whole one are three trainings: of floating point, nearly.
    trials = run(tmp_path / "search.db", toy, 3, strategy=halving(toy), evaluate=in_parts(toy))
    assert len(trials) == 13


def test_a_search_in_parts_goes_on_where_it_was_interrupted(tmp_path, toy):
    options = {"strategy": halving(toy), "evaluate": in_parts(toy)}
    whole = run(tmp_path / "whole.db", toy, 4, **options)
    for at in (3, 12, 15):  # two of them take up a network again
        calls = itertools.count()

        def evaluate(trial, at=at, calls=calls):
            if next(calls) == at:
                raise KeyboardInterrupt
            return in_parts(toy)(trial)

        path = tmp_path / f"{at}.db"
        assert run(path, toy, 4, strategy=halving(toy), evaluate=evaluate) == whole[:at]
        assert run(path, toy, 4, strategy=halving(toy), evaluate=in_parts(toy)) == whole


def test_a_slow_candidate_holds_nobody_up(tmp_path, toy):
    executor = InTurn({2: 9, 4: 6})
    trials = run(tmp_path / "search.db", toy, 12, executor=executor, n_workers=3)
    assert executor.n_at_once == 3
    numbers = [trial.number for trial in trials]
    assert sorted(numbers) == list(range(12))
    # While 2 and 4 run, the third worker does 3, 5 and 6; then there are two again.
    assert numbers.index(2) > numbers.index(8)
    assert numbers.index(3) < numbers.index(5) < numbers.index(4)
    assert all(trial.objectives == toy.objectives(trial.genotype) for trial in trials)
    assert len({trial.genotype for trial in trials}) == 12
    with Record.open(tmp_path / "search.db", toy.problem.space, create=False) as record:
        assert [trial.number for trial in record.trials()] == numbers
    assert run(tmp_path / "search.db", toy, 12) == trials


def test_ctrl_c_leaves_what_runs_beside_to_be_run_first(tmp_path, toy):
    path = tmp_path / "search.db"
    executor = InTurn({2: 100, 4: 100}, interrupts_at=8)
    done = run(path, toy, 12, executor=executor, n_workers=3)
    assert [trial.number for trial in done] == [0, 1, 3, 5, 6, 7]
    with Record.open(path, toy.problem.space, create=False) as record:
        assert [trial.number for trial in record.interrupted()] == [2, 4, 8]
    trials = run(path, toy, 12)
    assert [trial.number for trial in trials[6:]] == [2, 4, 8, 9, 10, 11]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ExecutorError("no worker")])
def test_what_was_found_before_the_end_of_a_search_is_kept(tmp_path, toy, error):
    """Of three that run at once the second is done, and the third ends it all."""

    class Three(InTurn):
        def submit(self, evaluate, trial):
            future = Future()
            future.set_running_or_notify_cancel()
            if trial.number == 1:
                future.set_result(evaluate(trial))
            if trial.number == 2:
                if isinstance(error, KeyboardInterrupt):
                    raise error
                future.set_exception(error)
            return future

    path = tmp_path / "search.db"
    with suppress(ExecutorError):
        assert len(run(path, toy, 6, executor=Three({}), n_workers=3)) == 1
    with Record.open(path, toy.problem.space, create=False) as record:
        assert [trial.number for trial in record.trials()] == [1]
        assert [trial.number for trial in record.interrupted()] == [0, 2]
    assert len(run(path, toy, 6)) == 6


def test_threads_find_what_one_worker_finds(tmp_path, toy):
    with ThreadPoolExecutor(4) as executor:
        trials = run(
            tmp_path / "threads.db", toy, 20, strategy="random", executor=executor, n_workers=4
        )
    alone = run(tmp_path / "alone.db", toy, 20, strategy="random")
    assert sorted(trials, key=lambda trial: trial.number) == alone


def test_a_running_trial_may_save_an_exhausted_search(tmp_path, toy):
    class OneAfterTheOther:
        """Knows a second genotype only when the first has a result."""

        def __init__(self):
            self.n_asked = self.n_told = 0

        def ask(self):
            if self.n_asked > self.n_told or self.n_asked == 2:
                raise SpaceExhaustedError("nothing for now")
            self.n_asked += 1
            return (0,) * len(toy.problem.space.choices)

        def tell(self, trial):
            self.n_told += 1

    events = []
    with ThreadPoolExecutor(2) as executor:
        trials = run(
            tmp_path / "search.db",
            toy,
            10,
            strategy=OneAfterTheOther(),
            executor=executor,
            n_workers=2,
            on_event=events.append,
        )
    assert len(trials) == 2
    assert events[-1].kind == "exhausted"


def test_a_search_that_gains_nothing_more_stops_and_stays_so(tmp_path, toy):
    def evaluate(trial):
        return Evaluation((0.5 - 0.04 * min(trial.number, 6), 1.0))

    def call(path, n_trials):
        stall = Stall(4)
        return run(path, toy, n_trials, evaluate=evaluate, stall=stall, on_event=events.append)

    events = []
    # The last gain is that of trial 6: the four after it gained nothing.
    trials = call(tmp_path / "search.db", 100)
    assert [trial.number for trial in trials] == list(range(11))
    assert (events[-1].kind, events[-1].n_told) == ("stalled", 11)
    assert call(tmp_path / "search.db", 100) == trials
    assert len(call(tmp_path / "short.db", 8)) == 8
    assert events[-1].kind == "told"


def test_several_workers_without_an_executor_are_refused(tmp_path, toy):
    with pytest.raises(ValueError, match="an executor"):
        run(tmp_path / "search.db", toy, 2, n_workers=2)
