"""Patterns in a graph that an edit can change: activations, residual branches, hidden layers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from hwnas.channel_edits import PAIRS, SAME
from hwnas.onnx_graph import Graph, attribute

_DEAR_ACTIVATIONS = frozenset({"HardSwish", "Gelu", "Mish", "Elu", "Selu", "Celu", "Softplus",
                               "Softsign", "Swish"})  # fmt: skip
_GATES = frozenset({"Sigmoid", "HardSigmoid"})


def dear_activation(
    graph: Graph, node: onnx.NodeProto, gelus: Mapping[str, str]
) -> tuple[str, str] | None:
    """Name and input of a dear activation that ends with this node."""
    if node.op_type in _DEAR_ACTIVATIONS:
        return node.op_type, node.input[0]
    if node.output[0] in gelus:
        return "Gelu", gelus[node.output[0]]
    for source, gate in both_ways(node) if node.op_type == "Mul" else ():
        writer = graph.writers.get(gate)
        if writer is not None and writer.op_type in _GATES and writer.input[0] == source:
            return ("SiLU" if writer.op_type == "Sigmoid" else "HardSwish"), source
    return None


def erf_gelus(graph: Graph) -> dict[str, str]:
    """What `x · (1 + erf(x / √2)) / 2` writes, and its x, in whatever order the products are."""
    found = {}
    for node in graph.nodes:
        scaled = graph.writers.get(node.input[0]) if node.op_type == "Erf" else None
        if scaled is None or scaled.op_type not in ("Mul", "Div"):
            continue
        source = next((name for name in scaled.input if name not in graph.weights), "")
        chain, seen = node, 0
        while seen < 3:  # an addition and two products
            reader = _only_reader(graph, chain.output[0])
            if reader is None or reader.op_type not in ("Add", "Mul"):
                break
            if not any(
                _is_of(graph, name, source) for name in reader.input if name != chain.output[0]
            ):
                break
            chain, seen = reader, seen + 1
        if chain.op_type == "Mul":
            found[chain.output[0]] = source
    return found


def _only_reader(graph: Graph, name: str) -> onnx.NodeProto | None:
    readers = graph.readers[name]
    return readers[0] if len(readers) == 1 else None


def _is_of(graph: Graph, name: str, source: str) -> bool:
    """Whether a tensor is a number, `source`, or a number times it."""
    if name == source or graph.scalar(name) is not None:
        return True
    writer = graph.writers.get(name)
    return (
        writer is not None
        and writer.op_type == "Mul"
        and source in writer.input
        and any(graph.scalar(other) is not None for other in writer.input)
    )


def both_ways(node: onnx.NodeProto) -> list[tuple[str, str]]:
    """The two inputs of a node, either first; none where it has not two."""
    if len(node.input) != 2:
        return []
    a, b = node.input
    return [(a, b), (b, a)]


def residual_branch(
    graph: Graph, add: onnx.NodeProto, skip: str, branch: str
) -> list[onnx.NodeProto] | None:
    """What lies between a residual connection and its end; None: it is none."""
    if skip in graph.weights or graph.shapes.get(skip) != graph.shapes.get(add.output[0]):
        return None
    inside = graph.between(skip, branch)
    if not inside or not graph.is_private(inside, but=branch):
        return None
    return inside if [r.output for r in graph.readers[branch]] == [add.output] else None


def hidden_layer(
    graph: Graph, first: onnx.NodeProto, *, min_width: int
) -> tuple[list[onnx.NodeProto], list[tuple[str, int]]] | None:
    """The products around a hidden layer that begins with `first`, and the axes of its units."""
    column = _column(graph, first)
    if column is None or graph.shapes[first.input[1]][column] < min_width:
        return None
    units = graph.shapes[first.input[1]][column]
    nodes, weights = [first], [(first.input[1], column)]
    weights += [(n, len(graph.shapes[n]) - 1) for n in first.input[2:]
                if n in graph.weights and graph.shapes[n][-1:] == (units,)]  # fmt: skip
    queue, n_products = [first.output[0]], 0
    seen, others = set(queue), set()
    while queue:
        name = queue.pop()
        if name in graph.outputs:
            return None
        for node in graph.readers[name]:
            column = _column(graph, node)
            if column is not None and node.input[0] == name:
                nodes.append(node)
                weights.append((node.input[1], 1 - column))
                n_products += 1
                continue
            if node.op_type not in SAME | PAIRS:
                return None
            others |= {other for other in node.input if other != name}
            if node.output[0] not in seen:
                seen.add(node.output[0])
                queue.append(node.output[0])
    for other in others - seen:
        shape = graph.shapes.get(other, ())
        if other not in graph.weights or (math.prod(shape) > 1 and shape != (units,)):
            return None
        weights += [(other, 0)] if shape == (units,) else []
    if n_products != 1 or len({name for name, _ in weights}) != len(weights):
        return None
    return nodes, weights


def _column(graph: Graph, node: onnx.NodeProto) -> int | None:
    """The axis of a product's weights along which its outputs lie; None: it has no such weights."""
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in graph.weights:
        return None
    if len(graph.shapes[node.input[1]]) != 2 or attribute(node, "transA", 0):
        return None
    return 0 if attribute(node, "transB", 0) else 1
