"""Evaluate in this thread, one after the other and without limits: to debug."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import ParamSpec, TypeVar

from hwnas.executors.progress import reporting_to
from hwnas.strategies.base import Trial

__all__ = ["ThisThreadExecutor"]

P = ParamSpec("P")
T = TypeVar("T")


class ThisThreadExecutor(Executor):
    """Evaluates at once and in this thread, so that Ctrl-C ends what runs.

    Args:
        on_progress: Called with the trial's number and the share of it that is done.
    """

    def __init__(
        self, *, on_progress: Callable[[int, float], None] = lambda number, share: None
    ) -> None:
        self._on_progress = on_progress

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call `fn(trial)`; the future that is returned is done."""
        (trial,) = args
        if not isinstance(trial, Trial) or kwargs:
            raise TypeError(f"evaluations take one trial, got {args} and {kwargs}")
        future: Future[T] = Future()
        try:
            with reporting_to(partial(self._on_progress, trial.number)):
                future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
