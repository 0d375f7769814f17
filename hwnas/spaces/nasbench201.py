"""The `nasbench201` space: all 15,625 cells of NAS-Bench-201, and the strings that name them.

Reference:
    Dong & Yang, NAS-Bench-201, ICLR 2020. https://arxiv.org/abs/2001.00326
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor, nn

from hwnas.blocks import named
from hwnas.spaces.base import (
    Choice,
    Genotype,
    GenotypeArray,
    SearchSpace,
    Shape,
    Slot,
    SpaceError,
)
from hwnas.spaces.cells import OPERATIONS, CellStem, relu_conv_bn, stem_halvings
from hwnas.spaces.images import fixed, image_side

__all__ = ["Cell", "CellSpace", "cell_text", "nasbench201_space", "parse_cell"]

N_NODES = 4
# (source, target), in the order of the strings and of the genotypes
EDGES = tuple((i, j) for j in range(1, N_NODES) for i in range(j))
NONE = "none"
OPTIONS = (NONE, "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")  # as in the paper
CHANNELS, N_CELLS, N_STAGES = 16, 5, 3
FEW_CELLS, FEW_CELLS_BELOW = 2, 16  # cells of a stage, for images with a shorter side


class _CellModule(nn.Module):
    """Each node is the sum of its edges; the last one is the output."""

    def __init__(self, operations: tuple[str, ...], channels: int) -> None:
        super().__init__()
        self.names: list[tuple[int, int, str]] = []
        for (source, target), operation in zip(EDGES, operations, strict=True):
            if operation != NONE:
                name = f"from_{source}_to_{target}_{operation}"
                self.add_module(name, OPERATIONS[operation](channels, 1))
                self.names.append((source, target, name))

    def forward(self, x: Tensor) -> Tensor:
        nodes = {0: x}
        for source, target, name in self.names:  # edges into a node come before those out of it
            y = self.get_submodule(name)(nodes[source])
            nodes[target] = nodes[target] + y if target in nodes else y
        # Nothing arrives: zeros, that still depend on the input, as in the reference code.
        return nodes[N_NODES - 1] if N_NODES - 1 in nodes else x * 0.0


@dataclass(frozen=True)
class Cell:
    """A small graph: node 0 is the input, each later node the sum of its edges, node 3 the output.

    Attributes:
        operations: Of the edges 0→1, 0→2, 1→2, 0→3, 1→3, 2→3; `none` is no edge.
    """

    operations: tuple[str, ...]

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to the same shape.

        Convolutions begin with a ReLU, as published. Behind a convolution a runtime may fuse it
        there, where all that reads the input of the cell is convolutions.
        """
        return _CellModule(self.operations, in_shape[0])

    def edges(self) -> tuple[tuple[str, str, str], ...]:
        """Source, target and operation of each edge that there is."""
        return tuple(
            (str(source), str(target), operation)
            for (source, target), operation in zip(EDGES, self.operations, strict=True)
            if operation != NONE
        )


class _Reduction(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = relu_conv_bn(in_channels, out_channels, 3, stride=2)
        self.second = relu_conv_bn(out_channels, out_channels, 3)
        self.shortcut = nn.Sequential(
            named(pool=nn.AvgPool2d(2), mix=nn.Conv2d(in_channels, out_channels, 1, bias=False))
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shortcut(x) + self.second(self.first(x))
        return y


@dataclass(frozen=True)
class Reduction:
    """The residual block of stride 2 between stages, pre-activated; its shortcut is pooled."""

    out_channels: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(out_channels, h / 2, w / 2)`."""
        return _Reduction(in_shape[0], self.out_channels)


@dataclass(frozen=True)
class CellHead:
    """Batch norm and ReLU, mean over the map, linear layer to the classes."""

    n_classes: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(n_classes,)`."""
        return nn.Sequential(
            named(
                norm=nn.BatchNorm2d(in_shape[0]),
                activation=nn.ReLU(),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                classify=nn.Linear(in_shape[0], self.n_classes),
            )
        )


@dataclass(frozen=True, eq=False)
class CellSpace(SearchSpace):
    """The choices are the edges of a cell. Edges on no way from input to output are `none`.

    So cells that differ in those only are one network. In the published code, what leaves a node
    that nothing enters still adds a constant to each channel (its batch norm's shift), and such
    edges are counted in published parameters.
    """

    def canonical(self, genotypes: GenotypeArray) -> GenotypeArray:
        """Set the edges that lie on no way from node 0 to the last to `none`, `(n, 6)`."""
        return _live(genotypes)


def _live(genotypes: GenotypeArray) -> GenotypeArray:
    """The genotypes `(n, 6)` with `none` on all edges that no way through the cell uses."""
    is_open = genotypes != OPTIONS.index(NONE)
    entered = np.zeros((len(genotypes), N_NODES), dtype=bool)
    left = entered.copy()
    entered[:, 0] = left[:, -1] = True
    for edge, (source, target) in enumerate(EDGES):
        entered[:, target] |= entered[:, source] & is_open[:, edge]
    for edge, (source, target) in reversed(list(enumerate(EDGES))):
        left[:, source] |= left[:, target] & is_open[:, edge]
    sources, targets = np.array(EDGES).T
    return np.where(entered[:, sources] & left[:, targets], genotypes, OPTIONS.index(NONE))


@cache
def _cell(operations: tuple[str, ...]) -> Cell:
    row = np.array([[OPTIONS.index(operation) for operation in operations]])
    return Cell(tuple(OPTIONS[i] for i in _live(row)[0]))


def _cell_slot(options: Mapping[str, Any]) -> Cell:
    return _cell(tuple(options[f"op_{source}to{target}"] for source, target in EDGES))


def nasbench201_space(input_shape: Shape, n_classes: int) -> SearchSpace:
    """NAS-Bench-201 for images from 8×8 on: one choice for each of a cell's six edges.

    Three stages of five cells with 16, 32 and 64 channels, as published for 32×32. Larger images
    are first halved in the stem; below 16×16 a stage has two cells.

    Args:
        input_shape: `(channels, height, width)`.
        n_classes: Logits of a network.

    Raises:
        ValueError: The data are no images of at least 8×8, or their sides cannot be halved twice
            (64×64 and larger: as often as the stem does, too).
    """
    side = image_side("nasbench201", input_shape)
    n_halvings = stem_halvings(side)
    image_side("nasbench201", input_shape, multiple=2 ** (n_halvings + N_STAGES - 1))
    n_cells = N_CELLS if side >= FEW_CELLS_BELOW else FEW_CELLS
    slots: list[Slot] = [fixed(CellStem(CHANNELS, n_halvings))]
    for stage in range(N_STAGES):
        if stage > 0:
            slots.append(fixed(Reduction(CHANNELS * 2**stage)))
        slots += [_cell_slot] * n_cells
    slots.append(fixed(CellHead(n_classes)))
    return CellSpace(
        name="nasbench201",
        choices=tuple(Choice(f"op_{source}to{target}", OPTIONS) for source, target in EDGES),
        input_shape=fixed(input_shape),
        slots=tuple(slots),
    )


def cell_text(genotype: Genotype) -> str:
    """The name of a cell in the benchmark; the genotype is of `nasbench201_space`.

    Example:
        >>> cell_text((3, 3, 1, 0, 3, 4))
        '|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|none~0|nor_conv_3x3~1|avg_pool_3x3~2|'
    """
    nodes: dict[int, list[str]] = {}
    for (source, target), option in zip(EDGES, genotype, strict=True):
        nodes.setdefault(target, []).append(f"{OPTIONS[option]}~{source}")
    return "+".join(f"|{'|'.join(edges)}|" for edges in nodes.values())


def parse_cell(text: str) -> Genotype:
    """The genotype of a cell named as in the benchmark, the reverse of `cell_text`.

    Raises:
        SpaceError: It is no such name.
    """
    found = re.findall(r"([a-z0-9_]+)~(\d)", text)
    by_edge = dict.fromkeys(EDGES, "") | {
        edge: operation for edge, (operation, _) in zip(EDGES, found, strict=False)
    }
    if not all(operation in OPTIONS for operation in by_edge.values()) or (
        cell_text(tuple(OPTIONS.index(operation) for operation in by_edge.values())) != text.strip()
    ):
        raise SpaceError(
            f"a cell must be named like {cell_text((3,) * len(EDGES))}, of the operations "
            f"{', '.join(OPTIONS)}; got {text.strip()[:120]!r}"
        )
    return tuple(OPTIONS.index(operation) for operation in by_edge.values())
