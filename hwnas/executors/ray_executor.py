"""Evaluate on a Ray cluster: trials are tasks, and Ray says where and, after a node died, again.

Every trial is one task that asks for its cores, its share of a GPU and its memory. The data travel
once, through the object store. On the node a process with limits evaluates (`ray_worker`).
"""

from __future__ import annotations

import pickle
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

from hwnas.executors import ray_worker
from hwnas.executors.errors import AccidentError, EvaluationFailedError, ExecutorError
from hwnas.executors.limits import Limits
from hwnas.executors.ray_cluster import PATIENCE_S, Node, RayCluster
from hwnas.executors.ray_worker import Outcome, Setup
from hwnas.search import Evaluation
from hwnas.strategies.base import Trial

__all__ = ["RayExecutor", "TrialResources"]

P = ParamSpec("P")
T = TypeVar("T")
MAX_RETRIES = 3  # by Ray: of a trial whose node or Ray worker died
WATCH_INTERVAL_S, REPORT_WAIT_S = 5.0, 1.0


@dataclass(frozen=True, slots=True)
class TrialResources:
    """What one trial asks Ray for.

    Attributes:
        cpus: Cores; also the threads that it computes with.
        gpus: A share below 1 lets several trials use one GPU.
        memory_bytes: That Ray sets aside for it on its node; None: Ray is not asked.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int | None = None

    @classmethod
    def of(
        cls, cluster: RayCluster, *, gpus: float | None = None, memory_bytes: int | None = None
    ) -> Self:
        """One core, and one GPU if the cluster has any; `gpus` says otherwise."""
        if gpus is None:
            gpus = 1.0 if cluster.total("GPU") >= 1 else 0.0
        return cls(gpus=gpus, memory_bytes=memory_bytes)

    @property
    def needed(self) -> dict[str, float]:
        """By Ray's names."""
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes or 0}

    def __str__(self) -> str:
        memory = f", {self.memory_bytes / 1e6:,.0f} MB" if self.memory_bytes else ""
        return f"{self.cpus:g} CPU, {self.gpus:g} GPU{memory}"


class RayExecutor(Executor):
    """Evaluates trials on the nodes of a Ray cluster.

    Use it in a `with` block: leaving it ends what runs at once. The result of an evaluation says in
    `node` where it was.

    Args:
        cluster: Where.
        resources: Of each trial.
        initializer: Called once in each process that evaluates; picklable.
        limits: Of each evaluation; memory by default is each trial's part of its node's.
        past_s: What whole evaluations took in earlier calls of the same search.
        on_progress: Called with the trial's number and the share of it that is done, from any
            thread.
        say: Told in a line which nodes come and go.

    Raises:
        ExecutorError: No trial fits on any node, whatever else ran there.
    """

    def __init__(
        self,
        cluster: RayCluster,
        *,
        resources: TrialResources,
        initializer: Callable[[], object],
        limits: Limits | None = None,
        past_s: tuple[float, ...] = (),
        on_progress: Callable[[int, float], None] = lambda number, share: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._cluster, self._ray = cluster, cluster.ray
        self._resources = resources
        self._on_progress, self._say = on_progress, say
        self._nodes = {node.id: node for node in cluster.nodes()}
        if not self.n_slots:
            raise ExecutorError(f"{self._no_room()}. Ask for less, or add a node")
        self._key = uuid.uuid4().hex
        setup = Setup(
            self._key,
            pickle.dumps(initializer),
            str(Path.cwd()),
            n_threads=max(1, int(resources.cpus)),
            limits=limits or Limits(),
            past_s=past_s,
        )
        self._setup = self._ray.put(setup)
        self._reports = cluster.queue()
        self._task = self._ray.remote(ray_worker.evaluate_task)
        self._options = {
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "memory": resources.memory_bytes,
            "max_retries": MAX_RETRIES,
        }
        self._lock = threading.Lock()
        self._running: dict[Future[Any], Any] = {}  # to the task's object reference
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def n_slots(self) -> int:
        """How many trials the nodes that are alive now can run at once."""
        return self._cluster.n_fitting(self._resources.needed)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `fn(trial)` called on a node; both are picklable.

        The future fails with `AccidentError` where the process was killed, ran out of memory or
        hung, with `EvaluationFailedError` where the candidate failed or crashed, and with
        `ExecutorError` where the cluster cannot evaluate.
        """
        (trial,) = args
        if not isinstance(trial, Trial) or kwargs:
            raise TypeError(f"evaluations take one trial, got {args} and {kwargs}")
        if self._is_closed.is_set():
            raise RuntimeError("a closed executor takes no more evaluations")
        task = self._task.options(name=f"trial {trial.number}", **self._options)
        reference = task.remote(
            self._key, [self._setup], pickle.dumps(fn), trial, self._reports, self._resources.needed
        )
        future: Future[T] = Future()
        with self._lock:
            self._running[future] = reference
        future.add_done_callback(self._when_done)
        reference.future().add_done_callback(partial(self._settle, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End what runs at once; nothing is waited for."""
        self._is_closed.set()
        with self._lock:
            running = list(self._running)
        for future in running:
            future.cancel()
        if wait:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def _claim(self, future: Future[Any]) -> Any:
        """The task's reference, for the one who settles the future; None for all others."""
        with self._lock:
            return self._running.pop(future, None)

    def _when_done(self, future: Future[Any]) -> None:
        """If it was cancelled, nobody wants the result any more: end the task."""
        reference = self._claim(future)
        if reference is not None:
            with suppress(Exception):  # the cluster may be gone
                self._ray.cancel(reference, force=True)

    def _settle(self, future: Future[Any], found: Future[Outcome]) -> None:
        """Tell what came of a task."""
        if self._claim(future) is None or not future.set_running_or_notify_cancel():
            return
        error = found.exception()
        if error is not None:
            future.set_exception(self._meaning(error))
            return
        outcome = found.result()
        if outcome.kind == ray_worker.DONE:
            try:
                value = pickle.loads(outcome.value)
            except Exception as error:  # a tensor of a GPU that this machine has not, say
                what = f"its result cannot be read here: {type(error).__name__}: {error}"
                future.set_exception(EvaluationFailedError(what))
                return
            if isinstance(value, Evaluation):
                value = replace(value, result={**value.result, "node": outcome.node})
            future.set_result(value)
        elif outcome.kind == ray_worker.BROKEN:
            where = self._nodes.get(outcome.node, f"node {outcome.node[:8]}")
            future.set_exception(ExecutorError(f"{where} cannot evaluate: {outcome.value}"))
        else:
            is_accident = outcome.kind == ray_worker.ACCIDENT
            kind = AccidentError if is_accident else EvaluationFailedError
            future.set_exception(kind(outcome.value))

    def _meaning(self, error: BaseException) -> Exception:
        errors = self._ray.exceptions
        text = str(error).strip()
        if isinstance(error, (errors.WorkerCrashedError, errors.OutOfMemoryError)):
            return AccidentError(f"its Ray worker ended {1 + MAX_RETRIES} times: {_first(text)}")
        if isinstance(error, errors.RayTaskError):  # our side of it raises nothing
            return ExecutorError(
                f"a node of the cluster cannot evaluate: {text.splitlines()[-1]}. The same hwnas "
                f"must be installed on all nodes"
            )
        return ExecutorError(
            f"the Ray cluster lost a trial: {type(error).__name__}: {_first(text)}"
        )

    def _watch(self) -> None:
        """Pass on reports of progress, say which nodes come and go, and end what fits on none."""
        next_s = last_fit_s = time.monotonic()
        while not self._is_closed.is_set():
            self._pass_on()
            if time.monotonic() < next_s:
                continue
            next_s = time.monotonic() + WATCH_INTERVAL_S
            with suppress(Exception):  # the head node may be restarting
                self._compare(self._cluster.nodes())
                if self.n_slots or not self._running:
                    last_fit_s = time.monotonic()
            if time.monotonic() - last_fit_s > PATIENCE_S:
                self._give_up(f"{self._no_room()} for {PATIENCE_S:g} s. Add a node")

    def _pass_on(self) -> None:
        try:
            number, share = self._reports.get(timeout=REPORT_WAIT_S)
        except Exception:  # none came, or whatever kept them is gone
            self._is_closed.wait(0.1 * REPORT_WAIT_S)
        else:
            self._on_progress(number, share)

    def _compare(self, nodes: list[Node]) -> None:
        now = {node.id: node for node in nodes}
        for id_, node in self._nodes.items():
            if id_ not in now:
                self._say(f"{node} left the cluster: what ran there runs again on another node")
        for id_, node in now.items():
            if id_ not in self._nodes:
                self._say(f"{node} joined the cluster")
        self._nodes = now

    def _give_up(self, reason: str) -> None:
        with self._lock:
            running = list(self._running)
        for future in running:
            reference = self._claim(future)
            if reference is not None and future.set_running_or_notify_cancel():
                future.set_exception(ExecutorError(reason))
                with suppress(Exception):  # the cluster may be gone
                    self._ray.cancel(reference, force=True)

    def _no_room(self) -> str:
        nodes = "; ".join(
            f"{node} has {node.resources.get('CPU', 0):g} CPU, {node.resources.get('GPU', 0):g} GPU"
            for node in self._nodes.values()
        )
        return f"no node of the cluster fits a trial ({self._resources}): {nodes or 'it has none'}"


def _first(text: str) -> str:
    """The first sentence: Ray's messages go on with where to look in its logs."""
    return " ".join(text.split()).partition(". ")[0]
