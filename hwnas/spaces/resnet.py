"""The `resnet` space: residual networks of basic or bottleneck blocks, around ResNet-18 to -50.

References:
    He et al., Deep Residual Learning, CVPR 2016. https://arxiv.org/abs/1512.03385
    Cai et al., Once-for-All, ICLR 2020: the widths and bottleneck ratios of its reference code's
    ResNet-50. https://arxiv.org/abs/1908.09791
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from hwnas.blocks import SqueezeExcite, conv_bn, named, round_channels
from hwnas.spaces.base import Choice, SearchSpace, Shape, Slot
from hwnas.spaces.images import PUBLISHED_SIDE, MeanHead, fixed, image_side, kept_strides

CHANNELS = (64, 128, 256, 512)  # of the stages; four times that after bottlenecks
EXPANSION = 4
MAX_DEPTHS = (3, 4, 6, 3)
RATIOS = (0.2, 0.25, 0.35)
SE_RATIO = 0.25


class ResidualUnit(nn.Module):
    """`relu(body(x) + shortcut(x))`; the shortcut is a 1×1 convolution where the shape changes."""

    def __init__(self, body: nn.Module, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = body
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = conv_bn(in_channels, out_channels, 1, stride=stride)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """`(n, c, h, w)` to `(n, out_channels, h / stride, w / stride)`."""
        y: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return y


@dataclass(frozen=True)
class ResNetStem:
    """7×7 convolution of stride 2, or 3×3 of stride 1; then max pooling of stride 2 if asked."""

    out_channels: int
    stride: int
    pools: bool

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(out_channels, h / stride, w / stride)`, halved again by the pooling."""
        kernel_size = 7 if self.stride == 2 else 3
        layers = named(
            filter=conv_bn(
                in_shape[0], self.out_channels, kernel_size, stride=self.stride, activation="relu"
            )
        )
        if self.pools:
            layers["pool"] = nn.MaxPool2d(3, stride=2, padding=1)
        return nn.Sequential(layers)


@dataclass(frozen=True)
class BasicBlock:
    """Two 3×3 convolutions around which the input is added."""

    out_channels: int
    stride: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(out_channels, h / stride, w / stride)`."""
        body = named(
            first=conv_bn(in_shape[0], self.out_channels, 3, stride=self.stride, activation="relu"),
            second=conv_bn(self.out_channels, self.out_channels, 3),
        )
        return ResidualUnit(nn.Sequential(body), in_shape[0], self.out_channels, self.stride)


@dataclass(frozen=True)
class Bottleneck:
    """1×1 convolution to `inner_channels`, 3×3 in groups, 1×1 back; the input is added.

    The stride is that of the 3×3 convolution. Squeeze-excite, if asked, stands behind it and
    reduces to a quarter of the block's own input channels, as in RegNetY.
    """

    out_channels: int
    inner_channels: int
    stride: int
    groups: int = 1
    squeeze_excite: bool = False

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(out_channels, h / stride, w / stride)`."""
        channels, inner = in_shape[0], self.inner_channels
        body = named(
            reduce=conv_bn(channels, inner, 1, activation="relu"),
            filter=conv_bn(
                inner, inner, 3, stride=self.stride, groups=self.groups, activation="relu"
            ),
        )
        if self.squeeze_excite:
            body["gate"] = SqueezeExcite(inner, round(channels * SE_RATIO))
        body["expand"] = conv_bn(inner, self.out_channels, 1)
        return ResidualUnit(nn.Sequential(body), channels, self.out_channels, self.stride)


def resnet_space(input_shape: Shape, n_classes: int) -> SearchSpace:
    """Residual networks for images from 8×8 on.

    Choices: basic or bottleneck blocks, a width multiplier, the depth of each of four stages, and
    for each bottleneck the share of its inner channels. Width 1.0 with basic blocks and depths
    2, 2, 2, 2 is ResNet-18; with bottlenecks of a quarter and depths 3, 4, 6, 3 it is ResNet-50.
    Smaller images than 128×128 lose the first strides, and below 64×64 the 7×7 stem.

    Args:
        input_shape: `(channels, height, width)`.
        n_classes: Logits of a network.

    Raises:
        ValueError: The data are no images of at least 8×8.
    """
    side = image_side("resnet", input_shape)
    widths = (
        (0.65, 0.8, 1.0) if side >= PUBLISHED_SIDE
        else (0.25, 0.5, 1.0) if side >= 32
        else (0.125, 0.25, 0.5)
    )  # fmt: skip
    stem_stride, pool_stride, *strides = kept_strides((2, 2, 1, 2, 2, 2), side)
    choices = [Choice("block", ("basic", "bottleneck")), Choice("width", widths)]
    slots: list[Slot] = [partial(_stem, stem_stride, pool_stride == 2)]
    stages = zip(CHANNELS, strides, MAX_DEPTHS, strict=True)
    for s, (channels, stride, max_depth) in enumerate(stages, 1):
        choices.append(Choice(f"depth_{s}", tuple(range(1, max_depth + 1))))
        for b in range(1, max_depth + 1):
            choices.append(Choice(f"ratio_{s}_{b}", RATIOS))
            slots.append(partial(_unit, s, b, channels, stride if b == 1 else 1))
    slots.append(fixed(MeanHead(n_classes)))
    return SearchSpace("resnet", tuple(choices), fixed(input_shape), tuple(slots))


def _stem(stride: int, pools: bool, options: Mapping[str, Any]) -> ResNetStem:
    return ResNetStem(round_channels(CHANNELS[0] * options["width"]), stride, pools)


def _unit(
    s: int, b: int, channels: int, stride: int, options: Mapping[str, Any]
) -> BasicBlock | Bottleneck | None:
    if b > options[f"depth_{s}"]:
        return None
    if options["block"] == "basic":
        return BasicBlock(round_channels(channels * options["width"]), stride)
    out_channels = round_channels(EXPANSION * channels * options["width"])
    inner_channels = round_channels(out_channels * options[f"ratio_{s}_{b}"])
    return Bottleneck(out_channels, inner_channels, stride)
