"""Networks that a person would take for small images: LeNet-5, ResNet-8, MobileNetV3-Small."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hwnas.blocks import ConvBlock, Residual, SqueezeExcite, conv_bn, named, round_channels
from hwnas.spaces.base import Architecture, Block, Shape
from hwnas.spaces.images import MeanHead
from hwnas.spaces.once_for_all import MobileNetV3Head
from hwnas.spaces.resnet import BasicBlock, ResNetStem

__all__ = ["hand_made", "lenet5", "mobilenet_v3_small", "resnet8"]

PUBLISHED_SIDE = 128  # smaller images lose the first two strides of MobileNetV3-Small


def hand_made(input_shape: Shape, n_classes: int) -> dict[str, Architecture]:
    """The three networks by name, for images `(channels, height, width)` of at least 16×16."""
    makers = {"lenet-5": lenet5, "resnet-8": resnet8, "mobilenet-v3-small": mobilenet_v3_small}
    return {name: make(input_shape, n_classes) for name, make in makers.items()}


@dataclass(frozen=True)
class PooledConv:
    """5×5 convolution, ReLU, the largest of each 2×2."""

    out_channels: int
    padding: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(out_channels, (h + 2 padding - 4) / 2, …)`."""
        return nn.Sequential(
            named(
                conv=nn.Conv2d(in_shape[0], self.out_channels, 5, padding=self.padding),
                activation=nn.ReLU(),
                pool=nn.MaxPool2d(2),
            )
        )


@dataclass(frozen=True)
class DenseHead:
    """Linear layers with ReLUs between them on the whole map, to the classes."""

    features: tuple[int, ...]
    n_classes: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(n_classes,)`."""
        channels, height, width = in_shape
        size = channels * height * width
        layers: list[nn.Module] = [nn.Flatten()]
        for features in self.features:
            layers += [nn.Linear(size, features), nn.ReLU()]
            size = features
        return nn.Sequential(*layers, nn.Linear(size, self.n_classes))


def lenet5(input_shape: Shape, n_classes: int) -> Architecture:
    """LeNet-5 as it is written today: ReLU and largest values, where it had tanh and means.

    Reference:
        LeCun et al., Gradient-based learning applied to document recognition, 1998, section II.B;
        28×28 images are padded to its 32×32.
    """
    blocks = (PooledConv(6, 2), PooledConv(16, 0), DenseHead((120, 84), n_classes))
    return Architecture(input_shape, blocks)


def resnet8(input_shape: Shape, n_classes: int) -> Architecture:
    """A residual block in each of three stages, of 16, 32 and 64 channels.

    Reference:
        He et al., Deep Residual Learning, CVPR 2016, section 4.2 with n = 1; 1×1 convolutions
        where the shape changes, as in MLPerf Tiny's (Banbury et al., 2021).
    """
    stages = (BasicBlock(16, 1), BasicBlock(32, 2), BasicBlock(64, 2))
    return Architecture(input_shape, (ResNetStem(16, 1, False), *stages, MeanHead(n_classes)))


@dataclass(frozen=True)
class MobileNetV3Block:
    """Expand by 1×1 to `expanded` channels, filter depthwise, gate, project by 1×1.

    As `hwnas.blocks.InvertedResidual`, whose expansion is a whole number.
    """

    kernel_size: int
    expanded: int
    out_channels: int
    squeeze_excite: bool
    activation: str
    stride: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(out_channels, h / stride, w / stride)`."""
        channels = in_shape[0]
        layers = named()
        if self.expanded != channels:
            layers["expand"] = conv_bn(channels, self.expanded, 1, activation=self.activation)
        layers["filter"] = conv_bn(
            self.expanded, self.expanded, self.kernel_size,
            stride=self.stride, groups=self.expanded, activation=self.activation,
        )  # fmt: skip
        if self.squeeze_excite:
            layers["gate"] = SqueezeExcite(self.expanded, round_channels(self.expanded / 4))
        layers["project"] = conv_bn(self.expanded, self.out_channels, 1)
        keeps_shape = self.stride == 1 and channels == self.out_channels
        return Residual(layers) if keeps_shape else nn.Sequential(layers)


_RELU, _SWISH = "relu", "hard_swish"
_SMALL = (
    MobileNetV3Block(3, 72, 24, False, _RELU, 2),
    MobileNetV3Block(3, 88, 24, False, _RELU, 1),
    MobileNetV3Block(5, 96, 40, True, _SWISH, 2),
    MobileNetV3Block(5, 240, 40, True, _SWISH, 1),
    MobileNetV3Block(5, 240, 40, True, _SWISH, 1),
    MobileNetV3Block(5, 120, 48, True, _SWISH, 1),
    MobileNetV3Block(5, 144, 48, True, _SWISH, 1),
    MobileNetV3Block(5, 288, 96, True, _SWISH, 2),
    MobileNetV3Block(5, 576, 96, True, _SWISH, 1),
    MobileNetV3Block(5, 576, 96, True, _SWISH, 1),
)


def mobilenet_v3_small(input_shape: Shape, n_classes: int) -> Architecture:
    """MobileNetV3-Small, for images below 128×128 without the first two strides.

    Reference:
        Howard et al., Searching for MobileNetV3, 2019, table 2; without dropout.
    """
    stride = 2 if min(input_shape[1:]) >= PUBLISHED_SIDE else 1
    blocks: tuple[Block, ...] = (
        ConvBlock(16, 3, stride, _SWISH),
        MobileNetV3Block(3, 16, 16, True, _RELU, stride),
        *_SMALL,
        MobileNetV3Head(576, 1024, n_classes),
    )
    return Architecture(input_shape, blocks)
