"""Operators as exporters write them, on tensors of any of the domains of `profilers.survey`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from profilers.survey.graph import Graph, Value

EPSILON = 1e-5


def broadcast(g: Graph, kind: str, *inputs: Value) -> Value:
    """An operator that works element by element on tensors whose shapes fit."""
    return g.add(kind, inputs, np.broadcast_shapes(*(value.shape for value in inputs)))


def unary(g: Graph, kind: str, x: Value, **attributes: Any) -> Value:
    """An operator of one tensor that keeps the shape."""
    return g.add(kind, [x], x.shape, **attributes)


def reshape(g: Graph, x: Value, *shape: int) -> Value:
    """The same elements in another shape."""
    return g.add("Reshape", [x, g.ints(*shape)], shape)


def transpose(g: Graph, x: Value, *order: int) -> Value:
    """The axes in another order."""
    return g.add("Transpose", [x], [x.shape[i] for i in order], perm=list(order))


def concat(g: Graph, values: Sequence[Value], axis: int) -> Value:
    """Tensors one behind the other."""
    shape = list(values[0].shape)
    shape[axis] = sum(value.shape[axis] for value in values)
    return g.add("Concat", values, shape, axis=axis)


def split(g: Graph, x: Value, sizes: Sequence[int], axis: int) -> list[Value]:
    """Parts of the given sizes."""
    shapes = []
    for size in sizes:
        shape = list(x.shape)
        shape[axis] = size
        shapes.append(shape)
    return g.add_many("Split", [x, g.ints(*sizes)], shapes, axis=axis)


def crop(g: Graph, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    """Every `step`-th element along an axis, from `start` up to `stop`."""
    shape = list(x.shape)
    shape[axis] = len(range(start, stop, step))
    bounds = [g.ints(n) for n in (start, stop, axis, step)]
    return g.add("Slice", [x, *bounds], shape)


def take(g: Graph, x: Value, index: int, axis: int) -> Value:
    """One element along an axis, which is gone then."""
    at = g.constant(np.array(index, np.int64))
    return g.add("Gather", [x, at], x.shape[:axis] + x.shape[axis + 1 :], axis=axis)


def pad(g: Graph, x: Value, begins: Sequence[int], ends: Sequence[int], mode: str) -> Value:
    """More of the spatial axes, `begins` before and `ends` behind."""
    n = len(x.shape) - len(begins)
    pads = g.ints(*[0] * n, *begins, *[0] * n, *ends)
    spatial = [size + b + e for size, b, e in zip(x.shape[n:], begins, ends, strict=True)]
    inputs = [x, pads, g.scalar(0.0)] if mode == "constant" else [x, pads]
    return g.add("Pad", inputs, (*x.shape[:n], *spatial), mode=mode)


def reduce(g: Graph, kind: str, x: Value, axes: Sequence[int], *, keep: bool = True) -> Value:
    """A mean, sum or maximum over axes."""
    axes = [axis % len(x.shape) for axis in axes]
    shape = [1 if i in axes else n for i, n in enumerate(x.shape) if keep or i not in axes]
    if g.opset >= 18 or kind == "ReduceSum":
        return g.add(kind, [x, g.ints(*axes)], shape, keepdims=int(keep))
    return g.add(kind, [x], shape, axes=axes, keepdims=int(keep))


# Products.


def conv(
    g: Graph,
    x: Value,
    channels: int,
    window: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
    padded: bool = True,
) -> Value:
    """A convolution over one or two axes; `padded` keeps their size but for the strides."""
    strides = [1] * len(window) if strides is None else list(strides)
    pads = [(k - 1) * dilation // 2 if padded else 0 for k in window]
    spatial = [
        (n + 2 * p - (k - 1) * dilation - 1) // s + 1
        for n, p, k, s in zip(x.spatial, pads, window, strides, strict=True)
    ]
    inner = x.channels // groups * math.prod(window)
    weights = [g.weight(channels, x.channels // groups, *window)]
    return g.add(
        "Conv",
        [x, *weights, *([g.per_channel([channels])] if bias else [])],
        (x.shape[0], channels, *spatial),
        macs=x.shape[0] * channels * math.prod(spatial) * inner,
        kernel_shape=list(window),
        strides=strides,
        dilations=[dilation] * len(window),
        group=groups,
        pads=pads * 2,
    )


def conv_transpose(g: Graph, x: Value, channels: int, window: int, stride: int) -> Value:
    """A transposed convolution that makes the spatial axes `stride` times as long."""
    n = len(x.spatial)
    extra = window - stride
    spatial = [size * stride for size in x.spatial]
    weight = g.weight(x.channels, channels, *[window] * n, fan_in=x.channels * window**n)
    return g.add(
        "ConvTranspose",
        [x, weight, g.per_channel([channels])],
        (x.shape[0], channels, *spatial),
        macs=math.prod(x.shape) * channels * window**n,
        kernel_shape=[window] * n,
        strides=[stride] * n,
        pads=[extra // 2] * n + [extra - extra // 2] * n,
    )


def matmul(g: Graph, a: Value, b: Value) -> Value:
    """A product of matrices, batched where there are more axes."""
    outer = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*outer, a.shape[-2], b.shape[-1])
    return g.add("MatMul", [a, b], shape, macs=math.prod(shape) * a.shape[-1])


def linear(g: Graph, x: Value, width: int, *, bias: bool = True) -> Value:
    """As exporters write it: Gemm on matrices, MatMul and Add on more axes."""
    inner = x.shape[-1]
    if len(x.shape) == 2 and g.chance(0.7):
        weight = g.weight(width, inner)
        inputs = [x, weight, *([g.per_channel([width])] if bias else [])]
        rows = x.shape[0]
        return g.add("Gemm", inputs, (rows, width), macs=rows * inner * width, transB=1)
    y = matmul(g, x, g.weight(inner, width, fan_in=inner))
    if not bias:
        return y
    b = g.per_channel([width])
    return broadcast(g, "Add", *((b, y) if g.chance(0.7) else (y, b)))


def linear_width(g: Graph, x: Value, *, most: float = math.inf) -> int:
    """Random width of a `linear` on x."""
    rows = math.prod(x.shape[:-1])
    return g.width(rows * x.shape[-1], rows, most=most)


def conv_width(
    g: Graph, x: Value, window: Sequence[int], stride: int = 1, *, most: float = math.inf
) -> int:
    """Random number of channels of a `conv` on x."""
    positions = x.shape[0] * math.prod(-(-n // stride) for n in x.spatial)
    return g.width(positions * x.channels * math.prod(window), positions, most=most)


# Activations.


def _silu(g: Graph, x: Value) -> Value:
    return broadcast(g, "Mul", x, unary(g, "Sigmoid", x))


def _quick_gelu(g: Graph, x: Value) -> Value:
    inner = broadcast(g, "Mul", x, g.scalar(1.702))
    return broadcast(g, "Mul", x, unary(g, "Sigmoid", inner))


def _clip(g: Graph, x: Value) -> Value:
    return g.add("Clip", [x, g.scalar(0.0), g.scalar(6.0)], x.shape)


def _hard_swish_steps(g: Graph, x: Value) -> Value:
    clipped = _clip(g, broadcast(g, "Add", x, g.scalar(3.0)))
    return broadcast(g, "Div", broadcast(g, "Mul", x, clipped), g.scalar(6.0))


def gelu_erf(g: Graph, x: Value) -> Value:
    """GELU as exporters write it before opset 20."""
    erf = unary(g, "Erf", broadcast(g, "Div", x, g.scalar(math.sqrt(2))))
    return broadcast(
        g,
        "Mul",
        broadcast(g, "Mul", x, broadcast(g, "Add", erf, g.scalar(1.0))),
        g.scalar(0.5),
    )


def _gelu_tanh(g: Graph, x: Value) -> Value:
    cube = broadcast(g, "Mul", broadcast(g, "Pow", x, g.scalar(3.0)), g.scalar(0.044715))
    inner = broadcast(g, "Mul", broadcast(g, "Add", x, cube), g.scalar(math.sqrt(2 / math.pi)))
    one_plus = broadcast(g, "Add", unary(g, "Tanh", inner), g.scalar(1.0))
    return broadcast(g, "Mul", broadcast(g, "Mul", x, g.scalar(0.5)), one_plus)


def gelu(g: Graph, x: Value) -> Value:
    """GELU in one of its spellings."""
    if g.opset >= 20 and g.chance(0.5):
        return unary(g, "Gelu", x, approximate=g.pick(("none", "none", "tanh")))
    return g.pick((gelu_erf, gelu_erf, gelu_erf, _gelu_tanh))(g, x)


def _prelu(g: Graph, x: Value) -> Value:
    slope = g.per_channel([x.shape[1], *[1] * (len(x.shape) - 2)], around=0.25)
    return g.add("PRelu", [x, slope], x.shape)


def _softplus_tanh(g: Graph, x: Value) -> Value:
    return broadcast(g, "Mul", x, unary(g, "Tanh", unary(g, "Softplus", x)))


# The likelier ones are repeated.
COMMON: tuple[Callable[[Graph, Value], Value], ...] = (
    *[lambda g, x: unary(g, "Relu", x)] * 8,
    *[_clip] * 2,
    lambda g, x: unary(g, "LeakyRelu", x, alpha=g.pick((0.01, 0.1, 0.2))),
    lambda g, x: unary(g, "HardSwish", x),
    lambda g, x: unary(g, "HardSigmoid", x, alpha=1 / 6, beta=0.5),
    lambda g, x: unary(g, "Sigmoid", x),
    lambda g, x: unary(g, "Tanh", x),
    *[_silu] * 2,
    *[gelu] * 2,
)
RARE: tuple[Callable[[Graph, Value], Value], ...] = (
    _quick_gelu,
    _hard_swish_steps,
    _softplus_tanh,
    _prelu,
    lambda g, x: unary(g, "Elu", x, alpha=1.0),
    lambda g, x: unary(g, "Softplus", x),
    lambda g, x: unary(g, "Softsign", x),
)


def activation(g: Graph, x: Value) -> Value:
    """None, the network's own, or another."""
    kind = g.rng.random()
    if kind < 0.15:
        return x
    if kind < 0.85:
        return COMMON[g.style.activation](g, x)
    return g.pick(COMMON if kind < 0.93 else RARE)(g, x)


# Normalisations.


def layer_norm(g: Graph, x: Value) -> Value:
    """Over the last axis, as one operator or, as older exporters write it, as nine."""
    width = x.shape[-1]
    scale, shift = g.per_channel([width], around=1.0), g.per_channel([width])
    if g.chance(0.8):
        return g.add("LayerNormalization", [x, scale, shift], x.shape, axis=-1, epsilon=EPSILON)
    return broadcast(g, "Add", broadcast(g, "Mul", standardized(g, x, [-1]), scale), shift)


def standardized(g: Graph, x: Value, axes: Sequence[int]) -> Value:
    """Mean 0 and variance 1 over axes, written out."""
    centred = broadcast(g, "Sub", x, reduce(g, "ReduceMean", x, axes))
    variance = reduce(g, "ReduceMean", broadcast(g, "Pow", centred, g.scalar(2.0)), axes)
    deviation = unary(g, "Sqrt", broadcast(g, "Add", variance, g.scalar(EPSILON)))
    return broadcast(g, "Div", centred, deviation)


def rms_norm(g: Graph, x: Value) -> Value:
    """Mean square 1 over the last axis."""
    mean = reduce(g, "ReduceMean", broadcast(g, "Pow", x, g.scalar(2.0)), [-1])
    root = unary(g, "Sqrt", broadcast(g, "Add", mean, g.scalar(EPSILON)))
    if g.chance(0.5):
        y = broadcast(g, "Mul", x, unary(g, "Reciprocal", root))
    else:
        y = broadcast(g, "Div", x, root)
    return broadcast(g, "Mul", g.per_channel([x.shape[-1]], around=1.0), y)


def batch_norm(g: Graph, x: Value) -> Value:
    """Folded into a convolution before it, if there is one."""
    c = [x.channels]
    inputs = [g.per_channel(c, around=1.0), g.per_channel(c), g.per_channel(c),
              g.per_channel(c, around=1.0)]  # fmt: skip
    return g.add("BatchNormalization", [x, *inputs], x.shape, epsilon=EPSILON)


def instance_norm(g: Graph, x: Value) -> Value:
    """Each channel by itself."""
    c = [x.channels]
    inputs = [x, g.per_channel(c, around=1.0), g.per_channel(c)]
    return g.add("InstanceNormalization", inputs, x.shape, epsilon=EPSILON)


def group_norm(g: Graph, x: Value) -> Value:
    """As exporters write it: as channels of groups, then a scale and a shift for each channel."""
    groups = g.divisor(x.channels, most=32)
    y = reshape(g, x, x.shape[0], groups, math.prod(x.shape[1:]) // groups)
    y = reshape(g, instance_norm(g, y), *x.shape)
    c = [x.channels, *[1] * len(x.spatial)]
    y = broadcast(g, "Mul", y, g.per_channel(c, around=1.0))
    return broadcast(g, "Add", y, g.per_channel(c))
