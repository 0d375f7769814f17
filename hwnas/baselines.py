"""Networks that a person would draw, trained by the same recipe, to compare a front with."""

from __future__ import annotations

from hwnas.blocks import ClassifierHead, ConvBlock
from hwnas.spaces.base import Architecture, Block, Shape

LAST_MAP = 7
FIRST_CHANNELS, MAX_CHANNELS = 32, 256


def plain_cnn(input_shape: Shape, n_classes: int) -> Architecture:
    """Plain 3×3 convolutions, twice the channels at half the size, then the mean and classes.

    The textbook network: 32 channels first, doubled with each stride of 2, until the map is at
    most 7×7 and at least two strides were made.

    Example:
        >>> [block.out_channels for block in plain_cnn((1, 8, 8), 10).blocks[:-1]]
        [32, 64, 128]
    """
    blocks: list[Block] = [ConvBlock(FIRST_CHANNELS, 3, 1, "relu")]
    size, channels = input_shape[1], FIRST_CHANNELS
    while size > LAST_MAP or len(blocks) < 3:
        channels = min(2 * channels, MAX_CHANNELS)
        blocks.append(ConvBlock(channels, 3, 2, "relu"))
        size = (size + 1) // 2
    return Architecture(input_shape, (*blocks, ClassifierHead(channels, n_classes, "relu")))
