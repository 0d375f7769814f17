"""The loop of a search: ask, evaluate, write down, tell; until a limit, Ctrl-C or the end.

It starts by replaying the record, so the same call goes on where a killed one stopped. Evaluations
may run beside each other: the one that ends first is told first, and the next proposal takes its
place at once, so that a slow candidate holds nobody up. What may have failed by accident (a killed
process, memory that ran out, a hang) is evaluated once more, by the same number and so by the same
seed; what fails twice is a failed trial, and no strategy proposes it again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from hwnas.executors.errors import AccidentError, ExecutorError, failure_of
from hwnas.executors.this_thread import ThisThreadExecutor
from hwnas.record import Record
from hwnas.stopping import ROUNDING, Stall
from hwnas.strategies.base import (
    OBJECTIVES,
    Problem,
    Proposal,
    SpaceExhaustedError,
    Strategy,
    Trial,
)

__all__ = ["Evaluation", "SearchEvent", "search"]

EventKind = Literal["replayed", "started", "retried", "told", "exhausted", "stalled", "interrupted"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What evaluating one genotype gave.

    Attributes:
        objectives: Minimised, in the order of `hwnas.strategies.OBJECTIVES`. The error alone will
            do: the predicted latency is then the other one.
        result: Whatever else the record should keep, plain JSON: accuracies, seconds.

    Raises:
        TypeError, ValueError: If the objectives are not so many numbers, or the result is no JSON.
    """

    objectives: tuple[float, ...]
    result: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        objectives = tuple(float(value) for value in self.objectives)
        if len(objectives) not in (1, len(OBJECTIVES)):
            raise ValueError(f"expected {', '.join(OBJECTIVES)}, or error alone, got {objectives}")
        object.__setattr__(self, "objectives", objectives)
        json.dumps(dict(self.result))


@dataclass(frozen=True, slots=True)
class SearchEvent:
    """Something that a progress bar may show.

    Attributes:
        kind: `replayed` comes once, at the start. A trial is `started`, then `told`, also when it
            failed; `retried` in between if it met an accident. `exhausted`, `stalled` and
            `interrupted` (Ctrl-C) end the search before its limits do.
        n_told: Trials that have ended, those of the record included.
        n_spent: The same, each counted as its share of a whole training.
        trial: The trial that was started or told; of a retried one, the failure is the accident.
    """

    kind: EventKind
    n_told: int
    n_spent: float
    trial: Trial | None = None


Evaluate = Callable[[Trial], Evaluation]


def search(
    problem: Problem,
    strategy: Strategy,
    evaluate: Evaluate,
    record: Record,
    *,
    n_trials: float,
    seconds: float | None = None,
    stall: Stall | None = None,
    executor: Executor | None = None,
    n_workers: int = 1,
    on_event: Callable[[SearchEvent], None] = lambda event: None,
    clock_s: Callable[[], float] = time.monotonic,
) -> list[Trial]:
    """Search, or go on searching, until the record holds `n_trials` trials.

    Args:
        problem: What is searched; budgets are checked here once more, before anything is trained.
        strategy: A new one, which has been told nothing yet.
        evaluate: From a running trial (number, genotype, share of the training) to its objectives.
            An exception is a failed trial, after an accident a second try; the search goes on.
        record: Where trials are kept. The search continues what it holds.
        n_trials: Trials in all: those of the record and those that fail count. One with a share
            of the training counts as that share.
        seconds: Start no trial after so many seconds of this call; None: no limit.
        stall: A new one; no trial is started once it says that the search has stalled.
        executor: Where evaluations run, see `hwnas.executors`; the caller's, who shuts it down.
            None: in this thread.
        n_workers: Evaluations that run beside each other, at most.
        on_event: Called with each event, in this thread.
        clock_s: Clock that `seconds` is read from.

    Returns:
        The trials that ended, in the order in which they did. After Ctrl-C too: the trials that
        were running are then left to be run first by the next call.

    Raises:
        InfeasibleBudgetError: If no network meets the budgets.
        RunFolderError: If the record cannot be written.
        ExecutorError: If the executor cannot evaluate anything.
    """
    if n_workers < 1 or (n_workers > 1 and executor is None):
        raise ValueError(f"{n_workers} evaluations at once need at least one, and an executor")
    start_s = clock_s()
    executor = executor or ThisThreadExecutor()
    loop = _Loop(problem, strategy, evaluate, record, executor, stall, on_event)
    try:
        loop.replay()
        while True:
            while len(loop.running) < n_workers:
                is_late = seconds is not None and clock_s() - start_s >= seconds
                if is_late or not loop.start_next(n_trials):
                    break
            if not loop.running:
                break
            loop.finish_first()
        if stall is not None and stall.is_stalled:
            loop.report("stalled")
    except SpaceExhaustedError:
        loop.report("exhausted")
    except KeyboardInterrupt:
        loop.interrupt()
    return loop.trials


@dataclass(frozen=True, slots=True)
class _Running:
    """A trial that is being evaluated.

    Attributes:
        trial: It.
        handle: Of it in the record.
        latency_ms: What it is predicted to take.
        accident: What ended its first try; None: it is the first.
    """

    trial: Trial
    handle: int
    latency_ms: float
    accident: str | None = None


class _Loop:
    """The state that the steps of one `search` share.

    Attributes:
        trials: Those that ended, in the order in which they did.
        running: What each future evaluates.
    """

    def __init__(
        self,
        problem: Problem,
        strategy: Strategy,
        evaluate: Evaluate,
        record: Record,
        executor: Executor,
        stall: Stall | None,
        on_event: Callable[[SearchEvent], None],
    ) -> None:
        self.trials: list[Trial] = []
        self.running: dict[Future[Evaluation], _Running] = {}
        self._problem = problem
        self._strategy = strategy
        self._evaluate = evaluate
        self._record = record
        self._executor = executor
        self._stall = stall
        self._on_event = on_event
        self._interrupted: list[Trial] = []  # by a kill, before this call
        self._n_proposed = 0

    def replay(self) -> None:
        """Tell the strategy what the record holds."""
        self._interrupted = self._record.interrupted()
        for trial in self._record.trials():
            self._learn(trial)
        for trial in self._interrupted:
            self._strategy.tell(trial)
        known = (*self.trials, *self._interrupted)
        self._n_proposed = max((trial.number + 1 for trial in known), default=0)
        self.report("replayed")

    def start_next(self, n_trials: float) -> bool:
        """Start what was interrupted, else what the strategy proposes; False: nothing for now.

        Raises:
            SpaceExhaustedError: If nothing is left, and no running trial can change that.
        """
        if self._interrupted:
            self._start(self._interrupted.pop(0))
            return True
        has_stalled = self._stall is not None and self._stall.is_stalled
        n_spent = _n_spent([*self.trials, *(of.trial for of in self.running.values())])
        if has_stalled or n_spent >= n_trials - ROUNDING:
            return False
        try:
            asked = Proposal.of(self._strategy.ask())
        except SpaceExhaustedError:
            if self.running:
                return False
            raise
        self._n_proposed += 1
        self._start(Trial(self._n_proposed - 1, asked.genotype, None, share=asked.share))
        return True

    def finish_first(self) -> None:
        """Wait until an evaluation ends, and write down and tell what came of it.

        Raises:
            ExecutorError: The workers can no more; what the others found by now is kept.
        """
        done, _ = wait(self.running, return_when=FIRST_COMPLETED)
        unable: ExecutorError | None = None
        for future in sorted(done, key=lambda future: self.running[future].trial.number):
            running = self.running.pop(future)
            try:
                evaluation: object = future.result()
            except ExecutorError as error:
                unable = error
                continue
            except Exception as error:
                failure = failure_of(error)
                if isinstance(failure, AccidentError) and running.accident is None:
                    self._retry(running, str(failure))
                else:
                    self._fail(running, str(failure))
                continue
            if isinstance(evaluation, Evaluation):
                self._finish(running, evaluation)
            else:  # of an evaluator of the user's own
                name = type(evaluation).__name__
                self._fail(running, f"TypeError: expected an Evaluation, the evaluator gave {name}")
        if unable is not None:
            raise unable

    def interrupt(self) -> None:
        """Keep what has come, and start none of what waits for a worker."""
        for future, running in self.running.items():
            if future.cancel() or not future.done() or future.exception() is not None:
                continue
            if isinstance(evaluation := future.result(), Evaluation):
                self._keep(running, evaluation)  # the strategy may be in the midst of a proposal
        self.trials = self._record.trials()  # Ctrl-C may have come between writing and keeping one
        self.report("interrupted")

    def report(self, kind: EventKind, trial: Trial | None = None) -> None:
        """Tell the caller what happened."""
        self._on_event(SearchEvent(kind, len(self.trials), _n_spent(self.trials), trial))

    def _start(self, trial: Trial) -> None:
        """Write down one proposal, and have it evaluated."""
        self.report("started", trial)
        costs = self._problem.predict(np.array([trial.genotype], dtype=np.int64))
        budgets = self._problem.budgets
        excess = {str(b): float(b.excess(costs.upper(b.metric))[0]) for b in budgets}
        handle = self._record.start(trial, costs.row(0), excess)
        running = _Running(trial, handle, float(costs.latency_ms[0]))
        over = [budget for budget, value in excess.items() if value > 0]
        if over:
            # No strategy proposes it; a predictor may have learned since an interrupted one was.
            self._fail(running, f"over the budget {' and '.join(over)}: not trained")
            return
        self._submit(running)

    def _submit(self, running: _Running) -> None:
        self.running[self._executor.submit(self._evaluate, running.trial)] = running

    def _retry(self, running: _Running, accident: str) -> None:
        self.report("retried", replace(running.trial, failure=accident))
        self._submit(replace(running, accident=accident))

    def _finish(self, running: _Running, evaluation: Evaluation) -> None:
        self._tell(self._keep(running, evaluation))

    def _keep(self, running: _Running, evaluation: Evaluation) -> Trial:
        """Write down what was found; the trial as it is now."""
        objectives = evaluation.objectives
        if len(objectives) == 1:
            objectives += (running.latency_ms,)
        result = dict(evaluation.result)
        if running.accident is not None:
            result["accident"] = running.accident
        if not all(map(math.isfinite, objectives)):
            reason = f"objectives are not finite: {objectives}"
            return self._keep_failure(running, reason, result)
        self._record.finish(running.handle, objectives, result)
        return replace(running.trial, objectives=objectives)

    def _fail(self, running: _Running, reason: str) -> None:
        self._tell(self._keep_failure(running, reason))

    def _keep_failure(
        self, running: _Running, reason: str, result: Mapping[str, Any] | None = None
    ) -> Trial:
        if running.accident is not None:
            same = running.accident == reason
            reason += " (twice)" if same else f" (before that: {running.accident})"
        self._record.fail(running.handle, reason, result)
        return replace(running.trial, failure=reason)

    def _tell(self, trial: Trial) -> None:
        self._learn(trial)
        self.report("told", trial)

    def _learn(self, trial: Trial) -> None:
        self._strategy.tell(trial)
        if self._stall is not None:
            self._stall.tell(trial)
        self.trials.append(trial)


def _n_spent(trials: list[Trial]) -> float:
    """What trials cost, in whole trainings."""
    return math.fsum(trial.share for trial in trials)
