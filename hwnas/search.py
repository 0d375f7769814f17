"""The loop of a search: ask, evaluate, write down, tell; until a limit, Ctrl-C or the end.

It starts by replaying the record, so the same call goes on where a killed one stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from hwnas.record import Record
from hwnas.spaces.base import Genotype
from hwnas.strategies.base import Problem, SpaceExhaustedError, Strategy, Trial

__all__ = ["Evaluation", "SearchEvent", "search"]

MAX_REASON_LENGTH = 500


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
            failed. `exhausted` and `interrupted` (Ctrl-C) end the search before its limits do.
        n_told: Trials that have ended, those of the record included.
        trial: The trial that was started or told.
    """

    kind: Literal["replayed", "started", "told", "exhausted", "interrupted"]
    n_told: int
    trial: Trial | None = None


Evaluate = Callable[[Genotype, int], Evaluation]


def search(
    problem: Problem,
    strategy: Strategy,
    evaluate: Evaluate,
    record: Record,
    *,
    n_trials: int,
    seconds: float | None = None,
    on_event: Callable[[SearchEvent], None] = lambda event: None,
    clock_s: Callable[[], float] = time.monotonic,
) -> list[Trial]:
    """Search, or go on searching, until the record holds `n_trials` trials.

    Args:
        problem: What is searched; budgets are checked here once more, before anything is trained.
        strategy: A new one, which has been told nothing yet.
        evaluate: From a genotype and the number of its proposal to its objectives. An exception
            is a failed trial; the search goes on.
        record: Where trials are kept. The search continues what it holds.
        n_trials: Trials in all: those of the record and those that fail count.
        seconds: Start no trial after so many seconds of this call; None: no limit.
        on_event: Called with each event.
        clock_s: Clock that `seconds` is read from.

    Returns:
        The trials that ended, in the order in which they did. After Ctrl-C too: the trial that
        was running is then left to be run first by the next call.

    Raises:
        InfeasibleBudgetError: If no network meets the budgets.
        RunFolderError: If the record cannot be written.
    """
    start_s = clock_s()
    trials = record.trials()
    pending = record.interrupted()
    try:
        for trial in (*trials, *pending):
            strategy.tell(trial)
        on_event(SearchEvent("replayed", len(trials)))
        n_proposed = max((trial.number + 1 for trial in (*trials, *pending)), default=0)
        while pending or n_proposed < n_trials:
            if seconds is not None and clock_s() - start_s >= seconds:
                break
            if pending:
                proposal = pending.pop(0)
            else:
                proposal = Trial(n_proposed, strategy.ask(), None)
                n_proposed += 1
            on_event(SearchEvent("started", len(trials), proposal))
            trial = _run(problem, proposal, evaluate, record)
            strategy.tell(trial)
            trials.append(trial)
            on_event(SearchEvent("told", len(trials), trial))
    except SpaceExhaustedError:
        on_event(SearchEvent("exhausted", len(trials)))
    except KeyboardInterrupt:
        trials = record.trials()  # it may have come between writing a trial and keeping it here
        on_event(SearchEvent("interrupted", len(trials)))
    return trials


def _run(problem: Problem, proposal: Trial, evaluate: Evaluate, record: Record) -> Trial:
    """Evaluate one proposal and write down what came of it."""
    number, genotype = proposal.number, proposal.genotype
    costs = problem.predict(np.array([genotype], dtype=np.int64))
    excess = {str(b): float(b.excess(costs.upper(b.metric))[0]) for b in problem.budgets}
    handle = record.start(number, genotype, costs.row(0), excess)
    over = [budget for budget, value in excess.items() if value > 0]
    if over:
        # No strategy proposes it; but a predictor may have learned since an interrupted one was.
        return _fail(record, handle, proposal, f"over the budget {' and '.join(over)}: not trained")
    try:
        evaluation = evaluate(genotype, number)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return _fail(record, handle, proposal, reason[:MAX_REASON_LENGTH])
    objectives = tuple(float(value) for value in evaluation.objectives)
    if not all(map(math.isfinite, objectives)):
        reason = f"objectives are not finite: {objectives}"
        return _fail(record, handle, proposal, reason, evaluation.result)
    record.finish(handle, objectives, evaluation.result)
    return Trial(number, genotype, objectives)


def _fail(
    record: Record,
    handle: int,
    proposal: Trial,
    reason: str,
    result: Mapping[str, Any] | None = None,
) -> Trial:
    record.fail(handle, reason, result)
    return Trial(proposal.number, proposal.genotype, None, reason)
