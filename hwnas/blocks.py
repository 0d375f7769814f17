"""Building blocks: frozen descriptions that build ordinary `nn.Module`s for a given input shape.

A block states only what it decides; what it is given (channels, height, width) is an argument of
`build`. So the same description is the same block wherever it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from hwnas.spaces.base import Shape

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "hard_swish": nn.Hardswish,
}


def round_channels(channels: float, divisor: int = 8) -> int:
    """Nearest multiple of `divisor`, at least one, never below 90 % of `channels`.

    Reference:
        Howard et al., Searching for MobileNetV3, 2019 (`_make_divisible` of its reference code).

    Example:
        >>> [round_channels(c) for c in (3, 12, 18, 24, 33)]
        [8, 16, 24, 24, 32]
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Convolution with same padding and batch norm, to be followed by an activation or not."""
    padding = kernel_size // 2
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups,
                  bias=False),
        nn.BatchNorm2d(out_channels),
    ]  # fmt: skip


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channels' means (Hu et al., 2018)."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, reduced, 1),
            nn.ReLU(),
            nn.Conv2d(reduced, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(n, c, h, w)` to the same shape."""
        scaled: Tensor = x * self.gate(x)
        return scaled


class Residual(nn.Module):
    """`x + body(x)`."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that `body` keeps."""
        y: Tensor = x + self.body(x)
        return y


@dataclass(frozen=True)
class ConvBlock:
    """Convolution, batch norm, activation; the stem of a network."""

    out_channels: int
    kernel_size: int
    stride: int
    activation: str

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(out_channels, h / stride, w / stride)`."""
        return nn.Sequential(
            *conv_bn(in_shape[0], self.out_channels, self.kernel_size, stride=self.stride),
            ACTIVATIONS[self.activation](),
        )


@dataclass(frozen=True)
class InvertedResidual:
    """Expand by 1×1, filter depthwise, gate the channels if asked, project by 1×1.

    The input is added where the shape does not change.

    Reference:
        Sandler et al., MobileNetV2, 2018; with squeeze-excite as in Howard et al., MobileNetV3,
        2019: on the expanded channels, reduced to a quarter of them, gated by a hard sigmoid.
    """

    out_channels: int
    kernel_size: int
    stride: int
    expand_ratio: int
    squeeze_excite: bool
    activation: str

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(out_channels, h / stride, w / stride)`."""
        channels = in_shape[0]
        expanded = channels * self.expand_ratio
        layers: list[nn.Module] = []
        if self.expand_ratio != 1:
            layers += [*conv_bn(channels, expanded, 1), ACTIVATIONS[self.activation]()]
        layers += [
            *conv_bn(expanded, expanded, self.kernel_size, stride=self.stride, groups=expanded),
            ACTIVATIONS[self.activation](),
        ]
        if self.squeeze_excite:
            layers.append(SqueezeExcite(expanded, round_channels(expanded / 4)))
        layers += conv_bn(expanded, self.out_channels, 1)
        body = nn.Sequential(*layers)
        keeps_shape = self.stride == 1 and channels == self.out_channels
        return Residual(body) if keeps_shape else body


@dataclass(frozen=True)
class ClassifierHead:
    """1×1 convolution to `features` channels, mean over the map, linear layer to the classes."""

    features: int
    n_classes: int
    activation: str

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(n_classes,)`."""
        return nn.Sequential(
            *conv_bn(in_shape[0], self.features, 1),
            ACTIVATIONS[self.activation](),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(self.features, self.n_classes),
        )
