"""The `mobile` space: MobileNetV3-style inverted bottlenecks, for inputs from 8×8 to 224×224.

Reference:
    Howard et al., Searching for MobileNetV3, 2019; elastic depth, kernel and expansion as in Cai
    et al., Once-for-All, 2020 (stage widths and strides of the large plan are theirs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from hwnas.blocks import ClassifierHead, ConvBlock, InvertedResidual, round_channels
from hwnas.spaces.base import Choice, SearchSpace, Shape, Slot


@dataclass(frozen=True)
class _Plan:
    """What is fixed for one range of input sizes.

    Attributes:
        scales: Resolutions over the data's own; small images are enlarged, large ones shrunk.
        stem: Channels and stride of the first convolution.
        stages: `(channels, stride)` of each stage, before the width multiplier.
        features: Channels before the mean over the map.
        depths: Blocks of a stage; 0 leaves the stage out, its stride too.
    """

    scales: tuple[float, ...]
    stem: tuple[int, int]
    stages: tuple[tuple[int, int], ...]
    features: int
    depths: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[int, ...]
    widths: tuple[float, ...]


_SMALL = _Plan(
    scales=(0.5, 1, 2, 3),
    stem=(16, 1),
    stages=((32, 1), (64, 2), (128, 2)),
    features=128,
    depths=(0, 1, 2, 3, 4),
    kernel_sizes=(3, 5),
    expand_ratios=(2, 4, 6),
    widths=(0.25, 0.5, 1.0, 2.0),
)
_MEDIUM = _Plan(
    scales=(0.57, 0.79, 1), stem=(16, 1), stages=((16, 1), (32, 2), (64, 2), (96, 1)),
    features=256, depths=(1, 2, 3), kernel_sizes=(3, 5, 7), expand_ratios=(2, 4, 6),
    widths=(0.25, 0.5, 1.0),
)  # fmt: skip
_LARGE = _Plan(
    scales=(0.57, 0.79, 1), stem=(16, 2),
    stages=((24, 2), (40, 2), (80, 2), (112, 1), (160, 2)), features=960, depths=(2, 3, 4),
    kernel_sizes=(3, 5, 7), expand_ratios=(3, 4, 6), widths=(0.5, 0.75, 1.0),
)  # fmt: skip
SMALL_UP_TO, MEDIUM_UP_TO = 16, 64
MIN_RESOLUTION = 8


def mobile_space(input_shape: Shape, n_classes: int) -> SearchSpace:
    """Inverted bottlenecks for images of `input_shape`, `(channels, height, width)`, square.

    Choices: the input's resolution, a width multiplier, and for each stage its depth, activation
    and squeeze-excite, for each block its kernel size and expansion.

    Raises:
        ValueError: The images are not square, or smaller than 8×8.
    """
    channels, height, width = input_shape
    if height != width or height < MIN_RESOLUTION:
        raise ValueError(
            f"the mobile space needs square images of at least "
            f"{MIN_RESOLUTION}×{MIN_RESOLUTION}, got {height}×{width}"
        )
    plan = _SMALL if height <= SMALL_UP_TO else _MEDIUM if height <= MEDIUM_UP_TO else _LARGE
    resolutions = tuple(dict.fromkeys(round(height * scale / 4) * 4 for scale in plan.scales))
    choices = [Choice("resolution", resolutions), Choice("width", plan.widths)]
    slots: list[Slot] = [partial(_stem, plan)]
    for s in range(1, len(plan.stages) + 1):
        choices += [
            Choice(f"depth_{s}", plan.depths),
            Choice(f"activation_{s}", ("relu", "hard_swish")),
            Choice(f"squeeze_excite_{s}", (False, True)),
        ]
        for b in range(1, max(plan.depths) + 1):
            choices += [
                Choice(f"kernel_{s}_{b}", plan.kernel_sizes),
                Choice(f"expand_{s}_{b}", plan.expand_ratios),
            ]
            slots.append(partial(_bottleneck, plan, s, b))
    slots.append(partial(_head, plan, n_classes))
    return SearchSpace(
        name="mobile",
        choices=tuple(choices),
        input_shape=partial(_input_shape, channels),
        slots=tuple(slots),
    )


def _input_shape(channels: int, options: Mapping[str, Any]) -> Shape:
    return (channels, options["resolution"], options["resolution"])


def _stem(plan: _Plan, options: Mapping[str, Any]) -> ConvBlock:
    channels, stride = plan.stem
    return ConvBlock(
        round_channels(channels * options["width"]), 3, stride, options["activation_1"]
    )


def _bottleneck(
    plan: _Plan, stage: int, block: int, options: Mapping[str, Any]
) -> InvertedResidual | None:
    if block > options[f"depth_{stage}"]:
        return None
    channels, stride = plan.stages[stage - 1]
    return InvertedResidual(
        out_channels=round_channels(channels * options["width"]),
        kernel_size=options[f"kernel_{stage}_{block}"],
        stride=stride if block == 1 else 1,
        expand_ratio=options[f"expand_{stage}_{block}"],
        squeeze_excite=options[f"squeeze_excite_{stage}"],
        activation=options[f"activation_{stage}"],
    )


def _head(plan: _Plan, n_classes: int, options: Mapping[str, Any]) -> ClassifierHead:
    last = len(plan.stages)
    return ClassifierHead(
        round_channels(plan.features * options["width"]), n_classes, options[f"activation_{last}"]
    )
