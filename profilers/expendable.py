"""Processes that may be lost: what runs in them can crash, or take all memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["GroupProcess", "end_group", "make_expendable"]


class GroupProcess(subprocess.Popen[bytes]):
    """A process that leads a group of its own: what it has started ends with it, however it ends.

    A terminal's Ctrl-C, which goes to a group, does not reach it. On Windows there are no groups.

    Args:
        arguments: The program and its arguments.
        options: Of `subprocess.Popen`.
    """

    def __init__(self, arguments: Sequence[str], **options: Any) -> None:
        self._leads_group = os.name == "posix"  # and that has not been ended
        group: dict[str, Any] = {"process_group": 0} if self._leads_group else {}
        super().__init__(arguments, **group, **options)

    def poll(self) -> int | None:
        """The exit code if it has ended, and then nothing is left of its group."""
        code = super().poll()
        if code is not None:
            self._end_rest()
        return code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and end what is left of its group."""
        code = super().wait(timeout)
        self._end_rest()
        return code

    def kill(self) -> None:
        """End it and its group, at once."""
        if self.poll() is None and self._leads_group:
            self._kill_group()
        super().kill()

    def _end_rest(self) -> None:
        # Just after the process itself was seen to have ended: as long as one of the group lives
        # its number is taken, and so soon it is not given to another.
        if self._leads_group:
            self._leads_group = False
            self._kill_group()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter of zombies
            os.killpg(self.pid, signal.SIGKILL)


def make_expendable() -> None:
    """Be the process that is ended when memory runs out, and leave no core file behind."""
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def end_group() -> NoReturn:
    """End this process, and what it has started, at once."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
