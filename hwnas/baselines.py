"""Networks that a person would draw, trained by the same recipe, to compare a front with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from hwnas.blocks import ClassifierHead, ConvBlock
from hwnas.data import DataSet, Kind
from hwnas.spaces.base import Architecture, Block, Shape

LAST_MAP = 7
FIRST_CHANNELS, MAX_CHANNELS = 32, 256
SIGNAL_KERNEL, SIGNAL_STRIDE, MIN_STEPS = 9, 4, 8
HIDDEN = 64
WORD_FEATURES = 64


def baselines(data: DataSet) -> dict[str, Architecture]:
    """The hand-made networks for that kind of data, by name."""
    shape, n_classes = data.input_shape, data.n_classes
    makers: dict[Kind, Callable[[], dict[str, Architecture]]] = {
        "image": lambda: {"plain-cnn": plain_cnn(shape, n_classes)},
        "signal": lambda: {"plain-cnn": plain_signal_cnn(shape, n_classes)},
        "table": lambda: {
            "linear": perceptron(shape, n_classes, n_hidden=0),
            "plain-mlp": perceptron(shape, n_classes, n_hidden=2),
        },
        "tokens": lambda: {"bag-of-words": bag_of_words(shape, n_classes, data.vocabulary or 0)},
    }
    return makers[data.kind]()


def plain_cnn(input_shape: Shape, n_classes: int) -> Architecture:
    """Plain 3×3 convolutions, twice the channels at half the size, then the mean and classes.

    The textbook network: 32 channels first, doubled with each stride of 2, until the map is at
    most 7×7 and at least two strides were made.

    Example:
        >>> [block.out_channels for block in plain_cnn((1, 8, 8), 10).blocks[:-1]]
        [32, 64, 128]
    """
    blocks: list[Block] = [ConvBlock(FIRST_CHANNELS, 3, 1, "relu")]
    size, channels = max(input_shape[1:]), FIRST_CHANNELS
    while size > LAST_MAP or len(blocks) < 3:
        channels = min(2 * channels, MAX_CHANNELS)
        blocks.append(ConvBlock(channels, 3, 2, "relu"))
        size = (size + 1) // 2
    return Architecture(input_shape, (*blocks, ClassifierHead(channels, n_classes, "relu")))


@dataclass(frozen=True)
class SignalConv:
    """Convolution over time, batch norm, ReLU.

    Reference:
        The block of Wang et al., Time series classification from scratch, 2017, with a stride.
    """

    out_channels: int
    kernel_size: int
    stride: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, length)` to `(out_channels, length / stride)`."""
        padding = self.kernel_size // 2
        return nn.Sequential(
            nn.Conv1d(
                in_shape[0], self.out_channels, self.kernel_size, self.stride, padding, bias=False
            ),
            nn.BatchNorm1d(self.out_channels),
            nn.ReLU(),
        )


@dataclass(frozen=True)
class MeanHead:
    """Mean over time, linear layer to the classes."""

    n_classes: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, length)` to `(n_classes,)`."""
        return nn.Sequential(
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(in_shape[0], self.n_classes)
        )


def plain_signal_cnn(input_shape: Shape, n_classes: int) -> Architecture:
    """Convolutions of 9 steps, twice the channels at a quarter of the length, mean and classes.

    Example:
        >>> [block.out_channels for block in plain_signal_cnn((1, 512), 8).blocks[:-1]]
        [32, 64, 128]
    """
    blocks: list[Block] = []
    length, channels = input_shape[1], FIRST_CHANNELS
    while not blocks or length > MIN_STEPS:
        blocks.append(SignalConv(channels, SIGNAL_KERNEL, SIGNAL_STRIDE))
        length = (length + SIGNAL_STRIDE - 1) // SIGNAL_STRIDE
        channels = min(2 * channels, MAX_CHANNELS)
    return Architecture(input_shape, (*blocks, MeanHead(n_classes)))


@dataclass(frozen=True)
class Dense:
    """A linear layer, with a ReLU behind it or not."""

    features: int
    is_activated: bool

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c,)` to `(features,)`."""
        linear = nn.Linear(in_shape[0], self.features)
        return nn.Sequential(linear, nn.ReLU()) if self.is_activated else linear


def perceptron(input_shape: Shape, n_classes: int, *, n_hidden: int) -> Architecture:
    """Hidden layers of 64 and a linear one to the classes; without the former, logistic regression.

    Example:
        >>> len(perceptron((30,), 2, n_hidden=2).blocks)
        3
    """
    hidden = [Dense(HIDDEN, True)] * n_hidden
    return Architecture(input_shape, (*hidden, Dense(n_classes, False)))


class _MeanEmbedding(nn.Module):
    def __init__(self, vocabulary: int, features: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, features, padding_idx=0)
        self.norm = nn.BatchNorm1d(features)  # means of many vectors are small

    def forward(self, ids: Tensor) -> Tensor:
        """`(n, length)` token ids to `(n, features)`."""
        mean: Tensor = self.norm(self.embedding(ids).mean(dim=1))
        return mean


@dataclass(frozen=True)
class MeanEmbedding:
    """The mean over a learned vector for each token, normalised; padding, id 0, has zeros."""

    vocabulary: int
    features: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(length,)` token ids to `(features,)`."""
        return _MeanEmbedding(self.vocabulary, self.features)


def bag_of_words(input_shape: Shape, n_classes: int, vocabulary: int) -> Architecture:
    """The mean of learned word vectors, and a linear layer.

    Reference:
        Joulin et al., Bag of tricks for efficient text classification (fastText), 2016, without
        its pairs of words.
    """
    blocks = (MeanEmbedding(vocabulary, WORD_FEATURES), Dense(n_classes, False))
    return Architecture(input_shape, blocks, "int64")
