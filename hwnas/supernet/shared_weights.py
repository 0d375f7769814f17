"""The one rule by which the options of a slot share weights: each takes a part of one tensor.

A part is the leading one of every axis, and of the positions of a convolution's kernel the central
ones. An axis that holds several groups one after another (the gates of an LSTM, the q, k and v of
attention) is taken group by group: its plain leading part would mix them without a sign.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

_GATES = {"LSTM": 4, "GRU": 3}  # of the other recurrent layers 1
_KERNEL_AXIS = 2  # of a convolution's weight: (channels, channels, positions...)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the axes of a parameter hold.

    Attributes:
        axes: The sizes that each axis is the product of, outermost first: `(4, 32)` is an axis of
            128 with four groups of 32, one after another.
        n_centred: So many of the last axes are positions of a kernel.

    Example:
        >>> gates = Layout(((4, 32), (16,)))
        >>> gates.shape
        (128, 16)
    """

    axes: tuple[tuple[int, ...], ...]
    n_centred: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the parameter."""
        return tuple(math.prod(sizes) for sizes in self.axes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Those of all axes."""
        return tuple(size for axis in self.axes for size in axis)

    def is_like(self, other: Layout) -> bool:
        """Whether one tensor can serve both: as many axes, each of as many groups in groups."""
        return self.n_centred == other.n_centred and [*map(len, self.axes)] == [
            *map(len, other.axes)
        ]

    def joined(self, other: Layout) -> Layout:
        """The smallest layout that has both as parts; `is_like` must hold."""
        axes = (
            tuple(map(max, mine, theirs))
            for mine, theirs in zip(self.axes, other.axes, strict=True)
        )
        return Layout(tuple(axes), self.n_centred)

    def has_part(self, other: Layout) -> bool:
        """Whether `other` fits in."""
        return self.is_like(other) and self.joined(other) == self


def take(shared: Tensor, whole: Layout, part: Layout) -> Tensor:
    """The part of `shared` that an option runs on: a view wherever that can be.

    Args:
        shared: `whole.shape`.
        whole: Layout of `shared`.
        part: What is taken; it must be a part of `whole`.
    Returns:
        `part.shape`; `shared` itself if that is all of it.
    """
    if part == whole:
        return shared
    index = _index(whole, part)
    if len(index) == shared.ndim:
        return shared[index]
    return shared.view(whole.sizes)[index].reshape(part.shape)


@lru_cache(maxsize=100_000)
def _index(whole: Layout, part: Layout) -> tuple[slice, ...]:
    """Where the part lies, by size of the whole."""
    n_leading = len(whole.sizes) - whole.n_centred
    index = []
    for i, (full, size) in enumerate(zip(whole.sizes, part.sizes, strict=True)):
        start = 0 if i < n_leading else (full - size) // 2
        index.append(slice(start, start + size) if size < full else slice(None))
    return tuple(index)


def layouts(module: nn.Module) -> Iterator[tuple[str, str, Layout]]:
    """Name, class of the layer, and layout of every parameter; of tied ones the first.

    Raises:
        ValueError: A layer states `packed_axes` that its parameters do not have.
    """
    packed = dict(_packed_axes(module))
    known = set()
    for prefix, layer in module.named_modules():
        for own, parameter in layer.named_parameters(recurse=False):
            if id(parameter) in known:
                continue
            known.add(id(parameter))
            name = f"{prefix}.{own}" if prefix else own
            n_centred = parameter.ndim - _KERNEL_AXIS if isinstance(layer, _ConvNd) else 0
            axes = tuple(
                _split(name, axis, size, packed.get(name, {}).get(axis, ()))
                for axis, size in enumerate(parameter.shape)
            )
            yield name, type(layer).__name__, Layout(axes, max(0, n_centred))


def _split(name: str, axis: int, size: int, groups: tuple[int, ...]) -> tuple[int, ...]:
    rest, remainder = divmod(size, math.prod(groups))
    if remainder:
        raise ValueError(
            f"packed_axes says that axis {axis} of {name!r} holds {groups} groups, but its size "
            f"is {size}"
        )
    return (*groups, rest)


def _packed_axes(module: nn.Module) -> Iterator[tuple[str, dict[int, tuple[int, ...]]]]:
    """By name of a parameter, the numbers of groups of its packed axes."""
    for prefix, layer in module.named_modules():
        for own, axes in _own_packed_axes(layer).items():
            name = f"{prefix}.{own}" if prefix else own
            yield name, {axis: n if isinstance(n, tuple) else (n,) for axis, n in axes.items()}


def _own_packed_axes(layer: nn.Module) -> Mapping[str, Mapping[int, int | tuple[int, ...]]]:
    if isinstance(layer, nn.RNNBase):
        return dict(_recurrent_axes(layer))
    if isinstance(layer, nn.MultiheadAttention):
        # Heads lead within q, k and v; the channels that leave a head enter `out_proj`.
        heads = layer.num_heads
        qkv, one = {0: (3, heads)}, {0: heads}
        return {
            "in_proj_weight": qkv, "in_proj_bias": qkv, "q_proj_weight": one, "k_proj_weight": one,
            "v_proj_weight": one, "bias_k": {2: heads}, "bias_v": {2: heads},
            "out_proj.weight": {1: heads},
        }  # fmt: skip
    stated: Mapping[str, Mapping[int, int | tuple[int, ...]]] = getattr(layer, "packed_axes", {})
    return stated


def _recurrent_axes(layer: nn.RNNBase) -> Iterator[tuple[str, dict[int, int]]]:
    gates = _GATES.get(layer.mode, 1)
    for own, _ in layer.named_parameters(recurse=False):
        if own.startswith("weight_hr"):
            continue
        is_first = "_ih_l0" in own
        # The deeper layers of a bidirectional one read both directions side by side.
        joins = own.startswith("weight_ih") and layer.bidirectional and not is_first
        yield own, {0: gates, 1: 2} if joins else {0: gates}
