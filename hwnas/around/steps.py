"""A traced model: the calls of operators in order, and what their tensors' axes hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from hwnas.around.axes import Axis, is_batch, size
from hwnas.spaces.base import InputType, Shape

__all__ = ["INPUT", "Batch", "Model", "Ref", "Sized", "Step", "mapped", "refs"]

Axes = tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor among the arguments of a step: the input, what a step gave, or a weight's name."""

    name: str
    is_weight: bool = False


INPUT = Ref("input")


@dataclass(frozen=True, slots=True)
class Sized:
    """A number among the arguments of a step that follows how long axes are, one after another."""

    axes: Axes

    def __call__(self, kept: Mapping[Any, int]) -> int:
        """The number, if so many of each leaf are kept; -1 where the batch is in it."""
        if any(map(is_batch, self.axes)):
            return -1
        return sum(size(axis, kept) for axis in self.axes)


@dataclass(frozen=True, slots=True)
class Batch:
    """A number among the arguments of a step: the examples of the batch."""


@dataclass
class Step:
    """One call.

    Attributes:
        ref: What it gives.
        op: Name of the operator of ATen, with its overload: `relu.default`.
        args: With `Ref`, `Sized` and `Batch` in place of tensors and of numbers that change.
        kwargs: The same.
        layer: Path of the module that calls it.
        shapes: Of what it gives, with the batch; several for a tuple.
    """

    ref: Ref
    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    layer: str
    shapes: tuple[Shape, ...]
    is_tuple: bool = False

    @property
    def kind(self) -> str:
        """The operator without its overload."""
        return self.op.partition(".")[0]

    def inputs(self) -> list[Ref]:
        """The tensors among the arguments, each once."""
        return list(dict.fromkeys(refs([self.args, self.kwargs])))


@dataclass
class Model:
    """What was traced.

    Attributes:
        steps: In running order.
        output: What the model gives.
        weights: Parameters, buffers and constants by name.
        axes: Of every tensor.
        input_shape: Without the batch.
        input_type: Of the values.
    """

    steps: list[Step]
    output: Ref
    weights: dict[str, Tensor]
    input_shape: Shape
    input_type: InputType
    axes: dict[Ref, Axes] = field(default_factory=dict)

    def is_parameter(self, name: str) -> bool:
        """Whether the weight is trained."""
        return isinstance(self.weights[name], nn.Parameter)


def refs(value: Any) -> Iterator[Ref]:
    """All tensors in nested arguments."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from refs(item)
    elif isinstance(value, dict):
        yield from refs(list(value.values()))


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Nested arguments with every innermost one changed."""
    if isinstance(value, list | tuple):
        items = [mapped(item, change) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    return change(value)
