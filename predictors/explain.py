"""Where the predicted time of one network goes, kernel by kernel, and what of it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from predictors.errors import NotFittedError
from predictors.network_latency import ANY_FAMILY, NetworkLatencyPredictor
from profilers.kernels import Kernel
from profilers.measurement import KernelNode


@dataclass(frozen=True)
class PredictedKernel:
    """A kernel in its network.

    Attributes:
        node: The kernel, its name, and the tensors that it reads and writes.
        latency_ms: Predicted, in place.
        is_known: Whether it, or ones like it, were measured.
    """

    node: KernelNode
    latency_ms: float
    is_known: bool


@dataclass(frozen=True)
class Explanation:
    """A network's predicted latency and what it is made of.

    Attributes:
        latency_ms: What is expected.
        low_ms: Lower end of the interval.
        high_ms: Upper end of the interval.
        known_share: Share of the kernels' latency that rests on known kernels.
        kernels: In running order.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    known_share: float
    kernels: tuple[PredictedKernel, ...]

    @property
    def kernel_sum_ms(self) -> float:
        """All kernels together; what a run costs beside them is not in it."""
        return sum(kernel.latency_ms for kernel in self.kernels)

    @property
    def overhead_ms(self) -> float:
        """What the latency has more than its kernels; negative where these overlap."""
        return self.latency_ms - self.kernel_sum_ms

    @property
    def unknown_ms(self) -> dict[Kernel, float]:
        """Kernels like none that was measured, with their time in the network, longest first."""
        total: dict[Kernel, float] = {}
        for found in self.kernels:
            if not found.is_known:
                kernel = found.node.kernel
                total[kernel] = total.get(kernel, 0.0) + found.latency_ms
        return dict(sorted(total.items(), key=lambda item: -item[1]))


def explain(
    predictor: NetworkLatencyPredictor, nodes: Sequence[KernelNode], *, family: str = ANY_FAMILY
) -> Explanation:
    """Predict one network, given by the kernels that the runtime makes of it.

    Args:
        predictor: What predicts.
        nodes: The network's kernels, in running order.
        family: What kind of network it is; one that was measured has a narrower interval.

    Raises:
        NotFittedError: The predictor was not fitted.
    """
    if predictor.kernels_ is None:
        raise NotFittedError("explain was called with a predictor that was not fitted")
    kernels = [node.kernel for node in nodes]
    said = predictor.predict([kernels], family=family)
    ms, is_known = predictor.kernels_.predict(kernels)
    return Explanation(
        latency_ms=float(said.latency_ms[0]),
        low_ms=float(said.low_ms[0]),
        high_ms=float(said.high_ms[0]),
        known_share=float(said.known_share[0]),
        kernels=tuple(
            PredictedKernel(node, float(of_node), bool(known))
            for node, of_node, known in zip(nodes, ms, is_known, strict=True)
        ),
    )


@dataclass(frozen=True)
class Slice:
    """A part of a network's predicted time.

    Attributes:
        name: Of the block, or the kind, that it is of.
        n_kernels: In it.
        latency_ms: Of them together.
        share: Of the time of all kernels.
        known_share: Share of its own time that rests on known kernels.
    """

    name: str
    n_kernels: int
    latency_ms: float
    share: float
    known_share: float


def slices(explanation: Explanation, names: Sequence[str]) -> list[Slice]:
    """The time by name, in the order of first appearance.

    Args:
        explanation: Of one network.
        names: What each kernel belongs to, in running order.

    Raises:
        ValueError: There is not one name for each kernel.
    """
    if len(names) != len(explanation.kernels):
        raise ValueError(
            f"one name for each of {len(explanation.kernels)} kernels is needed, got {len(names)}"
        )
    grouped: dict[str, list[PredictedKernel]] = {}
    for name, kernel in zip(names, explanation.kernels, strict=True):
        grouped.setdefault(name, []).append(kernel)
    total_ms = max(explanation.kernel_sum_ms, 1e-12)
    found = []
    for name, kernels in grouped.items():
        ms = sum(kernel.latency_ms for kernel in kernels)
        known_ms = sum(kernel.latency_ms for kernel in kernels if kernel.is_known)
        found.append(Slice(name, len(kernels), ms, ms / total_ms, known_ms / max(ms, 1e-12)))
    return found
