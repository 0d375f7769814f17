"""Rules of operators that change a tensor's shape and none of its values."""

from __future__ import annotations

import math
from typing import Any

from hwnas.around.axes import (
    Axis,
    batch_axis,
    elastic,
    fixed,
    hold,
    joined,
    leaves,
    multiplied,
    size,
    split_product,
    split_sum,
    unify,
)  # fmt: skip
from hwnas.around.reader import Reader, broadcast
from hwnas.around.steps import Axes, Batch, Sized
from hwnas.around.tracing import TRACED_BATCH

__all__ = ["concatenated", "divided", "expanded", "filled", "gated", "pad", "permuted", "reshaped",
    "selected", "sliced", "stacked", "transposed", "unbound", "viewed"]  # fmt: skip


def pad(r: Reader) -> Axes:
    """Zeros before and after; channels that are padded keep their own."""
    found = list(r.axes())
    pads = r.arg(1)
    for i in range(len(pads) // 2):
        before, after = pads[2 * i], pads[2 * i + 1]
        axis = found[-1 - i]
        if before < 0 or after < 0:
            hold(axis)
            found[-1 - i] = fixed(r.shape[-1 - i])
        elif before or after:
            around = [fixed(before)] if before else [], [fixed(after)] if after else []
            found[-1 - i] = joined([*around[0], axis, *around[1]])
    return tuple(found)


def reshaped(r: Reader) -> Axes:
    """Axes that are flattened together, or one that is split, as far as leaves allow."""
    x, shape = list(r.axes()), list(r.shape)
    found: list[Axis] = []
    while x or shape:
        own, wanted = [x.pop(0)] if x else [], [shape.pop(0)] if shape else []
        while math.prod(map(size, own)) != math.prod(wanted):
            if math.prod(map(size, own)) < math.prod(wanted):
                own.append(x.pop(0))
            else:
                wanted.append(shape.pop(0))
        if len(own) == len(wanted) == 1:
            found += own
            continue
        flat = multiplied(own) if own else fixed(1)
        parts = [flat] if len(wanted) == 1 else split_product(flat, wanted)
        if parts is None:
            hold(flat)
            parts = [fixed(n) for n in wanted]
        found += parts
    return tuple(found)


def viewed(r: Reader) -> Axes:
    """As `reshaped`, to sizes that are told."""
    found = reshaped(r)
    r.step.op, r.step.kwargs = "reshape.default", {}
    r.step.args = (r.arg(0), [Sized((axis,)) for axis in found])
    return found


def expanded(r: Reader) -> Axes:
    """Axes of one entry repeated, the batch's or another."""
    x = r.axes()
    added = len(r.shape) - len(x)
    found, sizes = list[Axis](), list[Any]()
    for i, n in enumerate(r.shape):
        own = x[i - added] if i >= added else None
        if own is not None and size(own) == n:
            found.append(own)
            sizes.append(-1)
        elif i == 0 and n == TRACED_BATCH:
            found.append(batch_axis(n))
            sizes.append(Batch())
        else:
            found.append(elastic(n, ""))
            sizes.append(Sized((found[-1],)))
    r.step.op, r.step.args, r.step.kwargs = "expand.default", (r.arg(0), sizes), {}
    return tuple(found)


def permuted(r: Reader) -> Axes:
    """Axes in another order."""
    return tuple(r.axes()[r.dim(d)] for d in r.arg(1, name="dims"))


def transposed(r: Reader) -> Axes:
    """Two axes exchanged."""
    found = list(r.axes())
    i, j = (0, 1) if r.step.kind == "t" else (r.dim(r.arg(1)), r.dim(r.arg(2)))
    if len(found) > 1:
        found[i], found[j] = found[j], found[i]
    return tuple(found)


def selected(r: Reader) -> Axes:
    """One entry of an axis."""
    dim = r.dim(r.arg(1))
    hold(r.axes()[dim])
    return (*r.axes()[:dim], *r.axes()[dim + 1 :])


def unbound(r: Reader) -> list[Axes]:
    """All entries of an axis, one by one."""
    dim = r.dim(r.arg(1, 0, name="dim"))
    hold(r.axes()[dim])
    return [(*r.axes()[:dim], *r.axes()[dim + 1 :])] * len(r.step.shapes)


def sliced(r: Reader) -> Axes:
    """Entries of an axis that follow each other."""
    dim = r.dim(r.arg(1, 0))
    axis, n = r.axes()[dim], r.shape[dim]
    whole = size(axis)
    if n == whole:
        r.step.op, r.step.args = "alias.default", (r.arg(0),)
        return r.axes()
    start = min(max(s + whole if (s := r.arg(2) or 0) < 0 else s, 0), whole)
    parts = None
    if r.arg(4, 1) == 1 and any(leaf.n > 1 and not leaf.is_held for leaf in leaves([axis])):
        parts = split_sum(axis, (start, n, whole - start - n))
    if parts is None:
        hold(axis)
        own = fixed(n)
    else:
        own = parts[1]
        bounds = [Sized(tuple(parts[:1])), Sized(tuple(parts[:2]))]
        r.step.args = (r.arg(0), dim, *bounds)
    return (*r.axes()[:dim], own, *r.axes()[dim + 1 :])


def divided(r: Reader) -> list[Axes]:
    """An axis cut into several."""
    dim = r.dim(r.arg(2, 0, name="dim"))
    axis = r.axes()[dim]
    sizes = [shape[dim] for shape in r.step.shapes]
    parts = split_sum(axis, sizes)
    if parts is None:
        hold(axis)
        parts = [fixed(n) for n in sizes]
    r.step.op, r.step.kwargs = "split_with_sizes.default", {}
    r.step.args = (r.arg(0), [Sized((part,)) for part in parts], dim)
    return [(*r.axes()[:dim], part, *r.axes()[dim + 1 :]) for part in parts]


def concatenated(r: Reader) -> Axes:
    """One after another on an axis."""
    parts = [r.of(ref) for ref in r.arg(0)]
    dim = r.arg(1, 0, name="dim") % len(parts[0])
    others = broadcast([(*axes[:dim], *axes[dim + 1 :]) for axes in parts])
    return (*others[:dim], joined(axes[dim] for axes in parts), *others[dim:])


def stacked(r: Reader) -> Axes:
    """One beside another on a new axis."""
    parts = [r.of(ref) for ref in r.arg(0)]
    dim = r.arg(1, 0, name="dim") % (len(parts[0]) + 1)
    own = broadcast(parts)
    return (*own[:dim], fixed(len(parts)), *own[dim:])


def gated(r: Reader) -> Axes:
    """The first half of an axis, scaled by the second."""
    dim = r.dim(r.arg(1, -1, name="dim"))
    axis = r.axes()[dim]
    parts = split_sum(axis, (size(axis) // 2,) * 2)
    if parts is None:
        hold(axis)
        parts = [fixed(size(axis) // 2)] * 2
    unify(*parts)
    return (*r.axes()[:dim], parts[0], *r.axes()[dim + 1 :])


def filled(r: Reader) -> Axes:
    """A new tensor of a given size."""
    return tuple(batch_axis(TRACED_BATCH) if isinstance(n, Batch) else fixed(n) for n in r.arg(0))
