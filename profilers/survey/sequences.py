"""Groups of operators that transformers and recurrent networks are made of, on `(B, L, D)`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from profilers.survey.graph import Graph, NoRoomError, Value
from profilers.survey.operators import (
    activation,
    broadcast,
    concat,
    conv,
    crop,
    gelu,
    layer_norm,
    linear,
    linear_width,
    matmul,
    pad,
    reduce,
    reshape,
    rms_norm,
    split,
    take,
    transpose,
    unary,
)

Group = Callable[[Graph, Value], Value]
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _norm(g: Graph, x: Value) -> Value:
    return layer_norm(g, x) if g.chance(0.8) else rms_norm(g, x)


def dense(g: Graph, x: Value) -> Value:
    """A layer of another width, and an activation."""
    return activation(g, linear(g, x, linear_width(g, x), bias=g.chance(0.85)))


def matrix_dense(g: Graph, x: Value) -> Value:
    """The same on all positions as the rows of one matrix."""
    batch, length, width = x.shape
    y = dense(g, reshape(g, x, batch * length, width))
    return reshape(g, y, batch, length, y.shape[-1])


def _heads(g: Graph, width: int) -> int:
    options = [n for n in (1, 2, 3, 4, 6, 8, 12, 16) if width % n == 0 and width // n >= 4]
    return g.pick(options) if options else 1


def _attend(g: Graph, query: Value, key: Value, value: Value) -> Value:
    """Softmax of products; `(B, heads, L, d)` each, the key with its last axes swapped."""
    size = query.shape[-1]
    spelling = g.pick(("after", "after", "divided", "before"))
    if spelling == "before":
        root = g.scalar(size**-0.25)
        query, key = broadcast(g, "Mul", query, root), broadcast(g, "Mul", key, root)
    scores = matmul(g, query, key)
    if spelling == "after":
        scores = broadcast(g, "Mul", scores, g.scalar(size**-0.5))
    elif spelling == "divided":
        scores = broadcast(g, "Div", scores, g.scalar(math.sqrt(size)))
    if g.chance(0.3):
        rows, columns = scores.shape[-2:]
        mask = np.triu(np.full((rows, columns), -1e4, np.float32), 1)[None, None]
        scores = broadcast(g, "Add", scores, g.constant(mask))
    return matmul(g, unary(g, "Softmax", scores, axis=-1), value)


def _separate(g: Graph, x: Value, memory: Value, heads: int, width: int) -> Value:
    size = width // heads

    def projected(source: Value, *order: int) -> Value:
        y = linear(g, source, width)
        return transpose(g, reshape(g, y, source.shape[0], source.shape[1], heads, size), *order)

    query, key = projected(x, 0, 2, 1, 3), projected(memory, 0, 2, 3, 1)
    return _attend(g, query, key, projected(memory, 0, 2, 1, 3))


def _packed(g: Graph, x: Value, heads: int, width: int) -> Value:
    """Queries, keys and values from one product."""
    batch, length, _ = x.shape
    y = linear(g, x, 3 * width, bias=g.chance(0.8))
    if g.chance(0.3):
        parts = [
            transpose(g, reshape(g, part, batch, length, heads, width // heads), 0, 2, 1, 3)
            for part in split(g, y, [width] * 3, 2)
        ]
    else:
        y = reshape(g, y, batch, length, 3, heads, width // heads)
        y = transpose(g, y, 2, 0, 3, 1, 4)
        parts = [take(g, y, i, 0) for i in range(3)]
    query, key, value = parts
    return _attend(g, query, transpose(g, key, 0, 1, 3, 2), value)


def attention(g: Graph, x: Value, memory: Value | None = None) -> Value:
    """Of all positions on all of `memory`, by default themselves; the shape stays."""
    batch, length, width = x.shape
    heads = _heads(g, width)
    if memory is None and g.chance(0.6):
        y = _packed(g, x, heads, width)
    else:
        y = _separate(g, x, memory or x, heads, width)
    y = reshape(g, transpose(g, y, 0, 2, 1, 3), batch, length, width)
    return linear(g, y, width)


def _feed_forward(g: Graph, x: Value) -> Value:
    inner = g.pick((1, 2, 2, 3, 4, 4)) * x.shape[-1]
    if g.chance(0.2):
        gate = linear(g, x, inner, bias=False)
        gate = broadcast(g, "Mul", gate, unary(g, "Sigmoid", gate))
        y = broadcast(g, "Mul", gate, linear(g, x, inner, bias=False))
    else:
        y = linear(g, x, inner)
        y = gelu(g, y) if g.chance(0.7) else activation(g, y)
    return linear(g, y, x.shape[-1])


def encoder_layer(g: Graph, x: Value) -> Value:
    """Attention and a feed-forward network, normalised before or after."""
    for part in (attention, _feed_forward):
        if g.chance(0.6):
            x = broadcast(g, "Add", x, part(g, _norm(g, x)))
        else:
            x = _norm(g, broadcast(g, "Add", part(g, x), x))
    return x


def feed_forward(g: Graph, x: Value) -> Value:
    """Wide and narrow again, with the input around it."""
    return broadcast(g, "Add", x, _feed_forward(g, _norm(g, x)))


def cross_attention(g: Graph, x: Value) -> Value:
    """On fewer positions than there are."""
    stop = max(1, x.shape[1] // g.pick((2, 3, 4)))
    return broadcast(g, "Add", x, attention(g, _norm(g, x), crop(g, x, 1, 0, stop)))


def mixer(g: Graph, x: Value) -> Value:
    """A layer over the positions of every channel."""
    y = transpose(g, _norm(g, x), 0, 2, 1)
    y = linear(g, gelu(g, linear(g, y, linear_width(g, y, most=512))), x.shape[1])
    return broadcast(g, "Add", x, transpose(g, y, 0, 2, 1))


def recurrent(g: Graph, x: Value) -> Value:
    """One layer of LSTM, GRU or RNN, forward or in both directions."""
    kind = g.pick(("LSTM", "LSTM", "GRU", "GRU", "RNN"))
    batch, length, width = x.shape
    directions = 2 if g.chance(0.3) else 1
    each = batch * length * _GATES[kind] * directions
    hidden = g.width(each * 2 * width, batch * length * directions, most=512)
    rows = _GATES[kind] * hidden
    weights = [
        g.weight(directions, rows, width, fan_in=width),
        g.weight(directions, rows, hidden, fan_in=hidden),
        g.per_channel([directions, 2 * rows]),
    ]
    if g.chance(0.5):
        start = g.constant(np.zeros((directions, batch, hidden), np.float32))
        weights += [None, start, *([start] if kind == "LSTM" else [])]  # type: ignore[list-item]
    (y,) = g.add_many(
        kind, [transpose(g, x, 1, 0, 2), *weights], [(length, directions, batch, hidden)],
        macs=each * hidden * (width + hidden), hidden_size=hidden,
        direction="bidirectional" if directions == 2 else "forward",
        **({"linear_before_reset": 1} if kind == "GRU" else {}),
    )  # fmt: skip
    if directions == 1:
        y = g.add("Squeeze", [y, g.ints(1)], (length, batch, hidden))
    else:
        y = reshape(g, transpose(g, y, 0, 2, 1, 3), length, batch, 2 * hidden)
    return transpose(g, y, 1, 0, 2)


def conv_over_time(g: Graph, x: Value) -> Value:
    """A convolution along the positions, some of them with a gate, causal or grouped."""
    y, width = transpose(g, x, 0, 2, 1), x.shape[-1]
    k = g.pick((3, 3, 5, 7, 31))
    groups = width if k == 31 or g.chance(0.4) else 1
    if g.chance(0.4):
        y = conv(g, pad(g, y, [k - 1], [0], "constant"), width, [k], groups=groups, padded=False)
    else:
        y = conv(g, y, width, [k], groups=groups)
    y = transpose(g, activation(g, y), 0, 2, 1)
    return broadcast(g, "Add", x, y) if g.chance(0.6) else y


def gate(g: Graph, x: Value) -> Value:
    """One half scaled by the sigmoid of the other."""
    width = linear_width(g, x)
    left, right = split(g, linear(g, x, 2 * width), [width, width], 2)
    return broadcast(g, "Mul", left, unary(g, "Sigmoid", right))


def add_positions(g: Graph, x: Value) -> Value:
    """A table of positions added."""
    return broadcast(g, "Add", x, g.weight(1, *x.shape[1:], fan_in=1))


def class_token(g: Graph, x: Value) -> Value:
    """One more position in front."""
    token = g.weight(x.shape[0], 1, x.shape[-1], fan_in=1)
    return concat(g, [token, x], 1)


def fewer_positions(g: Graph, x: Value) -> Value:
    """Every second position, the first ones, or neighbours side by side."""
    batch, length, width = x.shape
    if length < 4:
        raise NoRoomError
    kind = g.rng.random()
    if kind < 0.3:
        return crop(g, x, 1, 0, length, 2)
    if kind < 0.6:
        return crop(g, x, 1, 0, int(g.rng.integers(length // 2, length)))
    even = length - length % 2
    return dense(g, reshape(g, crop(g, x, 1, 0, even), batch, even // 2, 2 * width))


def rotate(g: Graph, x: Value) -> Value:
    """Both halves of the channels turned by an angle that depends on the position."""
    length, width = x.shape[1:]
    if width % 2:
        raise NoRoomError
    angles = g.rng.random((length, width), np.float32)
    left, right = crop(g, x, 2, 0, width // 2), crop(g, x, 2, width // 2, width)
    turned = concat(g, [unary(g, "Neg", right), left], 2)
    return broadcast(
        g,
        "Add",
        broadcast(g, "Mul", x, g.constant(np.cos(angles))),
        broadcast(g, "Mul", turned, g.constant(np.sin(angles))),
    )


def elementwise(g: Graph, x: Value) -> Value:
    """A normalisation, an activation, a scale, or a softmax."""
    kind = g.pick(("norm", "norm", "activation", "scale", "softmax", "centre"))
    if kind == "norm":
        return _norm(g, x)
    if kind == "activation":
        return activation(g, x)
    if kind == "softmax":
        return broadcast(g, "Mul", x, unary(g, "Softmax", x, axis=-1))
    if kind == "centre":
        return broadcast(g, "Sub", x, reduce(g, "ReduceMean", x, [g.pick((1, 2))]))
    scale = g.per_channel([x.shape[-1]], around=1.0)
    return broadcast(g, "Mul", x, unary(g, "Exp", scale) if g.chance(0.2) else scale)


# Repeated: the likelier.
GROUPS: tuple[Group, ...] = (
    *[dense] * 4, *[encoder_layer] * 4, *[recurrent] * 4, *[feed_forward] * 2,
    *[elementwise] * 2, matrix_dense, matrix_dense, cross_attention, mixer, conv_over_time, gate,
    add_positions, class_token, fewer_positions, rotate,
)  # fmt: skip
