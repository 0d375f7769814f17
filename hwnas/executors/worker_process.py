"""One worker process as the driver sees it: started, called, watched, ended."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwnas.executors.errors import AccidentError, EvaluationFailedError
from hwnas.executors.limits import resident_bytes
from hwnas.executors.worker import ACCIDENT, DONE, PROGRESS, Call
from profilers.expendable import GroupProcess

__all__ = ["WorkerProcess"]

CLOSING_S = 5.0
MAX_QUOTED = 200
_SERVE = "from hwnas.executors.worker import serve; serve()"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# What a candidate's own code does to its process; other signals come from elsewhere.
_CRASHES = ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP")


class WorkerProcess:
    """One process, its two pipes, and what it writes to its error stream.

    Args:
        n_threads: That it computes with.
        gpu: The only one that CUDA shows it, as `CUDA_VISIBLE_DEVICES` names it; None: all.
    """

    def __init__(self, n_threads: int, gpu: str | None = None) -> None:
        self._lock = threading.Lock()  # held to end what runs, or to say that it ran
        self._expected: tuple[float, str] | None = None  # by when, and what it is to miss that
        self._ended_because: str | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        # The same modules as here.
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        env = os.environ | {"PYTHONPATH": path} | dict.fromkeys(_THREADS, str(n_threads))
        if gpu is not None:
            env["CUDA_VISIBLE_DEVICES"] = gpu
        self._process = GroupProcess(
            [sys.executable, "-P", "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=env,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._calls, self._answers = self._process.stdin, self._process.stdout

    @property
    def is_alive(self) -> bool:
        """Whether it can be called."""
        return self._process.poll() is None

    def expect(self, at_s: float, otherwise: str) -> None:
        """Say by when an answer is due, and what it means if there is none."""
        with self._lock:
            self._expected = at_s, otherwise

    def check(self, now_s: float, *, stopped_s: float, memory_bytes: int | None) -> None:
        """End it if it works and is beyond a limit; what is due is due `stopped_s` later.

        One that has ended by itself is seen here, too: a process that it has forked may hold the
        pipe that the answer is waited for on.
        """
        if not self.is_alive:
            return
        held = resident_bytes(self._process.pid) if memory_bytes else None
        with self._lock:
            if self._expected is None:
                return
            at_s, otherwise = self._expected
            self._expected = at_s + stopped_s, otherwise
            if now_s > at_s + stopped_s:
                self._ended_because = otherwise
            elif held and memory_bytes and held > memory_bytes:
                self._ended_because = f"out of memory: it held over {memory_bytes / 1e6:,.0f} MB"
            else:
                return
            self._expected = None
        self.end()

    def call(self, call: Call, on_progress: Callable[[float], None]) -> Any:
        """Send one call and sleep until its answer is there."""
        try:
            pickle.dump(call, self._calls)
            self._calls.flush()
            while True:
                kind, value = pickle.load(self._answers)
                if kind != PROGRESS:
                    break
                on_progress(value)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise self._how_it_ended() from None
        except BaseException:  # the call cannot be pickled, or the callback's own: it is half done
            self.end()
            self._process.wait()
            raise
        finally:
            with self._lock:
                self._expected = None
            if self._ended_because is not None:  # maybe just after its answer: it takes no more
                self._process.wait()
        if kind == DONE:
            return value
        raise (AccidentError if kind == ACCIDENT else EvaluationFailedError)(value)

    def _how_it_ended(self) -> EvaluationFailedError:
        try:
            code = self._process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:  # it closed its pipe, but lives
            self.end()
            code = self._process.wait()
        if self._ended_because is not None:
            return AccidentError(self._ended_because)
        if code >= 0:
            return EvaluationFailedError(f"the worker exited with code {code}{self._last_words()}")
        try:
            name = signal.Signals(-code).name
        except ValueError:  # a real-time signal
            name = str(-code)
        if name in _CRASHES:
            return EvaluationFailedError(f"the worker crashed: {name}{self._last_words()}")
        hint = ", which is what happens when memory runs out" if name == "SIGKILL" else ""
        return AccidentError(f"the worker was killed: {name}{hint}")

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1].strip()[:MAX_QUOTED]})" if lines else ""

    def end(self) -> None:
        """End the process, and what it has started, at once."""
        self._process.kill()

    def close(self) -> None:
        """End it, and free what is held for it."""
        self.end()
        self._process.wait()
        with contextlib.suppress(OSError):  # what was not sent has no reader any more
            self._calls.close()
        self._answers.close()
        self._errors.close()
