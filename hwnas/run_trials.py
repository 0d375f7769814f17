"""The trials of a run: in worker processes, shown, timed, until they are done or interrupted."""

from __future__ import annotations

from functools import partial

from hwnas.config import SearchConfig
from hwnas.evaluators.plan import EvaluatorPlan, evaluate, prepare
from hwnas.executors.ray_cluster import RayCluster
from hwnas.progress import Progress
from hwnas.record import Record
from hwnas.run_folder import RunFolder
from hwnas.run_workers import Workers
from hwnas.search import SearchEvent, search
from hwnas.stopping import Stall
from hwnas.strategies.base import Problem, Strategy, Trial
from hwnas.trials_progress import TrialsProgress

MAX_SECONDS = 1e9  # of a training; a record that says more is not believed

__all__ = ["past_seconds", "run_trials"]


def run_trials(
    config: SearchConfig,
    problem: Problem,
    strategy: Strategy,
    plan: EvaluatorPlan,
    record: Record,
    folder: RunFolder,
    progress: Progress,
    *,
    n_threads: int,
    cluster: RayCluster | None = None,
) -> tuple[list[Trial], bool]:
    """Run the trials of a search, or go on with them.

    When it returns, or raises, no process is left that could disturb a measurement.

    Args:
        config: How many, how long, on how many workers.
        problem: What is searched.
        strategy: A new one.
        plan: Of the evaluator.
        record: Where trials are kept.
        folder: Where the time is noted that they took.
        progress: Where they are shown.
        n_threads: That a single worker computes with.
        cluster: Where trials run; None: on this machine.

    Returns:
        Those that ended, in the order in which they did; and False if it was interrupted.
    """
    workers = Workers(config, n_threads, progress.say, cluster)
    seconds_left = None
    if config.minutes is not None:  # of all calls together
        spent = (folder.spent.get(name, 0.0) for name in ("guide_seconds", "search_seconds"))
        seconds_left = 60 * config.minutes - sum(spent)
    is_interrupted = False
    with (
        progress.task("training candidates", config.trials) as task,
        folder.spending("search_seconds") as save,
    ):
        shown = TrialsProgress(task, progress, n_workers=workers.n_at_once)

        def on_event(event: SearchEvent) -> None:
            nonlocal is_interrupted
            is_interrupted |= event.kind == "interrupted"
            shown.on_event(event)
            if event.kind == "told":
                save()  # a kill should not win time
            if event.kind == "stalled":
                progress.say(f"ended: the front has not grown for {config.patience} trials")

        initializer, past_s = partial(prepare, plan), past_seconds(record)
        with workers.open(initializer, on_progress=shown.on_progress, past_s=past_s) as executor:
            trials = search(
                problem,
                strategy,
                evaluate,
                record,
                n_trials=config.trials,
                seconds=seconds_left,
                stall=None if config.patience is None else Stall(config.patience),
                executor=executor,
                n_workers=workers.n_at_once,
                on_event=on_event,
            )
    return trials, not is_interrupted


def past_seconds(record: Record) -> tuple[float, ...]:
    """What whole trainings took, by the trials of the record."""
    results = record.results()
    seconds = {n: found.get("train_seconds") for n, found in results.items()}
    return tuple(
        float(taken) / trial.share
        for trial in record.trials()
        if isinstance(taken := seconds.get(trial.number), (int, float)) and 0 <= taken < MAX_SECONDS
    )
