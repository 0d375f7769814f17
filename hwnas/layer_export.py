"""ONNX of many blocks beside each other, put together from layers that were exported once each.

torch's exporter takes some ten milliseconds a block, and a space has thousands of blocks, but only
some hundred layers: functions of torch with their arguments and shapes. So a block is run on
`Symbol`s, which note what is called on them, and each new layer alone goes through the exporter. A
block that does something with its input that symbols do not know goes through it whole.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from hwnas.export import OPSET, to_onnx
from hwnas.networks import counting
from hwnas.spaces.base import InputType, Shape
from profilers.onnx_models import MAX_IR_VERSION

_ONNX_TYPE = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


_METHODS = frozenset(
    ("chunk", "contiguous", "flatten", "mean", "permute", "reshape", "split", "squeeze",
     "transpose", "unflatten", "unsqueeze", "view")
)  # fmt: skip


class _UnknownCallError(AttributeError):
    """A symbol cannot do that; `getattr` with a default goes on."""


@dataclass(frozen=True)
class _Layer:
    """One layer as exported alone.

    Attributes:
        graph: Its inputs and outputs are its tensors, in order.
        outputs: Shape, with the batch, and type of each.
        is_tuple: Whether it gives a tuple, be it of one.
        macs: Of the whole batch.
        opset: Of its operators.
    """

    graph: onnx.GraphProto
    outputs: tuple[tuple[Shape, torch.dtype], ...]
    is_tuple: bool
    macs: int
    opset: int


class Symbol:
    """A tensor of which only shape and type are known, and what was called to make it."""

    def __init__(
        self, sheet: Sheet, name: str, shape: Shape, dtype: torch.dtype = torch.float32
    ) -> None:
        self.sheet, self.name, self.shape, self.dtype = sheet, name, shape, dtype

    def __getattr__(self, name: str) -> Any:
        if name not in _METHODS:
            raise _UnknownCallError(name)
        return lambda *args, **kwargs: self._call(getattr(Tensor, name), *args, **kwargs)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """What torch calls in place of a function of its own."""
        first = next(v for v in _flat([args, kwargs or {}]) if isinstance(v, Symbol))
        return first.sheet.call(function, args, kwargs or {})

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.sheet.call(function, (self, *args), kwargs)

    def __add__(self, other: Any) -> Any:
        return self._call(operator.add, other)

    def __mul__(self, other: Any) -> Any:
        return self._call(operator.mul, other)

    def __getitem__(self, index: Any) -> Any:
        return self._call(operator.getitem, index)

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        """As tensors have it."""
        return len(self.shape)


class _Call(nn.Module):
    """A function with all of its arguments, but those that are symbols."""

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.args, self.kwargs = function, args, kwargs
        weights = [v for v in _flat([args, kwargs]) if isinstance(v, Tensor)]
        self.n_weights = len(weights)
        for i, weight in enumerate(weights):
            self.register_buffer(f"w{i}", weight.detach())

    def forward(self, *inputs: Tensor) -> Any:
        waiting = iter(inputs), iter(self.get_buffer(f"w{i}") for i in range(self.n_weights))
        args = _filled(self.args, *waiting)
        return self.function(*args, **{k: _filled(v, *waiting) for k, v in self.kwargs.items()})


# By function, arguments and shapes; shared by all sheets of a process.
_LAYERS: dict[str, _Layer] = {}


class Sheet:
    """A model in the making.

    Args:
        batch: Examples in one run.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._calls: list[tuple[_Layer, list[str], list[str]]] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: dict[str, Symbol] = {}

    def input(self, name: str, shape: Shape, input_type: InputType = "float32") -> Symbol:
        """A new input of the model, of `shape` without the batch."""
        shape = (self._batch, *shape)
        self._inputs.append(helper.make_tensor_value_info(name, _ONNX_TYPE[input_type], shape))
        return Symbol(self, name, shape, getattr(torch, input_type))

    def output(self, name: str, symbol: Symbol) -> None:
        """Make `symbol` an output of the model."""
        self._outputs[name] = symbol

    def run(self, module: nn.Module, inputs: Sequence[Symbol]) -> tuple[Any, int | None]:
        """What `module` makes of `inputs`, a list of them if there are several.

        Returns:
            A symbol, or several; and multiply-accumulates of one example, None: not known.
        """
        n_before = len(self._calls)
        for layer in module.modules():
            if isinstance(layer, nn.RNNBase):
                layer.forward = partial(self._sequence, layer)
        try:
            y = module(list(inputs) if len(inputs) > 1 else inputs[0])
        except Exception:  # whatever it does, torch's exporter may be able to follow it
            del self._calls[n_before:]
            for layer in module.modules():
                layer.__dict__.pop("forward", None)
            found = self._add(_exported(_Whole(module, len(inputs) > 1), inputs), inputs)
            return found[0] if len(found) == 1 else found, None
        return y, sum(layer.macs for layer, _, _ in self._calls[n_before:]) // self._batch

    def _sequence(self, layer: nn.RNNBase, x: Symbol) -> tuple[Symbol, None]:
        """What a recurrent layer makes of a sequence; its last state is not to be had."""
        key = repr(("recurrent", layer, x.shape))
        if key not in _LAYERS:
            layer.__dict__.pop("forward", None)
            _LAYERS[key] = _exported(_Outputs(layer), [x])
        return self._add(_LAYERS[key], [x])[0], None

    def call(self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """Note that `function` was called, and give what it returns."""
        if kwargs.get("inplace") or getattr(function, "__name__", "").endswith("_"):
            raise _UnknownCallError("what a tensor is before and after has one name here")
        symbols = [value for value in _flat([args, kwargs]) if isinstance(value, Symbol)]
        key = repr((_name(function), _described(args), _described(kwargs)))
        if key not in _LAYERS:
            _LAYERS[key] = _exported(_Call(function, args, kwargs), symbols)
        layer = _LAYERS[key]
        found = self._add(layer, symbols)
        return tuple(found) if layer.is_tuple else found[0]

    def _add(self, layer: _Layer, inputs: Sequence[Symbol]) -> list[Symbol]:
        names = [f"t{len(self._calls)}_{i}" for i in range(len(layer.outputs))]
        self._calls.append((layer, [symbol.name for symbol in inputs], names))
        pairs = zip(names, layer.outputs, strict=True)
        return [Symbol(self, name, shape, dtype) for name, (shape, dtype) in pairs]

    def model(self) -> onnx.ModelProto:
        """All that was called, as ONNX."""
        renamed: dict[str, str] = {}
        graph = onnx.GraphProto(name="pieces")
        graph.input.extend(self._inputs)
        given = {value.name for value in self._inputs}
        copies = []
        for y, symbol in self._outputs.items():
            value = helper.make_tensor_value_info(y, TensorProto.FLOAT, symbol.shape)
            graph.output.append(value)
            if symbol.name in given or symbol.name in renamed:
                copies.append(helper.make_node("Identity", [symbol.name], [y], name=f"copy_{y}"))
            else:
                renamed[symbol.name] = y
        for i, (layer, inputs, outputs) in enumerate(self._needed()):
            names = {"": ""}
            pairs = zip([v.name for v in layer.graph.input], inputs, strict=True)
            names |= {name: renamed.get(x, x) for name, x in pairs}
            pairs = zip([v.name for v in layer.graph.output], outputs, strict=True)
            names |= {name: renamed.get(y, y) for name, y in pairs}
            _append(graph, layer.graph, names, f"l{i}_")
        for copy in copies:
            copy.input[0] = renamed.get(copy.input[0], copy.input[0])
            graph.node.append(copy)
        opset = max((layer.opset for layer, _, _ in self._calls), default=OPSET)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        proto.ir_version = MAX_IR_VERSION
        return proto

    def _needed(self) -> list[tuple[_Layer, list[str], list[str]]]:
        """The calls that outputs depend on."""
        needed = {symbol.name for symbol in self._outputs.values()}
        calls = []
        for layer, inputs, outputs in reversed(self._calls):
            if needed.intersection(outputs):
                needed.update(inputs)
                calls.append((layer, inputs, outputs))
        return calls[::-1]


class _Outputs(nn.Module):
    """A recurrent layer without its last state."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)[0]


class _Whole(nn.Module):
    """A module that takes a list, or one tensor, and may give several."""

    def __init__(self, module: nn.Module, takes_list: bool) -> None:
        super().__init__()
        self.module, self.takes_list = module, takes_list

    def forward(self, *inputs: Tensor) -> Any:
        y = self.module(list(inputs) if self.takes_list else inputs[0])
        return tuple(y) if isinstance(y, list) else getattr(y, "parts", y)


def _exported(module: nn.Module, inputs: Sequence[Symbol]) -> _Layer:
    module.eval()
    examples = [torch.zeros(symbol.shape, dtype=symbol.dtype) for symbol in inputs]
    with counting(module) as n_macs:
        y = module(*examples)
    parts = list(y) if isinstance(y, tuple | list) else [y]
    if not all(isinstance(part, Tensor) for part in parts):
        raise _UnknownCallError("it gives no tensor")
    proto = to_onnx(
        module,
        examples,
        input_names=[f"i{i}" for i in range(len(examples))],
        output_names=[f"o{i}" for i in range(len(parts))],
    )
    outputs = tuple((tuple(part.shape), part.dtype) for part in parts)
    opset = next(item.version for item in proto.opset_import if not item.domain)
    return _Layer(proto.graph, outputs, isinstance(y, tuple | list), n_macs(), opset)


def _append(
    graph: onnx.GraphProto, layer: onnx.GraphProto, names: dict[str, str], prefix: str
) -> None:
    """Add the nodes and weights of `layer`, its own names prefixed, the others as in `names`."""
    for weight in layer.initializer:
        added = graph.initializer.add()
        added.CopyFrom(weight)
        added.name = prefix + weight.name
    for node in layer.node:
        new = graph.node.add()
        new.CopyFrom(node)
        new.name = prefix + node.name
        new.input[:] = [names.get(name, prefix + name) for name in node.input]
        new.output[:] = [names.get(name, prefix + name) for name in node.output]


def _name(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__name__', function)!s}"


def _flat(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [item for part in value for item in _flat(part)]
    if isinstance(value, dict):
        return _flat(list(value.values()))
    return [value]


def _described(value: Any) -> Any:
    """Arguments as far as they decide what is exported."""
    if isinstance(value, tuple | list):
        return [_described(part) for part in value]
    if isinstance(value, dict):
        return {name: _described(part) for name, part in value.items()}
    if isinstance(value, Symbol):
        return "symbol", value.shape, str(value.dtype)
    return ("tensor", str(value.dtype), tuple(value.shape)) if isinstance(value, Tensor) else value


def _filled(value: Any, inputs: Iterator[Tensor], weights: Iterator[Tensor]) -> Any:
    """Arguments with `inputs` in place of the symbols, and `weights` in place of tensors."""
    if isinstance(value, tuple | list):
        return type(value)(_filled(part, inputs, weights) for part in value)
    if isinstance(value, Symbol):
        return next(inputs)
    return next(weights) if isinstance(value, Tensor) else value
