"""The `regnet` space: networks whose block widths lie on a line that is quantised to stages.

Reference:
    Radosavovic et al., Designing Network Design Spaces, CVPR 2020: the parametrisation (equations
    2 to 4), RegNetX and, with squeeze-excite, RegNetY. https://arxiv.org/abs/2003.13678
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from hwnas.blocks import ConvBlock
from hwnas.spaces.base import Choice, Constraint, SearchSpace, Shape
from hwnas.spaces.images import PUBLISHED_SIDE, MeanHead, fixed, image_side, kept_strides
from hwnas.spaces.resnet import Bottleneck

MAX_STAGES = 4
QUANTUM = 8


@dataclass(frozen=True)
class _Plan:
    """Options for one range of image sizes; widths and slopes in channels."""

    stem: int
    n_stages: tuple[int, ...]  # that a network may have
    depths: tuple[int, ...]
    initial_widths: tuple[int, ...]
    slopes: tuple[float, ...]
    multipliers: tuple[float, ...]
    group_widths: tuple[int, ...]


_LARGE = _Plan(
    stem=32, n_stages=(4,), depths=(13, 16, 18, 22), initial_widths=(24, 48, 56, 80),
    slopes=(24.48, 27.89, 32.54, 36.44), multipliers=(2.09, 2.28, 2.49, 2.54),
    group_widths=(8, 16, 24),
)  # fmt: skip
_SMALL = _Plan(
    stem=16, n_stages=(2, 3, 4), depths=(4, 6, 8, 12), initial_widths=(8, 16, 24),
    slopes=(4.0, 8.0, 12.0, 16.0), multipliers=(2.0, 2.25, 2.5), group_widths=(4, 8, 16),
)  # fmt: skip


@lru_cache(maxsize=10_000)
def stage_widths(
    initial_width: int, slope: float, multiplier: float, depth: int
) -> tuple[tuple[int, int], ...]:
    """Channels and blocks of each stage: a line over the blocks, rounded to powers of a number.

    Args:
        initial_width: w_0 of the paper: channels of the first block, a multiple of 8.
        slope: w_a: channels that each block has more than the one before.
        multiplier: w_m: channels of a stage over those of the stage before.
        depth: d: number of blocks.

    Example:
        >>> stage_widths(24, 24.48, 2.54, 22)  # RegNetX-400MF, before the groups' width
        ((24, 1), (64, 2), (152, 7), (392, 12))
    """
    powers = (
        round(math.log((initial_width + slope * block) / initial_width, multiplier))
        for block in range(depth)
    )
    widths = (round(initial_width * multiplier**power / QUANTUM) * QUANTUM for power in powers)
    return tuple(Counter(widths).items())  # widths ascend: each is counted where it first occurs


def regnet_space(input_shape: Shape, n_classes: int) -> SearchSpace:
    """RegNetX and RegNetY for images from 8×8 on.

    Choices: depth, initial width, slope and multiplier of the widths, the channels of a group, and
    squeeze-excite (RegNetY; its gate is a hard sigmoid here). From 128×128 on the options are those
    of published networks with 200 to 800 million multiply-accumulates, and there are four stages,
    as in these. Smaller images have smaller options, two to four stages, and lose first strides.

    Args:
        input_shape: `(channels, height, width)`.
        n_classes: Logits of a network.

    Raises:
        ValueError: The data are no images of at least 8×8.
    """
    side = image_side("regnet", input_shape)
    plan = _LARGE if side >= PUBLISHED_SIDE else _SMALL
    stem_stride, *strides = kept_strides((2,) * (1 + MAX_STAGES), side)
    stem, head = ConvBlock(plan.stem, 3, stem_stride, "relu"), MeanHead(n_classes)
    blocks = [partial(_block, tuple(strides), j) for j in range(plan.depths[-1])]
    return SearchSpace(
        name="regnet",
        choices=(
            Choice("depth", plan.depths),
            Choice("initial_width", plan.initial_widths),
            Choice("slope", plan.slopes),
            Choice("multiplier", plan.multipliers),
            Choice("group_width", plan.group_widths),
            Choice("squeeze_excite", (False, True)),
        ),
        input_shape=fixed(input_shape),
        slots=(fixed(stem), *blocks, fixed(head)),
        constraints=(
            Constraint(
                f"{' or '.join(map(str, plan.n_stages))} stages",
                partial(_has_stages, plan.n_stages),
            ),
        ),
    )


def _has_stages(n_stages: tuple[int, ...], options: Mapping[str, Any]) -> bool:
    return len(_stages(options)) in n_stages


def _stages(options: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    return stage_widths(
        options["initial_width"], options["slope"], options["multiplier"], options["depth"]
    )


def _block(strides: tuple[int, ...], block: int, options: Mapping[str, Any]) -> Bottleneck | None:
    if block >= options["depth"]:
        return None
    places = [(stage, i, w) for stage, (w, n) in enumerate(_stages(options)) for i in range(n)]
    stage, place, width = places[block]
    group_width = min(options["group_width"], width)
    channels = round(width / group_width) * group_width
    is_strided = place == 0 and stage < len(strides)  # a fifth stage breaks the constraint
    return Bottleneck(
        out_channels=channels,
        inner_channels=channels,
        stride=strides[stage] if is_strided else 1,
        groups=channels // group_width,
        squeeze_excite=options["squeeze_excite"],
    )
