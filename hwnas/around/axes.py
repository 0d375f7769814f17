"""What the axes of a traced model's tensors hold, and which of them must stay alike.

An axis is a row of products of leaves: the 96 channels of two tensors joined are (32) + (64), the
768 features of attention (12 heads · 64), a flattened image (c · h · w). A leaf is so many things
that stay or go one by one: channels, heads, groups. Operators make leaves one (adding), split them
(viewing features as heads, cutting a tensor in two) or hold them at their size (`hold`). What is
left in the end can be made smaller, and every weight knows which of its entries go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, count

import torch
from torch import Tensor

__all__ = ["Axis", "Leaf", "Product", "batch_axis", "elastic", "fixed", "hold", "indices",
    "is_batch", "joined", "leaves", "multiplied", "resolved", "size", "split_product", "split_sum",
    "unify"]  # fmt: skip


@dataclass(eq=False)
class Leaf:
    """So many channels, heads or positions that stay or go one by one.

    Attributes:
        n: How many.
        name: The layer that makes them, and what they are; empty: nothing that could be fewer.
        is_held: They stay at their number.
        is_batch: They are the examples of the batch.
        is_inner: They lie within the heads or groups that an axis was split into, and stay.
        is_outer: They are such heads or groups.
        within: Of inner ones, the heads or groups.
    """

    n: int
    name: str = ""
    is_held: bool = False
    is_batch: bool = False
    is_inner: bool = False
    is_outer: bool = False
    within: Leaf | None = field(default=None, repr=False)
    merged: Leaf | None = field(default=None, repr=False)  # with this one
    parts: Axis | None = field(default=None, repr=False)  # it was split into these
    born: int = field(default_factory=count().__next__, repr=False)  # the first one gives its name

    @property
    def is_elastic(self) -> bool:
        """Whether there can be fewer."""
        return not (self.is_held or self.is_batch or self.is_inner) and self.n > 1


MAX_ROUNDS = 4  # of cutting two axes that lie in each other

Product = tuple[Leaf, ...]  # outermost first
Axis = tuple[Product, ...]  # one after another


def fixed(n: int) -> Axis:
    """An axis that stays as it is."""
    return ((Leaf(n, is_held=True),),)


def batch_axis(n: int) -> Axis:
    """The examples of the batch."""
    return ((Leaf(n, is_batch=True),),)


def elastic(n: int, name: str) -> Axis:
    """An axis of which there can be less."""
    return ((Leaf(n, name),),)


def _root(leaf: Leaf) -> Leaf:
    while leaf.merged is not None:
        leaf = leaf.merged
    return leaf


def resolved(axis: Axis) -> Axis:
    """The axis in leaves that are neither merged nor split."""
    row: list[Product] = []
    for product in axis:
        found: list[Product] = [()]
        for leaf in map(_root, product):
            parts = ((leaf,),) if leaf.parts is None else resolved(leaf.parts)
            if len(parts) > 1 and any(size((p,)) > 1 for p in found):
                hold(parts)  # one after another within something else: no product of leaves
                parts = fixed(leaf.n)
            found = [(*before, *part) for before in found for part in parts]
        row += found
    return tuple(row)


def leaves(axes: Iterable[Axis]) -> list[Leaf]:
    """The distinct leaves of axes, in order."""
    return list(
        dict.fromkeys(leaf for axis in axes for product in resolved(axis) for leaf in product)
    )


def hold(axis: Axis) -> None:
    """Let nothing of the axis go."""
    for leaf in leaves([axis]):
        leaf.is_held = True


def size(axis: Axis, kept: Mapping[Leaf, int] | None = None) -> int:
    """How long the axis is if so many of each leaf are kept, all of those not in `kept`."""
    kept = kept or {}
    if not kept:
        return sum(math.prod(leaf.n for leaf in product) for product in axis)
    return sum(math.prod(kept.get(leaf, leaf.n) for leaf in p) for p in resolved(axis))


def is_batch(axis: Axis) -> bool:
    """Whether the examples of the batch are in it."""
    return any(leaf.is_batch for leaf in leaves([axis]))


def indices(axis: Axis, kept: Callable[[Leaf], Tensor]) -> Tensor:
    """Positions on the full axis that stay, ascending where those of each leaf do, `(k,)`."""
    start, found = 0, []
    for product in resolved(axis):
        own = torch.zeros(1, dtype=torch.int64)
        for leaf in product:
            own = (own[:, None] * leaf.n + kept(leaf)[None, :]).flatten()
        found.append(own + start)
        start += math.prod(leaf.n for leaf in product)
    return torch.cat(found)


def joined(axes: Iterable[Axis]) -> Axis:
    """One after another."""
    return tuple(product for axis in axes for product in axis)


def multiplied(axes: Sequence[Axis]) -> Axis:
    """One axis of all, the first one outermost, as flattening makes it."""
    flat: list[Product] = [()]
    for axis in map(resolved, axes):
        if len(axis) > 1 and any(size((p,)) > 1 for p in flat):
            hold(axis)
            for before in flat:
                hold((before,))
            return fixed(math.prod(map(size, axes)))
        flat = [(*before, *product) for before in flat for product in axis]
    return tuple(flat)


def _split_leaf(leaf: Leaf, outer: int, inner: int, what: str = "heads") -> None:
    """Into so many heads or groups of so many."""
    is_inner = leaf.is_inner or not leaf.is_outer  # the innermost of three are
    # Of what nothing goes, as of the q, k and v of one layer, each is split as if it stood alone.
    stands_alone = leaf.within is not None and _root(leaf.within).is_held
    layer, _, old = leaf.name.rpartition(".")
    name = f"{layer}.{what}" if old == "width" else leaf.name
    first = Leaf(outer, name, leaf.is_held, leaf.is_batch, is_outer=True)
    first.is_inner = leaf.is_inner and not stands_alone
    second = Leaf(inner, leaf.name, leaf.is_held, is_inner=is_inner, within=first)
    leaf.parts = ((first, second),)


def split_product(axis: Axis, sizes: Sequence[int], *, what: str = "heads") -> list[Axis] | None:
    """As several axes, the first one outermost; None: its leaves do not lie so.

    Of a leaf that is split, the outer ones are named by `what` they are.
    """
    parts = resolved(axis)
    if len(parts) > 1:
        return None
    rest = [leaf for leaf in parts[0] if leaf.n > 1]
    found: list[Axis] = []
    for wanted in reversed(sizes):
        own: list[Leaf] = []
        while (missing := wanted // math.prod(leaf.n for leaf in own)) > 1:
            leaf = rest.pop() if rest else None
            if leaf is None or (missing % leaf.n and leaf.n % missing):
                return None
            if missing % leaf.n:  # it is longer than what is missing
                _split_leaf(leaf, leaf.n // missing, missing, what)
                outer, leaf = resolved(((leaf,),))[0]
                rest.append(outer)
            own.insert(0, leaf)
        found.insert(0, (tuple(own),) if own else fixed(1))
    return None if rest else found


def split_sum(axis: Axis, sizes: Sequence[int]) -> list[Axis] | None:
    """As several axes, one after another; None: its leaves do not lie so."""
    rest = list(resolved(axis))
    found: list[Axis] = []
    for wanted in sizes:
        own: list[Product] = []
        while (missing := wanted - size(tuple(own))) > 0:
            if not rest:
                return None
            product = rest.pop(0)
            if size((product,)) > missing:
                product = tuple(leaf for leaf in product if leaf.n > 1)
                inner = size((product[1:],))
                if missing % inner or product[0].parts is not None:
                    return None
                _cut_leaf(product[0], missing // inner)
                own_part, other_part = resolved((product,))
                rest.insert(0, other_part)
                product = own_part
            own.append(product)
        found.append(tuple(own))
    return None if rest else found


def _cut_leaf(leaf: Leaf, n: int) -> None:
    """Into the first n and the rest."""
    layer, _, what = leaf.name.rpartition(".")
    names = (f"{layer}.first_{what}", f"{layer}.second_{what}") if leaf.name else ("", "")
    leaf.parts = tuple(
        (Leaf(part, name, leaf.is_held, leaf.is_batch, leaf.is_inner),)
        for part, name in zip((n, leaf.n - n), names, strict=True)
    )


def unify(first: Axis, second: Axis) -> None:
    """Let the same of both stay: their entries meet one by one.

    Axes whose leaves do not lie alike are held.
    """
    one, other = resolved(first), resolved(second)
    n_rounds = 0
    while _sizes(one) != _sizes(other):
        ends = sorted({*_ends(one), *_ends(other)})
        sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        parts = [split_sum(axis, sizes) for axis in (first, second)]
        n_rounds += 1
        if None in parts or n_rounds > MAX_ROUNDS:
            hold(first)
            hold(second)
            return
        one, other = resolved(first), resolved(second)  # cutting one may have cut the other
    for mine, theirs in zip(one, other, strict=True):
        _unify_products(mine, theirs)


def _sizes(axis: Axis) -> list[int]:
    return [size((product,)) for product in axis]


def _ends(axis: Axis) -> list[int]:
    return list(accumulate(_sizes(axis)))


def _unify_products(one: Product, other: Product) -> None:
    mine, theirs = ([_root(leaf) for leaf in p if leaf.n > 1] for p in (one, other))
    while mine and theirs:
        a, b = _root(mine.pop()), _root(theirs.pop())
        if a is b:
            continue
        if a.n % b.n == 0 and a.n > b.n:
            _split_leaf(a, a.n // b.n, b.n)
            outer, a = resolved(((a,),))[0]
            mine.append(outer)
        elif b.n % a.n == 0 and b.n > a.n:
            _split_leaf(b, b.n // a.n, a.n)
            outer, b = resolved(((b,),))[0]
            theirs.append(outer)
        elif a.n != b.n:
            hold(((*mine, *theirs, a, b),))
            return
        _merge(a, b)


def _merge(one: Leaf, other: Leaf) -> None:
    kept, gone = sorted((one, other), key=lambda leaf: (not leaf.name, leaf.born))
    gone.merged = kept
    kept.is_held |= gone.is_held
    kept.is_batch |= gone.is_batch
    kept.is_inner |= gone.is_inner
    kept.is_outer |= gone.is_outer
