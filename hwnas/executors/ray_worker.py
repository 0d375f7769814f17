"""The node's side of `hwnas.executors.ray_executor`: evaluate a trial in a process with limits.

A Ray worker process only passes on what it gets, and keeps one worker process as of
`hwnas.executors.processes`, which does the work. So a candidate that takes its process down is told
apart from a node that died, on a cluster as on one machine. Neither torch nor the data are in the
Ray worker: what travels is pickled, and is unpickled where it is used.
"""

from __future__ import annotations

import importlib
import os
import pickle
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from hwnas.code_digest import own_version
from hwnas.executors.errors import AccidentError, EvaluationFailedError, ExecutorError
from hwnas.executors.limits import Limits, default_memory_bytes
from hwnas.executors.processes import ProcessExecutor
from hwnas.executors.ray_cluster import Node
from hwnas.strategies.base import Trial

__all__ = [
    "ACCIDENT",
    "BROKEN",
    "DONE",
    "FAILED",
    "Outcome",
    "Setup",
    "evaluate_here",
    "evaluate_task",
]

# What became of an evaluation, and its pickled result or the reason; and where that was.
DONE, FAILED, ACCIDENT, BROKEN = "done", "failed", "accident", "broken"
REPORT_INTERVAL_S = 2.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker needs before its first trial; it travels once to a node.

    Attributes:
        key: Tells setups apart.
        initializer: Pickled; called once in each process that evaluates.
        folder: Where relative paths start, if there is such a folder on the node.
        n_threads: That a process computes with.
        limits: Of each evaluation.
        past_s: As `ProcessExecutor` takes them.
        version: Of hwnas on the driver, and the digest of its code.
    """

    key: str
    initializer: bytes
    folder: str
    n_threads: int
    limits: Limits
    past_s: tuple[float, ...] = ()
    version: str = field(default_factory=own_version)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one evaluation.

    Attributes:
        kind: `DONE`, `FAILED`, `ACCIDENT` or `BROKEN`.
        value: The pickled result, or the reason.
        node: Id of the node.
    """

    kind: str
    value: Any
    node: str


def evaluate_task(
    key: str,
    setup: list[Any],
    function: bytes,
    trial: Trial,
    reports: Any,
    needed: Mapping[str, float],
) -> Outcome:
    """The task that Ray runs; see `evaluate_here`.

    Args:
        key: Of the setup.
        setup: The reference to it, in a list: given as it is, Ray would fetch it for every trial.
        function: Pickled; called with the trial.
        trial: What is evaluated.
        reports: A queue of Ray for the number of the trial and the share of it that is done.
        needed: What a trial asks for, by Ray's names.
    """
    ray = importlib.import_module("ray")
    here = ray.get_runtime_context().get_node_id()

    def fetch() -> Setup:
        found: Setup = ray.get(setup[0])
        if found.limits.memory_bytes is not None:
            return found
        nodes = [node for node in ray.nodes() if node["NodeID"] == here]
        n_here = sum(Node(here, "", node["Resources"]).n_fitting(needed) for node in nodes)
        memory_bytes = default_memory_bytes(max(1, n_here))
        return replace(found, limits=Limits(found.limits.seconds, memory_bytes))

    def report(number: int, share: float) -> None:
        with suppress(Exception):  # progress is worth no trial
            reports.put_nowait((number, share))

    return evaluate_here(key, fetch, function, trial, report, node=here)


_kept: tuple[tuple[str, str | None], ProcessExecutor] | None = None  # and what it was made for


def _nowhere(number: int, share: float) -> None:
    """Nobody listens."""


_report: Callable[[int, float], object] = _nowhere  # of the trial that is being evaluated


def _pass_on(number: int, share: float) -> None:
    _report(number, share)


def evaluate_here(
    key: str,
    setup: Callable[[], Setup],
    function: bytes,
    trial: Trial,
    report: Callable[[int, float], object],
    *,
    node: str,
) -> Outcome:
    """Evaluate a trial in a process of this node, with the limits of the setup.

    Args:
        key: Of the setup.
        setup: Fetches the setup, where no process has it yet.
        function: Pickled; called with the trial.
        trial: What is evaluated.
        report: Called with the number of the trial and the share of it that is done, now and then.
        node: Id of this node.
    """
    global _report
    try:
        executor = _executor(key, setup)
        _report = _seldom(report)
        value = executor.submit(partial(_call, function), trial).result()
    except ExecutorError as error:
        return Outcome(BROKEN, str(error), node)
    except AccidentError as error:
        return Outcome(ACCIDENT, str(error), node)
    except EvaluationFailedError as error:
        return Outcome(FAILED, str(error), node)
    return Outcome(DONE, value, node)


def _executor(key: str, fetch: Callable[[], Setup]) -> ProcessExecutor:
    """The kept executor; a new one for another setup, or other GPUs than a process has seen."""
    global _kept
    made_for = key, os.environ.get("CUDA_VISIBLE_DEVICES")
    if _kept is not None:
        if _kept[0] == made_for:
            return _kept[1]
        _kept[1].shutdown()
        _kept = None
    setup = fetch()
    if setup.version != own_version():
        raise ExecutorError(f"it has hwnas {own_version()}, the driver {setup.version}")
    executor = ProcessExecutor(
        initializer=partial(_prepare, setup.initializer, setup.folder),
        limits=setup.limits,
        n_threads=setup.n_threads,
        past_s=setup.past_s,
        on_progress=_pass_on,
    )
    _kept = made_for, executor
    return executor


def _prepare(initializer: bytes, folder: str) -> None:
    """In the evaluating process: stand where the driver stands, and call the initializer."""
    if Path(folder).is_dir():
        os.chdir(folder)
    pickle.loads(initializer)()


def _call(function: bytes, trial: Trial) -> bytes:
    """In the evaluating process: evaluate; the result stays pickled until the driver has it."""
    return pickle.dumps(pickle.loads(function)(trial))


def _seldom(report: Callable[[int, float], object]) -> Callable[[int, float], object]:
    """Reports that go over the network, at most one in two seconds."""
    last_s = time.monotonic()

    def call(number: int, share: float) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= REPORT_INTERVAL_S:
            last_s = now_s
            report(number, share)

    return call
