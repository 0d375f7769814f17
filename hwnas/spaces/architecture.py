"""What a genotype describes: blocks in a row, for an input of some shape."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol, runtime_checkable

__all__ = [
    "Architecture",
    "Block",
    "InputType",
    "Shape",
    "Slot",
    "block_data",
    "fields_text",
    "shape_text",
]

Shape = tuple[
    int, ...
]  # without the batch: (c, h, w), (c, length), (length, features), (features,)
InputType = Literal["float32", "int64"]  # int64: token ids, of shape (length,)


@runtime_checkable
class Block(Protocol):
    """A frozen dataclass that knows how to build its `nn.Module` for a given input shape.

    Its fields are plain data, so that it can be told as JSON. A block that is a graph, a cell, may
    also have `edges() -> Sequence[tuple[source, target, label]]`; then drawings show it.
    """

    def __hash__(self) -> int:
        """Frozen dataclasses have it: equal blocks are built, exported and priced once."""

    def build(self, in_shape: Shape) -> Any:
        """Return the `nn.Module` for an input of `in_shape`, without the batch.

        If it begins with an activation or a normalisation, which runtimes fuse into whatever stands
        before, it is exported once for each way in which the block before can end.
        """


Slot = Callable[[Mapping[str, Any]], Block | None]


def block_data(block: Block) -> dict[str, Any]:
    """Class name and fields of a block, as plain data."""
    values: dict[str, Any] = asdict(block)  # type: ignore[call-overload]
    return {"block": type(block).__name__} | values


def fields_text(block: Block) -> str:
    """The fields of a block as `name=value`, separated by commas."""
    return ", ".join(f"{f.name}={getattr(block, f.name)}" for f in fields(block))  # type: ignore[arg-type]


def shape_text(shape: Shape) -> str:
    """A shape as people write it.

    Example:
        >>> shape_text((3, 224, 224))
        '3×224×224'
    """
    return "×".join(map(str, shape))


@dataclass(frozen=True)
class Architecture:
    """What a genotype describes: the input's shape and the blocks in order, nothing else.

    Two genotypes with the same architecture are the same network.
    """

    input_shape: Shape
    blocks: tuple[Block, ...]
    input_type: InputType = "float32"

    def to_json(self) -> str:
        """Readable, stable text: the blocks by class name and fields."""
        blocks = [block_data(block) for block in self.blocks]
        described: dict[str, Any] = {"input_shape": self.input_shape, "blocks": blocks}
        if self.input_type != "float32":
            described["input_type"] = self.input_type
        return json.dumps(described)

    def summary(self) -> str:
        """One block a line, the fields that it was built with."""
        lines = [f"input {shape_text(self.input_shape)}"]
        lines += [f"{type(block).__name__}({fields_text(block)})" for block in self.blocks]
        return "\n".join(lines)
