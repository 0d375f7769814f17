"""The loop of a search: ask, evaluate, write down, tell; until a limit, Ctrl-C or the end.

It starts by replaying the record, so the same call goes on where a killed one stopped. Evaluations
may run beside each other: the one that ends first is told first, and the next proposal takes its
place at once, so that a slow candidate holds nobody up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field, replace
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np

from hwnas.record import Record
from hwnas.stopping import ROUNDING, Stall
from hwnas.strategies.base import Problem, Proposal, SpaceExhaustedError, Strategy, Trial

__all__ = ["Evaluation", "SearchEvent", "search"]

MAX_REASON_LENGTH = 500
EventKind = Literal["replayed", "started", "told", "exhausted", "stalled", "interrupted"]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What evaluating one genotype gave.

    Attributes:
        objectives: Minimised, in the order of `hwnas.strategies.OBJECTIVES`.
        result: Whatever else the record should keep, plain JSON: accuracies, seconds.
    """

    objectives: tuple[float, ...]
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SearchEvent:
    """Something that a progress bar may show.

    Attributes:
        kind: `replayed` comes once, at the start. A trial is `started`, then `told`, also when it
            failed. `exhausted`, `stalled` and `interrupted` (Ctrl-C) end the search before its
            limits do.
        n_told: Trials that have ended, those of the record included.
        n_spent: The same, each counted as its share of a whole training.
        trial: The trial that was started or told.
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
            An exception is a failed trial; the search goes on.
        record: Where trials are kept. The search continues what it holds.
        n_trials: Trials in all: those of the record and those that fail count. One with a share
            of the training counts as that share.
        seconds: Start no trial after so many seconds of this call; None: no limit.
        stall: A new one; no trial is started once it says that the search has stalled.
        executor: Where evaluations run; the caller's, who shuts it down. None: in this thread.
        n_workers: Evaluations that run beside each other, at most.
        on_event: Called with each event, in this thread.
        clock_s: Clock that `seconds` is read from.

    Returns:
        The trials that ended, in the order in which they did. After Ctrl-C too: the trials that
        were running are then left to be run first by the next call.

    Raises:
        InfeasibleBudgetError: If no network meets the budgets.
        RunFolderError: If the record cannot be written.
    """
    if n_workers < 1 or (n_workers > 1 and executor is None):
        raise ValueError(f"{n_workers} evaluations at once need at least one, and an executor")
    start_s = clock_s()
    loop = _Loop(problem, strategy, evaluate, record, executor or _ThisThread(), stall, on_event)
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


class _Loop:
    """The state that the steps of one `search` share.

    Attributes:
        trials: Those that ended, in the order in which they did.
        running: The trial that each future evaluates, and its handle in the record.
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
        self.running: dict[Future[Evaluation], tuple[Trial, int]] = {}
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
        n_spent = _n_spent([*self.trials, *(trial for trial, _ in self.running.values())])
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
        """Wait until an evaluation ends, and write down and tell what came of it."""
        done, _ = wait(self.running, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=lambda future: self.running[future][0].number):
            trial, handle = self.running.pop(future)
            try:
                evaluation = future.result()
            except Exception as error:
                self._fail(trial, handle, f"{type(error).__name__}: {error}"[:MAX_REASON_LENGTH])
                continue
            objectives = tuple(float(value) for value in evaluation.objectives)
            if not all(map(math.isfinite, objectives)):
                reason = f"objectives are not finite: {objectives}"
                self._fail(trial, handle, reason, evaluation.result)
                continue
            self._record.finish(handle, objectives, evaluation.result)
            self._tell(replace(trial, objectives=objectives))

    def interrupt(self) -> None:
        """Keep what is in the record, and start none of what waits for a worker."""
        for future in self.running:
            future.cancel()
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
        over = [budget for budget, value in excess.items() if value > 0]
        if over:
            # No strategy proposes it; a predictor may have learned since an interrupted one was.
            self._fail(trial, handle, f"over the budget {' and '.join(over)}: not trained")
            return
        future = self._executor.submit(self._evaluate, trial)
        self.running[future] = trial, handle

    def _fail(
        self, trial: Trial, handle: int, reason: str, result: Mapping[str, Any] | None = None
    ) -> None:
        self._record.fail(handle, reason, result)
        self._tell(replace(trial, failure=reason))

    def _tell(self, trial: Trial) -> None:
        self._learn(trial)
        self.report("told", trial)

    def _learn(self, trial: Trial) -> None:
        self._strategy.tell(trial)
        if self._stall is not None:
            self._stall.tell(trial)
        self.trials.append(trial)


class _ThisThread(Executor):
    """Evaluates at once and in this thread, so that Ctrl-C ends what runs."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call `fn`; the future that is returned is done."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _n_spent(trials: list[Trial]) -> float:
    """What trials cost, in whole trainings."""
    return math.fsum(trial.share for trial in trials)
