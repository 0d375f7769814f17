"""The `mlp` space: plain and residual multilayer perceptrons for tables.

Reference:
    Gorishniy et al., Revisiting Deep Learning Models for Tabular Data, 2021: its MLP and its
    ResNet, without dropout, and the ranges of their depth and width. https://arxiv.org/abs/2106.11959
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from hwnas.spaces.base import Block, Choice, SearchSpace, Shape

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU,
}  # fmt: skip
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda width: nn.Identity(), "batch": nn.BatchNorm1d, "layer": nn.LayerNorm,
}  # fmt: skip
WIDTHS = (32, 64, 128, 256, 512)
MAX_DEPTH = 8


class _Dense(nn.Module):
    def __init__(self, features: int, width: int, norm: str, activation: str) -> None:
        super().__init__()
        self.dense = nn.Linear(features, width)
        self.norm = NORMS[norm](width)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.norm(self.dense(x)))
        return y


@dataclass(frozen=True)
class DenseBlock:
    """Linear layer, normalisation, activation."""

    width: int
    norm: str
    activation: str

    def build(self, in_shape: Shape) -> nn.Module:
        """`(features,)` to `(width,)`."""
        return _Dense(in_shape[0], self.width, self.norm, self.activation)


class _ResidualLayer(nn.Module):
    def __init__(self, features: int, block: ResidualDenseBlock) -> None:
        super().__init__()
        self.input_norm = NORMS[block.norm](features)
        self.expand = nn.Linear(features, block.hidden)
        self.activation = ACTIVATIONS[block.activation]()
        self.project = nn.Linear(block.hidden, features)
        self.is_last = block.is_last
        if block.is_last:
            self.output_norm = NORMS[block.norm](features)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.project(self.activation(self.expand(self.input_norm(x))))
        return self.activation(self.output_norm(y)) if self.is_last else y


@dataclass(frozen=True)
class ResidualDenseBlock:
    """Input plus a two-layer perceptron of it, normalised; normalised and activated at the end.

    Attributes:
        hidden: Width inside.
        is_last: Whether normalisation and activation follow, as before the output of the paper's
            ResNet.
    """

    hidden: int
    norm: str
    activation: str
    is_last: bool

    def build(self, in_shape: Shape) -> nn.Module:
        """`(features,)` to the same shape."""
        return _ResidualLayer(in_shape[0], self)


@dataclass(frozen=True)
class LinearBlock:
    """A linear layer alone: into a residual network, or out of any."""

    width: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(features,)` to `(width,)`."""
        return nn.Linear(in_shape[0], self.width)


def mlp_space(input_shape: Shape, n_classes: int) -> SearchSpace:
    """Perceptrons for rows of a table, `input_shape` `(features,)`.

    Choices: plain or residual, depth, normalisation, activation, for each layer its width (plain)
    or the width inside it (residual), and of residual networks the width of what is added to.

    Raises:
        ValueError: The data are no rows of numbers.
    """
    if len(input_shape) != 1:
        raise ValueError(f"the mlp space needs rows of shape (features,), got shape {input_shape}")
    layers = range(1, MAX_DEPTH + 1)
    return SearchSpace(
        name="mlp",
        choices=(
            Choice("residual", (False, True)),
            Choice("width", WIDTHS),
            Choice("norm", tuple(NORMS)),
            Choice("activation", tuple(ACTIVATIONS)),
            Choice("depth", tuple(layers)),
            *(Choice(f"hidden_{i}", WIDTHS) for i in layers),
        ),
        input_shape=partial(_input_shape, input_shape),
        slots=(_stem, *(partial(_layer, i) for i in layers), partial(_head, n_classes)),
    )


def _input_shape(shape: Shape, options: Mapping[str, Any]) -> Shape:
    return shape


def _stem(options: Mapping[str, Any]) -> LinearBlock | None:
    return LinearBlock(options["width"]) if options["residual"] else None


def _layer(i: int, options: Mapping[str, Any]) -> Block | None:
    if i > options["depth"]:
        return None
    hidden, norm, activation = options[f"hidden_{i}"], options["norm"], options["activation"]
    if options["residual"]:
        return ResidualDenseBlock(hidden, norm, activation, is_last=i == options["depth"])
    return DenseBlock(hidden, norm, activation)


def _head(n_classes: int, options: Mapping[str, Any]) -> LinearBlock:
    return LinearBlock(n_classes)
