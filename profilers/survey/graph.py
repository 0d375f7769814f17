"""An ONNX graph while it is written: every operator's output shape, and what the model may cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from profilers.onnx_models import MAX_IR_VERSION

KERNEL_MACS = 1.5e8  # of one operator at most
# Of a model's: what an operator is made for is drawn from the first up to the second of what is
# left, log-uniform.
LEAST_SHARE, MOST_SHARE = 5e-3, 0.5
TENSOR_ELEMENTS = 3_300_000  # as 64 channels of 224 x 224
MULTIPLE = 8
MIN_WIDTH = 4
WIDTH_RANGE = 4  # from what would cost the drawn multiply-accumulates down to a quarter
T = TypeVar("T")


class NoRoomError(Exception):
    """The model would cost more than it may: what was being added is to be undone."""


@dataclass(frozen=True)
class Value:
    """A tensor of the graph, by name, with its shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Of images and signals, where they are the second dimension."""
        return self.shape[1]

    @property
    def spatial(self) -> tuple[int, ...]:
        """Height and width, or the length."""
        return self.shape[2:]


@dataclass
class Limits:
    """What is left for a model.

    Attributes:
        macs: Multiply-accumulates.
        elements: Of all tensors together.
        weights: Elements of all weights together.
        narrow: The fewest channels that are drawn, but for those that count something.
        wide: The most.
    """

    macs: float
    elements: float
    weights: float
    narrow: int
    wide: int

    def __post_init__(self) -> None:
        self.least_macs = LEAST_SHARE * self.macs  # that an operator is made for


@dataclass(frozen=True)
class Style:
    """What most layers of one network have in common.

    Attributes:
        activation: Its index in `operators.COMMON`.
        multiples_share: Of widths that are multiples of eight; the others are arbitrary.
        norm_share: Of convolutions that a batch normalisation follows.
    """

    activation: int
    multiples_share: float
    norm_share: float


class Graph:
    """Writes one model, and draws what is random in it.

    Args:
        rng: Of shapes and weights.
        limits: What the model may cost; it is used up.
        style: What its layers have in common.
        opset: Version of ONNX's operators, 17 or later.
        batch: First dimension of the inputs.
    """

    def __init__(
        self, rng: np.random.Generator, limits: Limits, style: Style, *, opset: int, batch: int
    ) -> None:
        self.rng, self.limits, self.style = rng, limits, style
        self.opset, self.batch = opset, batch
        self._inputs: list[onnx.ValueInfoProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    # What is drawn.

    def chance(self, share: float) -> bool:
        """True in so many of the cases."""
        return bool(self.rng.random() < share)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options; those that are repeated are likelier."""
        return options[int(self.rng.integers(len(options)))]

    def log_uniform(self, low: float, high: float) -> float:
        """Between the bounds, every factor as likely as any other."""
        return float(np.exp(self.rng.uniform(math.log(low), math.log(max(low, high)))))

    def width(self, macs_each: float, elements_each: float, *, most: float = math.inf) -> int:
        """Channels of an output, so that its operator costs what is drawn for it.

        Args:
            macs_each: Multiply-accumulates of one channel.
            elements_each: Elements of one channel.
            most: More than so many are not drawn.
        """
        limits = self.limits
        macs = self.log_uniform(limits.least_macs, min(KERNEL_MACS, MOST_SHARE * limits.macs))
        most = max(MIN_WIDTH, min(limits.wide, TENSOR_ELEMENTS / max(elements_each, 1), most))
        high = min(most, max(limits.narrow, macs / max(macs_each, 1)))
        return self.rounded(
            self.log_uniform(max(min(limits.narrow, high), high / WIDTH_RANGE), high)
        )

    def rounded(self, width: float) -> int:
        """A whole number, a multiple of eight as often as the style says."""
        if width >= MULTIPLE and self.chance(self.style.multiples_share):
            return int(width) // MULTIPLE * MULTIPLE
        return round(width)

    def divisor(self, *values: int, most: int = 64) -> int:
        """A random common divisor above 1 of the values; 1 if there is none."""
        common = math.gcd(*values)
        found = [d for d in range(2, min(common, most) + 1) if common % d == 0]
        return self.pick(found) if found else 1

    # What is written.

    def spend(self, macs: float, elements: float, weights: float = 0) -> None:
        """Count a cost.

        Raises:
            NoRoomError: The operator or the model may not cost that much.
        """
        limits = self.limits
        if (
            macs > min(KERNEL_MACS, limits.macs)
            or elements > min(TENSOR_ELEMENTS, limits.elements)
            or weights > limits.weights
        ):
            raise NoRoomError
        limits.macs -= macs
        limits.elements -= elements
        limits.weights -= weights

    def mark(self) -> tuple[int, int, tuple[float, float, float]]:
        """Where the graph stands, for `undo`."""
        limits = self.limits
        left = (limits.macs, limits.elements, limits.weights)
        return len(self._nodes), len(self._weights), left

    def undo(self, mark: tuple[int, int, tuple[float, float, float]]) -> None:
        """Take back what was added since `mark`; inputs stay."""
        n_nodes, n_weights, left = mark
        del self._nodes[n_nodes:], self._weights[n_weights:]
        self.limits.macs, self.limits.elements, self.limits.weights = left

    def input(self, *shape: int, elem_type: int = TensorProto.FLOAT) -> Value:
        """A new input of the model, the batch before `shape`."""
        value = Value(f"x{len(self._inputs)}", (self.batch, *shape))
        self._inputs.append(helper.make_tensor_value_info(value.name, elem_type, value.shape))
        return value

    def constant(self, array: NDArray[Any]) -> Value:
        """Given values as an initialiser."""
        value = Value(f"w{len(self._weights)}", array.shape)
        self._weights.append(onnx.numpy_helper.from_array(array, value.name))
        return value

    def scalar(self, number: float) -> Value:
        """One float."""
        return self.constant(np.array(number, np.float32))

    def ints(self, *numbers: int) -> Value:
        """A list of integers: axes, shapes, bounds."""
        return self.constant(np.array(numbers, np.int64))

    def weight(self, *shape: int, fan_in: int | None = None, around: float = 0.0) -> Value:
        """Random values that keep the size of what they are multiplied with.

        Args:
            shape: Of the weight.
            fan_in: How many products are summed; None: all dimensions but the first.
            around: Mean of the values.

        Raises:
            NoRoomError: The model may not have so many weights.
        """
        self.spend(0, 0, math.prod(shape))
        fan_in = math.prod(shape[1:]) if fan_in is None else fan_in
        values = self.rng.random(shape, np.float32)
        values -= np.float32(0.5)
        values *= np.float32(math.sqrt(12 / max(fan_in, 1)))
        return self.constant(values + np.float32(around) if around else values)

    def per_channel(self, shape: Sequence[int], *, around: float = 0.0) -> Value:
        """Small random values about `around`, for biases and scales."""
        values = self.rng.random(tuple(shape), np.float32) * np.float32(0.2) - np.float32(0.1)
        return self.constant(values + np.float32(around))

    def add(
        self,
        kind: str,
        inputs: Sequence[Value | None],
        shape: Sequence[int],
        *,
        macs: float = 0,
        **attributes: Any,
    ) -> Value:
        """One operator with one output of the given shape.

        Raises:
            NoRoomError: It would cost too much.
        """
        (value,) = self.add_many(kind, inputs, [shape], macs=macs, **attributes)
        return value

    def add_many(
        self,
        kind: str,
        inputs: Sequence[Value | None],
        shapes: Sequence[Sequence[int]],
        *,
        macs: float = 0,
        **attributes: Any,
    ) -> list[Value]:
        """One operator with several outputs; an empty shape of a later one leaves it out."""
        self.spend(macs, sum(math.prod(shape) for shape in shapes))
        i = len(self._nodes)
        outputs = [Value(f"t{i}_{j}", tuple(shape)) for j, shape in enumerate(shapes)]
        names = [value.name if value is not None else "" for value in inputs]
        node = helper.make_node(
            kind, names, [value.name for value in outputs], name=f"{kind}_{i}", **attributes
        )
        self._nodes.append(node)
        return outputs

    def proto(self, *outputs: Value) -> onnx.ModelProto:
        """The finished model."""
        infos = [
            helper.make_tensor_value_info(value.name, TensorProto.FLOAT, value.shape)
            for value in outputs
        ]
        graph = helper.make_graph(self._nodes, "survey", self._inputs, infos, self._weights)
        return helper.make_model(
            graph, ir_version=MAX_IR_VERSION, opset_imports=[helper.make_opsetid("", self.opset)]
        )
