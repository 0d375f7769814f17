"""Calls in processes of their own; `operator.call(job, core)` lets a job be what is called."""

import operator
import os
import time

import pytest

from hwnas.bench import side_by_side as module
from hwnas.bench.side_by_side import side_by_side
from hwnas.errors import ConfigError
from hwnas.executors.errors import EvaluationFailedError


def test_every_job_has_a_new_process_and_its_result_comes_with_it():
    own_group = 0  # of the process that asks
    jobs = [os.getpgid, os.getpgid]
    found = list(side_by_side(operator.call, jobs, [own_group], hung_after_s=60))
    assert [job for job, _ in found] == jobs
    groups = {group for _, group in found}
    assert len(groups) == 2 and os.getpgid(0) not in groups


def test_a_job_that_raises_is_told_and_the_next_one_runs():
    (_, failure), (_, found) = side_by_side(divmod, ["seven", 7], [2], hung_after_s=60)
    assert isinstance(failure, EvaluationFailedError) and str(failure).startswith("TypeError: ")
    assert found == (3, 1)


def test_what_runs_is_told_now_and_then_and_ended_when_nobody_waits_any_more(monkeypatch):
    monkeypatch.setattr(module, "TICK_S", 0.05)
    ticks = []
    seconds = [0.3, 600]  # each of the two sleeps for one of them
    start_s = time.monotonic()
    ended = side_by_side(
        operator.call, [time.sleep, time.sleep], seconds, hung_after_s=900, on_tick=ticks.append
    )
    _, found = next(ended)
    assert found is None
    ended.close()
    assert time.monotonic() - start_s < 60
    assert max(len(running_s) for running_s in ticks) == 2
    assert all(running_s[0] > 0 for running_s in ticks if running_s)


@pytest.mark.parametrize("n", [0, 9999])
def test_there_are_no_more_calls_side_by_side_than_cores(n):
    with pytest.raises(ConfigError, match=f"{n} searches side by side need a core each"):
        module.usable_cores(n)


def test_the_first_core_is_the_last_that_is_taken(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {5, 2, 7}, raising=False)
    assert module.usable_cores(1) == [7] and module.usable_cores(2) == [5, 7]
    assert module.usable_cores(3) == [2, 5, 7]
