"""What a profiler returns: values, with their units in their names and their raw samples kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from profilers.kernels import Kernel
from profilers.targets import Target
from profilers.timing import LatencySamples

FAMILY_TAG = "family"  # the tag that says what kind of network it is
SPACE_TAG = "space"  # the tag that says which space it is of, and made for which data
CALIBRATION_TAG = "calibration"  # of networks that show what a profile adds; also their family
# Its values for networks that are of no family of their own: random ones of all kinds, parts of
# networks (`profilers/excerpts.py`), and those of `profilers/overhead.py`.
SURVEY_FAMILY, EXCERPT_FAMILY = "survey", "excerpt"
EXCERPT_TAG = "excerpt_of"  # the tag that says of which network it is a part, by its digest
OF_NO_FAMILY = (SURVEY_FAMILY, EXCERPT_FAMILY, CALIBRATION_TAG)


@dataclass(frozen=True)
class KernelNode:
    """A kernel where it stands in one network.

    Attributes:
        name: The runtime's name of the node; unique in the network.
        kernel: What runs.
        reads: Names of the tensors that it reads, weights included.
        writes: Names of the tensors that it writes.
    """

    name: str
    kernel: Kernel
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class KernelLatency:
    """A kernel's latency in situ: in a run of the whole network, with its caches and layouts.

    Attributes:
        name: The runtime's name of the node.
        kernel: What ran.
        latency_ms: Mean of its undisturbed runs.
        n_samples: Runs that were timed.
    """

    name: str
    kernel: Kernel
    latency_ms: float
    n_samples: int


@dataclass(frozen=True)
class NetworkMeasurement:
    """One network on one target: end to end, by kernel, and in memory.

    Attributes:
        name: For people.
        digest: Tells models apart.
        target: Where it ran.
        samples: End-to-end runs, in a session that is not being profiled.
        kernels: In the order in which they ran, from a session that is.
        peak_memory_bytes: Most bytes of tensors in use at once during a run, as the runtime counts
            them (ONNX Runtime: in its arena, memory-pattern planning off); the model's weights and
            its inputs are not in it. None: the runtime does not say.
        computed_peak_memory_bytes: The same from the lifetimes of the tensors, see
            `profilers/memory.py`. None: not all shapes are known.
        process_peak_bytes: Most memory that the measuring process held by then, everything in it
            counted: libraries, weights, tensors. None: the system does not say.
        energy_mj: Of one run, from the device's counter. None: it has none that can be read.
        energy_relative_spread: From the lowest to the highest repeat of `energy_mj`, over it.
        reference_ms: Of the fixed reference network in good moments of this measurement: by it,
            later ones tell whether the machine is as fast as it was. None: not measured.
        tags: What else is known of the network (space, genotype, family).
    """

    name: str
    digest: str
    target: Target
    samples: LatencySamples
    kernels: tuple[KernelLatency, ...]
    peak_memory_bytes: int | None
    computed_peak_memory_bytes: int | None = None
    process_peak_bytes: int | None = None
    energy_mj: float | None = None
    energy_relative_spread: float | None = None
    reference_ms: float | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def latency_ms(self) -> float:
        """End-to-end latency of one run: the number that budgets are compared with."""
        return self.samples.latency_ms

    @property
    def kernel_sum_ms(self) -> float:
        """Sum of the latencies of all kernels; overheads of the runtime are not in it."""
        return sum(kernel.latency_ms for kernel in self.kernels)
