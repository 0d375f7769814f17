"""How long work says that it goes on; the command line shows it, a library call need not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Task(Protocol):
    """One piece of work with a known or unknown length."""

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say that `done` of `total` is done; `note` is a few words on the latest."""


class Progress(Protocol):
    """Where work reports."""

    @contextmanager
    def task(self, name: str, total: float | None) -> Iterator[Task]:
        """Work of that name, until the block ends. `total` None: not known yet."""
        yield NO_TASK

    def say(self, text: str) -> None:
        """One line that stays on the screen."""


class _NoTask:
    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Nothing."""


NO_TASK: Task = _NoTask()


class Silent:
    """Reports nothing: the default of library calls."""

    @contextmanager
    def task(self, name: str, total: float | None) -> Iterator[Task]:
        """Nothing is shown."""
        yield NO_TASK

    def say(self, text: str) -> None:
        """Nothing is shown."""
