"""What operators do to axes: which must stay alike, and which arguments follow their lengths.

A rule takes a step, tells the axes of what it gives, and puts `Sized` into the step's arguments
wherever a number is the length of an axis that may change. One line in `RULES` adds an operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hwnas.around import shape_rules
from hwnas.around.axes import (
    Axis,
    batch_axis,
    elastic,
    fixed,
    hold,
    is_batch,
    multiplied,
    size,
    split_product,
    unify,
)  # fmt: skip
from hwnas.around.reader import Reader, broadcast, fixed_axes
from hwnas.around.steps import Axes, Model, Ref, Sized, Step
from hwnas.around.tracing import TRACED_BATCH

__all__ = ["RULES", "follow"]

Rule = Callable[[Reader], Axes | list[Axes]]


def _like(r: Reader) -> Axes:
    """One input, and something of its shape."""
    return r.axes()


def _elementwise(r: Reader) -> Axes:
    return broadcast([r.of(ref) for ref in r.step.inputs()])


def _convolution(r: Reader) -> Axes:
    x, weight = r.axes(), r.arg(1)
    n_out, n_inner, *kernel = r.sizes(weight)
    groups = r.arg(6, 1, name="groups")
    if groups == 1:
        inner, out = x[1], elastic(n_out, f"{r.step.layer}.width")
    else:
        outer, inner = (x[1], fixed(1)) if n_inner == 1 else _grouped(x[1], groups, n_inner)
        out = outer if n_out == groups else multiplied([outer, fixed(n_out // groups)])
        r.put(6, Sized((outer,)))
    known = r.model.axes.get(weight)
    out = out if known is None or groups > 1 else known[0]  # a layer that is run again
    r.weight(1, (out, inner, *fixed_axes(kernel)))
    r.weight(2, (out,), name="bias")
    return (x[0], out, *fixed_axes(r.shape[2:]))


def _grouped(axis: Axis, n_groups: int, n_inner: int) -> tuple[Axis, Axis]:
    """Groups that stay or go whole."""
    parts = split_product(axis, (n_groups, n_inner), what="groups")
    if parts is None:
        hold(axis)
        return fixed(n_groups), fixed(n_inner)
    hold(parts[1])
    return parts[0], parts[1]


def _linear(r: Reader) -> Axes:
    x = r.axes()
    n_out = r.shape[-1]
    known = r.model.axes.get(r.arg(1))
    out = elastic(n_out, f"{r.step.layer}.width") if known is None else known[0]
    r.weight(1, (out, x[-1]))
    r.weight(2, (out,), name="bias")
    return (*x[:-1], out)


def _addmm(r: Reader) -> Axes:
    x, weight = r.axes(1), r.axes(2)
    unify(x[-1], weight[0])
    unify(weight[1], r.axes(0)[-1])
    return (x[0], weight[1])


def _embedding(r: Reader) -> Axes:
    weight = r.arg(0)
    n, width = r.model.weights[weight.name].shape
    known = r.model.axes.get(weight)
    out = elastic(width, f"{r.step.layer}.width") if known is None else known[1]
    r.weight(0, (fixed(n), out))
    return (*r.axes(1), out)


def _channel_norm(r: Reader) -> Axes:
    for i in range(1, 5):
        r.weight(i, (r.axes()[1],))
    return r.axes()


def _layer_norm(r: Reader) -> Axes:
    own = r.axes()[-len(r.arg(1)) :]
    r.put(1, [Sized((axis,)) for axis in own])
    r.weight(2, own, name="weight")
    if r.step.kind == "layer_norm":
        r.weight(3, own, name="bias")
    return r.axes()


def _group_norm(r: Reader) -> Axes:
    channels, groups = r.axes()[1], r.arg(1)
    if groups > 1:
        outer, _ = _grouped(channels, groups, size(channels) // groups)
        r.put(1, Sized((outer,)))
    r.weight(2, (channels,), name="weight")
    r.weight(3, (channels,), name="bias")
    return r.axes()


def _prelu(r: Reader) -> Axes:
    n = r.model.weights[r.arg(1).name].numel()
    r.weight(1, (fixed(1) if n == 1 else r.axes()[1],))
    return r.axes()


def _pooled(r: Reader) -> Axes:
    """Batch and channels stay, positions change."""
    return (*r.axes()[:2], *fixed_axes(r.shape[2:]))


def _reduced(r: Reader) -> Axes:
    dims = r.arg(1, name="dim")
    given = range(len(r.axes())) if dims in (None, []) else dims
    away = {r.dim(d) for d in ([given] if isinstance(given, int) else given)}
    keep = r.arg(2, False, name="keepdim") is True
    return tuple(
        fixed(1) if i in away else axis for i, axis in enumerate(r.axes()) if keep or i not in away
    )


def _softmax(r: Reader) -> Axes:
    hold(r.axes()[r.dim(r.arg(1, name="dim"))])
    return r.axes()


def _product(r: Reader) -> Axes:
    a, b = r.axes(0), r.axes(1)
    unify(a[-1], b[-2])
    return (*broadcast([a[:-2], b[:-2]]), a[-2], b[-1])


def _attention(r: Reader) -> Axes:
    query, key, value = (r.axes(i) for i in range(3))
    unify(query[-1], key[-1])
    hold(query[-1])  # the scale goes by it
    hold(value[-1])
    before = broadcast([query[:-2], key[:-2], value[:-2]])
    mask = r.arg(3, name="attn_mask")
    if mask is not None:
        broadcast([(*before, query[-2], key[-2]), r.of(mask)])
    return (*before, query[-2], value[-1])


_LIKE = (
    "relu relu6 gelu silu sigmoid tanh hardtanh hardswish hardsigmoid leaky_relu elu selu celu "
    "mish softplus softsign hardshrink softshrink log_sigmoid exp log sqrt rsqrt abs neg clamp "
    "clamp_min clamp_max clone contiguous detach alias to _to_copy type_as dropout alpha_dropout "
    "feature_dropout square erf reciprocal sin cos round floor logical_not lift_fresh_copy"
)
_ELEMENTWISE = (
    "add sub rsub mul div pow maximum minimum where eq ne lt le gt ge logical_and logical_or "
    "bitwise_and bitwise_or masked_fill"
)
_POOLS = (
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d upsample_nearest1d "
    "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_linear1d"
)
_VIEWS = "view view_as reshape reshape_as _unsafe_view unflatten"
RULES: dict[str, Rule] = {
    **dict.fromkeys(_LIKE.split(), _like),
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_POOLS.split(), _pooled),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("batch_norm", "instance_norm"), _channel_norm),
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduced),
    **dict.fromkeys(("softmax", "log_softmax"), _softmax),
    **dict.fromkeys(("flatten", "squeeze", "unsqueeze"), shape_rules.reshaped),
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "unflatten", "reshape_as", "view_as"),
        shape_rules.viewed,
    ),
    **dict.fromkeys(("expand", "expand_as"), shape_rules.expanded),
    **dict.fromkeys(("transpose", "t"), shape_rules.transposed),
    **dict.fromkeys(("split", "chunk", "split_with_sizes"), shape_rules.divided),
    **dict.fromkeys(("zeros", "ones", "full"), shape_rules.filled),
    **dict.fromkeys(("matmul", "bmm", "mm"), _product),
    **dict.fromkeys(("cat", "concat"), shape_rules.concatenated),
    **dict.fromkeys(("pad", "constant_pad_nd"), shape_rules.pad),
    "linear": _linear,
    "addmm": _addmm,
    "embedding": _embedding,
    "group_norm": _group_norm,
    "prelu": _prelu,
    "permute": shape_rules.permuted,
    "select": shape_rules.selected,
    "unbind": shape_rules.unbound,
    "slice": shape_rules.sliced,
    "stack": shape_rules.stacked,
    "scaled_dot_product_attention": _attention,
    "glu": shape_rules.gated,
}


def follow(model: Model, step: Step) -> list[Axis]:
    """Work out the axes of what a step gives.

    Returns:
        The axes that it reads and cannot be followed through; what it gives is then taken to be of
        its present size. Empty: it was followed.
    """
    reader = Reader(model, step)
    rule = RULES.get(step.kind)
    unknown: list[Axis] = []
    found: Axes | list[Axes] | None
    try:
        found = None if rule is None else rule(reader)
    except (IndexError, KeyError, TypeError, AttributeError):  # a form that the rule does not know
        found = None
    if found is None:
        for ref in step.inputs():
            if ref.is_weight:  # of its own: nobody asks for less of it
                model.axes.setdefault(ref, fixed_axes(model.weights[ref.name].shape))
        unknown = [axis for ref in step.inputs() for axis in reader.of(ref)]
        found = [_unknown(shape, unknown) for shape in step.shapes]
    several = found if isinstance(found, list) else [found]
    for i, axes in enumerate(several):
        model.axes[Ref(f"{step.ref.name}.{i}") if step.is_tuple else step.ref] = axes
    return unknown


def _unknown(shape: Sequence[int], read: Sequence[Axis]) -> Axes:
    """Axes of their present size; the first is the batch if something that is read has one."""
    has_batch = bool(shape) and shape[0] == TRACED_BATCH and any(map(is_batch, read))
    rest = fixed_axes(shape[1:] if has_batch else shape)
    return (batch_axis(shape[0]), *rest) if has_batch else rest
