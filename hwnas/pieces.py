"""Blocks where they stand, each exported once: what the runtime makes of them.

A block's kernels depend only on the block, its input's shape, and the memory layout in which its
neighbour hands it that input. Many such pieces are exported in one model, and the runtime's graph
of it is cut into theirs.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from hwnas.errors import ConfigError
from hwnas.export import to_onnx
from hwnas.networks import BlockCounts, count
from hwnas.spaces.base import Block, Shape
from profilers.isolation import AnyProfiler
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelNode
from profilers.memory import PartMemory, part_memory
from profilers.onnx_models import make_model

PLAIN, BLOCKED = "plain", "blocked"
_BLOCKED_DOMAIN = "com.microsoft.nchwc:"
_REORDER_INPUT = "com.microsoft.nchwc:ReorderInput"
_REORDER_OUTPUT = "com.microsoft.nchwc:ReorderOutput"
_REORDERS = (_REORDER_INPUT, _REORDER_OUTPUT)
# Runtimes that show the kernels of every block.
_COSTED = ("onnxruntime-cpu", "openvino-cpu", "torch-cpu", "torch-cuda")
_VERSION = 5  # of the stored pieces; raise it when the cutting below changes


@cache
def _source_hash(block: type) -> str:
    """Tells versions of a block's module apart: an edited `build` must be exported again."""
    try:
        source = inspect.getsource(inspect.getmodule(block) or block)
    except (OSError, TypeError):  # typed into a console
        source = ""
    return hashlib.sha256(source.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Piece:
    """A block where it stands: with its input's shape and layout."""

    block: Block
    in_shape: Shape
    in_layout: str

    @property
    def key(self) -> str:
        """Stable text under which the piece is kept on disk."""
        kind = f"{type(self.block).__module__}.{type(self.block).__qualname__}"
        fields = asdict(self.block)  # type: ignore[call-overload]
        made_by = [_VERSION, torch.__version__, _source_hash(type(self.block))]
        return json.dumps([made_by, kind, fields, self.in_shape, self.in_layout])


@dataclass(frozen=True)
class PieceKernels:
    """What the runtime makes of a piece.

    Attributes:
        kernels: In running order.
        out_layout: In which the piece hands on its output.
        counts: Of the block, and the shape of its output.
        memory: As ONNX Runtime plans it; None: not known.
    """

    kernels: tuple[Kernel, ...]
    out_layout: str
    counts: BlockCounts
    memory: PartMemory | None

    def to_data(self) -> list[Any]:
        """As the store keeps it."""
        counts = self.counts
        return [
            self.out_layout,
            [kernel.to_dict() for kernel in self.kernels],
            [list(counts.out_shape), counts.params, counts.macs],
            None if self.memory is None else self.memory.to_data(),
        ]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> PieceKernels:
        """Rebuild from `to_data`."""
        layout, kernels, (shape, params, macs), memory = data
        return cls(
            tuple(Kernel.from_dict(kernel) for kernel in kernels),
            layout,
            BlockCounts(tuple(shape), params, macs),
            None if memory is None else PartMemory.from_data(memory),
        )


class _Pieces(nn.Module):
    """Blocks side by side, each between two 1×1 convolutions that stand for its neighbours.

    The one before hands over its output in the runtime's blocked layout; without it the block
    meets the plain layout of the model's input. The one after accepts either.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        super().__init__()
        before, blocks, after = [], [], []
        for piece in pieces:
            shape = count(piece.block, piece.in_shape).out_shape
            channels = piece.in_shape[0]
            before.append(
                nn.Conv2d(channels, channels, 1) if piece.in_layout == BLOCKED else nn.Identity()
            )
            blocks.append(piece.block.build(piece.in_shape))
            after.append(nn.Conv2d(shape[0], 16, 1) if len(shape) == 3 else nn.Identity())
        self.before, self.blocks, self.after = map(nn.ModuleList, (before, blocks, after))

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = zip(self.before, self.blocks, self.after, inputs, strict=True)
        return tuple(after(block(before(x))) for before, block, after, x in rows)


def export_pieces(pieces: Sequence[Piece], profiler: AnyProfiler) -> list[PieceKernels]:
    """Export pieces in one model and cut the runtime's graph of it into theirs.

    Raises:
        ConfigError: The target's runtime does not show which kernels a piece has.
    """
    if len(pieces) == 1:  # whether kernels reach across pieces shows only beside another
        return export_pieces([*pieces, *pieces], profiler)[:1]
    target = profiler.target
    examples = [torch.zeros((target.batch, *piece.in_shape)) for piece in pieces]
    inputs = [f"x{i}_" for i in range(len(pieces))]
    outputs = [f"y{i}_" for i in range(len(pieces))]
    with torch.random.fork_rng(devices=()):
        module = _Pieces(pieces)
    proto = to_onnx(module, examples, input_names=inputs, output_names=outputs)
    nodes = profiler.kernels(make_model(proto, name=f"pieces-{len(pieces)}"))
    _check_apart(nodes, inputs, target.runtime)
    found = []
    for piece, x, y in zip(pieces, inputs, outputs, strict=True):
        own, given, layout = _cut(nodes, x, y)
        kernels = tuple(node.kernel for node in own)
        memory = part_memory(own, _tensors(own, given), threads=target.threads)
        found.append(PieceKernels(kernels, layout, count(piece.block, piece.in_shape), memory))
    return found


def _check_apart(nodes: Sequence[KernelNode], inputs: Sequence[str], runtime: str) -> None:
    """Make sure that no kernel is of two pieces, each of which starts at one of `inputs`."""
    owner = {x: x for x in inputs}
    is_apart = True
    for node in nodes:  # in running order
        owners = {owner[tensor] for tensor in node.reads if tensor in owner}
        is_apart = is_apart and len(owners) <= 1
        for x in owners:
            owner.update(dict.fromkeys(node.writes, x))
    if not is_apart or len(owner) == len(inputs):  # or nothing reads the pieces' inputs
        raise ConfigError(
            f"target {runtime} shows whole models only, or kernels across blocks, so a space "
            f"cannot be costed on it: use {', '.join(_COSTED[:-1])} or {_COSTED[-1]}"
        )


def _cut(nodes: Sequence[KernelNode], x: str, y: str) -> tuple[list[KernelNode], set[str], str]:
    """The piece from `x` to `y` without its neighbours.

    Returns:
        Its kernels, the names of the tensors that it is given, and its output's layout.
    """
    # Pieces share no tensor that is computed, so walking from x finds exactly this one's nodes.
    tensors, own = {x}, []
    blocked: set[str] = set()  # tensors in the runtime's blocked layout
    for node in nodes:  # in running order
        if tensors.intersection(node.reads):
            tensors.update(node.writes)
            own.append(node)
            if _writes_blocked(node, blocked):
                blocked.update(node.writes)
    before = next((node for node in own if node.name.startswith("/before.")), None)
    after = next(
        (
            node
            for node in own
            if node.kernel.kind not in _REORDERS
            and (node.name.startswith("/after.") or node.name.startswith(y))
        ),
        None,
    )
    given = {x} if before is None else set(before.writes)
    inside = set(given)
    piece = []
    for node in own:
        if node is not before and node is not after and inside.intersection(node.reads):
            inside.update(node.writes)
            piece.append(node)
    layout = PLAIN
    if after is not None:
        source = next((node for node in piece if after.reads[0] in node.writes), None)
        if source is None:  # the block does nothing
            layout = PLAIN if before is None else BLOCKED
        else:
            readers = [n for n in piece if set(source.writes).intersection(n.reads)]
            if source.kernel.kind in _REORDERS and not readers:
                piece.remove(source)  # the neighbour asked for it, and it is counted there
            handed_on = source.reads if source.kernel.kind in _REORDERS else source.writes
            layout = PLAIN if blocked.isdisjoint(handed_on) else BLOCKED
    return piece, given, layout


def _writes_blocked(node: KernelNode, blocked: Set[str]) -> bool:
    """Whether the node's output is in the blocked layout, given which tensors before it are."""
    kind = node.kernel.kind
    if kind in _REORDERS:
        return kind == _REORDER_INPUT
    # What stands in no domain of its own (adding, joining channels) keeps the layout it is given.
    return kind.startswith(_BLOCKED_DOMAIN) or not blocked.isdisjoint(node.reads)


def _tensors(nodes: Sequence[KernelNode], names: Set[str]) -> dict[str, Tensor]:
    """Those of the tensors that some node reads, by name."""
    return {
        name: tensor
        for node in nodes
        for name, tensor in zip(node.reads, node.kernel.inputs, strict=False)
        if name in names
    }
