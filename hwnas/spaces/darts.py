"""The `darts` space: networks of one normal and one reduction cell, in the paper's own notation.

A cell takes the outputs of the two cells before it, and each of its four nodes the sum of two
operations on earlier nodes. One choice for all of that would have 10^9 options, and no two networks
would share a block; so a block is one *node*. What flows from block to block is a *state*: the
tensors that later blocks may read. Like every block these take and give one tensor, the state
packed into `(features,)`; but it remembers its parts, and the next block takes those. So an
exported network has exactly the operators of the paper and no copies: packing that nobody reads is
left out. A block that is given a tensor without memory (alone, as it is counted) unpacks it.

References:
    Liu et al., DARTS, ICLR 2019. https://arxiv.org/abs/1806.09055
    Zoph et al., NASNet, CVPR 2018, where such cells come from. https://arxiv.org/abs/1707.07012
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.blocks import conv_bn, named
from hwnas.spaces.base import Choice, Genotype, SearchSpace, Shape, Slot, SpaceError
from hwnas.spaces.cells import OPERATIONS, CellStem, FactorizedReduce, relu_conv_bn, stem_halvings
from hwnas.spaces.images import PUBLISHED_SIDE, MeanHead, fixed, image_side

__all__ = ["darts_space", "genotype_text", "parse_genotype"]

# From cheap to dear. The zero of the search is in no cell that it ends with.
OPTIONS = (
    "skip_connect", "max_pool_3x3", "avg_pool_3x3", "dil_conv_3x3", "dil_conv_5x5",
    "sep_conv_3x3", "sep_conv_5x5",
)  # fmt: skip
KINDS = ("normal", "reduce")
N_NODES = 4
# By node: the pairs of inputs; 0 and 1 are the cells before, 2 to 4 the nodes before.
INPUTS = tuple(tuple(combinations(range(2 + node), 2)) for node in range(N_NODES))
CONCAT = list(range(2, 2 + N_NODES))
STEM_MULTIPLIER = 3
MIN_PUBLISHED_SIDE = 32
PARTS = "parts"  # attribute of a packed state: its tensors

Shapes = tuple[Shape, ...]
State = list[Tensor]


@dataclass(frozen=True)
class _Plan:
    channels: int
    n_cells: int


_SMALL = _Plan(channels=16, n_cells=8)  # the network that the paper searches with
_CIFAR = _Plan(channels=36, n_cells=20)
_IMAGENET = _Plan(channels=48, n_cells=14)


def _packed(state: State) -> Tensor:
    """The tensors of a state as one, `(n, features)`, that remembers them."""
    packed = torch.cat([tensor.flatten(1) for tensor in state], dim=1)
    setattr(packed, PARTS, state)
    return packed


class _OnState(nn.Module):
    """`step` on the tensors of a packed state."""

    def __init__(self, step: nn.Module, shapes: Shapes) -> None:
        super().__init__()
        self.step = step
        self.shapes = shapes

    def forward(self, x: Tensor | State) -> Tensor:
        """A packed state to the next, `(n, features)`; after the last step, `(n, n_classes)`.

        Of the tensors of a state, too, as pieces of a network are exported.
        """
        y: Tensor | State = self.step(x if isinstance(x, list) else self._parts(x))
        return _packed(y) if isinstance(y, list) else y

    def _parts(self, x: Tensor) -> State:
        """The tensors that `x` remembers; else, or where it is a state of another kind, views."""
        parts: State = getattr(x, PARTS, [])
        if tuple(tuple(part.shape[1:]) for part in parts) == self.shapes:
            return parts
        views = torch.split(x, [math.prod(shape) for shape in self.shapes], dim=1)
        return [view.reshape(-1, *shape) for view, shape in zip(views, self.shapes, strict=True)]


class _FirstState(nn.Module):
    def __init__(self, in_channels: int, halves: bool) -> None:
        super().__init__()
        self.halve = relu_conv_bn(in_channels, in_channels, 3, stride=2) if halves else None

    def forward(self, x: Tensor) -> Tensor:
        return _packed([x, x if self.halve is None else self.halve(x)])


@dataclass(frozen=True)
class FirstState:
    """The outputs of the "two cells before" the first one: the stem's, twice.

    Attributes:
        halves: The second one goes through ReLU, 3×3 convolution of stride 2, and batch norm.
    """

    halves: bool

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to the state of two tensors."""
        return _FirstState(in_shape[0], self.halves)


class _Entry(nn.Module):
    def __init__(self, state: Shapes, channels: int) -> None:
        super().__init__()
        before, last = state
        halves = before[1:] != last[1:]
        self.before = (
            FactorizedReduce(before[0], channels) if halves
            else relu_conv_bn(before[0], channels, 1)
        )  # fmt: skip
        self.last = relu_conv_bn(last[0], channels, 1)

    def forward(self, state: State) -> State:
        before, last = state
        return [last, self.before(before), self.last(last)]


@dataclass(frozen=True)
class CellEntry:
    """Bring the outputs of the two cells before to the channels and the size of this cell.

    Attributes:
        state: Shapes of the two outputs.
        channels: Of a node of this cell.
    """

    state: Shapes
    channels: int

    def build(self, in_shape: Shape) -> nn.Module:
        """Two tensors to three: the last output as it is, for the next cell, and the two inputs."""
        return _OnState(_Entry(self.state, self.channels), self.state)


class _Node(nn.Module):
    def __init__(self, block: CellNode) -> None:
        super().__init__()
        self.names: list[tuple[int, str]] = []
        for source, operation in zip(block.inputs, block.operations, strict=True):
            stride = 2 if block.reduces and source < 2 else 1
            name = f"from_{source}_{operation}"
            self.add_module(name, OPERATIONS[operation](block.state[1 + source][0], stride))
            self.names.append((source, name))
        self.is_last = len(block.state) == 2 + N_NODES

    def forward(self, state: State) -> State:
        first, second = (self.get_submodule(name)(state[1 + i]) for i, name in self.names)
        node = first + second
        if self.is_last:
            return [state[0], torch.cat([*state[3:], node], dim=1)]
        return [*state, node]


@dataclass(frozen=True)
class CellNode:
    """A node of a cell: the sum of two operations. The last one also joins the nodes' channels.

    Attributes:
        state: Shapes of the last cell's output, the cell's two inputs, and the nodes before.
        inputs: Two of those: 0 and 1 are the cell's inputs, 2 and more the nodes before.
        operations: On each.
        reduces: Operations on the cell's inputs have stride 2.
    """

    state: Shapes
    inputs: tuple[int, int]
    operations: tuple[str, str]
    reduces: bool

    def build(self, in_shape: Shape) -> nn.Module:
        """The state to the state with this node; after the last, to the outputs of two cells."""
        return _OnState(_Node(self), self.state)

    def edges(self) -> tuple[tuple[str, str, str], ...]:
        """Source, target and name of the two operations."""
        target = str(len(self.state) - 1)
        return tuple(
            (str(source), target, operation)
            for source, operation in zip(self.inputs, self.operations, strict=True)
        )


class _LastOf(nn.Module):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, state: State) -> Tensor:
        y: Tensor = self.layers(state[-1])
        return y


@dataclass(frozen=True)
class CellsHead:
    """Mean over the last cell's map, linear layer to the classes."""

    state: Shapes
    n_classes: int

    def build(self, in_shape: Shape) -> nn.Module:
        """The state to `(n_classes,)`."""
        return _OnState(_LastOf(MeanHead(self.n_classes).build(self.state[-1])), self.state)


@dataclass(frozen=True)
class ImageNetStem:
    """Two 3×3 convolutions of stride 2 with a ReLU between, to half and all of the channels."""

    out_channels: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(out_channels, h / 4, w / 4)`."""
        half = self.out_channels // 2
        return nn.Sequential(
            named(
                first=conv_bn(in_shape[0], half, 3, stride=2, activation="relu"),
                second=conv_bn(half, self.out_channels, 3, stride=2),
            )
        )


def darts_space(input_shape: Shape, n_classes: int) -> SearchSpace:
    """Normal and reduction cells for images from 8×8 on.

    For each of the four nodes of either kind of cell: which two of the tensors before it are its
    inputs, and one of seven operations on each; 10^18 networks. From 32×32 on it is the paper's
    network for CIFAR-10 (36 channels, 20 cells; from 64×64 on the stem halves the images first);
    from 128×128 on the one for ImageNet (48 channels, 14 cells); below 32×32 the one that the paper
    searches with (16 channels, 8 cells). Auxiliary heads and dropped paths are left out.

    Args:
        input_shape: `(channels, height, width)`.
        n_classes: Logits of a network.

    Raises:
        ValueError: The data are no images of at least 8×8, or their sides cannot be halved as often
            as the network does: they must be multiples of 4; 8 from 64×64, 32 from 128×128 on.
    """
    side = image_side("darts", input_shape)
    is_large = side >= PUBLISHED_SIDE
    n_halvings = 2 if is_large else stem_halvings(side)
    image_side("darts", input_shape, multiple=2 ** (n_halvings + is_large + len(KINDS)))
    plan = _IMAGENET if is_large else _CIFAR if side >= MIN_PUBLISHED_SIDE else _SMALL
    stem_channels = plan.channels if is_large else STEM_MULTIPLIER * plan.channels
    stem = ImageNetStem(stem_channels) if is_large else CellStem(stem_channels, n_halvings)
    height, width = (length // 2**n_halvings for length in input_shape[1:])
    first: Shape = (stem_channels, height, width)
    state: Shapes = (first, _halved(first) if is_large else first)
    slots: list[Slot] = [fixed(stem), fixed(FirstState(is_large))]
    channels = plan.channels
    for cell in range(plan.n_cells):
        reduces = cell in (plan.n_cells // 3, 2 * plan.n_cells // 3)
        channels *= 2 if reduces else 1
        cell_slots, state = _cell(state, channels, reduces)
        slots += cell_slots
    slots.append(fixed(CellsHead(state, n_classes)))
    return SearchSpace("darts", _choices(), fixed(input_shape), tuple(slots))


def _choices() -> tuple[Choice, ...]:
    choices = []
    for kind in KINDS:
        for node, pairs in enumerate(INPUTS, 1):
            if len(pairs) > 1:
                choices.append(Choice(f"{kind}_{node}_inputs", tuple(map(_pair_text, pairs))))
            choices += [Choice(f"{kind}_{node}_{which}", OPTIONS) for which in ("first", "second")]
    return tuple(choices)


def _pair_text(pair: tuple[int, int]) -> str:
    return f"{pair[0]},{pair[1]}"


def _cell(state: Shapes, channels: int, reduces: bool) -> tuple[list[Slot], Shapes]:
    """The slots of a cell, and the shapes that it leaves to the next."""
    last = state[1]
    size: Shape = (channels, *last[1:])
    node_shape = _halved(size) if reduces else size
    slots: list[Slot] = [fixed(CellEntry(state, channels))]
    inner: Shapes = (last, size, size)
    for node in range(N_NODES):
        slots.append(partial(_node, inner, node, reduces))
        inner = (*inner, node_shape)
    return slots, (last, (N_NODES * channels, *node_shape[1:]))


def _halved(shape: Shape) -> Shape:
    return (shape[0], *(length // 2 for length in shape[1:]))


def _node(state: Shapes, node: int, reduces: bool, options: Mapping[str, Any]) -> CellNode:
    name = f"{KINDS[reduces]}_{node + 1}"
    pairs = INPUTS[node]
    chosen = options[f"{name}_inputs"] if len(pairs) > 1 else _pair_text(pairs[0])
    inputs = next(pair for pair in pairs if _pair_text(pair) == chosen)
    return CellNode(state, inputs, (options[f"{name}_first"], options[f"{name}_second"]), reduces)


def genotype_text(genotype: Genotype) -> str:
    """The cells in the notation of the paper's code: of each node in turn its two operations.

    Example:
        >>> genotype_text((0,) * 22)[:76]
        "Genotype(normal=[('skip_connect', 0), ('skip_connect', 1), ('skip_connect', "
    """
    indices = iter(genotype)
    cells = {}
    for kind in KINDS:
        cell: list[tuple[str, int]] = []
        for pairs in INPUTS:
            inputs = pairs[next(indices) if len(pairs) > 1 else 0]
            cell += [(OPTIONS[next(indices)], source) for source in inputs]
        cells[kind] = cell
    concat = f"range({CONCAT[0]}, {CONCAT[-1] + 1})"
    told = ", ".join(f"{kind}={cell}, {kind}_concat={concat}" for kind, cell in cells.items())
    return f"Genotype({told})"


def parse_genotype(text: str) -> Genotype:
    """The genotype of cells in the notation of the paper's code, the reverse of `genotype_text`.

    The two inputs of a node may be named in any order.

    Raises:
        SpaceError: It is no such text, or the cells are none of this space.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        assert isinstance(call, ast.Call)
        given = {keyword.arg: _literal(keyword.value) for keyword in call.keywords}
        cells = [given[kind] for kind in KINDS]
        concats = [sorted(given[f"{kind}_concat"]) for kind in KINDS]
    except (SyntaxError, ValueError, TypeError, KeyError, AssertionError):
        example = genotype_text((0,) * len(_choices()))
        raise SpaceError(
            f"cells must be written like {example[:60]}…; got {text.strip()[:60]!r}"
        ) from None
    if concats != [CONCAT] * len(KINDS):
        raise SpaceError(f"the output of a cell must join its nodes {CONCAT}, got {concats}")
    try:
        return tuple(index for cell in cells for index in _cell_indices(cell))
    except SpaceError:
        raise
    except (TypeError, ValueError):  # no pairs of an operation and an input
        raise SpaceError(
            f"a cell is a list of ('operation', input), got {cells[0]!r} and {cells[1]!r}"
        ) from None


def _literal(node: ast.expr) -> Any:
    """A list, a tuple, or `range(2, 6)`."""
    if isinstance(node, ast.Call):
        return range(*(ast.literal_eval(argument) for argument in node.args))
    return ast.literal_eval(node)


def _cell_indices(cell: Sequence[tuple[str, int]]) -> list[int]:
    indices: list[int] = []
    for node, pairs in enumerate(INPUTS):
        own = sorted(cell[2 * node : 2 * node + 2], key=lambda edge: edge[1])
        inputs = tuple(source for _, source in own)
        if inputs not in pairs or any(operation not in OPTIONS for operation, _ in own):
            raise SpaceError(
                f"node {node + 2} must have two operations of {', '.join(OPTIONS)} on different "
                f"inputs below {node + 2}, got {own}"
            )
        indices += [pairs.index(inputs)] if len(pairs) > 1 else []
        indices += [OPTIONS.index(operation) for operation, _ in own]
    return indices
