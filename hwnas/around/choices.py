"""What a genotype of a space around a model decides, and the slots that read it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from hwnas.around.block import ModelPart, Parent
from hwnas.around.following import is_excluded
from hwnas.around.part_module import CONVOLUTIONS, layer_path
from hwnas.around.parts import Part, layout_of
from hwnas.around.steps import Model, Step
from hwnas.blocks import round_channels
from hwnas.spaces.base import Choice, Slot

__all__ = ["options_of", "plan"]

SMALLEST_KERNEL = 3
DIVISOR = 8  # of channels, where there are twice as many
# Of what one part reads; beyond, its own widths share a choice, or follow one that it reads anyway.
MAX_COMBINATIONS = 2048


def options_of(n: int, shares: Sequence[float]) -> tuple[int, ...]:
    """How many of n may stay, ascending; n is always among them.

    Example:
        >>> options_of(64, (0.25, 0.5, 1.0)), options_of(12, (0.25, 0.3)), options_of(24, (0.5,))
        ((16, 32, 64), (3, 4, 12), (16, 24))
    """
    some = [n * share for share in shares]
    if n >= 2 * DIVISOR:
        counts = [round_channels(one, DIVISOR) for one in some]
    else:
        counts = [max(1, math.ceil(one)) for one in some]
    return tuple(sorted({*(count for count in counts if count < n), n}))


@dataclass(frozen=True)
class _Depth:
    """A residual part is there where the chosen depth is above its number."""

    choice: Choice
    number: int


@dataclass(frozen=True)
class _Width:
    """How many of a leaf stay, by the option of a choice."""

    leaf: str
    choice: Choice
    counts: tuple[int, ...]

    def __call__(self, options: Mapping[str, Any]) -> int:
        return self.counts[self.choice.options.index(options[self.choice.name])]


@dataclass(frozen=True)
class _Kernel:
    """The kernel size of a convolution."""

    layer: str
    choice: Choice


@dataclass(frozen=True)
class _PartPlan:
    """What is decided of one part."""

    part: str
    depth: _Depth | None
    widths: tuple[_Width, ...]
    kernels: tuple[_Kernel, ...]

    def choices(self) -> Iterator[Choice]:
        if self.depth is not None:
            yield self.depth.choice
        yield from (width.choice for width in self.widths)
        yield from (kernel.choice for kernel in self.kernels)


def plan(
    parent: Parent,
    digest: str,
    *,
    widths: Sequence[float],
    exclude: Sequence[str],
    kernel_sizes: bool,
    depths: bool,
) -> tuple[list[Choice], list[Slot]]:
    """Choices in the order of the parts, and a slot for each part.

    Args:
        parent: The model in parts.
        digest: Its own.
        widths: As `space_around` takes them, and the others.
        exclude: Layers that stay as they are.
        kernel_sizes: Whether kernels can be smaller.
        depths: Whether residual parts can be left out.
    """
    parts = list(parent.parts.values())
    names = {leaf: name for name, leaf in parent.leaves.items()}
    depth = _depths(parts, parent.model, exclude) if depths else {}
    known: dict[str, _Width] = {}
    plans = []
    for part in parts:
        kernels = tuple(_kernels(part, parent.model, exclude)) if kernel_sizes else ()
        own = [names[leaf] for leaf in part.decided(parent.model)]
        new = [name for name in own if name not in known]
        before = list(dict.fromkeys(known[name].choice for name in own if name in known))
        n_before = math.prod(len(choice.options) for choice in before)
        n_before *= math.prod(len(kernel.choice.options) for kernel in kernels)
        sizes = {name: parent.leaves[name].n for name in new}
        found_widths = _widths(part.name, sizes, widths, n_before, before[-1] if before else None)
        known |= {width.leaf: width for width in found_widths}
        found = tuple(known[name] for name in own if len(known[name].choice.options) > 1)
        plans.append(_PartPlan(part.name, depth.get(part.name), found, kernels))
    choices = {choice.name: choice for one in plans for choice in one.choices()}
    return list(choices.values()), [partial(_slot, digest, one) for one in plans]


def _slot(digest: str, own: _PartPlan, options: Mapping[str, Any]) -> ModelPart | None:
    if own.depth is not None and own.depth.number >= options[own.depth.choice.name]:
        return None
    return ModelPart(
        digest,
        own.part,
        tuple((width.leaf, width(options)) for width in own.widths),
        tuple((kernel.layer, options[kernel.choice.name]) for kernel in own.kernels),
    )


def _depths(parts: Sequence[Part], model: Model, exclude: Sequence[str]) -> dict[str, _Depth]:
    """By name of a part: residual ones that follow each other, and may stand for each other."""

    def run(part: Part) -> tuple[object, ...]:
        is_kept = any(is_excluded(step.layer, exclude) for step in part.steps)
        if is_kept or not part.is_residual:
            return ("alone", part.name)
        return layout_of(model.axes[part.result])

    found: dict[str, _Depth] = {}
    for key, group in groupby(parts, run):
        members = list(group)
        if key[0] == "alone":
            continue
        n = len(members)
        choice = Choice(f"{members[0].name}.depth", tuple(range(n // 2, n + 1)))
        found |= {part.name: _Depth(choice, i) for i, part in enumerate(members)}
    return found


def _widths(
    part: str,
    sizes: Mapping[str, int],
    shares: Sequence[float],
    n_others: int,
    nearest: Choice | None,
) -> Iterator[_Width]:
    """A choice for each leaf, by its size; one of a share of all, if combinations are many.

    Where even that is too many, as in a network that joins on and on, they follow another choice.

    Args:
        part: Where they are met first.
        sizes: By name.
        shares: Of them that may stay.
        n_others: Combinations of what else the part reads.
        nearest: A choice of widths that it reads, if any.
    """
    options = {name: options_of(n, shares) for name, n in sizes.items()}
    ascending = sorted({*map(float, shares), 1.0})
    n_own = math.prod(map(len, options.values()))
    if nearest is not None and n_others * min(n_own, len(ascending)) > MAX_COMBINATIONS:
        largest = nearest.options[-1]
        assert isinstance(largest, int | float)
        followed = [float(option) / largest for option in nearest.options]
        for name, n in sizes.items():
            counts = tuple(options_of(n, (share,))[0] for share in followed)
            yield _Width(name, nearest, counts)
    elif len(sizes) > 1 and n_others * n_own > MAX_COMBINATIONS:
        choice = Choice(f"{part}.width_share", tuple(ascending))
        for name, n in sizes.items():
            yield _Width(name, choice, tuple(options_of(n, (share,))[0] for share in ascending))
    else:
        for name, counts in options.items():
            yield _Width(name, Choice(name, counts), counts)


def _kernels(part: Part, model: Model, exclude: Sequence[str]) -> Iterator[_Kernel]:
    """Of convolutions that a smaller odd kernel with less padding can stand for."""
    for step in part.steps:
        layer = layer_path(step)
        if step.kind in CONVOLUTIONS and layer and not is_excluded(layer, exclude):
            sizes = _kernel_sizes(step, set(model.weights[f"{layer}.weight"].shape[2:]))
            if len(sizes) > 1:
                yield _Kernel(layer, Choice(f"{layer}.kernel_size", sizes))


def _kernel_sizes(step: Step, present: set[int]) -> tuple[int, ...]:
    n = max(present)
    if len(present) > 1 or n % 2 == 0:
        return (n,)
    padding, dilation = (
        step.args[i] if len(step.args) > i else default for i, default in ((4, [0]), (5, [1]))
    )
    if isinstance(padding, str):
        spare = n if padding == "same" else 0
    else:
        spare = min(padding) // max(dilation)
    return tuple(range(max(SMALLEST_KERNEL, n - 2 * spare), n + 1, 2)) or (n,)
