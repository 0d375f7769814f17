"""The `wavenet` space: stacks of dilated causal convolutions with gates, for signals and audio.

Between two layers there is one tensor: the channels of the residual stream, then those of the sum
of skips.

References:
    van den Oord et al., WaveNet: A Generative Model for Raw Audio, 2016 (for classification the
    last activations are averaged over time, as its section 3.4 does for speech recognition).
    https://arxiv.org/abs/1609.03499
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwnas.spaces.base import Choice, SearchSpace, Shape

KERNEL_SIZE = 2  # with dilations 1, 2, …, 2^(k-1), a layer's output has seen 2^k steps


@dataclass(frozen=True)
class _Plan:
    """What is searched for one range of lengths.

    Attributes:
        strides: Steps between two outputs of the stem; 1 is the paper's, long signals need more.
        stacks: How often the dilations start again at 1; 3 is the paper's.
        layers: Of each stack; 10 is the paper's.
        channels: Of the residual stream.
        skip_channels: Of the sum that the class is read from.
        gate_ratios: Channels inside a layer, over `channels`; 1 is the paper's.
    """

    strides: tuple[int, ...]
    stacks: tuple[int, ...]
    layers: tuple[int, ...]
    channels: tuple[int, ...]
    skip_channels: tuple[int, ...]
    gate_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)


_SHORT = _Plan(
    strides=(1, 2), stacks=(1, 2), layers=(2, 3, 4, 5, 6), channels=(8, 16, 32),
    skip_channels=(16, 32, 64),
)  # fmt: skip
_MEDIUM = _Plan(
    strides=(1, 2, 4, 8), stacks=(1, 2, 3), layers=(4, 5, 6, 7, 8), channels=(8, 16, 32, 64),
    skip_channels=(16, 32, 64, 128),
)  # fmt: skip
_LONG = _Plan(
    strides=(1, 4, 16, 64), stacks=(1, 2, 3), layers=(6, 8, 10), channels=(16, 32, 64, 128),
    skip_channels=(32, 64, 128, 256),
)  # fmt: skip
SHORT_UP_TO, MEDIUM_UP_TO = 256, 4096
MIN_LENGTH = 4


class _Stem(nn.Module):
    def __init__(self, in_shape: Shape, channels: int, stride: int) -> None:
        super().__init__()
        # The last window ends with the signal; none reaches beyond its own steps.
        self.padding = stride + -in_shape[1] % stride
        self.frames = nn.Conv1d(in_shape[0], channels, KERNEL_SIZE * stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.frames(functional.pad(x, (self.padding, 0)))
        return y


@dataclass(frozen=True)
class CausalStem:
    """A causal convolution over two strides; an output has seen no step after its own."""

    channels: int
    stride: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, length)` to `(channels, length / stride)`, rounded up."""
        return _Stem(in_shape, self.channels, self.stride)


class _GatedLayer(nn.Module):
    def __init__(self, channels: int, block: GatedBlock) -> None:
        super().__init__()
        self.channels, self.dilation = channels, block.dilation
        self.is_first, self.is_last = block.is_first, block.is_last
        inside = round(channels * block.gate_ratio)
        self.filter = nn.Conv1d(channels, inside, KERNEL_SIZE, dilation=block.dilation)
        self.gate = nn.Conv1d(channels, inside, KERNEL_SIZE, dilation=block.dilation)
        self.bend, self.open = nn.Tanh(), nn.Sigmoid()
        self.skip = nn.Conv1d(inside, block.skip_channels, 1)
        if block.is_last:
            self.activation = nn.ReLU()
        else:
            self.residual = nn.Conv1d(inside, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        stream = x[:, : self.channels]
        seen = functional.pad(stream, ((KERNEL_SIZE - 1) * self.dilation, 0))
        gated = self.bend(self.filter(seen)) * self.open(self.gate(seen))
        skip: Tensor = self.skip(gated)
        if not self.is_first:
            skip = skip + x[:, self.channels :]
        if self.is_last:
            rectified: Tensor = self.activation(skip)
            return rectified
        return torch.cat([stream + self.residual(gated), skip], dim=1)


@dataclass(frozen=True)
class GatedBlock:
    """tanh of one dilated causal convolution, gated by the sigmoid of another; residual and skip.

    Attributes:
        skip_channels: Of the sum of skips, which the layer adds to.
        dilation: Steps between the two taps of the convolutions.
        gate_ratio: Channels inside, over those of the residual stream.
        is_first: The input is the residual stream alone; there is no sum of skips yet.
        is_last: The output is the rectified sum of skips alone; nobody reads the stream.
    """

    skip_channels: int
    dilation: int
    gate_ratio: float
    is_first: bool
    is_last: bool

    def build(self, in_shape: Shape) -> nn.Module:
        """`(channels + skip_channels, length)` to the same shape, less what is absent."""
        channels = in_shape[0] - (0 if self.is_first else self.skip_channels)
        return _GatedLayer(channels, self)


class _Head(nn.Module):
    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(channels, channels, 1)
        self.activation = nn.ReLU()
        self.classes = nn.Linear(channels, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classes(self.activation(self.mix(x)).mean(dim=2))
        return y


@dataclass(frozen=True)
class WaveNetHead:
    """1×1 convolution, ReLU, mean over time, linear layer to the classes."""

    n_classes: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(channels, length)` to `(n_classes,)`."""
        return _Head(in_shape[0], self.n_classes)


def wavenet_space(input_shape: Shape, n_classes: int) -> SearchSpace:
    """Dilated causal convolutions for signals of `input_shape`, `(channels, length)`.

    Choices: the stem's stride, the stacks of layers, within which dilations double, the layers of
    each, channels of the residual stream and of the skips, and for each layer the channels inside.

    Raises:
        ValueError: The data are no signals, or shorter than 4 steps.
    """
    if len(input_shape) != 2 or input_shape[1] < MIN_LENGTH:
        raise ValueError(
            f"the wavenet space needs signals (channels, length) of at least {MIN_LENGTH} steps, "
            f"got shape {input_shape}"
        )
    length = input_shape[1]
    plan = _SHORT if length <= SHORT_UP_TO else _MEDIUM if length <= MEDIUM_UP_TO else _LONG
    layers = tuple(n for n in plan.layers if 2**n <= length)
    places = list(product(range(1, max(plan.stacks) + 1), range(1, max(layers) + 1)))
    return SearchSpace(
        name="wavenet",
        choices=(
            Choice("stride", plan.strides),
            Choice("channels", plan.channels),
            Choice("skip_channels", plan.skip_channels),
            Choice("stacks", plan.stacks),
            Choice("layers", layers),
            *(Choice(f"gate_ratio_{s}_{i}", plan.gate_ratios) for s, i in places),
        ),
        input_shape=partial(_input_shape, input_shape),
        slots=(_stem, *(partial(_layer, s, i) for s, i in places), partial(_head, n_classes)),
    )


def _input_shape(shape: Shape, options: Mapping[str, Any]) -> Shape:
    return shape


def _stem(options: Mapping[str, Any]) -> CausalStem:
    return CausalStem(options["channels"], options["stride"])


def _layer(stack: int, i: int, options: Mapping[str, Any]) -> GatedBlock | None:
    stacks, layers = options["stacks"], options["layers"]
    if stack > stacks or i > layers:
        return None
    return GatedBlock(
        skip_channels=options["skip_channels"],
        dilation=2 ** (i - 1),
        gate_ratio=options[f"gate_ratio_{stack}_{i}"],
        is_first=(stack, i) == (1, 1),
        is_last=(stack, i) == (stacks, layers),
    )


def _head(n_classes: int, options: Mapping[str, Any]) -> WaveNetHead:
    return WaveNetHead(n_classes)
