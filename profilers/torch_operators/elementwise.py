"""Operators that work element by element, reductions and softmax."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from profilers.torch_operators.base import (
    Builder,
    Function,
    Operator,
    UnsupportedError,
    axes_of,
    plain,
    torch_dtype,
)


def _chain(function: Function) -> Builder:
    """An operator of any number of inputs from one of two."""

    def run(first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        for other in others:
            first = function(first, other)
        return first

    return lambda op: run


def _clip(op: Operator) -> Function:
    low, high = op.get("min"), op.get("max")
    if op.opset >= 11:
        bounds = [op.constant(i) for i in (1, 2)]
        low, high = (None if b is None else b.item() for b in bounds)
    if low is None and high is None:
        return lambda x: x
    if (low, high) == (0, 6):
        return F.relu6
    return lambda x: x.clamp(low, high)


def _div(op: Operator) -> Function:
    if op.tensor(0).is_floating_point():
        return torch.div
    return lambda x, y: torch.div(x, y, rounding_mode="trunc")


def _dropout(op: Operator) -> Function:
    is_training = op.constant(2)
    op.constant(1)  # the ratio, which does nothing here
    if op.n_outputs > 1 or (is_training is not None and bool(is_training)):
        raise UnsupportedError("it is in training mode, or its mask is used")
    return lambda x: x


def _elu(op: Operator) -> Function:
    alpha = op.get("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


def _gelu(op: Operator) -> Function:
    approximate = op.get("approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)


def _hard_sigmoid(op: Operator) -> Function:
    alpha, beta = op.get("alpha", 0.2), op.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return F.hardsigmoid
    return lambda x: (alpha * x + beta).clamp(0, 1)


def _leaky_relu(op: Operator) -> Function:
    alpha = op.get("alpha", 0.01)
    return lambda x: F.leaky_relu(x, alpha)


def _mod(op: Operator) -> Function:
    return torch.fmod if op.get("fmod", 0) else torch.remainder


def _softmax(function: Function) -> Builder:
    def build(op: Operator) -> Function:
        if op.opset >= 13:
            axis = op.get("axis", -1)
            return lambda x: function(x, dim=axis)
        (axis,) = axes_of(op, [op.get("axis", 1)])
        shape, rows = op.shape, math.prod(op.shape[:axis])
        if math.prod(shape[axis + 1 :]) == 1:
            return lambda x: function(x, dim=axis)
        return lambda x: function(x.reshape(rows, -1), dim=1).reshape(shape)

    return build


def _cast(op: Operator) -> Function:
    dtype = torch_dtype(op.attributes["to"])
    dtype = op.float_dtype if dtype is torch.float32 else dtype
    return lambda x: x.to(dtype)


def _reduce(function: Function) -> Builder:
    def build(op: Operator) -> Function:
        axes, keep = op.ints("axes", 1), bool(op.get("keepdims", 1))
        if not axes and op.get("noop_with_empty_axes", 0):
            return lambda x: x
        dims = axes_of(op, axes) if axes else tuple(range(len(op.shape)))
        return lambda x: function(x, dims, keep)

    return build


def _prod(x: torch.Tensor, dims: tuple[int, ...], keep: bool) -> torch.Tensor:
    for dim in sorted(dims, reverse=True):
        x = x.prod(dim, keepdim=keep)
    return x


def _arg_reduce(function: Function) -> Builder:
    def build(op: Operator) -> Function:
        if op.get("select_last_index", 0):
            raise UnsupportedError("it selects the last index")
        axis, keep = op.get("axis", 0), bool(op.get("keepdims", 1))
        return lambda x: function(x, axis, keep)

    return build


_PLAIN: dict[str, Function] = {
    "Abs": torch.abs, "Ceil": torch.ceil, "Cos": torch.cos, "Erf": torch.erf,
    "Exp": torch.exp, "Floor": torch.floor, "HardSwish": F.hardswish, "Log": torch.log,
    "Mish": F.mish, "Neg": torch.neg, "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal, "Relu": F.relu, "Round": torch.round,
    "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin,
    "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt,
    "Tanh": torch.tanh, "Identity": lambda x: x,
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul,
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
    "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge,
    "Less": torch.lt, "LessOrEqual": torch.le,
    "Pow": lambda x, y: torch.pow(x, y).to(x.dtype),
    "PRelu": lambda x, slope: torch.where(x < 0, x * slope, x),
    "Where": lambda is_first, x, y: torch.where(is_first, x, y),
    "Mean": lambda *tensors: sum(tensors[1:], tensors[0]) / len(tensors),
}  # fmt: skip

_REDUCTIONS: dict[str, Function] = {
    "ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax,
    "ReduceMin": torch.amin, "ReduceProd": _prod, "ReduceLogSumExp": torch.logsumexp,
    "ReduceL1": lambda x, dims, keep: x.abs().sum(dims, keep),
    "ReduceL2": lambda x, dims, keep: x.square().sum(dims, keep).sqrt(),
    "ReduceSumSquare": lambda x, dims, keep: x.square().sum(dims, keep),
}  # fmt: skip

BUILDERS: dict[str, Builder] = {
    **{kind: plain(function) for kind, function in _PLAIN.items()},
    **{kind: _reduce(function) for kind, function in _REDUCTIONS.items()},
    "ArgMax": _arg_reduce(torch.argmax), "ArgMin": _arg_reduce(torch.argmin), "Cast": _cast,
    "Clip": _clip, "Div": _div, "Dropout": _dropout, "Elu": _elu, "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid, "LeakyRelu": _leaky_relu,
    "LogSoftmax": _softmax(F.log_softmax), "Max": _chain(torch.maximum),
    "Min": _chain(torch.minimum), "Mod": _mod, "Softmax": _softmax(F.softmax),
    "Sum": _chain(torch.add),
}  # fmt: skip
