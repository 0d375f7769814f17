"""Peak memory of a run, computed from the lifetimes of its tensors.

ONNX Runtime plans before it runs which tensors share a buffer, and takes the buffers from an arena
as the kernels run. Both are followed here, so the result equals what its own counters show with
memory patterns off, and also says how much is in use while each kernel runs.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from profilers.arena import Arena, Chunk
from profilers.kernels import BYTES_PER_ELEMENT, Kernel, Tensor
from profilers.measurement import KernelNode
from profilers.onnx_models import OnnxModel
from profilers.scratch import Scratch, scratch_bytes

try:  # not on Windows
    import resource
except ImportError:  # pragma: no cover
    resource = None  # type: ignore[assignment]

# The output is another view of the first input.
VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
# The output may overwrite this input, where it has the same shape and is not read again. It is the
# CPU provider's list, which most arithmetic (Add, Mul, Erf, Gelu) is not on.
OVERWRITTEN_INPUT = dict.fromkeys(
    (
        "Cast", "Celu", "Clip", "Elu", "HardSigmoid", "LeakyRelu", "LogSoftmax", "Relu",
        "ScatterElements", "Selu", "Shrink", "Sigmoid", "Softmax", "Softplus", "Softsign", "Tanh",
        "ThresholdedRelu", "Trilu",
    ),
    0,
) | {"FusedConv": 3, "com.microsoft.nchwc:Conv": 3}  # fmt: skip


@dataclass(eq=False)
class _Buffer:
    """Memory that one or several tensors use, one after the other.

    Attributes:
        tensor: That it was made for; None: a weight or an input, which the caller holds.
        n_uses: Reads and writes to come of the tensors that use it, as far as they are planned.
        last_read: Position of the last kernel that reads it; None: nobody does.
        is_output: Whether it is handed to the caller.
    """

    tensor: Tensor | None
    n_uses: int
    last_read: int | None = None
    is_output: bool = False


@dataclass(frozen=True)
class PartBuffer:
    """A buffer that a part of a network needs.

    Attributes:
        shape: Of the tensor that it is made for.
        element_bytes: Of one element; buffers alike in both may take each other's place.
        is_made_by_peak: Whether it is in use at the part's peak, or before.
        is_used_after_peak: Whether it is in use at the part's peak, or later.
    """

    shape: tuple[int, ...]
    element_bytes: int
    is_made_by_peak: bool
    is_used_after_peak: bool


@dataclass(frozen=True)
class PartMemory:
    """The memory of a part of a network, as if it ran alone.

    Attributes:
        peak_bytes: Most bytes in use at once, what the part is given included.
        buffers: All that are in use in it.
    """

    peak_bytes: int
    buffers: tuple[PartBuffer, ...]

    def to_data(self) -> list[Any]:
        """As plain data; `from_data` is its inverse."""
        rows = [
            [list(b.shape), b.element_bytes, b.is_made_by_peak, b.is_used_after_peak]
            for b in self.buffers
        ]
        return [self.peak_bytes, rows]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> PartMemory:
        """Rebuild from `to_data`."""
        peak_bytes, rows = data
        buffers = (PartBuffer(tuple(shape), *rest) for shape, *rest in rows)
        return cls(peak_bytes, tuple(buffers))


def part_memory(
    nodes: Sequence[KernelNode], inputs: Mapping[str, Tensor], *, threads: int = 1
) -> PartMemory | None:
    """The memory of some kernels of a network, which follow each other.

    Args:
        nodes: The kernels in running order.
        inputs: What the part is given by the one before, by name: it is in use until it was read.
        threads: Within one kernel.

    Returns:
        None where a size or a scratch is not known, as in `memory_timeline`.
    """
    given = Kernel("given", (), (), tuple(inputs.values()))
    steps = [KernelNode("given", given, (), tuple(inputs)), *nodes] if inputs else list(nodes)
    scratch = [scratch_bytes(node, threads=threads) for node in steps]
    known = [s for s in scratch if s is not None]
    if len(known) < len(steps) or not _is_complete(steps):
        return None
    plan = _plan(steps, set())
    timeline = _replay(plan, known)
    peak = max(range(len(timeline)), key=timeline.__getitem__, default=0)
    buffers = []
    for step, new in enumerate(plan):
        for buffer in new:
            assert buffer.tensor is not None
            last = len(steps) if buffer.last_read is None else buffer.last_read
            element_bytes = BYTES_PER_ELEMENT[buffer.tensor.dtype]
            buffers.append(
                PartBuffer(buffer.tensor.shape, element_bytes, step <= peak, last >= peak)
            )
    return PartMemory(max(timeline, default=0), tuple(buffers))


def computed_peak_bytes(
    nodes: Sequence[KernelNode], model: OnnxModel, *, threads: int = 1
) -> int | None:
    """Most bytes in use at once in a run of `model`, see `memory_timeline`; None: not known."""
    timeline = memory_timeline(nodes, model, threads=threads)
    return None if timeline is None else max(timeline, default=0)


def memory_timeline(
    nodes: Sequence[KernelNode], model: OnnxModel, *, threads: int = 1
) -> tuple[int, ...] | None:
    """Most bytes in use while each kernel runs.

    In use are the buffers of the tensors that are alive or held for a later tensor of the same
    shape, the outputs of the model from when they are written, and what a kernel takes while it
    runs (`profilers/scratch.py`), each with what the arena rounds it up to. The weights, also in
    the form in which the runtime packs them, and the inputs are not. It is the first run's: later
    ones find the arena in pieces and may differ a little.

    The rules are those of ONNX Runtime on the CPU, run one kernel after the other.

    Args:
        nodes: All kernels in running order, with what they read and write.
        model: Whose outputs are kept to the end.
        threads: Within one kernel; some take scratch memory for each.

    Returns:
        Bytes, one figure for each node. None where a tensor's size or its writer is not known, or
        a kernel is run whose scratch is not: control flow, quantized convolutions, Einsum.
    """
    scratch = [scratch_bytes(node, threads=threads) for node in nodes]
    known = [s for s in scratch if s is not None]
    if len(known) < len(nodes) or not _is_complete(nodes):
        return None
    outputs = {value.name for value in model.proto.graph.output}
    return _replay(_plan(nodes, outputs), known)


def process_peak_bytes() -> int | None:
    """Most physical memory that this process has held since it started; None: not to be had.

    It holds Python, the runtime and the weights as well and never falls, so it says what a process
    needs, and nothing about one model of several.
    """
    if not hasattr(resource, "getrusage"):
        return None
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # KiB elsewhere


def _is_complete(nodes: Sequence[KernelNode]) -> bool:
    """Whether every tensor has a size and is written before it is read."""
    written_anywhere = {name for node in nodes for name in node.writes if name}
    written: set[str] = set()
    for node in nodes:
        names = {name for name in node.writes if name}
        read = {name for name in node.reads if name}
        sizes = [tensor.dtype in BYTES_PER_ELEMENT for tensor in node.kernel.outputs]
        if not names or len(names) != len(sizes) or not all(sizes) or names & written:
            return False
        if (read & written_anywhere) - written:
            return False
        written |= names
    return True


def _plan(nodes: Sequence[KernelNode], outputs: set[str]) -> list[list[_Buffer]]:
    """The new buffers that each kernel needs; also notes in each buffer who reads it last."""
    uses = Counter(name for node in nodes for name in (*node.reads, *node.writes) if name)
    uses.update(outputs)
    buffers: dict[str, _Buffer] = {}
    tensors: dict[str, Tensor] = {}
    free: list[_Buffer] = []  # the one freed last comes first
    plan = []
    for step, node in enumerate(nodes):
        new = []
        read = [name for name in node.reads if name]
        written = [name for name in node.writes if name]
        for name in read:
            # One use more than there are: the caller holds it, and it is never free.
            buffers.setdefault(name, _Buffer(None, uses[name] + 1))
        for name, tensor in zip(written, node.kernel.outputs, strict=True):
            buffer = None
            if name not in outputs:
                if name == node.writes[0]:
                    buffer = _shared_with_input(node, tensor, buffers, tensors)
                buffer = buffer or _take_alike(free, tensor)
            if buffer is None:
                buffer = _Buffer(tensor, 0, is_output=name in outputs)
                new.append(buffer)
            buffer.n_uses += uses[name]
            buffers[name], tensors[name] = buffer, tensor
        for name in read:
            buffer = buffers[name]
            buffer.last_read = step
            buffer.n_uses -= 1
            if buffer.n_uses == 0:
                free.insert(0, buffer)
        for name in written:  # without a reader it stays as it is: the runtime frees after reads
            buffers[name].n_uses -= 1
        plan.append(new)
    return plan


def _shared_with_input(
    node: KernelNode,
    tensor: Tensor,
    buffers: dict[str, _Buffer],
    tensors: dict[str, Tensor],
) -> _Buffer | None:
    """The buffer of an input that the first output takes over, if there is one."""
    kind = node.kernel.kind
    if kind in VIEWS:
        return buffers[node.reads[0]]
    position = OVERWRITTEN_INPUT.get(kind.removeprefix("com.microsoft:"))
    if position is None or position >= len(node.reads):
        return None
    before = tensors.get(node.reads[position])
    if before is None or not _is_alike(before, tensor):
        return None
    buffer = buffers[node.reads[position]]
    return buffer if buffer.n_uses == 1 else None


def _take_alike(free: list[_Buffer], tensor: Tensor) -> _Buffer | None:
    if not tensor.shape:
        return None
    for i, buffer in enumerate(free):
        if buffer.tensor is not None and _is_alike(buffer.tensor, tensor):
            return free.pop(i)
    return None


def _is_alike(a: Tensor, b: Tensor) -> bool:
    """Same shape, not only the same size: that is what the runtime compares."""
    return a.shape == b.shape and BYTES_PER_ELEMENT[a.dtype] == BYTES_PER_ELEMENT[b.dtype]


def _replay(plan: Sequence[Sequence[_Buffer]], scratch: Sequence[Scratch]) -> tuple[int, ...]:
    freed_after: dict[int, list[_Buffer]] = defaultdict(list)
    for buffer in (buffer for new in plan for buffer in new):
        if buffer.last_read is not None and not buffer.is_output:
            freed_after[buffer.last_read].append(buffer)
    arena, chunks = Arena(), dict[_Buffer, Chunk | None]()
    timeline = []
    for step, (new, sizes) in enumerate(zip(plan, scratch, strict=True)):
        arena.reset_peak()
        for buffer in new:
            assert buffer.tensor is not None
            chunks[buffer] = arena.allocate(buffer.tensor.n_bytes)
        for chunk in [arena.allocate(size) for size in sizes]:
            arena.free(chunk)
        timeline.append(arena.peak_bytes)
        for buffer in freed_after[step]:
            arena.free(chunks[buffer])
    return tuple(timeline)
