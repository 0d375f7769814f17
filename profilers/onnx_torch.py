"""An ONNX model as a PyTorch module in which every node is a submodule that bears its name.

So any ONNX file can be run, compiled and measured by PyTorch, node by node. What depends on the
model alone (shapes, constant subgraphs, attributes) is computed once, when it is loaded.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import fx, nn

from profilers.errors import ModelError
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelNode
from profilers.onnx_models import OnnxModel, node_attributes
from profilers.torch_operators import (
    BUILDERS,
    Function,
    Operator,
    tensor_value,
)

MIN_OPSET = 6
_DOMAINS = ("", "ai.onnx")
_SHAPES = ("Shape", "Size")
_DTYPE_NAMES = {"float32": "float", "float64": "double"}  # all others are the same


class OnnxNode(nn.Module):
    """One node of the model: the scope under which it is timed."""

    def __init__(self, function: Function, node: KernelNode) -> None:
        super().__init__()
        self.function = function
        self.node = node

    def forward(self, *inputs: torch.Tensor | None) -> Any:
        """Its output, or a tuple where it has several."""
        return self.function(*inputs)


@dataclass(frozen=True)
class TorchModel:
    """An ONNX model made ready for PyTorch.

    Attributes:
        module: Takes the model's inputs in their order and returns a tuple of its outputs.
        nodes: Its submodules, in running order; constant ones and those that only pass a tensor on
            are not among them.
        input_names: In the order in which the module takes them.
        input_dtypes: What they must be cast to.
        output_names: In the order in which it returns them.
    """

    module: fx.GraphModule
    nodes: tuple[OnnxNode, ...]
    input_names: tuple[str, ...]
    input_dtypes: tuple[torch.dtype, ...]
    output_names: tuple[str, ...]


@dataclass(frozen=True)
class _Value:
    """A tensor of the graph while it is built: a constant, or what a node of `graph` returns."""

    tensor: torch.Tensor  # on the meta device unless constant
    source: fx.Node | None


def to_torch(model: OnnxModel, dtype: torch.dtype = torch.float32) -> TorchModel:
    """Build the module on the CPU, in inference mode.

    Args:
        model: With static input shapes.
        dtype: What the model's 32-bit floats become: weights, inputs and casts.

    Raises:
        ModelError: An operator is unknown here, or used in a way that PyTorch has not.
    """
    with torch.inference_mode(False), torch.no_grad():
        return _Build(model, dtype).finish()


class _Build:
    """One walk over the nodes: constants are computed, all others become calls of a submodule."""

    def __init__(self, model: OnnxModel, dtype: torch.dtype) -> None:
        self._model, self._dtype = model, dtype
        self._opset = next(
            (o.version for o in model.proto.opset_import if o.domain in _DOMAINS), MIN_OPSET
        )
        self._root, self._graph = nn.Module(), fx.Graph()
        self._values: dict[str, _Value] = {}
        self._output_names = tuple(output.name for output in model.proto.graph.output)
        self._read = {name for node in model.proto.graph.node for name in node.input}
        self._read.update(self._output_names)
        self._same_as: dict[str, str] = {}  # of tensors that were only passed on
        # By id of the tensor, which is kept beside it so that the id stays its own.
        self._weights: dict[int, tuple[torch.Tensor, fx.Node]] = {}
        self._typed_tensors: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def finish(self) -> TorchModel:
        """Walk over the graph."""
        if self._opset < MIN_OPSET:
            raise self._refused(f"it is of opset {self._opset}, older than {MIN_OPSET}")
        if self._model.proto.graph.sparse_initializer:
            raise self._refused("it has sparse weights")
        input_dtypes = []
        for i, spec in enumerate(self._model.inputs):
            known = getattr(torch, spec.dtype.name, None)
            if not isinstance(known, torch.dtype):
                raise self._refused(f"input {spec.name!r} is of type {spec.dtype.name}")
            dtype = self._at_run_time(known)
            input_dtypes.append(dtype)
            self._values[spec.name] = _Value(
                torch.empty(spec.shape, dtype=dtype, device="meta"),
                self._graph.placeholder(f"input_{i}"),
            )
        for proto in self._model.proto.graph.initializer:
            self._values[proto.name] = _Value(tensor_value(proto), None)
        for node in self._model.proto.graph.node:
            try:
                self._add(node)
            except ModelError:
                raise
            except Exception as error:  # torch's functions raise many kinds on what they refuse
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                raise self._refused(f"node {node.name!r} ({_kind(node)}): {reason}") from error
        outputs = [self._values[name] for name in self._output_names]
        self._graph.output(tuple(v.source or self._weight(v.tensor) for v in outputs))
        whole = fx.GraphModule(self._root, self._graph)
        whole.graph.eliminate_dead_code()
        module = fx.GraphModule(whole, whole.graph).eval()  # takes over only what is still called
        called = [n.target for n in module.graph.nodes if n.op == "call_module"]
        nodes = [module.get_submodule(str(target)) for target in called]
        return TorchModel(
            module,
            tuple(node for node in nodes if isinstance(node, OnnxNode)),
            tuple(spec.name for spec in self._model.inputs),
            tuple(input_dtypes),
            self._output_names,
        )

    def _add(self, node: onnx.NodeProto) -> None:
        """Compute the node if it is constant, leave it out if it only passes on, else call it."""
        builder = BUILDERS.get(node.op_type)
        if node.domain not in _DOMAINS or (builder is None and node.op_type not in _SHAPES):
            raise self._refused(f"node {node.name!r} is of the operator {_kind(node)}")
        values = [self._values[name] if name else None for name in node.input]
        first = values[0] if values else None
        if builder is None:
            assert first is not None
            self._values[node.output[0]] = _Value(_shape_value(node, first.tensor), None)
            return
        is_output = node.output[0] in self._output_names
        is_passed_on = node.op_type == "Identity" or (
            node.op_type == "Dropout" and len(node.input) < 3 and self._n_used(node) == 1
        )
        if is_passed_on and first and not is_output:
            self._values[node.output[0]] = first
            self._same_as[node.output[0]] = self._same_as.get(node.input[0], node.input[0])
            return
        is_constant = all(value is None or value.source is None for value in values)
        op = Operator(
            node.op_type,
            {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
            [
                None if v is None else v.tensor if is_constant else self._typed(v.tensor)
                for v in values
            ],
            self._n_used(node),
            self._opset,
            torch.float32 if is_constant else self._dtype,
        )
        function = builder(op)
        called = [i for i in range(len(op.inputs)) if i not in op.read]
        while called and op.inputs[called[-1]] is None:
            called.pop()
        if is_constant:
            results = function(*(op.inputs[i] for i in called))
            for name, tensor in zip(node.output, _as_tuple(results), strict=False):
                self._values[name] = _Value(tensor, None)
        else:
            self._call(node, function, op, called, values)

    def _call(
        self,
        node: onnx.NodeProto,
        function: Function,
        op: Operator,
        called: Sequence[int],
        values: Sequence[_Value | None],
    ) -> None:
        """Add the submodule of a node and the call of it."""
        results = _on_meta(function)(*(_meta(op.inputs[i]) for i in called))
        written = {
            name: tensor
            for name, tensor in zip(node.output, _as_tuple(results), strict=False)
            if name
        }
        # As the model has them: a builder may have appended constants of its own.
        inputs = [t for t in op.inputs[: len(node.input)] if t is not None]
        # A view costs nothing; who reads it does not read row after row.
        strided = () if all(t.is_contiguous() for t in inputs) else (("strided", 1),)
        kernel = Kernel(
            _kind(node),
            tuple(sorted((*node_attributes(node), *strided))),
            tuple(_tensor(tensor) for tensor in inputs),
            tuple(_tensor(tensor) for tensor in written.values()),
        )
        reads = tuple(self._same_as.get(name, name) for name in node.input if name)
        target = node.name.replace(".", "/") or "/"
        while hasattr(self._root, target):
            target += "_"
        self._root.add_module(
            target, OnnxNode(function, KernelNode(node.name, kernel, reads, tuple(written)))
        )
        arguments = []
        for i in called:
            value, tensor = values[i] if i < len(values) else None, op.inputs[i]
            source = value.source if value else None
            arguments.append(source or (None if tensor is None else self._weight(tensor)))
        call = self._graph.call_module(target, tuple(arguments))
        for i, name in enumerate(node.output):
            if name in written:
                source = call
                if not isinstance(results, torch.Tensor):
                    source = self._graph.call_function(operator.getitem, (call, i))
                self._values[name] = _Value(written[name], source)

    def _n_used(self, node: onnx.NodeProto) -> int:
        """How many outputs must be computed: up to the last that anyone reads."""
        return max((i + 1 for i, name in enumerate(node.output) if name in self._read), default=1)

    def _weight(self, tensor: torch.Tensor) -> fx.Node:
        """A constant as a buffer, once."""
        if id(tensor) not in self._weights:
            name = f"constant_{len(self._weights)}"
            self._root.register_buffer(name, self._typed(tensor).contiguous())
            self._weights[id(tensor)] = (tensor, self._graph.get_attr(name))
        return self._weights[id(tensor)][1]

    def _typed(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in self._typed_tensors:
            typed = tensor.to(self._at_run_time(tensor.dtype))
            self._typed_tensors[id(tensor)] = (tensor, typed)
        return self._typed_tensors[id(tensor)][1]

    def _at_run_time(self, dtype: torch.dtype) -> torch.dtype:
        return self._dtype if dtype is torch.float32 else dtype

    def _refused(self, reason: str) -> ModelError:
        return ModelError(
            f"torch targets cannot run {self._model.name}: {reason}; use an onnxruntime target"
        )


def _as_tuple(results: Any) -> tuple[torch.Tensor, ...]:
    return (results,) if isinstance(results, torch.Tensor) else tuple(results)


def _meta(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.to("meta")


def _on_meta(function: Function) -> Function:
    return copy.deepcopy(function).to("meta") if isinstance(function, nn.Module) else function


def _shape_value(node: onnx.NodeProto, tensor: torch.Tensor) -> torch.Tensor:
    """What Shape or Size returns."""
    if node.op_type == "Size":
        return torch.tensor(tensor.numel())
    bounds = {a.name: a.i for a in node.attribute}
    return torch.tensor(tensor.shape[bounds.get("start", 0) : bounds.get("end")], dtype=torch.int64)


def _kind(node: onnx.NodeProto) -> str:
    return f"{node.domain}:{node.op_type}" if node.domain else str(node.op_type)


def _tensor(tensor: torch.Tensor) -> Tensor:
    return Tensor(dtype_name(tensor.dtype), tuple(tensor.shape))


def dtype_name(dtype: torch.dtype) -> str:
    """An element type as ONNX Runtime names it, which is how kernels are stored.

    Example:
        >>> dtype_name(torch.float32), dtype_name(torch.bfloat16)
        ('float', 'bfloat16')
    """
    name = str(dtype).removeprefix("torch.")
    return _DTYPE_NAMES.get(name, name)
