"""Errors of `profilers` that a user can cause."""

import difflib
from collections.abc import Iterable


class ProfilerError(Exception):
    """Root of the errors of `profilers`; the message says what was asked, what came, what to do."""


class ModelError(ProfilerError):
    """A model file cannot be read, checked or run."""


class TargetError(ProfilerError):
    """A target is unknown, or not available on this machine."""


class StoreError(ProfilerError):
    """A measurement database cannot be opened, read or written."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Message for a name that does not exist, with the nearest one that does.

    Example:
        >>> unknown_name("data set", "digit", ["digits", "fashion-mnist"])
        "unknown data set 'digit'; did you mean 'digits'? (known: digits, fashion-mnist)"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"unknown {what} {name!r}{hint} (known: {', '.join(names)})"
