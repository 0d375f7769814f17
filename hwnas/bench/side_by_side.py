"""Calls in processes of their own, so many side by side, each on a core of its own."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from hwnas.errors import ConfigError
from hwnas.executors.errors import EvaluationFailedError
from hwnas.executors.worker_process import WorkerProcess

__all__ = ["side_by_side", "usable_cores"]

J = TypeVar("J")
Ended = tuple[J, Any]  # a job, and what its call returned or raised
TICK_S = 1.0


def usable_cores(n: int) -> list[int | None]:
    """So many of the cores that this process may use; None where the system cannot choose one.

    Raises:
        ConfigError: There are not so many: what shares a core is not compared fairly.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    known = sorted(affinity(0)) if affinity else [None] * (os.cpu_count() or 1)
    if not 1 <= n <= len(known):
        raise ConfigError(
            f"{n} searches side by side need a core each, and {len(known)} can be used here: ask "
            f"for 1 to {len(known)} jobs"
        )
    return known[-n:]  # the first one serves the system, too


def side_by_side(
    function: Callable[[J, int | None], Any],
    jobs: Sequence[J],
    cores: Sequence[int | None],
    *,
    hung_after_s: float,
    on_tick: Callable[[list[float]], None] = lambda running_s: None,
) -> Iterator[tuple[J, Any]]:
    """Call `function(job, core)` for every job, each in a new process with one thread.

    Jobs begin in their order. When the caller stops early, also by Ctrl-C, what runs is ended.

    Args:
        function: Of a module that can be imported; it, the jobs and its results pickle.
        jobs: What to call it with.
        cores: As many calls as there are run side by side.
        hung_after_s: A process that takes so long ends.
        on_tick: Called every second with how long each of the running calls has been at it.

    Yields:
        Jobs as they end, with what came of them: the result, or an `EvaluationFailedError`.
    """
    places = [_Place(function, core, hung_after_s) for core in cores]
    waiting: queue.SimpleQueue[J] = queue.SimpleQueue()
    ended: queue.SimpleQueue[Ended[J]] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    threads = [
        threading.Thread(target=place.work, args=(waiting, ended), daemon=True) for place in places
    ]
    for thread in threads:
        thread.start()
    n_left = len(jobs)
    try:
        while n_left:
            try:
                job, found = ended.get(timeout=TICK_S)
            except queue.Empty:
                now_s = time.monotonic()
                starts_s = [place.start_s for place in places]
                on_tick([now_s - start_s for start_s in starts_s if start_s is not None])
                continue
            if isinstance(found, BaseException) and not isinstance(found, EvaluationFailedError):
                raise found
            n_left -= 1
            yield job, found
    finally:
        for place in places:
            place.close()
        for thread in threads:
            thread.join()


class _Place(Generic[J]):
    """A core, and the process that works there."""

    def __init__(
        self, function: Callable[[J, int | None], Any], core: int | None, hung_after_s: float
    ) -> None:
        self.start_s: float | None = None
        self._function = function
        self._core = core
        self._hung_after_s = hung_after_s
        self._worker: WorkerProcess | None = None
        self._is_closed = threading.Event()

    def work(self, waiting: queue.SimpleQueue[J], ended: queue.SimpleQueue[Ended[J]]) -> None:
        """Do one job after the other until none is left."""
        while not self._is_closed.is_set():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                ended.put((job, self._call(job)))
            except BaseException as error:
                ended.put((job, error))

    def _call(self, job: J) -> Any:
        worker = self._worker = WorkerProcess(n_threads=1)
        try:
            if self._is_closed.is_set():
                worker.end()
            self.start_s = time.monotonic()
            call = (self._function, (job, self._core), int(self._hung_after_s))
            return worker.call(call, lambda share: None)
        finally:
            self.start_s = None
            worker.close()

    def close(self) -> None:
        """End what runs; no other job is begun."""
        self._is_closed.set()
        worker = self._worker
        if worker is not None:
            worker.end()
