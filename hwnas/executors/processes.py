"""Evaluate in processes of this machine: a candidate that takes its process down is one failure.

Training runs native code: it can crash, run out of memory or never return, and no `except` catches
that. So every worker is a process that is started once, keeps what its initializer made, is watched
from here, and is started again after a candidate has ended it.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from hwnas.executors.errors import AccidentError, ExecutorError
from hwnas.executors.limits import PATIENCE_S, Limits, TimeLimit, default_memory_bytes
from hwnas.executors.worker_process import WorkerProcess
from hwnas.strategies.base import Trial

__all__ = ["ProcessExecutor"]

P = ParamSpec("P")
T = TypeVar("T")
START_LIMIT_S = 600.0
N_STARTS = 3  # in a row, where something else ends the process meanwhile
WATCH_INTERVAL_S = 0.05
STOPPED_S = 1.0  # without a watch: the driver itself stood still


class ProcessExecutor(Executor):
    """Runs evaluations in `n_workers` processes, each started when it is first needed.

    Use it in a `with` block: leaving it ends what runs at once, and no process outlives this one,
    however it ends.

    Args:
        n_workers: Evaluations at once.
        initializer: Called once in each process, before its first evaluation; picklable. It may
            take `START_LIMIT_S`, and the memory of an evaluation.
        limits: Of each evaluation; None: the defaults.
        n_threads: That one process computes with.
        gpus: As `CUDA_VISIBLE_DEVICES` names them: each worker sees one, in turn. Empty: all see
            all of them.
        past_s: What whole evaluations took in earlier calls of the same search.
        on_progress: Called with the trial's number and the share of it that is done, from any
            thread.
        clock_s: Clock that the time limit is read from; it must not jump.

    Example:
        >>> with ProcessExecutor() as executor:
        ...     executor.submit(repr, Trial(0, (1, 2), None)).result()
        'Trial(number=0, genotype=(1, 2), objectives=None, failure=None, share=1.0)'
    """

    def __init__(
        self,
        n_workers: int = 1,
        *,
        initializer: Callable[[], object] | None = None,
        limits: Limits | None = None,
        n_threads: int = 1,
        gpus: Sequence[str] = (),
        past_s: tuple[float, ...] = (),
        on_progress: Callable[[int, float], None] = lambda number, share: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = limits or Limits()
        self._initializer = initializer or _nothing
        self._n_threads = n_threads
        self._time_limit = TimeLimit(limits.seconds, past_s=past_s)
        self._memory_bytes = limits.memory_bytes or default_memory_bytes(n_workers)
        self._on_progress = on_progress
        self._clock_s = clock_s
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._workers: set[WorkerProcess] = set()
        self._is_closed = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._keep_a_worker,
                args=(gpus[i % len(gpus)] if gpus else None,),
                daemon=True,
            )
            for i in range(n_workers)
        ]
        self._threads.append(threading.Thread(target=self._watch, daemon=True))
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `fn(trial)` called in a worker; both are picklable.

        The future fails with `AccidentError` where the process was killed from elsewhere, ran out
        of memory or hung, with `EvaluationFailedError` where the candidate failed or crashed, and
        with `ExecutorError` where no process can be started.
        """
        (trial,) = args
        if not isinstance(trial, Trial) or kwargs:
            raise TypeError(f"evaluations take one trial, got {args} and {kwargs}")
        if self._is_closed.is_set():
            raise RuntimeError("a closed executor takes no more evaluations")
        future: Future[T] = Future()
        self._jobs.put(_Job(future, fn, trial))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End all processes at once, and with them what runs; nothing is waited for."""
        self._is_closed.set()
        with self._lock:
            for worker in self._workers:
                worker.end()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _keep_a_worker(self, gpu: str | None) -> None:
        """Evaluate one trial after the other, in a process that is started again when it ended."""
        worker: WorkerProcess | None = None
        while (job := self._jobs.get()) is not None and not self._is_closed.is_set():
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                if worker is None or not worker.is_alive:
                    self._forget(worker)
                    worker = None  # should starting one fail
                    worker = self._started(gpu)
                job.future.set_result(self._evaluate(worker, job))
            except BaseException as error:
                job.future.set_exception(error)
        self._forget(worker)

    def _evaluate(self, worker: WorkerProcess, job: _Job) -> Any:
        limit_s = self._time_limit.seconds(job.trial.share)
        start_s = self._clock_s()

        def on_progress(share: float) -> None:
            if limit_s is None:
                worker.expect(self._clock_s() + PATIENCE_S, no_progress)
            self._on_progress(job.trial.number, share)

        no_progress = f"hung: no progress in {PATIENCE_S:g} s"
        due_s = PATIENCE_S if limit_s is None else limit_s
        otherwise = no_progress if limit_s is None else f"hung: no result in {limit_s:g} s"
        worker.expect(start_s + due_s, otherwise)
        found = worker.call((job.fn, (job.trial,), math.ceil(due_s)), on_progress)
        self._time_limit.note(self._clock_s() - start_s, job.trial.share)
        return found

    def _started(self, gpu: str | None) -> WorkerProcess:
        """A process that is ready for its first evaluation.

        Raises:
            ExecutorError: None can be started.
        """
        reason: object = None
        for _ in range(N_STARTS):
            try:
                worker = WorkerProcess(self._n_threads, gpu)
            except OSError as error:
                raise ExecutorError(f"a worker process could not be started: {error}") from None
            with self._lock:
                self._workers.add(worker)
                if self._is_closed.is_set():
                    worker.end()
            worker.expect(self._clock_s() + START_LIMIT_S, f"not ready in {START_LIMIT_S:g} s")
            try:
                worker.call((self._initializer, (), math.ceil(START_LIMIT_S)), lambda share: None)
            except Exception as error:  # also that the initializer cannot be pickled
                self._forget(worker)
                reason = error
                if not isinstance(error, AccidentError) or self._is_closed.is_set():
                    break
            else:
                return worker
        raise ExecutorError(f"a worker process could not be made ready: {reason}")

    def _forget(self, worker: WorkerProcess | None) -> None:
        if worker is not None:
            with self._lock:
                self._workers.discard(worker)
            worker.close()

    def _watch(self) -> None:
        """End the processes that went beyond a limit."""
        seen_s = self._clock_s()
        while not self._is_closed.wait(WATCH_INTERVAL_S):
            with self._lock:
                workers = list(self._workers)
            now_s = self._clock_s()
            # A driver that was stopped, by Ctrl-Z or with its machine, could read no answer.
            stopped_s = now_s - seen_s if now_s - seen_s > STOPPED_S else 0.0
            for worker in workers:
                worker.check(now_s, stopped_s=stopped_s, memory_bytes=self._memory_bytes)
            seen_s = now_s


@dataclass(frozen=True, slots=True)
class _Job:
    future: Future[Any]
    fn: Callable[..., Any]
    trial: Trial


def _nothing() -> None:
    """Answers as soon as the process has started."""
