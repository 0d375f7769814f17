"""Measure on the node of a Ray cluster that is the target device, and nowhere else.

A node says that it is a target by a custom resource (`target_resource`), of which it has 1. Every
call of the profiler is a task that takes all of it: no two measure there at the same time, also not
for different searches, and none on another node.
"""

from __future__ import annotations

import importlib
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from hwnas.code_digest import own_version
from hwnas.executors.errors import ExecutorError
from hwnas.executors.ray_cluster import PATIENCE_S, RayCluster, target_resource
from hwnas.target_place import TargetPlace
from profilers.devices import Device, observed_device
from profilers.errors import ProfilerError, TargetError
from profilers.isolation import IsolatedProfiler
from profilers.kernels import Kernel
from profilers.measurement import KernelNode, NetworkMeasurement
from profilers.onnx_models import OnnxModel
from profilers.profiler import PATIENCE
from profilers.targets import Target, make_target
from profilers.timing import LatencySamples

__all__ = ["NODE_TAG", "RayProfiler", "target_place"]

NODE_TAG = "node"  # of a measurement: id of the node that made it
MAX_RETRIES = 3  # of a call whose node died, by Ray
POLL_S = 1.0
OnRound = Callable[[int, int], object]


def _no_round(done: int, of: int) -> None:
    """Nobody listens."""


def target_place(
    cluster: RayCluster, runtime: str, *, threads: int = 1, precision: str = "fp32", batch: int = 1
) -> TargetPlace:
    """The target of that runtime: on the node that says it is one, else on this machine.

    Arguments are those of `make_target`.

    Raises:
        TargetError: The runtime is not installed there, or cannot be run this way.
        ExecutorError: The node went away.
    """
    options: dict[str, Any] = {"threads": threads, "precision": precision, "batch": batch}
    if cluster.total(target_resource(runtime)) < 1:
        return TargetPlace.here(make_target(runtime, **options))
    _, target = _call_on(cluster, runtime, _answer_target, runtime, options)
    on_node = partial(RayProfiler, cluster, target)
    return TargetPlace(target, on_node, on_node, on_node().observed_device)


class RayProfiler:
    """A profiler whose models run on the target node, in a process of their own.

    Its calls are those of `profilers.isolation.IsolatedProfiler`; close it, or use it in a `with`
    block: used again, it starts another process. Measurements have the node's id as a tag.

    Args:
        cluster: One with that target.
        target: Where, and how; from `target_place`.
        references_ms: What the reference network took earlier, see `Profiler`.

    Attributes:
        node_ids: The nodes that answered, by id.
    """

    def __init__(
        self, cluster: RayCluster, target: Target, *, references_ms: Sequence[float] = ()
    ) -> None:
        self.target = target
        self.node_ids: set[str] = set()
        self._cluster = cluster
        self._references_ms = list(references_ms)
        self._key = uuid.uuid4().hex

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
        """Its process there ends when two others are used, or the Ray worker ends."""
        self._key = uuid.uuid4().hex

    def observed_device(self) -> Device:
        """The target's device as it is now.

        Raises:
            ExecutorError: The node went away.
        """
        return cast(Device, self._call("observed_device"))

    def kernels(self, model: OnnxModel) -> tuple[KernelNode, ...]:
        """The kernels that the target's runtime makes of `model`, without timing it.

        Raises:
            ModelError: The runtime cannot load or run the model, or its process ended over it.
            ExecutorError: The node went away.
        """
        return cast(tuple[KernelNode, ...], self._call("kernels", model))

    def excerpt(self, model: OnnxModel, kernels: Collection[Kernel]) -> OnnxModel:
        """Cut some kernels of `model` out, as `Profiler.excerpt` does.

        Raises:
            ModelError: The runtime cannot run the model or does not show its graph, or its process
                ended over it.
            ExecutorError: The node went away.
        """
        return cast(OnnxModel, self._call("excerpt", model, list(kernels)))

    def outputs(self, model: OnnxModel, inputs: NDArray[np.generic]) -> NDArray[np.generic]:
        """What the target computes of some inputs, as `Profiler.outputs` says.

        Raises:
            ModelError: The runtime cannot load or run the model, or its process ended over it.
            ExecutorError: The node went away.
        """
        return cast(NDArray[np.generic], self._call("outputs", model, inputs))

    def profile(
        self, model: OnnxModel, *, seconds: float = 2.0, tags: Mapping[str, str] | None = None
    ) -> NetworkMeasurement:
        """Measure `model` end to end and by kernel, as `Profiler.profile` does.

        Raises:
            ModelError: The runtime cannot load or run the model, or its process ended over it.
            ExecutorError: The node went away.
        """
        found: NetworkMeasurement = self._call(
            "profile", model, seconds=seconds, tags=dict(tags or {})
        )
        if found.reference_ms is not None:  # for a process that takes the place of this one
            self._references_ms.append(found.reference_ms)
        return found

    def latency(
        self,
        models: Sequence[OnnxModel],
        *,
        seconds: float,
        patience: float = PATIENCE,
        on_round: OnRound = _no_round,
    ) -> list[LatencySamples]:
        """End-to-end samples of several models in turns, as `Profiler.latency` does.

        Raises:
            ModelError: The runtime cannot load or run one of them, or its process ended over it.
            ExecutorError: The node went away.
        """
        options = {"seconds": seconds, "patience": patience}
        found = self._call("latency", list(models), on_round=on_round, **options)
        return cast(list[LatencySamples], found)

    def _call(
        self, method: str, *arguments: Any, on_round: OnRound = _no_round, **options: Any
    ) -> Any:
        node_id, found = _call_on(
            self._cluster, self.target.runtime, _answer_profiler,
            self._key, self.target, self._references_ms, method, arguments, options,
            on_round=on_round,
        )  # fmt: skip
        self.node_ids.add(node_id)
        return found


def _call_on(
    cluster: RayCluster,
    runtime: str,
    function: Callable[..., Any],
    *arguments: Any,
    on_round: OnRound = _no_round,
) -> tuple[str, Any]:
    """Have `function` called on the target node; that node's id, and what was returned."""
    needed = {target_resource(runtime): 1.0}
    task = cluster.ray.remote(_answer).options(
        num_cpus=0, resources=needed, max_retries=MAX_RETRIES, name="measuring"
    )
    rounds = None if on_round is _no_round else cluster.queue()
    reference = task.remote(own_version(), function, arguments, rounds)
    try:
        _wait(cluster, reference, needed, rounds, on_round)
        node_id, found = cluster.ray.get(reference)
    except cluster.ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ExecutorError(
            f"the node of the cluster that is the target {runtime} does not answer: {reason}. "
            f"What was measured before is kept; start again when it is back"
        ) from None
    except BaseException:  # an interrupt, or the callback's own: nobody waits for the answer
        with suppress(Exception):
            cluster.ray.cancel(reference, force=True)
        raise
    finally:
        if rounds is not None:
            rounds.shutdown(force=True)
    if isinstance(found, ProfilerError):
        raise found
    return node_id, found


def _wait(
    cluster: RayCluster,
    reference: Any,
    needed: Mapping[str, float],
    rounds: Any,
    on_round: OnRound,
) -> None:
    """Sleep until the task has ended."""
    last_s = time.monotonic()
    is_done = False
    while not is_done:
        is_done = bool(cluster.ray.wait([reference], timeout=POLL_S)[0])
        while rounds is not None and not rounds.empty():
            on_round(*rounds.get_nowait())
        if is_done or cluster.n_fitting(needed):
            last_s = time.monotonic()
        elif time.monotonic() - last_s > PATIENCE_S:
            raise ExecutorError(
                f"no node of the cluster has had {' and '.join(needed)} for {PATIENCE_S:g} s. "
                f"Bring it back, then start again: what was measured before is kept"
            )


def _answer(
    version: str, function: Callable[..., Any], arguments: tuple[Any, ...], rounds: Any
) -> tuple[str, Any]:
    """The task, in a Ray worker of the target node; `version` is the driver's."""
    node_id = importlib.import_module("ray").get_runtime_context().get_node_id()
    if version != own_version():
        reason = f"the target's node has hwnas {own_version()}, the driver {version}"
        return node_id, TargetError(f"{reason}. Install the same there")
    try:
        return node_id, function(node_id, rounds, *arguments)
    except ProfilerError as error:
        return node_id, error


def _answer_target(node_id: str, rounds: Any, runtime: str, options: Mapping[str, Any]) -> Target:
    return make_target(runtime, **options)


N_KEPT = 2  # profilers of a node: forms of a network in two precisions are measured in turns
_kept: dict[str, IsolatedProfiler] = {}  # by the key of whom it works for, the last used last


def _answer_profiler(
    node_id: str,
    rounds: Any,
    key: str,
    target: Target,
    references_ms: Sequence[float],
    method: str,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    if method == "observed_device":
        return observed_device()
    if method == "profile":
        options["tags"] = {**options["tags"], NODE_TAG: node_id}
    if rounds is not None:
        options["on_round"] = lambda done, of: rounds.put_nowait((done, of))
    return getattr(_profiler(key, target, references_ms), method)(*arguments, **options)


def _profiler(key: str, target: Target, references_ms: Sequence[float]) -> IsolatedProfiler:
    """The one that is kept for `key`; the process of the one not used for longest is ended."""
    if (known := _kept.pop(key, None)) is not None:
        _kept[key] = known
        return known
    while len(_kept) >= N_KEPT:
        _kept.pop(next(iter(_kept))).close()
    here = make_target(
        target.runtime, threads=target.threads, precision=target.precision, batch=target.batch
    )
    if here != target:
        raise TargetError(
            f"the cluster has targets that differ: {here.describe()} and {target.describe()}. "
            f"Only one of them can be the target of a search: start the nodes of the others "
            f"without {target_resource(target.runtime)!r}"
        )
    _kept[key] = IsolatedProfiler(target, references_ms=references_ms)
    return _kept[key]
