"""Processes that may be lost: what runs in them can crash, or take all memory."""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["make_expendable"]


def make_expendable() -> None:
    """Be the process that is ended when memory runs out, and leave no core file behind."""
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
