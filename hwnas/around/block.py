"""A part of a model as a block of a space: slices of the model's own weights, at any width.

Weights are no plain data, so a block names its model by a digest; the function that makes the space
has to run in every process that builds its networks, as with blocks of the user's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from hwnas.around.axes import Leaf, size
from hwnas.around.part_module import PartModule, Slices
from hwnas.around.parts import Part
from hwnas.around.steps import Model
from hwnas.spaces.base import Shape, SpaceError

__all__ = ["MODELS", "ModelPart", "Parent"]


@dataclass
class Parent:
    """A model that a space was made around.

    Attributes:
        model: As traced.
        parts: By name.
        leaves: What there can be less of, by name.
        orders: Positions of each leaf, the most important one first.
        is_sorted: Slices keep the order of importance, not that of the model.
    """

    model: Model
    parts: Mapping[str, Part]
    leaves: Mapping[str, Leaf]
    orders: Mapping[Leaf, Tensor]
    is_sorted: bool


MODELS: dict[str, Parent] = {}  # by digest: what the blocks of this process are parts of


@dataclass(frozen=True)
class ModelPart:
    """A part of the model that a space was made around, with so many of its channels.

    The most important channels stay, with their weights; kernels are cut at the centre.

    Attributes:
        model: Digest of the model.
        part: Name of the part.
        widths: How many channels, heads or groups stay of those that its input does not tell.
        kernel_sizes: Of the convolutions of which there are several.
    """

    model: str
    part: str
    widths: tuple[tuple[str, int], ...]
    kernel_sizes: tuple[tuple[str, int], ...]

    def build(self, in_shape: Shape) -> nn.Module:
        """What the part takes to what it gives; with the model's weights, not new ones.

        Raises:
            SpaceError: The space that the block is of was not made in this process.
        """
        parent = MODELS.get(self.model)
        if parent is None:
            raise SpaceError(
                f"this process knows no model {self.model!r} that {self.part!r} is a part of: call "
                f"the function that makes the space first"
            )
        part = parent.parts[self.part]
        kept = {parent.leaves[name]: n for name, n in self.widths}
        _take_from_shape(part, parent, in_shape, kept)
        kernels = dict(self.kernel_sizes)
        slices = Slices(parent.model, parent.orders, kept, kernels, parent.is_sorted)
        return PartModule(part, slices)


def _take_from_shape(part: Part, parent: Parent, in_shape: Shape, kept: dict[Leaf, int]) -> None:
    """Add how many of each given leaf there are in an input of that shape."""
    axes = parent.model.axes[part.source][1:]
    given = part.given(parent.model)
    if len(axes) != len(in_shape):
        raise ValueError(f"{part.name!r} takes {len(axes)} dimensions, got shape {in_shape}")
    for axis, n in zip(axes, in_shape, strict=True):
        for leaf in given:
            least, more = (size(axis, {**kept, leaf: k}) for k in (1, 2))
            if more > least and leaf not in kept:
                kept[leaf] = 1 + (n - least) // (more - least)
        if size(axis, kept) != n:
            raise ValueError(f"{part.name!r} cannot take an input of shape {in_shape}")
