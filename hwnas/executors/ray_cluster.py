"""A connection to a Ray cluster: which nodes it has, and what fits on them.

Ray schedules, retries and accounts; nothing of that is done again here. It is an optional
dependency, imported when a cluster is asked for.
"""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from hwnas.errors import ConfigError
from hwnas.executors.errors import ExecutorError

__all__ = ["PATIENCE_S", "Node", "RayCluster", "target_resource"]

# A cluster may have no node that fits for a while: one restarts, an autoscaler is asked for one.
PATIENCE_S = 600.0
CONNECT_TIMEOUT_S = 10.0
ROUNDING = 1e-9  # sums of fractions such as 0.1 are not exact


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is alive.

    Attributes:
        id: By which Ray knows it.
        address: Of its machine.
        resources: Altogether, in use or not, by Ray's names.
    """

    id: str
    address: str
    resources: Mapping[str, float]

    def n_fitting(self, needed: Mapping[str, float]) -> int:
        """How many times `needed` fits on it.

        Example:
            >>> Node("a", "10.0.0.1", {"CPU": 8, "GPU": 1}).n_fitting({"CPU": 1, "GPU": 0.5})
            2
        """
        counts = [
            int(self.resources.get(name, 0.0) / amount + ROUNDING)
            for name, amount in needed.items()
            if amount > 0
        ]
        return min(counts, default=0)

    def __str__(self) -> str:
        return f"node {self.id[:8]} at {self.address}"


def target_resource(runtime: str) -> str:
    """The custom resource of the nodes that are the target device of a runtime; one has 1 of it.

    Example:
        >>> target_resource("onnxruntime-cpu")
        'target:onnxruntime-cpu'
    """
    return f"target:{runtime}"


class RayCluster:
    """A connection to a Ray cluster; use it in a `with` block.

    Args:
        address: Such as `10.0.0.1:6379`; None: what RAY_ADDRESS says, else a cluster that runs on
            this machine, else one of this machine alone that ends with the connection. Where this
            process has joined a cluster before, that one is used.

    Raises:
        ConfigError: Ray is not installed.
        ExecutorError: There is no such cluster, or it cannot be joined.
    """

    def __init__(self, address: str | None = None) -> None:
        try:
            self.ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise ConfigError(
                f"the executor 'ray' needs Ray ({error}): pip install 'hwnas[ray]'"
            ) from None
        self._was_joined = bool(self.ray.is_initialized())
        if self._was_joined:  # by the program that calls us: it stays so
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster started here
        _mute()
        try:
            _check_reachable(address or os.environ.get("RAY_ADDRESS"))
            self.ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            shown = address or os.environ.get("RAY_ADDRESS") or "this machine"
            reason = " ".join(str(error).split())
            raise ExecutorError(
                f"cannot join the Ray cluster at {shown}: {reason.rstrip('.')}. Check "
                f"--ray-address and RAY_ADDRESS, and that `ray status` works here"
            ) from None

    def nodes(self) -> list[Node]:
        """The nodes that are alive now."""
        return [
            Node(node["NodeID"], node["NodeManagerAddress"], node["Resources"])
            for node in self.ray.nodes()
            if node["Alive"]
        ]

    def n_fitting(self, needed: Mapping[str, float]) -> int:
        """How many times `needed` fits on the nodes that are alive now."""
        return sum(node.n_fitting(needed) for node in self.nodes())

    def total(self, resource: str) -> float:
        """How much of a resource the nodes have that are alive now."""
        return sum(node.resources.get(resource, 0.0) for node in self.nodes())

    def queue(self) -> Any:
        """A queue that tasks can write to, on this node: it ends when this process does."""
        queue = importlib.import_module("ray.util.queue")
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        here = self.ray.get_runtime_context().get_node_id()
        on_this_node = strategies.NodeAffinitySchedulingStrategy(here, soft=False)
        return queue.Queue(actor_options={"num_cpus": 0, "scheduling_strategy": on_this_node})

    def close(self) -> None:
        """Leave the cluster, which ends what still runs there; not if it was joined before."""
        if not self._was_joined:
            self.ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _check_reachable(address: str | None) -> None:
    """Raise OSError where nobody listens at host:port: Ray would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()


def _mute() -> None:
    """Keep Ray from printing what befalls nodes on stdout, where the answer of a command goes.

    It has no option for that. The executor says in a line of its own which nodes come and go.
    """
    worker: Any = importlib.import_module("ray._private.worker")
    worker.print_to_stdstream = lambda *_, **__: None
