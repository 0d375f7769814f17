"""A step as the rules of operators read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwnas.around.axes import Axis, elastic, fixed, size, unify
from hwnas.around.steps import Axes, Model, Ref, Step

__all__ = ["Reader", "broadcast", "fixed_axes"]


class Reader:
    """A step as a rule reads it."""

    def __init__(self, model: Model, step: Step) -> None:
        self.model, self.step = model, step

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what the step gives."""
        return self.step.shapes[0]

    def arg(self, i: int, default: Any = None, *, name: str = "") -> Any:
        """An argument by position, or by name."""
        if i < len(self.step.args):
            return self.step.args[i]
        return self.step.kwargs.get(name, default)

    def put(self, i: int, value: Any) -> None:
        """Change an argument."""
        args = list(self.step.args)
        args[i] = value
        self.step.args = tuple(args)

    def axes(self, i: int = 0, *, name: str = "") -> Axes:
        """Of a tensor among the arguments."""
        return self.of(self.arg(i, name=name))

    def of(self, ref: Ref) -> Axes:
        """Axes of a tensor; those of a weight that no layer has met yet may all be fewer."""
        if ref not in self.model.axes:
            value = self.model.weights[ref.name]
            is_free = self.model.is_parameter(ref.name)
            self.model.axes[ref] = tuple(
                elastic(n, f"{ref.name}.width") if is_free else fixed(n) for n in value.shape
            )
        return self.model.axes[ref]

    def sizes(self, ref: Ref) -> list[int]:
        """Shape of a weight, or of a tensor that is used as one."""
        if ref.is_weight:
            return list(self.model.weights[ref.name].shape)
        return [size(axis) for axis in self.of(ref)]

    def weight(self, i: int, axes: Sequence[Axis], *, name: str = "") -> None:
        """State what the axes of a weight are; there may be none."""
        ref = self.arg(i, name=name)
        if ref is None:
            return
        known = self.model.axes.setdefault(ref, tuple(axes))
        for mine, given in zip(known, axes, strict=True):
            unify(given, mine)

    def dim(self, value: int) -> int:
        """A dimension of the first argument, counted from the front."""
        return value % len(self.axes())


def fixed_axes(shape: Sequence[int]) -> Axes:
    """All of their present size."""
    return tuple(fixed(n) for n in shape)


def broadcast(all_axes: Sequence[Axes]) -> Axes:
    """Broadcast against each other."""
    n_dims = max(map(len, all_axes))
    found: list[Axis] = []
    for position in range(n_dims):
        there = [axes[i] for axes in all_axes if (i := position - n_dims + len(axes)) >= 0]
        long = [axis for axis in there if size(axis) > 1]
        for other in long[1:]:
            unify(long[0], other)
        found.append(long[0] if long else fixed(1))
    return tuple(found)
