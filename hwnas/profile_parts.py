"""A network's kernels as the rows that its page shows, and their numbers as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwnas.number_text import number
from profilers.kernels import Kernel, macs
from profilers.measurement import NetworkMeasurement

N_SLOW = 3  # kernels are named that are slow for their size, in each chart
SLOW = 1.2  # times what it would take at the mean rate
MIN_LOST_SHARE = 0.002  # of the network's time


@dataclass(frozen=True)
class Part:
    """A kernel in its network.

    Attributes:
        number: Its place in running order, from 1.
        name: The runtime's name of the node.
        kind: What it is called on the page, see `kind_of`.
        kernel: What ran.
        start_ms: When it starts if the kernels run end to end with nothing between.
        latency_ms: As measured in place.
        share: Of the time of all kernels.
        macs: Multiply-accumulates; 0: its cost is in the bytes that it moves.
    """

    number: int
    name: str
    kind: str
    kernel: Kernel
    start_ms: float
    latency_ms: float
    share: float
    macs: int

    @property
    def size(self) -> int:
        """What its time is compared with: MACs, or bytes where it has none."""
        return self.macs or self.kernel.n_bytes

    @property
    def rate(self) -> float:
        """Size for each second."""
        return self.size / self.latency_ms * 1e3


def parts_of(measurement: NetworkMeasurement) -> list[Part]:
    """The kernels of a network in running order."""
    total_ms = measurement.kernel_sum_ms
    parts, start_ms = [], 0.0
    for i, run in enumerate(measurement.kernels, 1):
        share = run.latency_ms / total_ms
        parts.append(
            Part(i, run.name, kind_of(run.kernel), run.kernel, start_ms, run.latency_ms, share,
                 macs(run.kernel))
        )  # fmt: skip
        start_ms += run.latency_ms
    return parts


def kind_of(kernel: Kernel) -> str:
    """A kernel's kind for people; convolutions by their window, for those differ most in speed.

    Example:
        >>> from profilers.kernels import Tensor
        >>> x, w = Tensor("float", (1, 16, 8, 8)), Tensor("float", (16, 1, 3, 3))
        >>> kind_of(Kernel("com.microsoft.nchwc:Conv", (("group", 16),), (x, w), (x,)))
        'Depthwise conv 3×3'
    """
    name = kernel.kind.rsplit(":", 1)[-1].replace("Normalization", "Norm").replace("Average", "Avg")
    if not name.endswith(("Conv", "Convolution")) or not kernel.outputs:
        return name
    n_dims = len(kernel.outputs[0].shape)
    # Quantized ones have scales and zero points before the weight, OpenVINO's one dimension more.
    weight = next((t.shape for t in kernel.inputs[1:] if len(t.shape) >= max(n_dims, 3)), None)
    if weight is None:
        return name
    window = "×".join(map(str, weight[2 - n_dims :]))
    if kernel.attribute("group", 1) == 1 and len(weight) == n_dims:
        return f"Conv {window}"
    return f"{'Depthwise' if weight[1 - n_dims] == 1 else 'Grouped'} conv {window}"


def time_by_kind(parts: Sequence[Part]) -> dict[str, float]:
    """Milliseconds by kind, the longest first."""
    total: dict[str, float] = {}
    for part in parts:
        total[part.kind] = total.get(part.kind, 0.0) + part.latency_ms
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def slow_for_size(parts: Sequence[Part]) -> list[Part]:
    """The kernels that lose most time against the mean rate of `parts`, the worst first.

    At most three, each of which takes 1.2 times what it would at that rate or more, and loses at
    least 0.2 % of the network's time.
    """
    rate = mean_rate(parts)

    def lost_share(part: Part) -> float:
        return part.share * (1 - part.rate / rate)

    slow = [p for p in parts if p.rate <= rate / SLOW and lost_share(p) >= MIN_LOST_SHARE]
    return sorted(slow, key=lambda part: -lost_share(part))[:N_SLOW]


def mean_rate(parts: Sequence[Part]) -> float:
    """Size for each second of all `parts` together."""
    return sum(part.size for part in parts) / sum(part.latency_ms for part in parts) * 1e3


def time_text(ms: float) -> str:
    """A time in milliseconds, or in microseconds below 0.1 ms.

    Example:
        >>> time_text(12.345), time_text(0.0123)
        ('12.3 ms', '12.3 µs')
    """
    return number(ms, "ms") if ms >= 0.1 else number(1e3 * ms, "µs")


def si(value: float) -> str:
    """A number with three digits and the prefix of its unit, which is to follow.

    Example:
        >>> f"{si(351_000_000)}MAC", f"{si(1500)}B", f"{si(12)}B"
        ('351 MMAC', '1.50 kB', '12 B')
    """
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{number(value / 10**power)} {prefix}"
    return f"{value:.0f} "
