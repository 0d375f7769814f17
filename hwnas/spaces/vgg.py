"""The `vgg` space: plain convolutions in a row, for the smallest latencies.

Where a network may take some ten microseconds on a CPU, what counts are few kernels, each dense
enough to fill the vector units: no depthwise filters, no branches. Batch norms are folded.

Reference:
    Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015. https://arxiv.org/abs/1409.1556
    Ding et al., RepVGG, CVPR 2021, on why plain networks are fast. https://arxiv.org/abs/2101.03697
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from torch import nn

from hwnas.blocks import conv_bn, named, round_channels
from hwnas.spaces.base import Choice, SearchSpace, Shape, Slot
from hwnas.spaces.images import LAST_SIDE, PUBLISHED_SIDE, MeanHead, image_side

CHANNELS = (64, 128, 256, 512, 512)  # of the stages
MAX_DEPTHS = (2, 2, 4, 4, 4)  # of VGG-19
SMALL_DEPTH = 3  # at most, of the stages for small images
WIDTHS = (0.5, 0.75, 1.0)
SMALL_WIDTHS = (0.125, 0.25, 0.5)
HIDDEN, SMALL_HIDDEN = (0, 1024, 4096), (0, 64, 128)  # units of a dense head
SCALES = (0.57, 0.79, 1)  # of the sides


@dataclass(frozen=True)
class PlainConv:
    """Convolution with same padding, batch norm and ReLU, behind max pooling of 2×2 if asked."""

    out_channels: int
    kernel_size: int
    stride: int = 1
    pools: bool = False

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(out_channels, h / stride, w / stride)`, halved by the pooling."""
        layers = named(pool=nn.MaxPool2d(2)) if self.pools else named()
        layers["filter"] = conv_bn(
            in_shape[0], self.out_channels, self.kernel_size, stride=self.stride, activation="relu"
        )
        return nn.Sequential(layers)


@dataclass(frozen=True)
class MapHead:
    """Linear layers on the whole map with ReLUs between them, to the classes.

    The first one is a convolution as large as the map, the same arithmetic: so parts of its weights
    belong to channels and positions. What lies at a position of a small map covers more of the
    image than at one of a large map, so in supernets maps of each size have weights of their own;
    not behind pooling, where those are a hundred million, and the middle is shared.

    Attributes:
        n_classes: Logits.
        hidden: Units of the layers before them; may be empty.
        pools: Max pooling of 2×2 comes first.

    Reference:
        LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998 (C5 of LeNet-5).
    """

    n_classes: int
    hidden: tuple[int, ...] = ()
    pools: bool = False

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(n_classes,)`."""
        channels, height, width = in_shape
        layers = named()
        if self.pools:
            layers["pool"] = nn.MaxPool2d(2)
            height, width = height // 2, width // 2
        sizes = (*self.hidden, self.n_classes)
        # Logits are no hidden units: under one name, supernets would give them the same weights.
        role = "map" if self.hidden else "classify"
        name = role if self.pools else f"{role}_{height}x{width}"
        layers[name] = nn.Conv2d(channels, sizes[0], (height, width))
        layers["flatten"] = nn.Flatten()
        for i, (size, next_size) in enumerate(pairwise(sizes), 1):
            layers[f"activation_{i}"] = nn.ReLU()
            layers[f"dense_{i}"] = nn.Linear(size, next_size)
        return nn.Sequential(layers)


def vgg_space(input_shape: Shape, n_classes: int) -> SearchSpace:
    """Plain convolutions and pooling for square images from 8×8 on.

    Choices: the input's resolution, and for each stage its width, depth and kernel size, and
    whether its map is halved by pooling or by a stride; the first stage's may stay whole. Stages
    behind the second may be left out. The head takes the mean of the map or all of it, with hidden
    layers or without. At 224×224 with width 1, kernels of 3×3, pooling, depths 2, 2, 3, 3, 3 and
    4096 hidden units this is VGG-16. Smaller images have fewer stages and channels.

    Args:
        input_shape: `(channels, height, width)`.
        n_classes: Logits of a network.

    Raises:
        ValueError: The data are no square images of at least 8×8.
    """
    side = image_side("vgg", input_shape, is_square=True)
    is_large = side >= PUBLISHED_SIDE
    n_stages = min(len(CHANNELS), max(side // LAST_SIDE, 1).bit_length())
    widths = WIDTHS if is_large else SMALL_WIDTHS
    sides = tuple(dict.fromkeys(max(round(side * scale / 4) * 4, 8) for scale in SCALES))
    choices, slots = [Choice("resolution", sides)], list[Slot]()
    for s, (channels, deepest) in enumerate(zip(CHANNELS, MAX_DEPTHS, strict=True), 1):
        if s > n_stages:
            break
        deepest = deepest if is_large else min(deepest, SMALL_DEPTH)
        choices += [
            Choice(f"width_{s}", widths),
            Choice(f"depth_{s}", tuple(range(1 if s <= 2 else 0, deepest + 1))),
            Choice(f"kernel_{s}", (3, 5)),
            Choice(f"halving_{s}", ("none" if s == 1 else "pool", "stride")),
        ]
        slots += [partial(_conv, s, b, channels) for b in range(1, deepest + 1)]
    choices += [
        Choice("head", ("mean", "map")),
        Choice("hidden", HIDDEN if is_large else SMALL_HIDDEN),
    ]
    slots.append(partial(_head, n_classes, is_large))
    shape = partial(_input_shape, input_shape[0])
    return SearchSpace("vgg", tuple(choices), shape, tuple(slots))


def _input_shape(channels: int, options: Mapping[str, Any]) -> Shape:
    return (channels, options["resolution"], options["resolution"])


def _conv(s: int, b: int, channels: int, options: Mapping[str, Any]) -> PlainConv | None:
    if b > options[f"depth_{s}"]:
        return None
    halving = options[f"halving_{s}"] if b == 1 else "none"
    return PlainConv(
        round_channels(channels * options[f"width_{s}"]),
        options[f"kernel_{s}"],
        stride=2 if halving == "stride" else 1,
        pools=halving == "pool",
    )


def _head(n_classes: int, is_large: bool, options: Mapping[str, Any]) -> MeanHead | MapHead:
    if options["head"] == "mean":
        return MeanHead(n_classes)
    n_hidden = 0 if not options["hidden"] else 2 if is_large else 1
    return MapHead(n_classes, (options["hidden"],) * n_hidden, pools=is_large)
