"""Building blocks: frozen descriptions that build ordinary `nn.Module`s for a given input shape.

A block states only what it decides; what it is given (channels, height, width) is an argument of
`build`. So the same description is the same block wherever it stands.

Layers are named by their role ("expand", "filter"), never by their position: weights are shared
between the options of a slot by name, so a layer with the same role has the same name in all.
"""

from __future__ import annotations

from collections import OrderedDict
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


def named(**layers: nn.Module) -> OrderedDict[str, nn.Module]:
    """Layers by role, in running order, as `nn.Sequential` takes them."""
    return OrderedDict(layers)


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: str | None = None,
) -> nn.Sequential:
    """Convolution with same padding, batch norm, and one of `ACTIVATIONS` if named."""
    layers = named(
        conv=nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups,
            bias=False,
        ),
        norm=nn.BatchNorm2d(out_channels),
    )  # fmt: skip
    if activation is not None:
        layers["activation"] = ACTIVATIONS[activation]()
    return nn.Sequential(layers)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channels' means (Hu et al., 2018)."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.scale = nn.Sequential(
            named(
                pool=nn.AdaptiveAvgPool2d(1),
                squeeze=nn.Conv2d(channels, reduced, 1),
                activation=nn.ReLU(),
                excite=nn.Conv2d(reduced, channels, 1),
                gate=nn.Hardsigmoid(),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(n, c, h, w)` to the same shape."""
        scaled: Tensor = x * self.scale(x)
        return scaled


class Residual(nn.Sequential):
    """Layers in a row, and their input added to what they give.

    Its layers have the same names as in a plain `nn.Sequential`, so that both share weights.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that the layers keep."""
        y: Tensor = x + super().forward(x)  # type: ignore[no-untyped-call]
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
        return conv_bn(
            in_shape[0], self.out_channels, self.kernel_size,
            stride=self.stride, activation=self.activation,
        )  # fmt: skip


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
        layers = named()
        if self.expand_ratio != 1:
            layers["expand"] = conv_bn(channels, expanded, 1, activation=self.activation)
        layers["filter"] = conv_bn(
            expanded, expanded, self.kernel_size,
            stride=self.stride, groups=expanded, activation=self.activation,
        )  # fmt: skip
        if self.squeeze_excite:
            layers["gate"] = SqueezeExcite(expanded, round_channels(expanded / 4))
        layers["project"] = conv_bn(expanded, self.out_channels, 1)
        keeps_shape = self.stride == 1 and channels == self.out_channels
        return Residual(layers) if keeps_shape else nn.Sequential(layers)


@dataclass(frozen=True)
class ClassifierHead:
    """1×1 convolution to `features` channels, mean over the map, linear layer to the classes."""

    features: int
    n_classes: int
    activation: str

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(n_classes,)`."""
        return nn.Sequential(
            named(
                mix=conv_bn(in_shape[0], self.features, 1, activation=self.activation),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                classify=nn.Linear(self.features, self.n_classes),
            )
        )
