"""Operators that move tensors: shapes, indices, padding, constants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import onnx
import torch
import torch.nn.functional as F

from profilers.torch_operators.base import (
    Builder,
    Function,
    Operator,
    UnsupportedError,
    axes_of,
    torch_dtype,
)


def _reshaped(shape: Sequence[int]) -> Function:
    shape = tuple(shape)
    return lambda x: x.reshape(shape)


def _flatten(op: Operator) -> Function:
    axis = op.get("axis", 1)
    rows = math.prod(op.shape[: axis if axis >= 0 else len(op.shape) + axis])
    return _reshaped((rows, math.prod(op.shape) // rows if rows else -1))


def _reshape(op: Operator) -> Function:
    shape = list(op.ints("shape", 1) or ())
    if not op.get("allowzero", 0):
        shape = [op.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    if -1 in shape:
        rest = math.prod(size for size in shape if size != -1)
        shape[shape.index(-1)] = math.prod(op.shape) // rest if rest else 0
    return _reshaped(shape)


def _squeeze(op: Operator) -> Function:
    axes = op.ints("axes", 1)
    gone = [i for i, n in enumerate(op.shape) if n == 1] if axes is None else axes_of(op, axes)
    return _reshaped([size for i, size in enumerate(op.shape) if i not in gone])


def _unsqueeze(op: Operator) -> Function:
    axes = op.ints("axes", 1) or ()
    rank = len(op.shape) + len(axes)
    rest = iter(op.shape)
    new = {axis % rank for axis in axes}
    return _reshaped([1 if i in new else next(rest) for i in range(rank)])


def _transpose(op: Operator) -> Function:
    order = tuple(op.get("perm", reversed(range(len(op.shape)))))
    return lambda x: x.permute(order)


def _expand(op: Operator) -> Function:
    shape = np.broadcast_shapes(op.shape, op.ints("shape", 1) or ())
    return lambda x: x.expand(shape)


def _tile(op: Operator) -> Function:
    repeats = op.ints("repeats", 1) or ()
    return lambda x: x.repeat(repeats)


def _concat(op: Operator) -> Function:
    axis = op.attributes["axis"]
    return lambda *tensors: torch.cat(tensors, axis)


def _split(op: Operator) -> Function:
    (axis,) = axes_of(op, [op.get("axis", 0)])
    sizes, total = op.ints("split", 1), op.shape[axis]
    if sizes is None:
        n = op.get("num_outputs", op.n_outputs)
        size = -(-total // n)
        sizes = tuple(max(0, min(size, total - i * size)) for i in range(n))
    lengths = list(sizes)
    return lambda x: torch.split(x, lengths, axis)


def _slice(op: Operator) -> Function:
    starts, ends, axes = (op.ints(n, i) for i, n in enumerate(("starts", "ends", "axes"), start=1))
    if starts is None or ends is None:
        raise UnsupportedError("its bounds are left out")
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = op.ints("steps", 4) or (1,) * len(starts)
    cuts = {
        axis: range(*slice(start, end, step).indices(op.shape[axis]))
        for axis, start, end, step in zip(axes_of(op, axes), starts, ends, steps, strict=True)
    }
    if all(cut.step > 0 for cut in cuts.values()):
        index = tuple(
            slice(cuts[i].start, cuts[i].stop, cuts[i].step) if i in cuts else slice(None)
            for i in range(len(op.shape))
        )
        return lambda x: x[index]
    order = tuple(cuts)
    for axis in order:
        op.append(torch.tensor(cuts[axis], dtype=torch.int64))

    def run(x: torch.Tensor, *indices: torch.Tensor) -> torch.Tensor:
        for axis, index in zip(order, indices, strict=True):
            x = x.index_select(axis, index)
        return x

    return run


def _gather(op: Operator) -> Function:
    (axis,) = axes_of(op, [op.get("axis", 0)])
    indices = op.tensor(1)
    if not indices.is_meta and indices.dim() == 0:
        index = int(indices)
        op.read.add(1)
        return lambda x: x.select(axis, index)
    before = (slice(None),) * axis
    return lambda x, indices: x[(*before, indices)]


def _gather_elements(op: Operator) -> Function:
    (axis,) = axes_of(op, [op.get("axis", 0)])
    n = op.shape[axis]
    return lambda x, indices: torch.gather(x, axis, torch.remainder(indices, n))


def _pad(op: Operator) -> Function:
    pads, mode = op.ints("pads", 1) or (), op.get("mode", "constant")
    value = op.get("value", 0.0)
    if op.opset >= 11:
        given = op.constant(2)
        value = 0 if given is None else given.item()
    axes = axes_of(op, op.ints("axes", 3) or range(len(op.shape)))
    by_axis = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    first = min((axis for axis, pair in by_axis.items() if any(pair)), default=len(op.shape))
    if mode == "constant":
        outer = [p for i in reversed(range(first, len(op.shape))) for p in by_axis.get(i, (0, 0))]
        return lambda x: F.pad(x, outer, value=value)
    modes = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    if mode not in modes or first < 2 or len(op.shape) > 5:
        raise UnsupportedError(f"its mode is {mode!r} over the first axes of its input")
    outer = [p for i in reversed(range(2, len(op.shape))) for p in by_axis.get(i, (0, 0))]
    return lambda x: F.pad(x, outer, mode=modes[mode])


def _resize(op: Operator) -> Function:
    """Of the spatial axes, in the ways that `F.interpolate` has."""
    mode, coordinates = op.get("mode", "nearest"), _coordinates(op)
    for name in ("axes", "antialias", "exclude_outside"):
        if op.get(name):
            raise UnsupportedError(f"its {name} is {op.get(name)}")
    if op.opset < 11:
        raise UnsupportedError(f"it is of opset {op.opset}, older than 11")
    op.constant(1)  # the region, which only another mode reads
    scales, sizes = op.constant(2), op.ints("sizes", 3)
    if sizes is None:
        factors = [] if scales is None else scales.tolist()
        sizes = tuple(int(n * factor) for n, factor in zip(op.shape, factors, strict=True))
    size, is_whole = sizes[2:], all(b % a == 0 for a, b in zip(op.shape, sizes, strict=True))
    if sizes[:2] != op.shape[:2]:
        raise UnsupportedError("it resizes the batch or the channels")
    if mode == "nearest":
        # Of whole factors, all ways to round give the same.
        is_floor = (coordinates, op.get("nearest_mode")) == ("asymmetric", "floor")
        if not is_floor and not (is_whole and coordinates.endswith("half_pixel")):
            raise UnsupportedError(f"it takes the nearest value by {coordinates}")
        return lambda x: F.interpolate(x, size, mode="nearest")
    if coordinates not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise UnsupportedError(f"it is {mode} by {coordinates}")
    names = {"linear": ("linear", "bilinear", "trilinear"), "cubic": ("", "bicubic")}[mode]
    if len(size) > len(names) or not names[len(size) - 1]:
        raise UnsupportedError(f"it is {mode} over {len(size)} axes")
    name, corners = names[len(size) - 1], coordinates == "align_corners"
    return lambda x: F.interpolate(x, size, mode=name, align_corners=corners)


def _coordinates(op: Operator) -> str:
    return str(op.get("coordinate_transformation_mode", "half_pixel"))


def _depth_to_space(op: Operator) -> Function:
    block, (n, c, h, w) = op.get("blocksize"), op.shape
    if op.get("mode", "DCR") == "CRD":
        return lambda x: F.pixel_shuffle(x, block)
    split, joined = (n, block, block, c // block**2, h, w), (n, c // block**2, h * block, w * block)
    return lambda x: x.reshape(split).permute(0, 3, 4, 1, 5, 2).reshape(joined)


def _space_to_depth(op: Operator) -> Function:
    block, (n, c, h, w) = op.get("blocksize"), op.shape
    if op.get("mode", "DCR") != "DCR":
        raise UnsupportedError(f"its mode is {op.get('mode')}")
    split = (n, c, h // block, block, w // block, block)
    joined = (n, c * block**2, h // block, w // block)
    return lambda x: x.reshape(split).permute(0, 3, 5, 1, 2, 4).reshape(joined)


def _constant(op: Operator) -> Function:
    for name, dtype in (
        ("value_float", torch.float32), ("value_floats", torch.float32),
        ("value_int", torch.int64), ("value_ints", torch.int64),
    ):  # fmt: skip
        if name in op.attributes:
            value = torch.tensor(op.attributes[name], dtype=dtype)
            return lambda: value
    if "value" not in op.attributes:
        raise UnsupportedError(f"it is given as {', '.join(op.attributes)}")
    tensor = tensor_value(op.attributes["value"])
    return lambda: tensor


def tensor_value(proto: onnx.TensorProto) -> torch.Tensor:
    """An initialiser or the value of a Constant."""
    dtype = torch_dtype(proto.data_type)
    array = onnx.numpy_helper.to_array(proto)
    if dtype is torch.bfloat16:  # numpy's is one of another package
        return torch.from_numpy(array.astype("float32")).to(dtype)
    return torch.from_numpy(array.copy())


def _constant_of_shape(op: Operator) -> Function:
    shape = op.ints("shape", 0) or ()
    value = op.get("value")
    fill = torch.zeros(1) if value is None else tensor_value(value)
    return lambda: torch.full(shape, fill.item(), dtype=fill.dtype)


def _range(op: Operator) -> Function:
    bounds = [cast(torch.Tensor, op.constant(i)) for i in range(3)]
    start, stop, step = (bound.item() for bound in bounds)
    return lambda: torch.arange(start, stop, step, dtype=bounds[0].dtype)


BUILDERS: dict[str, Builder] = {
    "Concat": _concat, "Constant": _constant, "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space, "Expand": _expand, "Flatten": _flatten, "Gather": _gather,
    "GatherElements": _gather_elements, "Pad": _pad, "Range": _range, "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice, "SpaceToDepth": _space_to_depth, "Split": _split, "Squeeze": _squeeze,
    "Tile": _tile, "Transpose": _transpose, "Unsqueeze": _unsqueeze,
}  # fmt: skip
