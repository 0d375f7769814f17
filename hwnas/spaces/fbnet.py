"""The layer-wise spaces `proxylessnas` and `fbnet`: each layer is one of a few candidates, or none.

The stages are fixed; what each of their 21 or 22 layers is, is one choice a layer.

References:
    Cai et al., ProxylessNAS, ICLR 2019: candidates; stem and widths are those of the network that
    it found for mobile phones. https://arxiv.org/abs/1812.00332
    Wu et al., FBNet, CVPR 2019: candidates (its Table 2), stages (Table 1) with the 1984 features
    of its published FBNet-C. https://arxiv.org/abs/1812.03443
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from hwnas.blocks import (
    ClassifierHead,
    ConvBlock,
    InvertedResidual,
    Residual,
    conv_bn,
    named,
    round_channels,
)
from hwnas.spaces.base import Block, Choice, SearchSpace, Shape, Slot
from hwnas.spaces.images import fixed, image_side, kept_strides, small_width

SKIP = "skip"


class ChannelShuffle(nn.Module):
    """Deal the channels of each group out to all groups (Zhang et al., ShuffleNet, 2018)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """`(n, c, h, w)` to the same shape."""
        n, channels, height, width = x.shape
        groups = x.reshape(n, self.groups, channels // self.groups, height, width)
        return groups.transpose(1, 2).reshape(x.shape)


@dataclass(frozen=True)
class FBNetBlock:
    """1×1 convolution, depthwise filter, 1×1 convolution; the 1×1 ones in `groups`.

    Other than in `InvertedResidual` there is a first convolution without expansion, too, and with
    groups its channels are shuffled. The input is added where the shape does not change.
    """

    out_channels: int
    kernel_size: int
    stride: int
    expand_ratio: int
    groups: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(out_channels, h / stride, w / stride)`."""
        channels = in_shape[0]
        expanded = channels * self.expand_ratio
        layers = named(expand=conv_bn(channels, expanded, 1, groups=self.groups, activation="relu"))
        if self.groups > 1:
            layers["shuffle"] = ChannelShuffle(self.groups)
        layers["filter"] = conv_bn(
            expanded, expanded, self.kernel_size,
            stride=self.stride, groups=expanded, activation="relu",
        )  # fmt: skip
        layers["project"] = conv_bn(expanded, self.out_channels, 1, groups=self.groups)
        keeps_shape = self.stride == 1 and channels == self.out_channels
        return Residual(layers) if keeps_shape else nn.Sequential(layers)


@dataclass(frozen=True)
class _Macro:
    """What is fixed: channels of the stem, `(channels, layers, stride)` of each stage, features.

    Attributes:
        first: Channels of a block without expansion after the stem; None: there is no such block.
        candidates: Of every layer, as `k3_e6` (kernel size, expansion) or `k3_e1_g2` (groups).
        skips_all: Also layers that change the shape may be skipped.
    """

    stem: int
    first: int | None
    stages: tuple[tuple[int, int, int], ...]
    features: int
    candidates: tuple[str, ...]
    skips_all: bool


_PROXYLESS = _Macro(
    stem=32, first=16,
    stages=((32, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1)),
    features=1280,
    candidates=("k3_e3", "k5_e3", "k7_e3", "k3_e6", "k5_e6", "k7_e6"),
    skips_all=False,
)  # fmt: skip
_FBNET = _Macro(
    stem=16, first=None,
    stages=(
        (16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1)
    ),
    features=1984,
    candidates=(
        "k3_e1_g2", "k5_e1_g2", "k3_e1", "k5_e1", "k3_e3", "k5_e3", "k3_e6", "k5_e6"
    ),
    skips_all=True,
)  # fmt: skip


def proxylessnas_space(input_shape: Shape, n_classes: int) -> SearchSpace:
    """Inverted bottlenecks with one choice a layer, for images from 8×8 on.

    Each of 21 layers has kernel size 3, 5 or 7 and expansion 3 or 6; those that keep the shape may
    also be left out. ReLU stands for the ReLU6 of the paper, which is no dearer and fuses alike.
    From 128×128 on as published; smaller images lose the first strides and have a half or a quarter
    of the channels.

    Args:
        input_shape: `(channels, height, width)`.
        n_classes: Logits of a network.

    Raises:
        ValueError: The data are no images of at least 8×8.
    """
    return _layerwise("proxylessnas", _PROXYLESS, _inverted, input_shape, n_classes)


def fbnet_space(input_shape: Shape, n_classes: int) -> SearchSpace:
    """The nine candidates of FBNet for each of 22 layers, for images from 8×8 on.

    Kernel size 3 or 5; expansion 1, 1 in two groups, 3 or 6; or skip, which is nothing where the
    shape stays and a 1×1 convolution elsewhere. Small images as in `proxylessnas_space`.

    Args:
        input_shape: `(channels, height, width)`.
        n_classes: Logits of a network.

    Raises:
        ValueError: The data are no images of at least 8×8.
    """
    return _layerwise("fbnet", _FBNET, _fbnet_block, input_shape, n_classes)


def _layerwise(
    name: str,
    macro: _Macro,
    make: Callable[[str, int, int, bool], Block | None],
    input_shape: Shape,
    n_classes: int,
) -> SearchSpace:
    """The space of `macro`.

    Args:
        name: Of the space.
        macro: For large images.
        make: From a candidate, the channels, the stride and whether the shape stays to a block.
        input_shape: Of the images.
        n_classes: Logits of a network.
    """
    side = image_side(name, input_shape)
    width = small_width(side)
    stem_stride, *strides = kept_strides((2, *(stride for *_, stride in macro.stages)), side)
    channels = round_channels(macro.stem * width)
    slots: list[Slot] = [fixed(ConvBlock(channels, 3, stem_stride, "relu"))]
    if macro.first is not None:
        channels = round_channels(macro.first * width)
        slots.append(fixed(InvertedResidual(channels, 3, 1, 1, False, "relu")))
    choices = []
    for s, ((full, n_layers, _), stride) in enumerate(zip(macro.stages, strides, strict=True), 1):
        out_channels = round_channels(full * width)
        for i in range(1, n_layers + 1):
            own_stride = stride if i == 1 else 1
            keeps_shape = own_stride == 1 and channels == out_channels
            may_skip = keeps_shape if i > 1 else macro.skips_all
            choice = Choice(f"layer_{s}_{i}", (SKIP, *macro.candidates)[not may_skip :])
            choices.append(choice)
            slots.append(partial(_layer, choice.name, make, out_channels, own_stride, keeps_shape))
            channels = out_channels
    features = round_channels(macro.features * width)
    slots.append(fixed(ClassifierHead(features, n_classes, "relu")))
    return SearchSpace(name, tuple(choices), fixed(input_shape), tuple(slots))


def _layer(
    choice: str,
    make: Callable[[str, int, int, bool], Block | None],
    out_channels: int,
    stride: int,
    keeps_shape: bool,
    options: Mapping[str, Any],
) -> Block | None:
    return make(options[choice], out_channels, stride, keeps_shape)


def _inverted(name: str, out_channels: int, stride: int, keeps_shape: bool) -> Block | None:
    if name == SKIP:
        return None
    size = _sizes(name)
    return InvertedResidual(out_channels, size["k"], stride, size["e"], False, "relu")


def _fbnet_block(name: str, out_channels: int, stride: int, keeps_shape: bool) -> Block | None:
    if name == SKIP:
        return None if keeps_shape else ConvBlock(out_channels, 1, stride, "relu")
    size = _sizes(name)
    return FBNetBlock(out_channels, size["k"], stride, size["e"], size.get("g", 1))


def _sizes(name: str) -> dict[str, int]:
    """Of `k3_e1_g2`: `{"k": 3, "e": 1, "g": 2}`."""
    return {part[0]: int(part[1:]) for part in name.split("_")}
