"""Changing the number of channels of layers, with everything that must change with them.

Tensors whose channels can only change together form a group: what a depthwise convolution, an
addition or an activation reads and writes. A group is found by walking the graph once; one that
meets an operator that is not known here is left as it is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from hwnas.onnx_graph import Graph, Shape, attribute, set_attribute

SAME = frozenset({
    "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh",
    "Softplus", "Softsign", "Mish", "Gelu", "Erf", "Sqrt", "Exp", "Abs", "Neg", "Clip", "Identity",
    "Dropout", "Cast", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize",
    "Upsample", "LRN",
})  # fmt: skip
PAIRS = frozenset({"Add", "Sum", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu"})
_UNSAFE = frozenset({"Div", "Pow"})  # of zero channels by zero channels
_NORMS = frozenset({"BatchNormalization", "InstanceNormalization"})
_FLAT = frozenset({"Flatten", "Reshape", "Squeeze"})
_MEANS = frozenset({"ReduceMean", "ReduceMax"})
CHANNEL = 1


@dataclass
class Group:
    """Tensors whose channels change together.

    Attributes:
        size: Channels.
        weights: Of which initialiser which axis is as long.
        depthwise: Outputs of the convolutions that have as many groups.
        makers: Outputs of the layers whose number of outputs this is.
        users: Outputs of the layers that read it.
    """

    size: int
    weights: list[tuple[str, int]] = field(default_factory=list)
    depthwise: list[str] = field(default_factory=list)
    makers: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)


def channel_groups(graph: Graph) -> list[Group]:
    """The groups that can be changed, in the order of the graph."""
    walk = _Walk(graph)
    for node in graph.nodes:
        walk.meet(node)
    for name in (*graph.inputs, *graph.outputs):
        walk.freeze(name)
    return walk.groups()


def with_channels(graph: Graph, sizes: Mapping[int, int]) -> None:
    """Give groups, by their position in `channel_groups`, other sizes.

    Channels are dropped from the end; new ones are zero and are read with zero weights, so that
    what the model computes stays the same.
    """
    groups = channel_groups(graph)
    for position, size in sizes.items():
        group = groups[position]
        for name, axis in group.weights:
            graph.set_array(name, _resized(graph.array(name), axis, size))
        for output in group.depthwise:
            set_attribute(graph.writers[output], "group", size)


def _resized(values: NDArray[np.generic], axis: int, size: int) -> NDArray[np.generic]:
    if size <= values.shape[axis]:
        return values.take(np.arange(size), axis)
    widths = [(0, 0)] * values.ndim
    widths[axis] = (0, size - values.shape[axis])
    return np.pad(values, widths)


class _Walk:
    """Union-find over tensors: those whose channels change together have one root."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._parent: dict[str, str] = {}
        self._frozen: set[str] = set()
        self._weights: list[tuple[str, str, int]] = []  # tensor, weight, axis
        self._depthwise: list[tuple[str, str]] = []
        self._makers: list[tuple[str, str]] = []
        self._users: list[tuple[str, str]] = []

    def root(self, name: str) -> str:
        here = name
        while (above := self._parent.get(here, here)) != here:
            here = above
        self._parent[name] = here
        return here

    def freeze(self, name: str) -> None:
        self._frozen.add(self.root(name))

    def join(self, a: str, b: str) -> None:
        root_a, root_b = self.root(a), self.root(b)
        if root_a != root_b:
            self._parent[root_b] = root_a
            if root_b in self._frozen:
                self._frozen.add(root_a)

    def meet(self, node: onnx.NodeProto) -> None:
        """Learn from one node what changes together; freeze all it touches if it is not known."""
        shapes = self._graph.shapes
        if not self._follow(node) or any(
            name and (name not in shapes or len(shapes[name]) < 2) for name in node.output[:1]
        ):
            for name in (*node.input, *node.output):
                self.freeze(name)

    def groups(self) -> list[Group]:
        found: dict[str, Group] = {}
        for tensor, weight, axis in self._weights:
            root = self.root(tensor)
            size = self._graph.shapes[weight][axis]
            group = found.setdefault(root, Group(size))
            if group.size != size:
                self._frozen.add(root)
            group.weights.append((weight, axis))
        for pairs, name in (
            (self._depthwise, "depthwise"), (self._makers, "makers"), (self._users, "users"),
        ):  # fmt: skip
            for tensor, output in pairs:
                if (root := self.root(tensor)) in found:
                    getattr(found[root], name).append(output)
        # A weight that two nodes share would be cut twice.
        counts: dict[tuple[str, int], int] = defaultdict(int)
        for _, weight, axis in self._weights:
            counts[weight, axis] += 1
        frozen = {self.root(name) for name in self._frozen}
        return [
            group
            for root, group in found.items()
            if root not in frozen and group.makers and all(counts[w] == 1 for w in group.weights)
        ]

    def _follow(self, node: onnx.NodeProto) -> bool:
        """Whether the node is known; what it says is noted."""
        kind, inputs, output = node.op_type, list(node.input), node.output[0]
        if kind == "Conv":
            return self._convolution(node)
        if kind in ("Gemm", "MatMul"):
            return self._product(node)
        if kind in SAME or kind in _MEANS:
            if any(name and name not in self._graph.weights for name in inputs[1:]):
                return False
            if kind == "Resize" and len(inputs) > 3:  # to sizes, the channels among them
                return False
            self.join(inputs[0], output)
            return kind not in _MEANS or self._keeps_channels(node)
        if kind in _NORMS:
            if any(name not in self._graph.weights for name in inputs[1:]):
                return False
            self._weights += [(inputs[0], name, 0) for name in inputs[1:]]
            self.join(inputs[0], output)
            return True
        if kind in PAIRS:
            is_scaled = self._graph.scalar(inputs[-1]) is not None
            return (is_scaled or kind not in _UNSAFE) and self._pair(inputs, output)
        if kind in _FLAT:
            return self._flatten(inputs[0], output)
        return False

    def _convolution(self, node: onnx.NodeProto) -> bool:
        source, weight, output = node.input[0], node.input[1], node.output[0]
        shape = self._graph.shapes.get(weight, ())
        if weight not in self._graph.weights or len(shape) < 3:
            return False
        group = attribute(node, "group", 1)
        bias = [name for name in node.input[2:] if name]
        if any(name not in self._graph.weights for name in bias):
            return False
        if group == 1:
            self._weights += [(source, weight, 1), (output, weight, 0)]
            self._users.append((source, output))
            self._makers.append((output, output))
        elif group == shape[0] and shape[1] == 1:
            self.join(source, output)
            self._weights.append((output, weight, 0))
            self._depthwise.append((output, output))
        else:
            return False
        self._weights += [(output, name, 0) for name in bias]
        return True

    def _product(self, node: onnx.NodeProto) -> bool:
        source, weight, output = node.input[0], node.input[1], node.output[0]
        shapes = self._graph.shapes
        is_plain = not attribute(node, "transA", 0) and len(shapes.get(source, ())) == 2
        if not is_plain or weight not in self._graph.weights or len(shapes[weight]) != 2:
            return False
        rows, columns = (1, 0) if attribute(node, "transB", 0) else (0, 1)
        self._weights += [(source, weight, rows), (output, weight, columns)]
        self._users.append((source, output))
        self._makers.append((output, output))
        for name in node.input[2:]:
            if name not in self._graph.weights:
                return False
            if math.prod(shapes[name]) > 1:
                self._weights.append((output, name, len(shapes[name]) - 1))
        return True

    def _pair(self, inputs: list[str], output: str) -> bool:
        shapes, weights = self._graph.shapes, self._graph.weights
        shape = shapes.get(output, ())
        if len(shape) <= CHANNEL:  # also where it is not known
            return False
        for name in inputs:
            here = shapes.get(name)
            if here is None:
                return False
            if name in weights:
                if math.prod(here) == 1:
                    continue
                axis = len(here) - len(shape) + CHANNEL  # shapes are aligned at their ends
                if axis < 0 or math.prod(here) != here[axis]:
                    return False
                self._weights.append((output, name, axis))
            elif len(here) == len(shape) and here[CHANNEL] == shape[CHANNEL]:
                self.join(name, output)
            else:
                return False
        return True

    def _flatten(self, source: str, output: str) -> bool:
        """Only where nothing but ones goes into the channels."""
        before, after = self._graph.shapes.get(source, ()), self._graph.shapes.get(output, ())
        node = self._graph.writers[output]
        if len(after) != 2 or len(before) < 2 or after != before[:2]:
            return False
        if node.op_type == "Reshape":  # to a shape that leaves the channels open
            node.input[1] = f"{output}_shape"
            self._graph.set_array(node.input[1], np.array([after[0], -1], np.int64))
        self.join(source, output)
        return True

    def _keeps_channels(self, node: onnx.NodeProto) -> bool:
        axes = attribute(node, "axes")
        if axes is None and len(node.input) > 1 and node.input[1]:
            axes = self._graph.array(node.input[1]).tolist()
        rank = len(self._graph.shapes.get(node.input[0], ()))
        return bool(axes) and all(a % max(rank, 1) > CHANNEL for a in axes)  # type: ignore[attr-defined]


def is_image(shape: Shape | None) -> bool:
    """Whether a shape is of a batch of images: channels, height, width."""
    return shape is not None and len(shape) == 4
