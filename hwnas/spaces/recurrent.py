"""The `recurrent` space: LSTM and GRU over signals, features in time and audio.

References:
    Hochreiter & Schmidhuber, Long Short-Term Memory, 1997; Cho et al., Learning Phrase
    Representations using RNN Encoder–Decoder (GRU), 2014. https://arxiv.org/abs/1406.1078
    Amodei et al., Deep Speech 2, 2015: a strided convolution over time before the recurrent
    layers, and the two directions of a layer summed. https://arxiv.org/abs/1512.02595
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from hwnas.spaces.attention import SequenceHead
from hwnas.spaces.base import Choice, SearchSpace, Shape

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"gru": nn.GRU, "lstm": nn.LSTM}


@dataclass(frozen=True)
class _Plan:
    """What is searched for one range of lengths; `strides`: steps between two frames."""

    strides: tuple[int, ...]
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    hidden: tuple[int, ...]


_SHORT = _Plan(strides=(1, 2), channels=(16, 32), depths=(1, 2, 3), hidden=(16, 32, 64, 128))
_MEDIUM = _Plan(
    strides=(2, 4, 8), channels=(16, 32, 64), depths=(1, 2, 3), hidden=(32, 64, 128, 256)
)
# A frame of 160 steps is 10 ms of audio at 16 kHz.
_LONG = _Plan(
    strides=(80, 160, 320), channels=(32, 64, 128), depths=(1, 2, 3, 4), hidden=(64, 128, 256, 512)
)
SHORT_UP_TO, MEDIUM_UP_TO = 256, 4096


class _Frames(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.filter = nn.Conv1d(in_channels, channels, 2 * stride + 1, stride, stride, bias=False)
        self.norm = nn.BatchNorm1d(channels)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.norm(self.filter(x)))
        return y.transpose(1, 2)


@dataclass(frozen=True)
class ConvFrames:
    """A convolution over time, batch norm, ReLU; each step that is left is a frame."""

    channels: int
    stride: int

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, length)` to `(length / stride, channels)`, rounded up."""
        return _Frames(in_shape[0], self.channels, self.stride)


class _RecurrentLayer(nn.Module):
    """Weights of an LSTM and of a GRU mean different things, so they have different names."""

    def __init__(self, cell: str, features: int, hidden: int, bidirectional: bool) -> None:
        super().__init__()
        self.hidden = hidden
        layer = CELLS[cell](features, hidden, batch_first=True, bidirectional=bidirectional)
        self.cells = nn.ModuleDict({cell: layer})

    def forward(self, x: Tensor) -> Tensor:
        (cell,) = self.cells.values()
        y: Tensor = cell(x)[0]
        if y.shape[2] > self.hidden:
            y = y[:, :, : self.hidden] + y[:, :, self.hidden :]
        return y


@dataclass(frozen=True)
class RecurrentBlock:
    """One layer of `cell`, over time and, if `bidirectional`, against it; the two are summed."""

    cell: str
    hidden: int
    bidirectional: bool

    def build(self, in_shape: Shape) -> nn.Module:
        """`(length, features)` to `(length, hidden)`."""
        return _RecurrentLayer(self.cell, in_shape[1], self.hidden, self.bidirectional)


def recurrent_space(input_shape: Shape, n_classes: int) -> SearchSpace:
    """LSTM or GRU layers for signals of `input_shape`, `(channels, length)`.

    Features in time are signals with the features as channels. Choices: the length and the
    channels of a frame, the cell, one direction or both, the number of layers, the width of each,
    and whether the class is read from the mean over time or from the last frame; with both
    directions from the mean, since the last frame is the first one backwards.

    Raises:
        ValueError: The data are no signals.
    """
    if len(input_shape) != 2 or input_shape[1] < 2:
        raise ValueError(
            f"the recurrent space needs signals (channels, length) of at least 2 steps, "
            f"got shape {input_shape}"
        )
    length = input_shape[1]
    plan = _SHORT if length <= SHORT_UP_TO else _MEDIUM if length <= MEDIUM_UP_TO else _LONG
    n_layers = max(plan.depths)
    return SearchSpace(
        name="recurrent",
        choices=(
            Choice("stride", plan.strides),
            Choice("channels", plan.channels),
            Choice("cell", tuple(CELLS)),
            Choice("bidirectional", (False, True)),
            Choice("pooling", ("last", "mean")),
            Choice("depth", plan.depths),
            *(Choice(f"hidden_{i}", plan.hidden) for i in range(1, n_layers + 1)),
        ),
        input_shape=partial(_input_shape, input_shape),
        slots=(
            _stem,
            *(partial(_layer, i) for i in range(1, n_layers + 1)),
            partial(_head, n_classes),
        ),
    )


def _input_shape(shape: Shape, options: Mapping[str, Any]) -> Shape:
    return shape


def _stem(options: Mapping[str, Any]) -> ConvFrames:
    return ConvFrames(options["channels"], options["stride"])


def _layer(i: int, options: Mapping[str, Any]) -> RecurrentBlock | None:
    if i > options["depth"]:
        return None
    return RecurrentBlock(options["cell"], options[f"hidden_{i}"], options["bidirectional"])


def _head(n_classes: int, options: Mapping[str, Any]) -> SequenceHead:
    return SequenceHead(n_classes, "mean" if options["bidirectional"] else options["pooling"])
