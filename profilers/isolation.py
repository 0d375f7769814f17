"""Measure in a process of its own: a model that takes its process down is one error, not the end.

A runtime is native code: it can divide by zero, run out of memory or never return, and no
`except` catches that. The process is started once, is small (no torch unless the runtime needs
it), and is started again after a model has ended it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import numpy as np
from numpy.typing import NDArray

from profilers.errors import ModelError, ProfilerError, TargetError
from profilers.expendable import GroupProcess, end_group, make_expendable
from profilers.kernels import Kernel
from profilers.measurement import KernelNode, NetworkMeasurement
from profilers.onnx_models import OnnxModel
from profilers.profiler import PATIENCE, Profiler
from profilers.targets import Target
from profilers.timing import LatencySamples

PROFILER = "profilers.profiler:Profiler"
# Loading, compiling, warming up and the fewest runs that there must be, about 40, come on top
# whatever `seconds` says; sampling itself may take four times `seconds`.
BASE_TIMEOUT_S = 600.0
TIMEOUT_PER_SECOND = 20.0
CLOSING_TIMEOUT_S = 5.0
OUTPUTS_AT_ONCE = 512  # runs
ORPHAN_GRACE_S = 60  # the parent, while it lives, is the one that ends a process that hangs
MAX_QUOTED = 200
WATCH_INTERVAL_S = 5.0  # so seldom that it does not disturb
_SERVE = "import sys; from profilers.isolation import serve; serve(sys.argv[1])"
_TEMPORARY = ("TMPDIR", "TEMP", "TMP")  # where programs look for the folder of such files
_ROUND, _DONE, _FAILED = "round", "done", "failed"
_Request = tuple[float, tuple[Any, ...]]  # after so many seconds it has hung


def _no_round(done: int, of: int) -> None:
    """Nobody listens."""


class IsolatedProfiler:
    """A `profilers.profiler.Profiler` whose models run in another process.

    Close it, or use it in a `with` block. One call at a time.

    Args:
        target: Where, and how.
        references_ms: What the reference network took earlier, see `Profiler`.
        timeout_s: After so long a call has hung, and its process is ended; None: ten minutes and
            20 times the seconds that the call asks for. Networks that take longer than some 10 s a
            run need more.
        factory: `module:callable` that makes the profiler in the process, called like `Profiler`.

    Example:
        >>> from profilers.targets import make_target
        >>> with IsolatedProfiler(make_target("onnxruntime-cpu", threads=1)) as profiler:
        ...     profiler.target.threads
        1
    """

    def __init__(
        self,
        target: Target,
        *,
        references_ms: Sequence[float] = (),
        timeout_s: float | None = None,
        factory: str = PROFILER,
    ) -> None:
        self.target = target
        self._references_ms = list(references_ms)
        self._timeout_s = timeout_s
        self._factory = factory
        self._worker: _Worker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process; a later call starts another."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def kernels(self, model: OnnxModel) -> tuple[KernelNode, ...]:
        """The kernels that the runtime makes of `model`, in running order, without timing it.

        Raises:
            ModelError: The runtime cannot load or run the model, or its process ended over it.
        """
        return cast(tuple[KernelNode, ...], self._call("kernels", [model], 0.0, model))

    def excerpt(self, model: OnnxModel, kernels: Collection[Kernel]) -> OnnxModel:
        """Cut some kernels of `model` out, as `Profiler.excerpt` does.

        Raises:
            ModelError: The runtime cannot run the model or does not show its graph, or its process
                ended over it.
        """
        return cast(OnnxModel, self._call("excerpt", [model], 0.0, model, list(kernels)))

    def outputs(self, model: OnnxModel, inputs: NDArray[np.generic]) -> NDArray[np.generic]:
        """What the target computes of some inputs, as `Profiler.outputs` says.

        Raises:
            ModelError: The runtime cannot load or run the model, or its process ended over it.
        """
        step = OUTPUTS_AT_ONCE * model.batch  # as a call has a time limit
        parts = [
            self._call("outputs", [model], 0.0, model, inputs[start : start + step])
            for start in range(0, len(inputs), step)
        ]
        return np.concatenate(parts)

    def profile(
        self, model: OnnxModel, *, seconds: float = 2.0, tags: Mapping[str, str] | None = None
    ) -> NetworkMeasurement:
        """Measure `model` end to end and by kernel, as `Profiler.profile` does.

        Raises:
            ModelError: The runtime cannot load or run the model, or its process ended over it.
        """
        tags = dict(tags or {})
        found: NetworkMeasurement = self._call(
            "profile", [model], seconds, model, seconds=seconds, tags=tags
        )
        if found.reference_ms is not None:  # for a process that takes this one's place
            self._references_ms.append(found.reference_ms)
        return found

    def latency(
        self,
        models: Sequence[OnnxModel],
        *,
        seconds: float,
        patience: float = PATIENCE,
        on_round: Callable[[int, int], object] = _no_round,
    ) -> list[LatencySamples]:
        """End-to-end samples of several models in turns, as `Profiler.latency` does.

        Raises:
            ModelError: The runtime cannot load or run one of them, or its process ended over it.
        """
        found = self._call(
            "latency",
            models,
            seconds * len(models) * max(1.0, patience / PATIENCE),
            list(models),
            seconds=seconds,
            patience=patience,
            on_round=on_round,
        )
        return cast(list[LatencySamples], found)

    def _call(
        self,
        method: str,
        models: Sequence[OnnxModel],
        total_s: float,
        *arguments: Any,
        on_round: Callable[[int, int], object] = _no_round,
        **options: Any,
    ) -> Any:
        timeout_s = self._timeout_s or BASE_TIMEOUT_S + TIMEOUT_PER_SECOND * total_s
        if on_round is not _no_round:  # else the process would wake this one while it measures
            options["on_round"] = None
        if self._worker is None or not self._worker.is_alive:
            self.close()
            self._worker = _Worker(self.target, self._factory, self._references_ms)
        try:
            return self._worker.call((method, arguments, options), timeout_s, on_round)
        except _WorkerEnded as ended:
            self.close()
            names = ", ".join(model.name for model in models)
            raise ModelError(
                f"measuring {names} on {self.target.runtime} {self.target.version} ended the "
                f"process that ran it: {ended}"
            ) from None
        except ProfilerError:
            raise
        except BaseException:  # an interrupt, or the callback's own: the answer is still to come
            self._worker.kill()
            self._worker = None
            raise


AnyProfiler = Profiler | IsolatedProfiler


class _WorkerEnded(Exception):
    """The process ended before it answered; the message says how."""


class _Worker:
    """The process, its two pipes, its folder, and what it writes to its error stream.

    Its temporary files are in a folder that is removed with it: a process that crashes or is ended
    leaves models and profiles behind. It removes the folder itself if this one was killed.
    """

    def __init__(self, target: Target, factory: str, references_ms: Sequence[float]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        self._folder = tempfile.TemporaryDirectory(prefix="hwnas-", ignore_cleanup_errors=True)
        # The same modules as here.
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._process = GroupProcess(
            [sys.executable, "-P", "-c", _SERVE, self._folder.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"PYTHONPATH": path} | dict.fromkeys(_TEMPORARY, self._folder.name),
        )
        try:
            self.call((factory, target, list(references_ms)), BASE_TIMEOUT_S, _no_round)
        except _WorkerEnded as ended:
            self.close()
            raise TargetError(
                f"the process that measures on {target.runtime} cannot be started: {ended}"
            ) from None
        except BaseException:
            self.kill()
            raise

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def call(
        self, request: tuple[Any, ...], timeout_s: float, on_round: Callable[[int, int], object]
    ) -> Any:
        """Send one request and sleep until its answer is there."""
        has_hung, is_over = threading.Event(), threading.Event()

        def watch() -> None:
            left_s = timeout_s
            while left_s > 0:
                step_s, start_s = min(left_s, WATCH_INTERVAL_S), time.monotonic()
                if is_over.wait(step_s):
                    return
                # Longer: this process stood still, by Ctrl-Z or with its machine, and read nothing.
                left_s -= min(time.monotonic() - start_s, step_s)
                if not self.is_alive:  # what it has started may hold its pipe
                    return
            has_hung.set()
            self._process.kill()

        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            pickle.dump((timeout_s, request), self._process.stdin)
            self._process.stdin.flush()
            while True:
                what, value = pickle.load(self._process.stdout)
                if what == _DONE:
                    return value
                if what == _FAILED:
                    raise value
                on_round(*value)
        except (EOFError, BrokenPipeError, ConnectionResetError, pickle.UnpicklingError):
            raise _WorkerEnded(self._how_it_ended(timeout_s if has_hung.is_set() else None)) from (
                None
            )
        finally:
            is_over.set()
            watcher.join()
            if has_hung.is_set():  # maybe just after its answer: it is not there for the next call
                self._process.wait()

    def _how_it_ended(self, timeout_s: float | None) -> str:
        try:
            code = self._process.wait(CLOSING_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # it closed its pipe, but lives
            self._process.kill()
            code = self._process.wait()
        if timeout_s is not None:
            return f"it gave no answer in {timeout_s:g} s and was ended"
        how = f"it exited with code {code}"
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:  # a real-time signal
                name = str(-code)
            hint = ", which is what happens when memory runs out" if name == "SIGKILL" else ""
            how = f"it was ended by signal {name}{hint}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"{how} ({lines[-1].strip()[:MAX_QUOTED]})" if lines else how

    def kill(self) -> None:
        """End it in the middle of its work."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """Let it end, and free what is held for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # what was not sent has no reader any more
            self._process.stdin.close()  # its sign to end
        try:
            self._process.wait(CLOSING_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()
        self._folder.cleanup()


def serve(folder: str) -> None:
    """Answer the requests of an `IsolatedProfiler` on standard input; end as soon as it is closed.

    Also in the midst of a measurement: nobody waits for it, and it would disturb the next one.

    Args:
        folder: Of temporary files; removed in the end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    # What the runtime prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    make_expendable()
    requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
    # It sleeps while this one measures.
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests, folder), daemon=True).start()
    profiler: Any = None
    while True:
        timeout_s, request = requests.get()
        if hasattr(signal, "alarm"):  # a parent that was killed cannot end a process that hangs
            signal.alarm(int(timeout_s) + ORPHAN_GRACE_S)
        try:
            if profiler is None:
                profiler = _make(*request)
                answer: tuple[str, Any] = _DONE, None
            else:
                answer = _DONE, _answer(profiler, request, answers)
        except ProfilerError as error:
            answer = _FAILED, error
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:MAX_QUOTED]}"
            if profiler is None:
                answer = _FAILED, TargetError(f"the target's profiler cannot be made: {text}")
            else:
                answer = _FAILED, ModelError(f"measuring failed: {text}")
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        _send(answers, answer)


def _listen(pipe: BinaryIO, requests: queue.SimpleQueue[_Request], folder: str) -> None:
    try:
        while True:
            requests.put(pickle.load(pipe))
    except (EOFError, OSError, pickle.UnpicklingError):  # the parent closed it, or was killed
        shutil.rmtree(folder, ignore_errors=True)
        end_group()
    except BaseException as error:  # what came is not known here: the parent quotes the last line
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _send(answers: BinaryIO, answer: tuple[str, Any]) -> None:
    pickle.dump(answer, answers)
    answers.flush()


def _make(factory: str, target: Target, references_ms: Sequence[float]) -> Any:
    module, name = factory.split(":")
    return getattr(import_module(module), name)(target, references_ms=references_ms)


def _answer(profiler: Any, request: tuple[Any, ...], answers: BinaryIO) -> Any:
    method, arguments, options = request
    if "on_round" in options:
        options["on_round"] = lambda done, of: _send(answers, (_ROUND, (done, of)))
    return getattr(profiler, method)(*arguments, **options)
