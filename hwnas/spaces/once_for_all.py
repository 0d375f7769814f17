"""The `ofa_mobilenet_v3` space: MobileNetV3-Large with elastic resolution, width, depth and kernel.

References:
    Cai et al., Once-for-All, ICLR 2020: the choices, and its reference code for the resolutions
    that it is trained at and for the width 1.2. https://arxiv.org/abs/1908.09791
    Howard et al., Searching for MobileNetV3, 2019: stages, activations and where squeeze-excite
    stands. https://arxiv.org/abs/1905.02244
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from hwnas.blocks import ACTIVATIONS, ConvBlock, InvertedResidual, conv_bn, named, round_channels
from hwnas.spaces.base import Choice, SearchSpace, Shape, Slot
from hwnas.spaces.images import PUBLISHED_SIDE, image_side, kept_strides

KERNEL_SIZES, EXPAND_RATIOS = (3, 5, 7), (3, 4, 6)
RESOLUTIONS = (128, 160, 192, 224)  # at 224; for other images, in the same proportion
STEM, FEATURES, HIDDEN = 16, 960, 1280


@dataclass(frozen=True)
class _Stage:
    channels: int
    stride: int
    squeeze_excite: bool
    activation: str


_STAGES = (
    _Stage(24, 2, False, "relu"),
    _Stage(40, 2, True, "relu"),
    _Stage(80, 2, False, "hard_swish"),
    _Stage(112, 1, True, "hard_swish"),
    _Stage(160, 2, True, "hard_swish"),
)


@dataclass(frozen=True)
class MobileNetV3Head:
    """1×1 convolution to `features` channels, mean over the map, a hidden layer, the classes."""

    features: int
    hidden: int
    n_classes: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(n_classes,)`."""
        return nn.Sequential(
            named(
                mix=conv_bn(in_shape[0], self.features, 1, activation="hard_swish"),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                hidden=nn.Linear(self.features, self.hidden),
                activation=ACTIVATIONS["hard_swish"](),
                classify=nn.Linear(self.hidden, self.n_classes),
            )
        )


def ofa_mobilenet_v3_space(input_shape: Shape, n_classes: int) -> SearchSpace:
    """MobileNetV3-Large around each of its choices, for square images from 8×8 on.

    Choices: the resolution, a width multiplier, the depth of each of five stages, and for each
    block its kernel size (3, 5, 7) and expansion (3, 4, 6). From 128×128 on as published, with
    depths 2 to 4 and widths 1.0 and 1.2. Smaller images keep the stages, lose the first strides,
    and have depths 1 to 4 and widths 0.25, 0.5 and 1.0.

    Args:
        input_shape: `(channels, height, width)`.
        n_classes: Logits of a network.

    Raises:
        ValueError: The data are no square images of at least 8×8.
    """
    side = image_side("ofa_mobilenet_v3", input_shape, is_square=True)
    is_large = side >= PUBLISHED_SIDE
    step = 32 if is_large else 4
    resolutions = [round(side * r / RESOLUTIONS[-1] / step) * step for r in RESOLUTIONS]
    depths = (2, 3, 4) if is_large else (1, 2, 3, 4)
    choices = [
        Choice("resolution", tuple(dict.fromkeys(resolutions))),
        Choice("width", (1.0, 1.2) if is_large else (0.25, 0.5, 1.0)),
    ]
    stem_stride, *strides = kept_strides((2, *(stage.stride for stage in _STAGES)), side)
    slots: list[Slot] = [partial(_stem, stem_stride), _first]
    for s, (stage, stride) in enumerate(zip(_STAGES, strides, strict=True), 1):
        choices.append(Choice(f"depth_{s}", depths))
        for b in range(1, depths[-1] + 1):
            choices += [
                Choice(f"kernel_{s}_{b}", KERNEL_SIZES),
                Choice(f"expand_{s}_{b}", EXPAND_RATIOS),
            ]
            slots.append(partial(_block, stage, s, b, stride if b == 1 else 1))
    slots.append(partial(_head, n_classes))
    return SearchSpace(
        name="ofa_mobilenet_v3",
        choices=tuple(choices),
        input_shape=partial(_input_shape, input_shape[0]),
        slots=tuple(slots),
    )


def _input_shape(channels: int, options: Mapping[str, Any]) -> Shape:
    return (channels, options["resolution"], options["resolution"])


def _stem(stride: int, options: Mapping[str, Any]) -> ConvBlock:
    return ConvBlock(round_channels(STEM * options["width"]), 3, stride, "hard_swish")


def _first(options: Mapping[str, Any]) -> InvertedResidual:
    """The block without expansion that MobileNetV3 begins with; it has no choices."""
    return InvertedResidual(round_channels(STEM * options["width"]), 3, 1, 1, False, "relu")


def _block(
    stage: _Stage, s: int, b: int, stride: int, options: Mapping[str, Any]
) -> InvertedResidual | None:
    if b > options[f"depth_{s}"]:
        return None
    return InvertedResidual(
        out_channels=round_channels(stage.channels * options["width"]),
        kernel_size=options[f"kernel_{s}_{b}"],
        stride=stride,
        expand_ratio=options[f"expand_{s}_{b}"],
        squeeze_excite=stage.squeeze_excite,
        activation=stage.activation,
    )


def _head(n_classes: int, options: Mapping[str, Any]) -> MobileNetV3Head:
    width = options["width"]
    return MobileNetV3Head(
        round_channels(FEATURES * width), round_channels(HIDDEN * width), n_classes
    )
