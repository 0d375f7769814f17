"""Where a survey's network begins and ends, and what lies between: images, signals, sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onnx import TensorProto

from profilers.survey import convolutions, sequences
from profilers.survey.graph import MIN_WIDTH, Graph, NoRoomError, Value
from profilers.survey.operators import (
    activation,
    broadcast,
    concat,
    conv,
    conv_width,
    crop,
    layer_norm,
    linear,
    pad,
    reduce,
    reshape,
    take,
    transpose,
    unary,
)

Group = Callable[[Graph, Value], Value]
INPUT_ELEMENTS = 400_000


@dataclass(frozen=True)
class Domain:
    """A kind of tensors, and the networks on them.

    Attributes:
        begin: The input, and the first operators; the flag asks for a small one.
        groups: What the network is a chain of; those that are repeated are likelier.
        end: From the last tensor to the model's output.
    """

    begin: Callable[[Graph, bool], Value]
    groups: tuple[Group, ...]
    end: Callable[[Graph, Value], Value]


def _size(g: Graph, low: float, high: float) -> int:
    """Log-uniform, rounded as the style says."""
    return g.rounded(g.log_uniform(low, high))


def _channels(g: Graph, positions: int) -> int:
    """Of a tensor from the middle of a network."""
    most = max(MIN_WIDTH, min(g.limits.wide, INPUT_ELEMENTS / positions))
    return _size(g, min(g.limits.narrow, most), most)


# Images.


def _begin_image(g: Graph, is_tiny: bool) -> Value:
    height = (
        g.pick((8, 8, 12, 14, 16))
        if is_tiny
        else _size(g, 7, 224)
        if g.chance(0.3)
        else _size(g, 28, 224)
    )
    width = height if g.chance(0.9) else max(6, round(height * g.pick((0.5, 0.75, 1.5))))
    if height <= 64 and g.chance(0.5):
        return g.input(_channels(g, height * width), height, width)
    x = g.input(g.pick((1, 3, 3, 3, 4, 12)), height, width)
    return _stem(g, x)


def _stem(g: Graph, x: Value) -> Value:
    """The first convolution: wide and strided, or without overlap."""
    small = min(x.spatial)
    if g.chance(0.3):
        window = g.pick([k for k in (2, 4, 8, 16) if k <= small])
        stride = window
    else:
        window = g.pick((3, 3, 3, 5, 7, 11) if small >= 32 else (3, 3, 5))
        stride = g.pick((1, 2, 2, 4)) if small >= 32 else 1
    windows = [window] * len(x.spatial)
    channels = conv_width(g, x, windows, stride)
    y = conv(g, x, channels, windows, strides=[stride] * len(windows), padded=stride != window)
    return activation(g, y)


def _in_tokens(g: Graph, x: Value) -> Value:
    """Positions as a sequence, one or two layers on it, and back."""
    batch, channels, positions = *x.shape[:2], math.prod(x.spatial)
    y = x if len(x.spatial) == 1 else reshape(g, x, batch, channels, positions)
    y = transpose(g, y, 0, 2, 1)
    for _ in range(g.pick((1, 1, 2))):
        y = g.pick((sequences.encoder_layer, sequences.encoder_layer, sequences.feed_forward))(g, y)
    y = transpose(g, y, 0, 2, 1)
    return y if len(x.spatial) == 1 else reshape(g, y, *x.shape)


def _answer(g: Graph, x: Value) -> Value:
    """What a network says: logits, or shares."""
    kind = g.rng.random()
    if kind < 0.5:
        return x
    if kind < 0.8:
        return unary(g, "Softmax", x, axis=-1)
    return unary(g, g.pick(("Sigmoid", "Tanh")), x)


def _classify(g: Graph, x: Value) -> Value:
    """One or two layers on a matrix `(batch, features)`."""
    for _ in range(g.pick((0, 0, 1, 2))):
        width = min(4096, round(0.4 * g.limits.weights / x.shape[1]))
        most = max(g.limits.narrow, min(width, 8 * g.limits.wide))
        least = g.limits.narrow if g.chance(0.5) else max(MIN_WIDTH, most / 4)
        x = activation(g, linear(g, x, _size(g, least, most)))
    return _answer(g, linear(g, x, g.pick((1, 2, 10, 10, 100, 1000))))


def _end_maps(g: Graph, x: Value) -> Value:
    kind = g.rng.random()
    axes = list(range(2, len(x.shape)))
    if kind < 0.15:
        y = conv(g, x, g.pick((1, 2, 10, 21)), [1] * len(x.spatial))
        return unary(g, "Softmax", y, axis=1) if g.chance(0.4) else _answer(g, y)
    if kind < 0.35:
        return _classify(g, _flat(g, x))
    if kind < 0.5:
        return _classify(g, reduce(g, g.pick(("ReduceMean", "ReduceMax")), x, axes, keep=False))
    ones = (*x.shape[:2], *[1] * len(axes))
    if kind < 0.65:
        y = g.add("AveragePool", [x], ones, kernel_shape=list(x.spatial))
    else:
        y = g.add(g.pick(("GlobalAveragePool",) * 4 + ("GlobalMaxPool",)), [x], ones)
    return _classify(g, _flat(g, y))


def _flat(g: Graph, x: Value) -> Value:
    shape = (x.shape[0], math.prod(x.shape[1:]))
    return g.add("Flatten", [x], shape, axis=1) if g.chance(0.6) else reshape(g, x, *shape)


# Signals.


def _begin_signal(g: Graph, is_tiny: bool) -> Value:
    length = _size(g, 16, 64) if is_tiny else _size(g, 64, 8000)
    if length <= 1024 and g.chance(0.5):
        return g.input(_channels(g, length), length)
    return _signal_stem(g, g.input(g.pick((1, 1, 2, 3, 12, 40)), length))


def _signal_stem(g: Graph, x: Value) -> Value:
    (length,) = x.spatial
    window, stride = g.pick(((3, 1), (5, 1), (7, 2), (9, 2), (10, 5), (16, 8), (25, 4)))
    if window > length:
        raise NoRoomError
    y = conv(g, x, conv_width(g, x, [window], stride), [window], strides=[stride], padded=False)
    return activation(g, y)


def _causal_residual(g: Graph, x: Value) -> Value:
    """A dilated convolution that sees the past only, with the input around it."""
    k, dilation = g.pick((2, 3, 3, 5)), g.pick((1, 2, 4, 8, 16))
    reach = (k - 1) * dilation
    y = pad(g, x, [reach], [0 if g.chance(0.6) else reach], "constant")
    y = conv(g, y, x.channels, [k], dilation=dilation, padded=False)
    (length,) = x.spatial
    if y.shape[2] > length:
        y = crop(g, y, 2, 0, length)
    return broadcast(g, "Add", x, activation(g, y))


def _gated(g: Graph, x: Value) -> Value:
    """As in WaveNet: a tanh scaled by a sigmoid, both of dilated convolutions."""
    dilation = g.pick((1, 2, 4, 8))
    parts = [
        unary(g, kind, conv(g, x, x.channels, [3], dilation=dilation))
        for kind in ("Tanh", "Sigmoid")
    ]
    return broadcast(g, "Add", x, conv(g, broadcast(g, "Mul", *parts), x.channels, [1]))


def _positional(g: Graph, x: Value) -> Value:
    """A grouped convolution with a very wide window, added."""
    groups = g.divisor(x.channels, most=16)
    window = min(g.pick((15, 31, 63, 127)), x.shape[2] // 2 * 2 - 1)
    return broadcast(g, "Add", x, activation(g, conv(g, x, x.channels, [window], groups=groups)))


def _through_recurrence(g: Graph, x: Value) -> Value:
    y = sequences.recurrent(g, transpose(g, x, 0, 2, 1))
    return transpose(g, y, 0, 2, 1)


# Sequences.


def _begin_sequence(g: Graph, is_tiny: bool) -> Value:
    length = _size(g, 8, 32) if is_tiny else _size(g, 16, 512)
    width = _size(g, 8, 48) if is_tiny else _channels(g, length)
    if g.chance(0.6):
        return g.input(length, width)
    ids = g.input(length, elem_type=TensorProto.INT64)
    words = _size(g, 50, max(50, min(30_000, 0.5 * g.limits.weights / width)))
    x = _embedded(g, ids, words, width)
    if g.chance(0.5):
        x = sequences.add_positions(g, x)
    if g.chance(0.3):
        kinds = g.input(length, elem_type=TensorProto.INT64)
        x = broadcast(g, "Add", x, _embedded(g, kinds, 2, width))
    return layer_norm(g, x) if g.chance(0.6) else x


def _embedded(g: Graph, ids: Value, words: int, width: int) -> Value:
    table = g.weight(words, width, fan_in=1)
    return g.add("Gather", [table, ids], (*ids.shape, width), axis=0)


def _end_sequence(g: Graph, x: Value) -> Value:
    kind = g.rng.random()
    if g.chance(0.5):
        x = layer_norm(g, x)
    if kind < 0.25:
        return _classify(g, x)
    if kind < 0.5:
        return _classify(g, take(g, x, 0, 1))
    if kind < 0.7:
        return _classify(g, take(g, x, x.shape[1] - 1, 1))
    if kind < 0.9:
        return _classify(g, reduce(g, "ReduceMean", x, [1], keep=False))
    pooled = [reduce(g, kind, x, [1], keep=False) for kind in ("ReduceMean", "ReduceMax")]
    return _classify(g, concat(g, pooled, 1))


DOMAINS: Mapping[str, Domain] = {
    "image": Domain(_begin_image, (*convolutions.GROUPS, _in_tokens), _end_maps),
    "signal": Domain(
        _begin_signal,
        (*convolutions.GROUPS, *[_causal_residual] * 6, *[_through_recurrence] * 4,
         *[_in_tokens] * 3, _signal_stem, _gated, _gated, _positional),
        _end_maps,
    ),
    "sequence": Domain(_begin_sequence, sequences.GROUPS, _end_sequence),
}  # fmt: skip
