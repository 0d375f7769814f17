"""A part of a network as a network of its own: some of its kernels, among those that feed them.

Kernels of a network can be timed without the network. What decides their time beside themselves is
what they find: their inputs were just written by the kernels before, and their weights have been
pushed out of the caches by the rest of the network, or not. So the kernels that feed them come
along, and a product that reads as many bytes as all weights that were left out.

The part is cut out of the graph that the runtime itself has made, where it shows one; else out of
the model, where kernels begin and end. So the same kernels run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from profilers.errors import ModelError
from profilers.kernels import Kernel, macs
from profilers.measurement import KernelNode
from profilers.onnx_models import OnnxModel, make_model
from profilers.runtimes.base import ShownGraph

# What is left out is read in one product with a row of so many values. More than the largest caches
# hold says nothing new, and less than this is in the nearest cache anyway.
BALLAST_ROW = 1024
MIN_BALLAST_BYTES, MAX_BALLAST_BYTES = 2**16, 2**26
_BALLAST = "hwnas_ballast"

Values = Mapping[str, NDArray[np.generic]]


def excerpt_digest(digest: str, kernels: Iterable[Kernel]) -> str:
    """Tells excerpts apart: by the digest of the model, and by the kernels that were asked for."""
    keys = sorted(kernel.key for kernel in kernels)
    return hashlib.sha256("\n".join([digest, *keys]).encode()).hexdigest()


def excerpt_nodes(
    nodes: Sequence[KernelNode], kernels: Collection[Kernel], *, context: bool = False
) -> list[KernelNode]:
    """The first and the last node of each of `kernels`, and what feeds those, in running order.

    With `context`, also what makes a runtime choose the same kernels when it optimizes the part
    anew: what reads from them, and from where the layout of their inputs comes. That is the next
    kernel before them that multiplies; pooling and sums take what layout they are given.
    """
    positions: dict[Kernel, list[int]] = {}
    writers: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        if node.kernel in kernels:
            positions.setdefault(node.kernel, []).append(i)
        for name in filter(None, node.writes):
            writers.setdefault(name, []).append(i)
    wanted = {i for found in positions.values() for i in (found[0], found[-1])}
    chosen = set(wanted)
    ahead = list(wanted)
    while ahead:
        feeding = {i for name in nodes[ahead.pop()].reads for i in writers.get(name, ())}
        if context:
            ahead += [i for i in feeding - chosen if macs(nodes[i].kernel) == 0]
        chosen |= feeding
    if context:
        written = {name for i in wanted for name in nodes[i].writes if name}
        chosen |= {i for i, node in enumerate(nodes) if not written.isdisjoint(node.reads)}
    return [node for i, node in enumerate(nodes) if i in chosen]


def make_excerpt(
    model: OnnxModel,
    shown: ShownGraph,
    nodes: Sequence[KernelNode],
    kernels: Collection[Kernel],
    feed: Values,
) -> OnnxModel:
    """Cut kernels out of a model. It is run once, for the shapes and values between its parts.

    Args:
        model: The whole one.
        shown: What the runtime makes of it.
        nodes: What runs of that, in running order.
        kernels: What is wanted of that.
        feed: The model's inputs.

    Raises:
        ModelError: It has none of them, or cannot be cut.
    """
    computes = shown.computes or [node.writes for node in nodes]
    is_model = shown.computes is not None  # and no graph that was optimized already
    chosen = {node.name for node in excerpt_nodes(nodes, kernels, context=is_model)}
    written = {
        name
        for node, names in zip(nodes, computes, strict=True)
        if node.name in chosen
        for name in names
        if name
    }
    graph = shown.proto.graph
    part = [node for node in graph.node if not written.isdisjoint(node.output)]
    if not part:
        raise ModelError(f"{model.name} has none of the {len(kernels)} kernels asked for")
    made = {name for node in part for name in node.output if name}
    reads = {name for node in part for name in _reads(node)}
    weights = [tensor for tensor in graph.initializer if tensor.name in reads]
    missing = sorted(reads - made - {tensor.name for tensor in weights})
    inputs = []
    varying = _varying(graph, feed)
    for name, value in _values(shown.proto, missing, feed, model.name).items():
        if name in feed or (name in varying and _is_activation(value)):
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            inputs.append(helper.make_tensor_value_info(name, kind, value.shape))
        else:  # constants, sizes, positions and masks decide what is computed, and stay inside
            weights.append(numpy_helper.from_array(value, name))
    inside = {id(node) for node in part}
    used = {n for node in graph.node if id(node) not in inside for n in _reads(node)}
    used |= {value.name for value in graph.output}
    # What is read outside too is given out, so that nothing is fused into it that was not before.
    # The optimizer of a model would give up what it had fused there: that is read inside only.
    ends = sorted(made - reads if is_model else made & used | made - reads)
    left_out = sum(map(_n_bytes, graph.initializer)) - sum(map(_n_bytes, weights))
    if left_out >= MIN_BALLAST_BYTES:
        n_columns = math.ceil(min(left_out, MAX_BALLAST_BYTES) / (4 * BALLAST_ROW))
        matrix = np.full((BALLAST_ROW, n_columns), 0.01, np.float32)
        row, name = f"{_BALLAST}_row", f"{_BALLAST}_matrix"
        inputs.append(helper.make_tensor_value_info(row, TensorProto.FLOAT, [1, BALLAST_ROW]))
        weights.append(numpy_helper.from_array(matrix, name))
        part.append(helper.make_node("MatMul", [row, name], [_BALLAST], _BALLAST))
        ends.append(_BALLAST)
    proto = onnx.ModelProto(ir_version=shown.proto.ir_version)
    proto.opset_import.extend(shown.proto.opset_import)
    proto.functions.extend(shown.proto.functions)
    outputs = [onnx.ValueInfoProto(name=name) for name in ends]
    proto.graph.CopyFrom(helper.make_graph(part, "excerpt", inputs, outputs, weights))
    return make_model(
        proto, name=f"{model.name}-excerpt", digest=excerpt_digest(model.digest, kernels)
    )


def _values(proto: onnx.ModelProto, names: Sequence[str], feed: Values, model: str) -> Values:
    """The tensors of these names in one run of a model, on the CPU."""
    inner = [name for name in names if name not in feed]
    if not inner:
        return {name: feed[name] for name in names}
    open_proto = onnx.ModelProto()
    open_proto.CopyFrom(proto)
    given = [
        value for value in open_proto.graph.input if value.name in feed
    ]  # weights may be among them
    del open_proto.graph.input[:], open_proto.graph.output[:]
    open_proto.graph.input.extend(given)
    # Files of old versions hold some that no node reads, as inputs: without those they are refused.
    read = {name for node in open_proto.graph.node for name in _reads(node)}
    for tensor in [t for t in open_proto.graph.initializer if t.name not in read]:
        open_proto.graph.initializer.remove(tensor)
    open_proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # what matters is raised
    try:
        session = ort.InferenceSession(
            open_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        wanted = {value.name for value in session.get_inputs()}
        found = session.run(inner, {name: v for name, v in feed.items() if name in wanted})
    except Exception as error:  # the runtime's exceptions share no other base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ModelError(f"{model} cannot be cut into parts: {reason}") from None
    return {name: feed[name] for name in names if name in feed} | dict(
        zip(inner, found, strict=True)
    )


def _varying(graph: onnx.GraphProto, feed: Values) -> set[str]:
    """The tensors that depend on the model's inputs."""
    found = set(feed)
    for node in graph.node:  # in an order in which they can be run
        if not found.isdisjoint(_reads(node)):
            found.update(node.output)
    return found


def _is_activation(value: NDArray[np.generic]) -> bool:
    """Whether they are values to compute with: floats, and bytes where it is quantized."""
    return value.dtype.kind == "f" or value.dtype in (np.int8, np.uint8)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names of what a node reads, the bodies of loops and branches included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            own = {value.name for value in body.input} | {t.name for t in body.initializer}
            own |= {name for inner in body.node for name in inner.output}
            for inner in body.node:
                yield from (name for name in _reads(inner) if name not in own)
            yield from (value.name for value in body.output if value.name not in own)


def _n_bytes(tensor: onnx.TensorProto) -> int:
    size: int = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return size * int(np.prod(tensor.dims))
