"""Blocks where they stand, each exported once: what the runtime makes of them.

A block's kernels depend on the block, its input's shape, and the border to the block before it: in
which memory layout the tensor is handed over, and where the block begins with something that
runtimes fuse into what stands before, also on how that ends. Many such pieces are exported in one
model, and the runtime's graph of it is cut into theirs (`hwnas/piece_graph.py`).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn

from hwnas.layer_export import Sheet, Symbol
from hwnas.networks import BlockCounts, count, look_trained
from hwnas.piece_graph import (
    BLOCKED,
    CLOSED,
    CONV,
    PLAIN,
    SUM,
    TOKENS,
    Border,
    cancelled,
    cut,
    fold_norms,
    is_absorbed,
    open_heads,
    split,
)  # fmt: skip
from hwnas.piece_values import Join, Use
from hwnas.spaces.base import Block, InputType, Shape, SpaceError
from profilers.isolation import AnyProfiler
from profilers.kernels import Kernel
from profilers.memory import PartMemory, part_memory
from profilers.onnx_models import make_model

__all__ = ["BLOCKED", "PLAIN", "TOKENS", "Border", "Lead", "Piece", "PieceKernels", "export_pieces"]

PARTS = "parts"  # attribute of a tensor that stands for several
_VERSION = 8  # of the stored pieces; raise it when what is kept of them, or the cutting, changes


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
    """A block where it stands: with its input's shape, and the border over which it gets it."""

    block: Block
    in_shape: Shape
    border: Border

    @property
    def key(self) -> str:
        """Stable text under which the piece is kept on disk."""
        kind = f"{type(self.block).__module__}.{type(self.block).__qualname__}"
        fields = asdict(self.block)  # type: ignore[call-overload]
        made_by = [_VERSION, torch.__version__, _source_hash(type(self.block))]
        border = _border_data(self.border)
        return json.dumps([made_by, kind, fields, self.in_shape, border])


@dataclass(frozen=True)
class PieceKernels:
    """What the runtime makes of a piece.

    Attributes:
        kernels: In running order; without what `uses` tells.
        replaced: Kernels of the block before that are not run, because `kernels` do their work.
        border: Over which the piece hands on its output; None: as it was handed to it.
        is_open: Whether the block begins with something that may be fused into what stands before.
        counts: Of the block, and the shape of its output.
        memory: As ONNX Runtime plans it; None: not known.
        parts: Of several tensors that are handed on: the index of the given one that it is, or
            shape and border of a new one.
        uses: What is done to each given tensor, if there are several, or several are handed on; it
            is done once, however many blocks ask for it.
        joins: What joins given tensors, in that case; among `kernels`, but done once, too.
    """

    kernels: tuple[Kernel, ...]
    replaced: tuple[Kernel, ...]
    border: Border | None
    is_open: bool
    counts: BlockCounts
    memory: PartMemory | None
    parts: tuple[int | tuple[Shape, Border], ...] = ()
    uses: tuple[Use, ...] = ()
    joins: tuple[Join, ...] = ()

    def to_data(self) -> list[Any]:
        """As the store keeps it."""
        counts = self.counts
        return [
            [kernel.to_dict() for kernel in self.kernels],
            [kernel.to_dict() for kernel in self.replaced],
            None if self.border is None else _border_data(self.border),
            self.is_open,
            [list(counts.out_shape), counts.params, counts.macs],
            None if self.memory is None else self.memory.to_data(),
            [p if isinstance(p, int) else [list(p[0]), *_border_data(p[1])] for p in self.parts],
            [use.to_data() for use in self.uses],
            [join.to_data() for join in self.joins],
        ]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> PieceKernels:
        """Rebuild from `to_data`."""
        kernels, replaced, border, is_open, counted, memory, parts, uses, joins = data
        shape, params, macs = counted
        return cls(
            tuple(Kernel.from_dict(kernel) for kernel in kernels),
            tuple(Kernel.from_dict(kernel) for kernel in replaced),
            None if border is None else Border(*border),
            is_open,
            BlockCounts(tuple(shape), params, macs),
            None if memory is None else PartMemory.from_data(memory),
            tuple(p if isinstance(p, int) else (tuple(p[0]), Border(*p[1:])) for p in parts),
            tuple(map(Use.from_data, uses)),
            tuple(map(Join.from_data, joins)),
        )


def _border_data(border: Border) -> list[str | None]:
    return [border.layout, border.tail]


@dataclass(frozen=True)
class Lead:
    """Blocks that stand before a piece in its model, so that its border is as in a network.

    Attributes:
        blocks: In a row.
        in_shape: Of the first.
        border: Over which the first is given its input; such as needs no lead.
        kernels: What the runtime makes of them alone.
        replaced: As in `PieceKernels`.
    """

    blocks: tuple[Block, ...]
    in_shape: Shape
    border: Border
    kernels: tuple[Kernel, ...]
    replaced: tuple[Kernel, ...]

    def followed_by(self, block: Block, made: PieceKernels) -> Lead:
        """These blocks and one more, of which the runtime makes `made` behind them."""
        kernels, replaced = cancelled(
            (*self.kernels, *made.kernels), (*self.replaced, *made.replaced)
        )
        return replace(self, blocks=(*self.blocks, block), kernels=kernels, replaced=replaced)


class _Sum(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 1, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.first(x) + self.second(x)
        return y


def _stand_in(channels: int, tail: str) -> nn.Module:
    """What hands over an image in the blocked layout, and ends as `tail` says."""
    if tail == SUM:
        return _Sum(channels)
    conv = nn.Conv2d(channels, channels, 1, bias=False)
    return nn.Sequential(conv, nn.Sigmoid()) if tail == CLOSED else conv


class _Row:
    """A piece on a sheet, between what stands for its neighbours.

    The neighbour behind accepts either layout.

    Attributes:
        stand_ins: As `cut` takes them.
        neighbours: As `cut` takes them.
        shapes: Of the tensors that the piece hands on.
        counts: Of the piece's block.
    """

    def __init__(self, sheet: Sheet, i: int, piece: Piece, lead: Lead | None) -> None:
        blocks, shape, border = [piece.block], piece.in_shape, piece.border
        if lead is not None:
            blocks, shape, border = [*lead.blocks, piece.block], lead.in_shape, lead.border
        layouts = border.layout.split()
        shapes = (shape,) if len(layouts) == 1 else state_of(blocks[0])
        assert shapes is not None
        input_type = _input_type(border.layout)
        given = [sheet.input(f"x{i}_{j}_", s, input_type) for j, s in enumerate(shapes)]
        tail = (border.tail or CONV) if len(layouts) == 1 else CLOSED
        parts = self._run(sheet, blocks, shape, _standing_in(sheet, given, layouts, tail))
        if len(parts) > 1 and tail != CLOSED:
            # Several tensors may have several readers each, and then nothing is fused into what
            # they come from.
            tail = CLOSED
            parts = self._run(sheet, blocks, shape, _standing_in(sheet, given, layouts, tail))
        self.shapes = [part.shape[1:] for part in parts]
        pairs = zip(given, layouts, strict=True)
        self.stand_ins = {x.name: tail if layout == BLOCKED else None for x, layout in pairs}
        self.neighbours = {f"y{i}_{j}_": len(part.shape) == 4 for j, part in enumerate(parts)}
        for part, (name, is_image) in zip(parts, self.neighbours.items(), strict=True):
            neighbour = nn.Conv2d(part.shape[1], 16, 1) if is_image else nn.Identity()
            sheet.output(name, sheet.run(neighbour, [part])[0])

    def _run(
        self, sheet: Sheet, blocks: Sequence[Block], shape: Shape, parts: list[Symbol]
    ) -> list[Symbol]:
        """What the blocks make of `parts`, which are the first one's input of `shape`."""
        for block in blocks:
            input_type = _type_name(parts[0])
            try:
                module = block.build(shape).eval()
                look_trained(module)
                y, n_macs = sheet.run(module, parts)
            except RuntimeError as error:
                raise SpaceError(
                    f"{block} does not fit an input of shape {shape}: {error}"
                ) from error
            parts = y if isinstance(y, list) else getattr(y, PARTS, [y])
            n_features = sum(math.prod(part.shape[1:]) for part in parts)
            before, shape = shape, (n_features,) if len(parts) > 1 else parts[0].shape[1:]
            if n_macs is None:
                self.counts = count(block, before, input_type)
            else:
                n_params = sum(p.numel() for p in module.parameters())
                self.counts = BlockCounts(shape, n_params, n_macs)
        return parts


def _standing_in(
    sheet: Sheet, given: Sequence[Symbol], layouts: Sequence[str], tail: str
) -> list[Symbol]:
    """The tensors that the block before hands over: inputs, in their layouts."""
    return [
        sheet.run(_stand_in(x.shape[1], tail), [x])[0] if layout == BLOCKED else x
        for x, layout in zip(given, layouts, strict=True)
    ]


def export_pieces(
    pieces: Sequence[Piece], profiler: AnyProfiler, leads: Mapping[Piece, Lead] | None = None
) -> list[PieceKernels]:
    """Export pieces in one model and cut the runtime's graph of it into theirs.

    Args:
        pieces: With a layout alone, or in the blocked layout with the kind of its end; others
            need a lead.
        profiler: Asked what the target's runtime makes of them.
        leads: What stands before pieces whose border is none that can be made up.

    Raises:
        ConfigError: The target's runtime does not show which kernels a piece has.
    """
    if len(pieces) == 1:  # whether kernels reach across pieces shows only beside another
        return export_pieces([*pieces, *pieces], profiler, leads)[:1]
    leads = leads or {}
    target = profiler.target
    sheet = Sheet(target.batch)
    with torch.random.fork_rng(devices=()):
        rows = [_Row(sheet, i, piece, leads.get(piece)) for i, piece in enumerate(pieces)]
    proto = sheet.model()
    stand_ins = {x: s is not None for row in rows for x, s in row.stand_ins.items()}
    heads = open_heads(proto.graph, stand_ins)
    fold_norms(proto.graph)
    row_of = {x: i for i, row in enumerate(rows) for x in row.stand_ins}
    owned = split(profiler.kernels(make_model(proto, name=f"pieces-{len(pieces)}")), row_of, target)
    found = []
    for i, (piece, row) in enumerate(zip(pieces, rows, strict=True)):
        part = cut(owned[i], row.stand_ins, row.neighbours)
        kernels, replaced, memory = part.kernels, part.replaced, None
        parts = tuple(
            p if isinstance(p, int) else (shape, p)
            for p, shape in zip(part.parts, row.shapes, strict=False)  # none if it is but one
        )
        shared = parts, part.uses, part.joins
        if lead := leads.get(piece):
            kernels, replaced = cancelled((*kernels, *lead.replaced), (*replaced, *lead.kernels))
            shared = (), (), ()  # it is the lead's
        else:
            memory = part_memory(part.nodes, part.given, threads=target.threads)
        is_open = False
        if not part.uses:
            ((x, stand_in),) = row.stand_ins.items()
            # What leaves a convolution as it is, does so to all that is less open.
            reaches_back = stand_in != CONV or bool(part.replaced) or is_absorbed(heads[x])
            is_open = bool(heads[x]) and reaches_back
        found.append(
            PieceKernels(kernels, replaced, part.border, is_open, row.counts, memory, *shared)
        )
    return found


def state_of(block: Block) -> tuple[Shape, ...] | None:
    """Shapes of the tensors that a block takes together; None: it takes one."""
    state: tuple[Shape, ...] | None = getattr(block, "state", None)
    return state


def _input_type(layout: str) -> InputType:
    return "int64" if layout == TOKENS else "float32"


def _type_name(symbol: Symbol) -> InputType:
    return "int64" if symbol.dtype == torch.int64 else "float32"
