"""From an architecture to an `nn.Module`, and what can be counted on it without running it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hwnas.spaces.base import Architecture, Block, Shape


@dataclass(frozen=True)
class BlockCounts:
    """What one block does to shapes and counts, for one example.

    Attributes:
        out_shape: Without the batch dimension.
        params: Trainable values.
        macs: Multiply-accumulates of convolutions and matrix products.
    """

    out_shape: Shape
    params: int
    macs: int


class Network(nn.Module):
    """The blocks of an architecture in a row: `(n, c, h, w)` to `(n, n_classes)`."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        shape = architecture.input_shape
        blocks = []
        for block in architecture.blocks:
            blocks.append(block.build(shape))
            shape = count(block, shape).out_shape
        self.blocks = nn.Sequential(*blocks)
        self.blocks.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(n, n_classes)` of a batch `(n, c, h, w)`."""
        logits: Tensor = self.blocks(x)
        return logits


def _initialise(module: nn.Module) -> None:
    """He et al., 2015, by fan-out, as the reference code of MobileNetV3 does."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        bound = 1 / math.sqrt(module.in_features)
        nn.init.uniform_(module.weight, -bound, bound)
        nn.init.zeros_(module.bias)


@lru_cache(maxsize=100_000)
def count(block: Block, in_shape: Shape) -> BlockCounts:
    """Build the block and run one example of zeros through it, counting.

    Raises:
        ValueError: The block does not fit the shape.
    """
    try:
        with torch.random.fork_rng(devices=()), torch.no_grad():
            module = block.build(in_shape).eval()
            with FlopCounterMode(display=False) as counter:
                y = module(torch.zeros((1, *in_shape)))
    except RuntimeError as error:
        raise ValueError(f"{block} does not fit an input of shape {in_shape}: {error}") from error
    params = sum(p.numel() for p in module.parameters())
    return BlockCounts(tuple(y.shape[1:]), params, counter.get_total_flops() // 2)


def counts(architecture: Architecture) -> BlockCounts:
    """Totals of a network, and the shape of its output."""
    shape, params, macs = architecture.input_shape, 0, 0
    for block in architecture.blocks:
        one = count(block, shape)
        shape, params, macs = one.out_shape, params + one.params, macs + one.macs
    return BlockCounts(shape, params, macs)
