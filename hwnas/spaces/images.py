"""What the convolutional spaces have in common: how strides and widths follow the images' size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from torch import nn

from hwnas.blocks import named
from hwnas.spaces.base import Shape

__all__ = ["PUBLISHED_SIDE", "MeanHead", "fixed", "image_side", "kept_strides", "small_width"]

T = TypeVar("T")

PUBLISHED_SIDE = 128  # from here on, networks for ImageNet are built as published
MIN_SIDE = 8
LAST_SIDE = 4  # pixels of the last map that strides leave at least


def image_side(
    space: str, input_shape: Shape, *, is_square: bool = False, multiple: int = 1
) -> int:
    """The shorter side of images of `input_shape`, `(channels, height, width)`.

    Args:
        space: What messages call the space.
        input_shape: Of one example.
        is_square: The space takes square images only.
        multiple: Both sides must be a multiple of it.

    Raises:
        ValueError: The data are no images, too small, or of sides that the space does not take.
    """
    sides = input_shape[1:]
    if (
        len(input_shape) != 3
        or min(sides) < MIN_SIDE
        or (is_square and sides[0] != sides[1])
        or any(side % multiple for side in sides)
    ):
        kind = "square images" if is_square else "images"
        whole = f", their sides multiples of {multiple}" if multiple > 1 else ""
        raise ValueError(
            f"the {space} space needs {kind} (channels, height, width) of at least "
            f"{MIN_SIDE}×{MIN_SIDE}{whole}; got shape {input_shape}"
        )
    return min(sides)


def kept_strides(strides: Sequence[int], side: int) -> tuple[int, ...]:
    """The strides of a network, the first ones 1 where the images are too small for all of them.

    So many halvings are kept that the last map has `LAST_SIDE` pixels a side or more.

    Args:
        strides: 1 or 2, in the order of the network.
        side: Of the images, in pixels.

    Example:
        >>> kept_strides((2, 2, 2, 1, 2), 224), kept_strides((2, 2, 2, 1, 2), 32)
        ((2, 2, 2, 1, 2), (1, 2, 2, 1, 2))
        >>> kept_strides((2, 2, 2, 1, 2), 8)
        (1, 1, 1, 1, 2)
    """
    n_halvings = max(side // LAST_SIDE, 1).bit_length() - 1
    n_dropped = max(0, sum(stride == 2 for stride in strides) - n_halvings)
    kept = []
    for stride in strides:
        is_dropped = stride == 2 and n_dropped > 0
        n_dropped -= is_dropped
        kept.append(1 if is_dropped else stride)
    return tuple(kept)


def small_width(side: int) -> float:
    """What the channels of a network for ImageNet are multiplied by, for images of `side`."""
    return 1.0 if side >= PUBLISHED_SIDE else 0.5 if side >= 32 else 0.25


def fixed(value: T) -> Callable[[Mapping[str, Any]], T]:
    """A function of the options that always returns `value`: a slot without a choice."""
    return partial(_given, value)


def _given(value: T, options: Mapping[str, Any]) -> T:
    return value


@dataclass(frozen=True)
class MeanHead:
    """Mean over the map, linear layer to the classes."""

    n_classes: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(n_classes,)`."""
        return nn.Sequential(
            named(
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                classify=nn.Linear(in_shape[0], self.n_classes),
            )
        )
