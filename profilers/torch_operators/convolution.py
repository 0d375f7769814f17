"""Convolution, pooling and normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from profilers.torch_operators.base import Builder, Function, Operator, UnsupportedError, axes_of


@dataclass(frozen=True)
class _Window:
    """A window that slides over the spatial axes; the tuples have one entry for each of them."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, op: Operator, size: Sequence[int]) -> _Window:
        n = len(size)
        strides = tuple(op.get("strides", [1] * n))
        dilations = tuple(op.get("dilations", [1] * n))
        pads = list(op.get("pads", [0] * 2 * n))
        auto_pad = op.get("auto_pad", "NOTSET")
        if auto_pad.startswith("SAME"):
            totals = [
                max(0, (-(-length // stride) - 1) * stride + (k - 1) * dilation + 1 - length)
                for length, k, stride, dilation in zip(
                    op.shape[2:], size, strides, dilations, strict=True
                )
            ]
            small, large = [total // 2 for total in totals], [-(-total // 2) for total in totals]
            pads = small + large if auto_pad == "SAME_UPPER" else large + small
        elif auto_pad == "VALID":
            pads = [0] * 2 * n
        return cls(tuple(size), strides, dilations, tuple(pads[:n]), tuple(pads[n:]))

    @property
    def outer(self) -> list[int]:
        """Padding in the order of `F.pad`: the last axis first."""
        pairs = zip(reversed(self.begins), reversed(self.ends), strict=True)
        return [pad for pair in pairs for pad in pair]


def _by_rank(op: Operator, functions: Sequence[Function]) -> Function:
    rank = len(op.shape) - 2
    if not 1 <= rank <= len(functions):
        raise UnsupportedError(f"its input has {rank} spatial axes")
    return functions[rank - 1]


def _conv(op: Operator) -> Function:
    function = _by_rank(op, (F.conv1d, F.conv2d, F.conv3d))
    window = _Window.of(op, op.tensor(1).shape[2:])
    strides, dilations, groups = window.strides, window.dilations, op.get("group", 1)
    if window.begins == window.ends:
        padding = window.begins

        def conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
            return function(x, weight, bias, strides, padding, dilations, groups)

        return conv
    outer = window.outer

    def padded(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
        return function(F.pad(x, outer), weight, bias, strides, 0, dilations, groups)

    return padded


def _conv_transpose(op: Operator) -> Function:
    function = _by_rank(op, (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d))
    size = tuple(op.tensor(1).shape[2:])
    n = len(size)
    strides, dilations = tuple(op.get("strides", [1] * n)), tuple(op.get("dilations", [1] * n))
    extra, groups = tuple(op.get("output_padding", [0] * n)), op.get("group", 1)
    pads, auto_pad = list(op.get("pads", [0] * 2 * n)), op.get("auto_pad", "NOTSET")
    wanted = op.get("output_shape")
    if wanted is None and auto_pad.startswith("SAME"):
        wanted = [length * stride for length, stride in zip(op.shape[2:], strides, strict=True)]
    if wanted is not None:
        totals = [
            (op.shape[2 + i] - 1) * strides[i] + extra[i] + (size[i] - 1) * dilations[i] + 1
            - wanted[len(wanted) - n + i]
            for i in range(n)
        ]  # fmt: skip
        small, large = [total // 2 for total in totals], [-(-total // 2) for total in totals]
        pads = small + large if auto_pad == "SAME_UPPER" else large + small
    begins, ends = tuple(pads[:n]), tuple(pads[n:])
    if begins == ends and min(begins) >= 0:

        def conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
            return function(x, weight, bias, strides, begins, extra, groups, dilations)

        return conv
    crop = [-pad for pad in _Window(size, strides, dilations, begins, ends).outer]

    def cropped(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
        return F.pad(function(x, weight, bias, strides, 0, extra, groups, dilations), crop)

    return cropped


def _fits_pooling(window: _Window) -> bool:
    """Whether torch's own padding can do it: the same on both sides, at most half a window."""
    return window.begins == window.ends and all(
        2 * pad <= size for pad, size in zip(window.begins, window.size, strict=True)
    )


def _max_pool(op: Operator) -> Function:
    if op.n_outputs > 1:
        raise UnsupportedError("its output of indices is used")
    function = _by_rank(op, (F.max_pool1d, F.max_pool2d, F.max_pool3d))
    window, ceil = _Window.of(op, op.get("kernel_shape")), bool(op.get("ceil_mode", 0))
    size, strides, dilations, outer = window.size, window.strides, window.dilations, window.outer
    if _fits_pooling(window):
        padding = window.begins
        return lambda x: function(x, size, strides, padding, dilations, ceil)
    return lambda x: function(F.pad(x, outer, value=-math.inf), size, strides, 0, dilations, ceil)


def _average_pool(op: Operator) -> Function:
    function = _by_rank(op, (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d))
    window, ceil = _Window.of(op, op.get("kernel_shape")), bool(op.get("ceil_mode", 0))
    if any(dilation > 1 for dilation in window.dilations):
        raise UnsupportedError("its windows are dilated")
    with_pads = bool(op.get("count_include_pad", 0))
    size, strides, outer = window.size, window.strides, window.outer
    if _fits_pooling(window):
        padding = window.begins
        return lambda x: function(x, size, strides, padding, ceil, with_pads)
    if with_pads:
        return lambda x: function(F.pad(x, outer), size, strides, 0, ceil)
    # Zeros count in torch's mean: divide by the share of the window that is no padding.
    ones = F.pad(torch.ones(1, 1, *op.shape[2:]), outer)
    op.append(1 / function(ones, size, strides, 0, ceil))
    return lambda x, scale: function(F.pad(x, outer), size, strides, 0, ceil) * scale


def _global_pool(function: Function) -> Builder:
    def build(op: Operator) -> Function:
        axes = tuple(range(2, len(op.shape)))
        return lambda x: function(x, dim=axes, keepdim=True)

    return build


def _batch_norm(op: Operator) -> Function:
    if op.get("training_mode", 0) or op.n_outputs > 1:
        raise UnsupportedError("it is in training mode")
    eps = op.get("epsilon", 1e-5)
    return lambda x, scale, bias, mean, var: F.batch_norm(x, mean, var, scale, bias, eps=eps)


def _instance_norm(op: Operator) -> Function:
    eps = op.get("epsilon", 1e-5)
    return lambda x, scale, bias: F.instance_norm(x, weight=scale, bias=bias, eps=eps)


def _layer_norm(op: Operator) -> Function:
    if op.n_outputs > 1:
        raise UnsupportedError("its output of statistics is used")
    (axis,) = axes_of(op, [op.get("axis", -1)])
    shape, eps = op.shape[axis:], op.get("epsilon", 1e-5)

    def run(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
        if scale.shape != shape:
            scale = scale.expand(shape)
        if bias is not None and bias.shape != shape:
            bias = bias.expand(shape)
        return F.layer_norm(x, shape, scale, bias, eps)

    return run


def _lrn(op: Operator) -> Function:
    size = op.get("size")
    if size % 2 == 0:
        raise UnsupportedError(f"its size {size} is even")
    alpha, beta, k = op.get("alpha", 1e-4), op.get("beta", 0.75), op.get("bias", 1.0)
    return lambda x: F.local_response_norm(x, size, alpha, beta, k)


BUILDERS: dict[str, Builder] = {
    "AveragePool": _average_pool, "BatchNormalization": _batch_norm, "Conv": _conv,
    "ConvTranspose": _conv_transpose, "GlobalAveragePool": _global_pool(torch.mean),
    "GlobalMaxPool": _global_pool(torch.amax), "InstanceNormalization": _instance_norm,
    "LRN": _lrn, "LayerNormalization": _layer_norm, "MaxPool": _max_pool,
}  # fmt: skip
