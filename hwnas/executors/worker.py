"""The worker's side of `hwnas.executors.processes`: answer one call after the other.

The driver writes pickled calls to standard input and reads pickled answers from standard output.
When standard input ends, also because the driver was killed, the worker ends at once.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

from hwnas.executors.errors import AccidentError, failure_of
from hwnas.executors.progress import reporting_to
from profilers.expendable import end_group, make_expendable

__all__ = ["ACCIDENT", "DONE", "FAILED", "PROGRESS", "Call", "serve"]

# An answer is one of these and a value: what was returned, the share that is done, why it failed.
DONE, PROGRESS, FAILED, ACCIDENT = "done", "progress", "failed", "accident"
ORPHAN_GRACE_S = 60  # the driver, while it lives, is the one that ends a worker that hangs

# A function, its arguments, and after how many seconds without a sign of life it has hung.
Call = tuple[Callable[..., Any], tuple[Any, ...], int]


def serve() -> None:
    """Answer calls until the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides when to end
    # What candidates print must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    make_expendable()
    calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, calls), daemon=True).start()
    while True:
        _answer(calls.get(), answers)


def _listen(requests: BinaryIO, calls: queue.SimpleQueue[Call]) -> None:
    try:
        while True:
            calls.put(pickle.load(requests))
    except (EOFError, OSError, pickle.UnpicklingError):
        end_group()
    except BaseException as error:  # what came is not known here: the driver quotes the last line
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _answer(call: Call, answers: BinaryIO) -> None:
    function, arguments, hung_after_s = call

    def report(share: float) -> None:
        _end_after(hung_after_s + ORPHAN_GRACE_S)
        _send(answers, pickle.dumps((PROGRESS, share)))

    _end_after(hung_after_s + ORPHAN_GRACE_S)
    try:
        with reporting_to(report):
            answer = pickle.dumps((DONE, function(*arguments)))
    except Exception as error:
        failure = failure_of(error)
        kind = ACCIDENT if isinstance(failure, AccidentError) else FAILED
        answer = pickle.dumps((kind, str(failure)))
    finally:
        _end_after(0)
    _send(answers, answer)


def _end_after(seconds: int) -> None:
    """Let the kernel end this process after so long; 0: no longer.

    A candidate that hangs in native code may hold up all threads, also the one that would notice
    that the driver was killed.
    """
    if hasattr(signal, "alarm"):  # not on Windows
        signal.alarm(seconds)


def _send(answers: BinaryIO, answer: bytes) -> None:
    answers.write(answer)
    answers.flush()
