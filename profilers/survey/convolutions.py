"""Groups of operators that convolutional networks are made of, on images and on signals.

Both are `(batch, channels, *spatial)`; what has a window has it over all spatial axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from profilers.survey.graph import MIN_WIDTH, Graph, NoRoomError, Value
from profilers.survey.operators import (
    activation,
    batch_norm,
    broadcast,
    concat,
    conv,
    conv_transpose,
    conv_width,
    crop,
    gelu,
    group_norm,
    instance_norm,
    layer_norm,
    linear,
    matmul,
    pad,
    reduce,
    reshape,
    split,
    standardized,
    transpose,
    unary,
)

Group = Callable[[Graph, Value], Value]
SMALL = 12  # spatial sizes below are rarely made smaller
MAX_GROUPS = 64
BIAS_SHARE = 0.75  # of convolutions that no normalisation follows


def _window(g: Graph, x: Value, sizes: Sequence[int]) -> list[int]:
    return [g.pick(sizes)] * len(x.spatial)


def _normalized_conv(
    g: Graph, x: Value, channels: int, window: Sequence[int], *, stride: int = 1,
    dilation: int = 1, groups: int = 1,
) -> Value:  # fmt: skip
    """A convolution as trained networks have it: the normalisation folded or to be folded."""
    strides = [stride] * len(window)
    has_norm = g.chance(g.style.norm_share)
    y = conv(g, x, channels, window, strides=strides, dilation=dilation, groups=groups,
             bias=not has_norm and g.chance(BIAS_SHARE))  # fmt: skip
    return batch_norm(g, y) if has_norm else y


def _stride(g: Graph, x: Value) -> int:
    """2 now and then, as long as there is something left: networks are deep on small maps."""
    return 2 if min(x.spatial) >= SMALL and g.chance(0.2) else 1


def conv_block(g: Graph, x: Value) -> Value:
    """A convolution and an activation."""
    stride = _stride(g, x)
    window = _window(g, x, (1, 1, 1, 3, 3, 3, 5, 7))
    channels = conv_width(g, x, window, stride)
    return activation(g, _normalized_conv(g, x, channels, window, stride=stride))


def odd_conv(g: Graph, x: Value) -> Value:
    """A dilated convolution, or one whose window is long and narrow."""
    if len(x.spatial) == 1 or g.chance(0.5):
        window, dilation = _window(g, x, (3, 3, 5, 9)), g.pick((2, 2, 4, 8))
        channels = conv_width(g, x, window)
        return activation(g, _normalized_conv(g, x, channels, window, dilation=dilation))
    k = g.pick((3, 5, 7))
    for window in ([1, k], [k, 1]):
        x = _normalized_conv(g, x, conv_width(g, x, window), window)
    return activation(g, x)


def depthwise_block(g: Graph, x: Value) -> Value:
    """A depthwise convolution, often with a pointwise one behind it."""
    window, stride = _window(g, x, (3, 3, 3, 5, 5, 7, 9)), _stride(g, x)
    y = _normalized_conv(g, x, x.channels, window, stride=stride, groups=x.channels,
                         dilation=g.pick((1, 1, 1, 2)))  # fmt: skip
    y = activation(g, y)
    return _pointwise(g, y) if g.chance(0.6) else y


def _pointwise(g: Graph, x: Value, *, most: float = math.inf) -> Value:
    window = [1] * len(x.spatial)
    return activation(g, _normalized_conv(g, x, conv_width(g, x, window, most=most), window))


def grouped_block(g: Graph, x: Value) -> Value:
    """A grouped convolution, with a shuffle of the channels in a third of the cases."""
    window = _window(g, x, (1, 3, 3, 3, 5))
    groups = _groups(g, x.channels)
    channels = x.channels
    if g.chance(0.5):
        channels = groups * max(1, conv_width(g, x, window) // groups)
    y = activation(g, _normalized_conv(g, x, channels, window, groups=groups, stride=_stride(g, x)))
    return _shuffle(g, y, groups) if g.chance(1 / 3) and groups > 1 else y


def _groups(g: Graph, channels: int) -> int:
    """A few wide groups as often as many narrow ones; 1 if nothing divides the channels."""
    wide = g.log_uniform(MIN_WIDTH, channels / 2)
    divisors = [d for d in range(2, min(channels, MAX_GROUPS) + 1) if channels % d == 0]
    return min(divisors, key=lambda d: abs(math.log(channels / d / wide)), default=1)


def _shuffle(g: Graph, x: Value, groups: int) -> Value:
    y = reshape(g, x, x.shape[0], groups, x.channels // groups, *x.spatial)
    return reshape(g, transpose(g, y, 0, 2, 1, *range(3, len(y.shape))), *x.shape)


def residual_block(g: Graph, x: Value) -> Value:
    """Two convolutions, or three with a narrow one in the middle, around which the input goes."""
    one, window = [1] * len(x.spatial), _window(g, x, (3, 3, 3, 5))
    stride = _stride(g, x)
    if g.chance(0.5):
        inner = conv_width(g, x, window, stride)
        y = activation(g, _normalized_conv(g, x, inner, window, stride=stride))
        y = _normalized_conv(g, y, x.channels, window)
    else:
        inner = conv_width(g, x, one, most=2 * x.channels)
        groups = _groups(g, inner) if g.chance(0.3) else 1
        y = activation(g, _normalized_conv(g, x, inner, one))
        y = activation(g, _normalized_conv(g, y, inner, window, stride=stride, groups=groups))
        if g.chance(0.3):
            y = squeeze_excite(g, y)
        y = _normalized_conv(g, y, x.channels, one)
    side = x if stride == 1 else _normalized_conv(g, x, x.channels, one, stride=stride)
    return activation(g, broadcast(g, g.pick(("Add", "Add", "Add", "Sum")), y, side))


def inverted_residual(g: Graph, x: Value) -> Value:
    """Wider, depthwise, narrower again; the input goes around where the shape stays."""
    one, window, stride = [1] * len(x.spatial), _window(g, x, (3, 3, 5, 7)), _stride(g, x)
    inner = conv_width(g, x, one)
    y = activation(g, _normalized_conv(g, x, inner, one))
    if stride > 1 and g.chance(0.3):  # as ports from TensorFlow pad
        y = pad(g, y, [(k - 1) // 2 for k in window], [k // 2 for k in window], "constant")
        y = conv(g, y, inner, window, strides=[stride] * len(window), groups=inner, padded=False)
    else:
        y = _normalized_conv(g, y, inner, window, stride=stride, groups=inner)
    y = activation(g, y)
    if g.chance(0.5):
        y = squeeze_excite(g, y)
    if stride == 1 and g.chance(0.7):
        return broadcast(g, "Add", _normalized_conv(g, y, x.channels, one), x)
    return _normalized_conv(g, y, conv_width(g, y, one), one)


def squeeze_excite(g: Graph, x: Value) -> Value:
    """Every channel scaled by what a small network makes of all channels' means."""
    axes = range(2, len(x.shape))
    inner = max(MIN_WIDTH, x.channels // g.pick((2, 4, 8, 16)))
    if g.chance(0.5):
        y = g.add("GlobalAveragePool", [x], (*x.shape[:2], *[1] * len(x.spatial)))
    else:
        y = reduce(g, "ReduceMean", x, axes)
    if g.chance(0.6):
        one = [1] * len(x.spatial)
        y = conv(g, unary(g, "Relu", conv(g, y, inner, one)), x.channels, one)
    else:
        y = reshape(g, y, *x.shape[:2])
        y = linear(g, unary(g, "Relu", linear(g, y, inner)), x.channels)
        y = reshape(g, y, *x.shape[:2], *[1] * len(x.spatial))
    if g.chance(0.6):
        gate = unary(g, "Sigmoid", y)
    else:
        gate = unary(g, "HardSigmoid", y, alpha=g.pick((1 / 6, 0.2)), beta=0.5)
    return broadcast(g, "Mul", x, gate)


def dense_block(g: Graph, x: Value) -> Value:
    """Every layer's output behind its input, the normalisation before the convolution."""
    window = _window(g, x, (3, 3, 5))
    growth = conv_width(g, x, window, most=64)
    before = g.chance(0.5)
    for _ in range(g.pick((1, 2, 3, 4))):
        y = unary(g, "Relu", batch_norm(g, x)) if before else x
        if g.chance(0.5):
            y = activation(g, _normalized_conv(g, y, min(4 * growth, g.limits.wide),
                                               [1] * len(window)))  # fmt: skip
        y = _normalized_conv(g, y, growth, window)
        x = concat(g, [x, y if before else activation(g, y)], 1)
    return x


def branches(g: Graph, x: Value) -> Value:
    """Two to four different ways side by side."""
    one = [1] * len(x.spatial)
    found = []
    for _ in range(g.pick((2, 2, 3, 4))):
        y = x
        kind = g.rng.random()
        if kind < 0.2 and min(x.spatial) >= 3:
            y = _pool(g, y, 3, 1)
        if kind < 0.7:
            y = _pointwise(g, y)
        if kind > 0.3:
            window = _window(g, x, (3, 3, 5))
            y = activation(g, _normalized_conv(g, y, conv_width(g, y, window), window))
        found.append(y)
    y = concat(g, found, 1)
    return _normalized_conv(g, y, conv_width(g, y, one), one) if g.chance(0.2) else y


def fire(g: Graph, x: Value) -> Value:
    """A narrow layer, then a pointwise and a wider window side by side."""
    y = _pointwise(g, x)
    channels = conv_width(g, y, _window(g, x, (3,)))
    return concat(g, [activation(g, conv(g, y, channels, [k] * len(x.spatial)))
                      for k in (1, 3)], 1)  # fmt: skip


def split_block(g: Graph, x: Value) -> Value:
    """Half of the channels stay, the others go through a layer; then all are shuffled."""
    if x.channels < 2:
        raise NoRoomError
    half = x.channels // 2
    if g.chance(0.5):
        left, right = split(g, x, [half, x.channels - half], 1)
    else:
        left, right = crop(g, x, 1, 0, half), crop(g, x, 1, half, x.channels)
    y = concat(g, [left, g.pick((conv_same, depthwise_same))(g, right)], 1)
    return _shuffle(g, y, 2) if y.channels % 2 == 0 and g.chance(0.6) else y


def conv_same(g: Graph, x: Value) -> Value:
    """A convolution that keeps the shape."""
    return activation(g, _normalized_conv(g, x, x.channels, _window(g, x, (1, 3))))


def depthwise_same(g: Graph, x: Value) -> Value:
    """A depthwise convolution that keeps the shape."""
    window = _window(g, x, (3, 5))
    return activation(g, _normalized_conv(g, x, x.channels, window, groups=x.channels))


def _pool(g: Graph, x: Value, k: int, stride: int, *, ceil: bool = False) -> Value:
    n = len(x.spatial)
    begin = (k - 1) // 2 if stride == 1 or (k > stride and g.chance(0.7)) else 0
    spatial = []
    for size in x.spatial:
        steps = (size + 2 * begin - k) / stride
        out = (math.ceil(steps) if ceil else math.floor(steps)) + 1
        if ceil and (out - 1) * stride >= size + begin:  # no window starts in the end's padding
            out -= 1
        spatial.append(out)
    if min(spatial) < 1:
        raise NoRoomError
    kind = g.pick(("MaxPool", "MaxPool", "AveragePool"))
    extra = {"count_include_pad": int(g.chance(0.5))} if kind == "AveragePool" else {}
    return g.add(
        kind, [x], (*x.shape[:2], *spatial), kernel_shape=[k] * n, strides=[stride] * n,
        pads=[begin] * 2 * n, ceil_mode=int(ceil), **extra,
    )  # fmt: skip


def pool(g: Graph, x: Value) -> Value:
    """Maxima or means of windows."""
    k = g.pick((2, 2, 3, 3, 5))
    if min(x.spatial) < k:
        raise NoRoomError
    stride = 2 if min(x.spatial) >= SMALL or g.chance(0.2) else 1
    return _pool(g, x, k, stride, ceil=k < 5 and g.chance(0.2))


def pyramid(g: Graph, x: Value) -> Value:
    """Maxima of ever wider windows behind each other's channels."""
    found = [_pointwise(g, x)]
    k = g.pick((3, 5))
    if min(x.spatial) < k:
        raise NoRoomError
    for _ in range(g.pick((1, 2, 3))):
        found.append(_pool(g, found[-1], k, 1))
    return concat(g, found, 1)


def upsample(g: Graph, x: Value) -> Value:
    """Twice as large: by repeating, by interpolating, by a transposed convolution."""
    kind = g.rng.random()
    if kind < 0.4:
        window, stride = g.pick(((2, 2), (3, 2), (4, 2)))
        n = len(x.spatial)
        positions = math.prod(x.spatial) * x.shape[0]
        channels = g.width(positions * x.channels * window**n, positions * stride**n)
        return activation(g, conv_transpose(g, x, channels, window, stride))
    if kind < 0.55 and len(x.spatial) == 2 and x.channels % 4 == 0:
        shape = (x.shape[0], x.channels // 4, 2 * x.spatial[0], 2 * x.spatial[1])
        return g.add("DepthToSpace", [x], shape, blocksize=2, mode="CRD")
    modes = [("nearest", "asymmetric"), ("nearest", "asymmetric"), ("linear", "half_pixel"),
             ("linear", "align_corners")]  # fmt: skip
    mode, coordinates = g.pick(modes)
    scales = g.constant(np.array([1, 1, *[2] * len(x.spatial)], np.float32))
    extra: dict[str, Any] = {"nearest_mode": "floor"} if mode == "nearest" else {}
    return g.add(
        "Resize", [x, None, scales], (*x.shape[:2], *[2 * n for n in x.spatial]), mode=mode,
        coordinate_transformation_mode=coordinates, **extra,
    )  # fmt: skip


def u_shape(g: Graph, x: Value) -> Value:
    """Down, a layer, up again, and joined with what was there before."""
    if min(x.spatial) < 4 or any(n % 2 for n in x.spatial):
        raise NoRoomError
    y = conv_same(g, _pool(g, x, 2, 2))
    y = upsample(g, y)
    if y.channels == x.channels and g.chance(0.4):
        return broadcast(g, "Add", x, y)
    return concat(g, [x, y], 1)


def norm(g: Graph, x: Value) -> Value:
    """A normalisation that no convolution can take in."""
    options: list[Group] = [instance_norm, group_norm, group_norm, batch_norm, channel_norm]
    if len(x.spatial) == 2:
        options += [_local_response_norm, _global_response_norm]
    return activation(g, g.pick(options)(g, x))


def _local_response_norm(g: Graph, x: Value) -> Value:
    return unary(g, "LRN", x, size=5, alpha=1e-4, beta=0.75, bias=1.0)


def _global_response_norm(g: Graph, x: Value) -> Value:
    size = reduce(g, "ReduceL2", x, [2, 3])
    mean = broadcast(g, "Add", reduce(g, "ReduceMean", size, [1]), g.scalar(1e-6))
    y = broadcast(g, "Mul", x, broadcast(g, "Div", size, mean))
    return broadcast(g, "Add", x, broadcast(g, "Mul", y, g.per_channel([x.channels, 1, 1])))


def channel_norm(g: Graph, x: Value) -> Value:
    """A layer norm over the channels: written out, or with the channels brought to the end."""
    n = len(x.shape)
    if g.chance(0.5):
        y = transpose(g, x, 0, *range(2, n), 1)
        return transpose(g, layer_norm(g, y), 0, n - 1, *range(1, n - 1))
    c = [x.channels, *[1] * len(x.spatial)]
    y = broadcast(g, "Mul", g.per_channel(c, around=1.0), standardized(g, x, [1]))
    return broadcast(g, "Add", y, g.per_channel(c))


def next_block(g: Graph, x: Value) -> Value:
    """Depthwise, then a wide layer on channels that lie last, scaled and added."""
    window, n = _window(g, x, (3, 5, 7, 7)), len(x.shape)
    y = conv(g, x, x.channels, window, groups=x.channels)
    y = layer_norm(g, transpose(g, y, 0, *range(2, n), 1))
    y = linear(g, gelu(g, linear(g, y, g.pick((2, 3, 4)) * x.channels)), x.channels)
    y = broadcast(g, "Mul", g.per_channel([x.channels], around=0.5), y)
    return broadcast(g, "Add", x, transpose(g, y, 0, n - 1, *range(1, n - 1)))


def elementwise(g: Graph, x: Value) -> Value:
    """A few operators that work element by element, with channels' and maps' worth of others."""
    c = [1, x.channels, *[1] * len(x.spatial)]
    kind = g.pick(("scale", "gate", "map", "residual", "normalize", "root", "extremes", "where"))
    if kind == "scale":
        y = broadcast(g, "Mul", x, g.per_channel(c, around=1.0))
        return broadcast(g, g.pick(("Add", "Sub")), y, g.per_channel(c))
    if kind == "gate":
        return broadcast(g, "Mul", activation(g, x), unary(g, "Sigmoid", x))
    if kind == "map":
        axes = [1]
        maps = [reduce(g, kind, x, axes) for kind in ("ReduceMean", "ReduceMax")]
        y = conv(g, concat(g, maps, 1), 1, [7] * len(x.spatial))
        return broadcast(g, "Mul", x, unary(g, "Sigmoid", y))
    if kind == "residual":
        return broadcast(g, "Add", x, broadcast(g, "Mul", activation(g, x), g.scalar(0.5)))
    if kind == "normalize":
        square = reduce(g, "ReduceSum", broadcast(g, "Mul", x, x), [1])
        root = unary(g, "Sqrt", broadcast(g, "Add", square, g.scalar(1e-6)))
        return broadcast(g, "Div", x, root)
    if kind == "root":
        return unary(g, "Sqrt", broadcast(g, "Add", unary(g, "Abs", x), g.scalar(0.1)))
    if kind == "where":
        positive = g.add("Greater", [x, g.scalar(0.0)], x.shape)
        return g.add("Where", [positive, x, unary(g, "Neg", x)], x.shape)
    return broadcast(g, g.pick(("Max", "Min")), x, g.scalar(0.0))


def move(g: Graph, x: Value) -> Value:
    """Padding, cropping or rolling along a spatial axis."""
    n = len(x.spatial)
    kind = g.rng.random()
    if kind < 0.5:
        width = g.pick((1, 1, 2, 3))
        mode = g.pick(("constant", "constant", "reflect", "edge"))
        if min(x.spatial) <= width:
            raise NoRoomError
        return pad(g, x, [width] * n, [width] * n, mode)
    axis = 2 + int(g.rng.integers(n))
    size = x.shape[axis]
    if size < 4:
        raise NoRoomError
    at = int(g.rng.integers(1, size // 2))
    if kind < 0.75:
        return crop(g, x, axis, at, size)
    return concat(g, [crop(g, x, axis, at, size), crop(g, x, axis, 0, at)], axis)


def attention_over_positions(g: Graph, x: Value) -> Value:
    """Every position looks at all others: two pointwise products and a softmax."""
    positions = math.prod(x.spatial)
    inner = max(MIN_WIDTH, x.channels // g.pick((1, 2, 4, 8)))
    one = [1] * len(x.spatial)
    query, key, value = (
        reshape(g, conv(g, x, width, one), x.shape[0], width, positions)
        for width in (inner, inner, x.channels)
    )
    scores = matmul(g, transpose(g, query, 0, 2, 1), key)
    weights = unary(g, "Softmax", scores, axis=-1)
    y = matmul(g, value, transpose(g, weights, 0, 2, 1))
    return broadcast(g, "Add", x, reshape(g, y, *x.shape))


# Repeated: the likelier.
GROUPS: tuple[Group, ...] = (
    *[conv_block] * 5, *[depthwise_block] * 3, *[residual_block] * 3, *[inverted_residual] * 3,
    *[grouped_block] * 2, *[dense_block] * 2, *[branches] * 2, *[pool] * 2, *[norm] * 2,
    *[elementwise] * 2, odd_conv, squeeze_excite, fire, split_block, pyramid, upsample, u_shape,
    next_block, move, attention_over_positions,
)  # fmt: skip
