"""The trials of a run: in worker processes, shown, timed, until they are done or interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial

from hwnas.config import SearchConfig
from hwnas.evaluators.catalog import make_evaluator
from hwnas.evaluators.plan import EvaluatorPlan, evaluate, prepare
from hwnas.executors.limits import Limits
from hwnas.executors.processes import ProcessExecutor
from hwnas.executors.progress import reporting_to
from hwnas.executors.ray_cluster import RayCluster
from hwnas.executors.ray_executor import RayExecutor, TrialResources
from hwnas.progress import Progress
from hwnas.record import Record
from hwnas.run_folder import RunFolder
from hwnas.search import Evaluate, Evaluation, SearchEvent, search
from hwnas.stopping import Stall
from hwnas.strategies.base import Problem, Strategy, Trial
from hwnas.trials_progress import TrialsProgress

__all__ = ["run_trials"]


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
    seconds_left = None
    if config.minutes is not None:  # of all calls together
        spent = (folder.spent.get(name, 0.0) for name in ("guide_seconds", "search_seconds"))
        seconds_left = 60 * config.minutes - sum(spent)
    is_interrupted = False
    with (
        progress.task("training candidates", config.trials) as task,
        folder.spending("search_seconds") as save,
    ):
        shown = TrialsProgress(task, progress, n_workers=_n_workers(config, cluster))

        def on_event(event: SearchEvent) -> None:
            nonlocal is_interrupted
            is_interrupted |= event.kind == "interrupted"
            shown.on_event(event)
            if event.kind == "told":
                save()  # a kill should not win time
            if event.kind == "stalled":
                progress.say(f"ended: the front has not grown for {config.patience} trials")

        with _evaluation(config, plan, problem, record, shown, progress, n_threads, cluster) as (
            evaluate,
            executor,
        ):
            trials = search(
                problem,
                strategy,
                evaluate,
                record,
                n_trials=config.trials,
                seconds=seconds_left,
                stall=None if config.patience is None else Stall(config.patience),
                executor=executor,
                n_workers=max(1, _n_workers(config, cluster)),
                on_event=on_event,
            )
    return trials, not is_interrupted


@contextmanager
def _evaluation(
    config: SearchConfig,
    plan: EvaluatorPlan,
    problem: Problem,
    record: Record,
    shown: TrialsProgress,
    progress: Progress,
    n_threads: int,
    cluster: RayCluster | None,
) -> Iterator[tuple[Evaluate, Executor | None]]:
    """What evaluates a trial, and where."""
    n_workers = _n_workers(config, cluster)
    if n_workers == 0:
        evaluator = make_evaluator(
            plan.evaluator, problem.space, plan.data, plan.recipe, seed=plan.seed
        )

        def evaluate_here(trial: Trial) -> Evaluation:
            with reporting_to(partial(shown.on_progress, trial.number)):
                return evaluator(trial)

        yield evaluate_here, None
        return
    memory_mb = config.trial_memory_mb
    limits = Limits(config.trial_seconds, int(1e6 * memory_mb) if memory_mb else None)
    executor: ProcessExecutor | RayExecutor
    if cluster is not None:
        executor = RayExecutor(
            cluster,
            resources=_resources(config, cluster),
            initializer=partial(prepare, plan),
            limits=limits,
            past_s=_past_seconds(record),
            on_progress=shown.on_progress,
            say=progress.say,
        )
    else:
        executor = ProcessExecutor(
            n_workers,
            initializer=partial(prepare, plan),
            limits=limits,
            n_threads=1 if n_workers > 1 else n_threads,
            past_s=_past_seconds(record),
            on_progress=shown.on_progress,
        )
    with executor:
        yield evaluate, executor


def _resources(config: SearchConfig, cluster: RayCluster) -> TrialResources:
    memory_mb = config.trial_memory_mb
    return TrialResources.of(
        cluster,
        gpus=config.gpus_per_trial,
        memory_bytes=int(1e6 * memory_mb) if memory_mb else None,
    )


def _n_workers(config: SearchConfig, cluster: RayCluster | None) -> int:
    if config.workers is not None:
        return config.workers
    return 1 if cluster is None else cluster.n_fitting(_resources(config, cluster).needed)


def _past_seconds(record: Record) -> tuple[float, ...]:
    """What whole trainings took, by the trials of the record."""
    results = record.results()
    seconds = {n: found.get("train_seconds") for n, found in results.items()}
    return tuple(
        float(taken) / trial.share
        for trial in record.trials()
        if isinstance(taken := seconds.get(trial.number), (int, float))
    )
