"""Operations on the edges of cells, as DARTS and NAS-Bench-201 have them, and their stem.

References:
    Liu et al., DARTS, ICLR 2019. https://arxiv.org/abs/1806.09055
    Dong & Yang, NAS-Bench-201, ICLR 2020. https://arxiv.org/abs/2001.00326
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from hwnas.blocks import conv_bn, named
from hwnas.spaces.base import Shape

__all__ = ["OPERATIONS", "CellStem", "FactorizedReduce", "relu_conv_bn", "stem_halvings"]

STEM_SIDE = 32  # larger images are halved in the stem until they have less than twice that


def relu_conv_bn(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1
) -> nn.Sequential:
    """ReLU, convolution with same padding, batch norm."""
    return nn.Sequential(
        named(
            activation=nn.ReLU(),
            conv=nn.Conv2d(
                in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False
            ),
            norm=nn.BatchNorm2d(out_channels),
        )
    )


class FactorizedReduce(nn.Module):
    """Halve an even map: two 1×1 convolutions of stride 2, one of them shifted by a pixel."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.activation = nn.ReLU()
        self.even = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, in_channels, h, w)` to `(n, out_channels, h / 2, w / 2)`."""
        x = self.activation(x)
        y: Tensor = self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], dim=1))
        return y


def _filter(channels: int, kernel_size: int, stride: int, dilation: int) -> dict[str, nn.Module]:
    padding = kernel_size // 2 * dilation
    return {
        "filter": nn.Conv2d(
            channels, channels, kernel_size, stride, padding, dilation, channels, bias=False
        ),
        "mix": nn.Conv2d(channels, channels, 1, bias=False),
        "norm": nn.BatchNorm2d(channels),
    }


def _separable(kernel_size: int, channels: int, stride: int) -> nn.Module:
    """ReLU, depthwise filter, 1×1 convolution and batch norm, twice; the first has the stride."""
    strided = named(activation=nn.ReLU(), **_filter(channels, kernel_size, stride, 1))
    plain = named(activation=nn.ReLU(), **_filter(channels, kernel_size, 1, 1))
    return nn.Sequential(named(first=nn.Sequential(strided), second=nn.Sequential(plain)))


def _dilated(kernel_size: int, channels: int, stride: int) -> nn.Module:
    """ReLU, depthwise filter of dilation 2, 1×1 convolution, batch norm."""
    return nn.Sequential(named(activation=nn.ReLU(), **_filter(channels, kernel_size, stride, 2)))


def _relu_conv(kernel_size: int, channels: int, stride: int) -> nn.Module:
    return relu_conv_bn(channels, channels, kernel_size, stride=stride)


def _skip(channels: int, stride: int) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)


# name -> function of channels and stride; all keep the channels
OPERATIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "skip_connect": _skip,
    "max_pool_3x3": lambda channels, stride: nn.MaxPool2d(3, stride, padding=1),
    "avg_pool_3x3": lambda channels, stride: nn.AvgPool2d(
        3, stride, padding=1, count_include_pad=False
    ),
    "nor_conv_1x1": partial(_relu_conv, 1),
    "nor_conv_3x3": partial(_relu_conv, 3),
    "sep_conv_3x3": partial(_separable, 3),
    "sep_conv_5x5": partial(_separable, 5),
    "dil_conv_3x3": partial(_dilated, 3),
    "dil_conv_5x5": partial(_dilated, 5),
}


def stem_halvings(side: int) -> int:
    """How often the stem halves images of `side`, for networks that were made for 32×32.

    Example:
        >>> [stem_halvings(side) for side in (8, 32, 63, 64, 224)]
        [0, 0, 0, 1, 2]
    """
    return max(side // STEM_SIDE, 1).bit_length() - 1


@dataclass(frozen=True)
class CellStem:
    """3×3 convolutions and batch norms with ReLU between them; each halves the map.

    With no halving it is one convolution of stride 1, the stem that was published.
    """

    out_channels: int
    n_halvings: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(out_channels, h / 2**n_halvings, w / 2**n_halvings)`."""
        channels, layers = in_shape[0], named()
        for i in range(1, self.n_halvings):
            layers[f"reduce_{i}"] = conv_bn(
                channels, self.out_channels, 3, stride=2, activation="relu"
            )
            channels = self.out_channels
        stride = 2 if self.n_halvings else 1
        layers["last"] = conv_bn(channels, self.out_channels, 3, stride=stride)
        return nn.Sequential(layers)
