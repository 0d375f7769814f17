"""An ONNX graph that can be edited: who writes and reads each tensor, shapes, weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from profilers.errors import ModelError
from profilers.onnx_models import MAX_IR_VERSION, OnnxModel, make_model

Shape = tuple[int, ...]
Array = NDArray[np.generic]

# What an edited model may fail with when it is checked: then the edit does not fit that model.
CHECK_ERRORS = (
    onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ModelError, ValueError,
    RuntimeError,
)  # fmt: skip


MAX_OF_A_SHAPE = 64  # elements of a tensor that may be a shape: no tensor has more dimensions


class Graph:
    """A copy of a model, to be changed; the model itself stays as it is.

    Constants are initialisers here, and the inputs' shapes are those that the model was loaded
    with.

    Attributes:
        proto: The copy.
        shapes: Static shapes of tensors, weights included, as far as they can be inferred.
        writers: The node that writes each tensor.
        readers: The nodes that read each tensor, each once for every time it reads it.
        weights: Initialisers by name.
    """

    def __init__(self, model: OnnxModel) -> None:
        self._model = model
        self.proto = onnx.ModelProto()
        self.proto.CopyFrom(model.proto)
        self.proto.ir_version = MAX_IR_VERSION  # older ones want weights among the inputs
        inputs = [
            helper.make_tensor_value_info(
                spec.name, helper.np_dtype_to_tensor_dtype(spec.dtype), spec.shape
            )
            for spec in model.inputs
        ]
        _replace(self.proto.graph.input, inputs)
        self._fold_constants()
        self.shapes: dict[str, Shape] = {}
        self.infer()
        self._index()

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """All nodes, each after those whose tensors it reads."""
        return list(self.proto.graph.node)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(value.name for value in self.proto.graph.input)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(value.name for value in self.proto.graph.output)

    def array(self, name: str) -> Array:
        """The values of an initialiser."""
        return numpy_helper.to_array(self.weights[name])

    def scalar(self, name: str) -> float | None:
        """The value of an initialiser that holds one number; None: it is none."""
        if name not in self.weights or math.prod(self.weights[name].dims) != 1:
            return None
        return float(self.array(name).reshape(-1)[0])

    def set_array(self, name: str, values: Array) -> None:
        """Give an initialiser other values, of any shape, or add one."""
        made = numpy_helper.from_array(np.ascontiguousarray(values), name)
        if name in self.weights:
            self.weights[name].CopyFrom(made)
        else:
            self.proto.graph.initializer.append(made)
            self.weights[name] = self.proto.graph.initializer[-1]
        self.shapes[name] = tuple(values.shape)

    def read_instead(self, old: str, new: str) -> None:
        """Let whoever reads the tensor `old` read `new`."""
        for node in self.readers[old]:
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new
        self._index()

    def replace(self, node: onnx.NodeProto, by: Iterable[onnx.NodeProto]) -> None:
        """Put other nodes where `node` stands."""
        kept: list[onnx.NodeProto] = []
        for here in self.proto.graph.node:
            kept.extend(by if here.output == node.output else [here])
        _replace(self.proto.graph.node, kept)
        self._index()

    def between(self, source: str, target: str) -> list[onnx.NodeProto] | None:
        """The nodes that make `target` of `source`; None: of other tensors, or not of it."""
        found: dict[str, onnx.NodeProto] = {}
        queue, is_reached = [target], False
        while queue:
            name = queue.pop()
            is_reached |= name == source
            if name in (source, "") or name in self.weights:
                continue
            node = self.writers.get(name)
            if node is None:
                return None
            if node.output[0] not in found:
                found[node.output[0]] = node
                queue.extend(node.input)
        return list(found.values()) if is_reached else None

    def is_private(self, nodes: Iterable[onnx.NodeProto], *, but: str) -> bool:
        """Whether nobody else reads what `nodes` write, but for the tensor `but`."""
        inside = {tuple(node.output) for node in nodes}
        written = {name for outputs in inside for name in outputs} - {but}
        return not written & set(self.outputs) and all(
            tuple(reader.output) in inside for name in written for reader in self.readers[name]
        )

    def finished(self, name: str) -> OnnxModel | None:
        """The edited model, checked; None: it is none that has the same outputs as before."""
        before = {output: self.shapes.get(output) for output in self.outputs}
        self._drop_unused()
        try:
            del self.proto.graph.value_info[:]
            onnx.checker.check_model(self.proto)
            self.infer(strict=True)
            if any(self.shapes.get(output) != shape for output, shape in before.items()):
                return None
            if any(size < 1 for shape in self.shapes.values() for size in shape):
                return None  # a window larger than its image: it may take the process down
            return make_model(self.proto, name=name)
        except CHECK_ERRORS:
            return None

    def infer(self, *, strict: bool = False) -> None:
        """Learn the shapes of all tensors as they are now."""
        light = self._without_large_weights()
        try:
            graph = onnx.shape_inference.infer_shapes(
                light, strict_mode=strict, data_prop=True
            ).graph
        except CHECK_ERRORS:
            if strict:
                raise
            graph = light.graph
        self.shapes = {t.name: tuple(t.dims) for t in self.proto.graph.initializer}
        for value in (*graph.input, *graph.value_info, *graph.output):
            tensor = value.type.tensor_type
            if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
                self.shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)

    def _without_large_weights(self) -> onnx.ModelProto:
        """The model as far as shapes need it: large weights are inputs of known shapes."""
        source = self.proto.graph
        large = [t for t in source.initializer if math.prod(t.dims) > MAX_OF_A_SHAPE]
        graph = helper.make_graph(
            source.node,
            source.name or "graph",
            [*source.input, *(helper.make_tensor_value_info(t.name, t.data_type, t.dims)
                              for t in large)],
            source.output,
            [t for t in source.initializer if math.prod(t.dims) <= MAX_OF_A_SHAPE],
        )  # fmt: skip
        light = onnx.ModelProto(ir_version=self.proto.ir_version)
        light.opset_import.extend(self.proto.opset_import)
        light.functions.extend(self.proto.functions)
        light.graph.CopyFrom(graph)
        return light

    def _index(self) -> None:
        self.weights = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        self.writers = {name: node for node in self.proto.graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.proto.graph.node:
            for name in node.input:
                self.readers[name].append(node)

    def _fold_constants(self) -> None:
        """Constants, and copies of weights, become weights."""
        known = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        kept = []
        for node in self.proto.graph.node:
            value = _constant(node, known)
            if value is None or node.output[0] in self.outputs:
                kept.append(node)
                continue
            value.name = node.output[0]
            self.proto.graph.initializer.append(value)
            known[value.name] = value
        _replace(self.proto.graph.node, kept)

    def _drop_unused(self) -> None:
        """Remove nodes and weights that no output needs."""
        self._index()
        needed, queue = set(self.outputs), list(self.outputs)
        while queue:
            node = self.writers.get(queue.pop())
            new = {*node.input, *_inner_reads(node)} - needed if node is not None else set()
            needed |= new
            queue.extend(new)
        _replace(self.proto.graph.node, [n for n in self.nodes if needed & set(n.output)])
        weights = self.proto.graph.initializer
        for i in reversed(range(len(weights))):  # in place: they may be hundreds of megabytes
            if weights[i].name not in needed:
                del weights[i]
        self._index()


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """The value of a node's attribute."""
    for found in node.attribute:
        if found.name == name:
            return helper.get_attribute_value(found)
    return default


def set_attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    """Give a node's attribute another value, or the node that attribute."""
    kept = [found for found in node.attribute if found.name != name]
    _replace(node.attribute, [*kept, helper.make_attribute(name, value)])


def _constant(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> onnx.TensorProto | None:
    """What a node writes, if that is the same in every run; the usual cases only."""
    if node.op_type == "Constant":
        value = attribute(node, "value")
        if isinstance(value, onnx.TensorProto):
            return value
        for kind, dtype in (("float", np.float32), ("int", np.int64)):
            for name in (f"value_{kind}", f"value_{kind}s"):
                if (plain := attribute(node, name)) is not None:
                    return numpy_helper.from_array(np.array(plain, dtype))
    if node.op_type == "ConstantOfShape" and node.input[0] in known:
        shape = numpy_helper.to_array(known[node.input[0]])
        filler = attribute(node, "value")
        one = np.zeros(1, np.float32)
        if isinstance(filler, onnx.TensorProto):
            one = numpy_helper.to_array(filler)
        return numpy_helper.from_array(np.full(shape, one.reshape(-1)[0], one.dtype))
    if node.op_type == "Identity" and node.input[0] in known:
        copied = onnx.TensorProto()
        copied.CopyFrom(known[node.input[0]])
        return copied
    return None


def _inner_reads(node: onnx.NodeProto) -> Iterator[str]:
    """Tensors that the branches of a control-flow node read."""
    for found in node.attribute:
        for graph in (*found.graphs, *([found.g] if found.HasField("g") else [])):
            for inner in graph.node:
                yield from inner.input
                yield from _inner_reads(inner)


def _replace(field: object, items: Iterable[object]) -> None:
    """Fill a repeated field of a protobuf with other items."""
    kept = []
    for item in items:
        copied = type(item)()
        copied.CopyFrom(item)  # type: ignore[attr-defined]  # (every message has it)
        kept.append(copied)
    del field[:]  # type: ignore[attr-defined]
    field.extend(kept)  # type: ignore[attr-defined]
