"""What OpenVINO makes of a model: kernels of its runtime graph, and where they are in the ONNX."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx

from profilers.kernels import AttributeValue, Kernel, Tensor
from profilers.measurement import KernelNode

# Nodes without code, or with a copy that is left out where input and output can share memory.
_MAYBE_FREE = ("unknown", "reorder")
_TYPES = {"f32": "float", "f16": "float16", "bf16": "bfloat16", "f64": "double", "i8": "int8",
          "u8": "uint8", "i16": "int16", "u16": "uint16", "i32": "int32", "u32": "uint32",
          "i64": "int64", "u64": "uint64", "boolean": "bool"}  # fmt: skip
# Attributes of operators by the names that they have in ONNX.
_ATTRIBUTES = {"strides": "strides", "dilations": "dilations", "kernel": "kernel_shape",
               "transpose_a": "transA", "transpose_b": "transB", "axis": "axis"}  # fmt: skip
_ACTIVATIONS = {"Relu": "Relu", "Clamp": "Clip", "Sigmoid": "Sigmoid", "Tanh": "Tanh",
                "HSwish": "HardSwish", "HSigmoid": "HardSigmoid", "Swish": "Swish", "Gelu": "Gelu",
                "PRelu": "LeakyRelu", "Elu": "Elu"}  # fmt: skip


def fused_operators(compiled: Any) -> dict[str, tuple[str, ...]]:
    """By node of a compiled model's runtime graph, the names of the operators fused into it."""
    return {
        op.get_friendly_name(): tuple(filter(None, _info(op, "originalLayersNames").split(",")))
        for op in compiled.get_runtime_model().get_ops()
    }


def read_nodes(
    graph: Any, source: Any, free: Iterable[str], fused: Mapping[str, Sequence[str]]
) -> tuple[KernelNode, ...]:
    """The kernels of OpenVINO's runtime graph, in running order.

    What is done once, when the model is loaded (on constants only), and what only looks at memory
    in another way is no kernel: who reads it reads what it is made from.

    Args:
        graph: The runtime graph.
        source: The model that was compiled: it knows the attributes of the operators.
        free: Nodes that took no time at all.
        fused: See `fused_operators`.
    """
    free = set(free)
    operators = {op.get_friendly_name(): op for op in source.get_ops()}
    outputs = {
        output.get_node().get_friendly_name(): output.get_any_name() for output in source.outputs
    }
    ops = sorted(graph.get_ops(), key=lambda op: int(_info(op, "execOrder")))
    written_as: dict[str, str] = {}  # node of which a model's output comes, to the output's name
    for op in ops:
        name = outputs.get(op.get_friendly_name())  # None: the stub of an output that is not used
        if _info(op, "layerType") == "Output" and name is not None:
            written_as[_name(op.input(0).get_source_output())] = name
    constants: set[str] = set()
    origins: dict[str, tuple[str, ...]] = {}  # tensor to the tensors of kernels it is made from
    nodes = []
    for op in ops:
        layer, name = _info(op, "layerType"), op.get_friendly_name()
        sources = [port.get_source_output() for port in op.inputs()]
        reads = tuple(n for s in sources for n in origins.get(_name(s), (_name(s),)))
        writes = [_name(output) for output in op.outputs()]
        if layer == "Output":
            continue
        if layer == "Input":
            origins |= dict.fromkeys(writes, (name,))
            continue
        if layer == "Const" or (sources and constants.issuperset(map(_name, sources))):
            constants.update(writes)
            continue
        is_view = name in free and _info(op, "primitiveType").startswith(_MAYBE_FREE)
        is_output = any(tensor in written_as for tensor in writes)
        if is_view and not is_output:
            of = tuple(n for s in sources if _name(s) not in constants
                       for n in origins.get(_name(s), (_name(s),)))  # fmt: skip
            origins |= dict.fromkeys(writes, of)
            continue
        names = tuple(written_as.get(tensor, tensor) for tensor in writes)
        origins |= {tensor: (name,) for tensor, name in zip(writes, names, strict=True)}
        kernel = Kernel(
            layer,
            _attributes(op, [operators[n] for n in fused.get(name, ()) if n in operators]),
            tuple(_tensor(s) for s in sources),
            tuple(_tensor(output) for output in op.outputs()),
        )
        nodes.append(KernelNode(name, kernel, reads, names))
    return tuple(nodes)


def computed_tensors(
    nodes: Sequence[KernelNode],
    proto: onnx.ModelProto,
    source: Any,
    fused: Mapping[str, Sequence[str]],
) -> tuple[frozenset[str], ...]:
    """Of each kernel, the tensors of the ONNX model that it computes.

    OpenVINO says few names of what it fuses. A kernel computes what its last operator gives, and
    all between that and what other kernels give. What stands for no operator of the model (a copy
    into another layout) computes nothing of it.

    Args:
        nodes: What `read_nodes` gave.
        proto: The ONNX model.
        source: What OpenVINO read from it.
        fused: See `fused_operators`.
    """
    made = {
        name: (i, node) for i, node in enumerate(proto.graph.node) for name in node.output if name
    }
    operators = {op.get_friendly_name(): op for op in source.get_ops()}
    ends = []
    for node in nodes:
        names = [name for name in (node.name, *fused.get(node.name, ())) if name in operators]
        found = {tensor for name in names for tensor in _first_named(operators[name], made)}
        last = max((made[tensor][0] for tensor in found), default=-1)
        ends.append(frozenset(tensor for tensor in found if made[tensor][0] == last))
    all_ends = frozenset().union(*ends)
    return tuple(_between(own, all_ends - own, made) for own in ends)


def _first_named(op: Any, made: Mapping[str, Any]) -> set[str]:
    """Tensors of the ONNX model that an operator gives, or the first ones made from what it gives.

    One operator of ONNX becomes several of OpenVINO's, of which only the last has its tensor.
    """
    found: set[str] = set()
    ahead, seen = [op], {op.get_friendly_name()}
    while ahead:
        op = ahead.pop()
        names = {name for output in op.outputs() for name in output.get_names() if name in made}
        found |= names
        if not names:
            readers = [port.get_node() for out in op.outputs() for port in out.get_target_inputs()]
            ahead += [reader for reader in readers if reader.get_friendly_name() not in seen]
            seen.update(reader.get_friendly_name() for reader in readers)
    return found


def _between(
    ends: frozenset[str], others: frozenset[str], made: Mapping[str, tuple[int, onnx.NodeProto]]
) -> frozenset[str]:
    """`ends`, and what they are made from until where `others` are."""
    found: set[str] = set()
    ahead = set(ends)
    while ahead:
        tensor = ahead.pop()
        found.add(tensor)
        ahead.update(n for n in made[tensor][1].input if n in made and n not in others | found)
    return frozenset(found)


def _attributes(op: Any, fused: Sequence[Any]) -> tuple[tuple[str, AttributeValue], ...]:
    """How it is computed, in which layouts, and what the operators fused into it say."""
    layouts = [
        _info(port.get_source_output().get_node(), "outputLayouts") for port in op.inputs()[:1]
    ]
    found: dict[str, AttributeValue] = {
        "implementation": _info(op, "primitiveType"),
        "layouts": (*layouts, _info(op, "outputLayouts")),
        "operators": tuple(operator.get_type_name() for operator in fused),
    }
    for operator in fused:
        known = operator.get_attributes()
        values = {onnx: known[name] for name, onnx in _ATTRIBUTES.items() if name in known}
        if "pads_begin" in known:
            values["pads"] = (*known["pads_begin"], *known["pads_end"])
        for name, value in values.items():
            found.setdefault(name, tuple(value) if isinstance(value, list) else value)
        activation = _ACTIVATIONS.get(operator.get_type_name())
        if activation is not None and operator is not fused[0]:
            found.setdefault("activation", activation)
        if operator.get_type_name() == "MatMul":
            shape = operator.input(0).get_partial_shape()
            inner = shape[-2] if known["transpose_a"] else shape[-1]
            if inner.is_static:
                found.setdefault("inner", inner.get_length())
    weight = op.inputs()[1:2]
    if _info(op, "layerType") == "Convolution" and weight:
        shape = _tensor(weight[0].get_source_output()).shape
        n_spatial = len(_tensor(op.output(0)).shape) - 2
        found["kernel_shape"] = shape[-n_spatial:]
        # Weights of a grouped convolution have one more dimension, in front.
        found["group"] = shape[0] if len(shape) > n_spatial + 2 else 1
    return tuple(sorted(found.items()))


def _info(op: Any, name: str) -> str:
    """What the runtime graph says about a node."""
    return str(op.get_rt_info()[name].astype(str))


def _name(output: Any) -> str:
    """Of a tensor: its node's name, with a number where the node has several outputs."""
    node = output.get_node()
    name = str(node.get_friendly_name())
    return name if node.get_output_size() == 1 else f"{name}:{output.get_index()}"


def _tensor(output: Any) -> Tensor:
    kind = output.get_element_type().get_type_name()
    return Tensor(_TYPES.get(kind, kind), tuple(output.get_shape()))
