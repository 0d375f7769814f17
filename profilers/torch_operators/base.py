"""One operator of an ONNX graph while its PyTorch counterpart is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch

Function = Callable[..., Any]  # tensors to a tensor, or to a tuple of tensors


class UnsupportedError(Exception):
    """An operator is used in a way that has no counterpart here; says in which."""


@dataclass
class Operator:
    """One node of an ONNX graph while it is being built.

    Attributes:
        kind: Its operator.
        attributes: As Python values; tensors as `TensorProto`.
        inputs: Constant ones with their values, others as tensors of the meta device, which have
            a shape and a type only; None for optional ones that are left out.
        n_outputs: How many outputs are used.
        opset: Version of ONNX's operators that the model is written for.
        float_dtype: What a 32-bit float in the model is at run time.
        read: Inputs that the builder has taken in; the function is not called with them.
    """

    kind: str
    attributes: Mapping[str, Any]
    inputs: list[torch.Tensor | None]
    n_outputs: int
    opset: int
    float_dtype: torch.dtype = torch.float32
    read: set[int] = field(default_factory=set)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first input."""
        return tuple(self.tensor(0).shape)

    def tensor(self, index: int) -> torch.Tensor:
        """An input that must be there."""
        tensor = self.inputs[index] if index < len(self.inputs) else None
        if tensor is None:
            raise UnsupportedError(f"its input {index} is left out")
        return tensor

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or `default`; text as `str`."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def constant(self, index: int) -> torch.Tensor | None:
        """Take in a constant input; None if it is left out."""
        if index >= len(self.inputs) or self.inputs[index] is None:
            return None
        tensor = self.tensor(index)
        if tensor.is_meta:
            raise UnsupportedError(f"its input {index} is not known before the run")
        self.read.add(index)
        return tensor

    def ints(self, name: str, index: int) -> tuple[int, ...] | None:
        """Integers that older operators have as an attribute and newer ones as an input."""
        if name in self.attributes:
            return tuple(self.attributes[name])
        tensor = self.constant(index)
        return None if tensor is None else tuple(int(v) for v in tensor.flatten().tolist())

    def append(self, tensor: torch.Tensor) -> None:
        """Call the function with one more constant, after the inputs."""
        self.inputs.append(tensor)


Builder = Callable[[Operator], Function]


def plain(function: Function) -> Builder:
    """An operator without attributes."""

    def build(op: Operator) -> Function:
        if op.get("broadcast", 0) and "axis" in op.attributes:
            raise UnsupportedError("it broadcasts along an axis, as before opset 7")
        return function

    return build


def axes_of(op: Operator, axes: Iterable[int]) -> tuple[int, ...]:
    """Axes of the first input, counted from its first."""
    return tuple(axis % len(op.shape) for axis in axes)


def torch_dtype(elem_type: int) -> torch.dtype:
    """The torch type of an element type of ONNX."""
    name = onnx.helper.tensor_dtype_to_np_dtype(elem_type).name
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise UnsupportedError(f"torch has no element type {name}")
    return dtype
