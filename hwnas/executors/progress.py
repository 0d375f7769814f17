"""How far the evaluation of this thread is; whoever runs it says where that is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["report", "reporting_to"]


def _nowhere(share: float) -> None:
    """Nobody listens."""


_REPORTER: ContextVar[Callable[[float], None]] = ContextVar("reporter", default=_nowhere)


def report(share: float) -> None:
    """Say that `share`, in [0, 1], of the present evaluation is done."""
    _REPORTER.get()(share)


@contextmanager
def reporting_to(reporter: Callable[[float], None]) -> Iterator[None]:
    """What this thread reports goes to `reporter`, until the block ends.

    Example:
        >>> with reporting_to(print):
        ...     report(0.5)
        0.5
    """
    token = _REPORTER.set(reporter)
    try:
        yield
    finally:
        _REPORTER.reset(token)
