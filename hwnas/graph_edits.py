"""Edits of a network's graph that may make it faster; each yields a whole model that runs.

An edit is a function of a model and a `Costs`; it returns what it changed and the edited model, or
None where it does not apply. Weights are kept as far as they fit: a model whose `needs_training` is
True has the right shapes and kernels, and has to be trained again.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from hwnas.channel_edits import PAIRS, SAME, channel_groups, is_image, with_channels
from hwnas.graph_patterns import (
    both_ways,
    dear_activation,
    erf_gelus,
    hidden_layer,
    residual_branch,
)
from hwnas.onnx_graph import Graph, attribute
from profilers.onnx_models import OnnxModel

NARROW = 0.75  # of the channels or hidden units that stay
MIN_WIDTH = 32  # narrower ones are left alone
MIN_SEPARABLE = 16  # channels in and out
MAX_DROPPED = 0.25  # of the channels, where they are rounded down
MIN_SIZE = 16  # of an image that may be made smaller
_BLOCKED = "_nchwc"  # ends the name that ONNX Runtime gives to kernels of its blocked layout


@dataclass(frozen=True)
class Edit:
    """A changed model.

    Attributes:
        kind: What sort of change it is, one word.
        what: The change, in words.
        model: The whole model, with the change.
        needs_training: Whether it computes something else than before.
    """

    kind: str
    what: str
    model: OnnxModel
    needs_training: bool = True


@dataclass(frozen=True)
class Costs:
    """What the edits choose by.

    Attributes:
        ms: Predicted time of the kernel that writes a tensor; fused operators have one.
        channel_block: Channels that the runtime computes together.
    """

    ms: Mapping[str, float]
    channel_block: int

    def of(self, graph: Graph, nodes: Iterable[onnx.NodeProto]) -> float:
        """Of the kernels that come from some nodes."""
        total = 0.0
        for node in nodes:
            name = node.output[0]
            for _ in range(4):  # a kernel goes by the name of the last operator fused into it
                if name in self.ms:
                    total += self.ms[name]
                    break
                readers = graph.readers[name]
                if len(readers) != 1 or readers[0].op_type not in SAME | PAIRS | {
                    "BatchNormalization"
                }:
                    break
                name = readers[0].output[0]
        return total


def costs_by_tensor(kernels: Iterable[tuple[str, Sequence[str], float]]) -> dict[str, float]:
    """Milliseconds by the tensor that a kernel writes, of `(name, what it writes, ms)`."""
    found: dict[str, float] = {}
    for name, writes, ms in kernels:
        for tensor in dict.fromkeys((name.removesuffix(_BLOCKED), *writes)):
            found[tensor] = max(ms, found.get(tensor, 0.0))
    return found


def aligned_channels(model: OnnxModel, costs: Costs) -> Edit | None:
    """More channels, of zeros, where their number does not fill the runtime's blocks."""
    return _rounded(model, costs.channel_block, is_up=True)


def fewer_channels(model: OnnxModel, costs: Costs) -> Edit | None:
    """Fewer channels where their number does not fill the runtime's blocks."""
    return _rounded(model, costs.channel_block, is_up=False)


def narrower_layer(model: OnnxModel, costs: Costs) -> Edit | None:
    """Three quarters of the channels where they cost most."""
    graph = Graph(model)
    groups = channel_groups(graph)
    ms = [
        costs.of(graph, [graph.writers[name] for name in {*g.makers, *g.users, *g.depthwise}])
        if g.size >= MIN_WIDTH
        else 0.0
        for g in groups
    ]
    if not any(ms):
        return None
    best = int(np.argmax(ms))
    size = _fewer(groups[best].size, costs.channel_block)
    n = len(groups[best].makers)
    with_channels(graph, {best: size})
    layers = "the dearest layer" if n == 1 else f"the {n} dearest layers that share their width"
    what = f"give {layers} {size} channels instead of {groups[best].size}"
    return _edit("narrower", what, graph, model)


def cheaper_activations(model: OnnxModel, costs: Costs) -> Edit | None:
    """Relu where there is an activation that costs more."""
    graph = Graph(model)
    replaced: Counter[str] = Counter()
    gelus = erf_gelus(graph)
    for output in [node.output[0] for node in graph.nodes]:
        node = graph.writers.get(output)
        found = None if node is None else dear_activation(graph, node, gelus)
        if found is not None and node is not None:
            name, source = found
            relu = helper.make_node("Relu", [source], [output], name=f"{node.name}_relu")
            graph.replace(node, [relu])
            replaced[name] += 1
    if not replaced:
        return None
    names = " and ".join(f"{n} {name}" for name, n in replaced.most_common())
    return _edit("activations", f"replace {names} by Relu", graph, model)


def without_squeeze_excite(model: OnnxModel, costs: Costs) -> Edit | None:
    """No scaling of channels by what a small network says of their means."""
    graph = Graph(model)
    n = 0
    for output in [node.output[0] for node in graph.nodes if node.op_type == "Mul"]:
        node = graph.writers[output]
        for source, scale in both_ways(node):
            shape, ones = graph.shapes.get(source), graph.shapes.get(scale, ())
            if not is_image(shape) or scale in graph.weights or output in graph.outputs:
                continue
            if shape is None or ones[1:] != (shape[1], 1, 1) or shape[2:] == (1, 1):
                continue
            if graph.between(source, scale):
                graph.read_instead(output, source)
                n += 1
                break
    if not n:
        return None
    what = f"leave out the {n} squeeze-and-excite blocks" if n > 1 else (
        "leave out the squeeze-and-excite block"
    )  # fmt: skip
    return _edit("squeeze-excite", what, graph, model)


def separable_convolution(model: OnnxModel, costs: Costs) -> Edit | None:
    """A depthwise and a 1×1 convolution instead of the dearest larger ones."""
    graph = Graph(model)
    alike: dict[tuple[tuple[int, ...], object], list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.nodes:
        shape = graph.shapes.get(node.input[1], ()) if node.op_type == "Conv" else ()
        if node.op_type != "Conv" or node.input[1] not in graph.weights or len(shape) != 4:
            continue
        is_large = math.prod(shape[2:]) > 1 and min(shape[:2]) >= MIN_SEPARABLE
        if is_large and attribute(node, "group", 1) == 1:
            alike[shape, graph.shapes.get(node.input[0])].append(node)
    if not alike:
        return None
    (weight_shape, _), nodes = max(alike.items(), key=lambda item: costs.of(graph, item[1]))
    for node in list(nodes):
        graph.replace(graph.writers[node.output[0]], _separated(graph, node))
    out, into, height, width = weight_shape
    n = f"the {len(nodes)} convolutions" if len(nodes) > 1 else "the convolution"
    what = (
        f"make {n} {height}×{width} of {into} to {out} channels "
        f"depthwise {height}×{width} and then 1×1"
    )
    return _edit("separable", what, graph, model)


def smaller_input(model: OnnxModel, costs: Costs) -> Edit | None:
    """A smaller image, where the network takes images of any size."""
    graph = Graph(model)
    images = [spec for spec in model.inputs if len(spec.shape) == 4 and spec.shape[1] <= 4]
    if len(images) != 1 or min(images[0].shape[2:]) < MIN_SIZE:
        return None
    size = images[0].shape[2:]
    step = 32 if min(size) >= 128 else 4
    smaller = [max(step, math.floor(0.88 * side / step) * step) for side in size]
    for value in graph.proto.graph.input:
        if value.name == images[0].name:
            for dim, side in zip(value.type.tensor_type.shape.dim[2:], smaller, strict=True):
                dim.dim_value = side
    what = f"take images of {'×'.join(map(str, smaller))} instead of {'×'.join(map(str, size))}"
    return _edit("input", what, graph, model)


def without_block(model: OnnxModel, costs: Costs) -> Edit | None:
    """One block less, of several that neither change the shape: the dearest."""
    graph = Graph(model)
    alike: dict[object, list[tuple[float, str, str]]] = defaultdict(list)
    for node in graph.nodes:
        if node.op_type in ("Add", "Sum") and node.output[0] not in graph.outputs:
            for skip, end in both_ways(node):
                inside = residual_branch(graph, node, skip, end)
                if inside:
                    shape = graph.shapes.get(skip)
                    alike[shape].append((costs.of(graph, inside), node.output[0], skip))
                    break
    name = "residual block"
    if not any(len(found) > 1 for found in alike.values()):
        alike, name = _repeated_convolutions(graph, costs), "convolution"
    repeated = {shape: found for shape, found in alike.items() if len(found) > 1}
    if not repeated:
        return None
    found = max(repeated.values(), key=max)
    _, output, skip = max(found)
    graph.read_instead(output, skip)
    at = "×".join(map(str, graph.shapes.get(skip, ())))
    return _edit("depth", f"leave out one of the {len(found)} {name}s at {at}", graph, model)


def narrower_hidden(model: OnnxModel, costs: Costs) -> Edit | None:
    """Three quarters of the hidden units between the dearest two products with weights."""
    graph = Graph(model)
    best: tuple[float, onnx.NodeProto, list[tuple[str, int]]] | None = None
    for node in graph.nodes:
        found = hidden_layer(graph, node, min_width=MIN_WIDTH)
        if found is not None:
            nodes, weights = found
            ms = costs.of(graph, nodes)
            if best is None or ms > best[0]:
                best = ms, node, weights
    if best is None:
        return None
    weights = best[2]
    before = graph.shapes[weights[0][0]][weights[0][1]]
    size = _fewer(before, costs.channel_block)
    for name, axis in weights:
        graph.set_array(name, graph.array(name).take(np.arange(size), axis))
    what = f"give the dearest hidden layer {size} units instead of {before}"
    return _edit("hidden", what, graph, model)


EDITS: tuple[Callable[[OnnxModel, Costs], Edit | None], ...] = (
    aligned_channels,
    fewer_channels,
    narrower_layer,
    cheaper_activations,
    without_squeeze_excite,
    separable_convolution,
    smaller_input,
    without_block,
    narrower_hidden,
)


def _edit(
    kind: str, what: str, graph: Graph, model: OnnxModel, *, needs_training: bool = True
) -> Edit | None:
    edited = graph.finished(f"{model.name}-{kind}")
    return None if edited is None else Edit(kind, what, edited, needs_training)


def _rounded(model: OnnxModel, block: int, *, is_up: bool) -> Edit | None:
    graph = Graph(model)
    sizes = {}
    for i, group in enumerate(channel_groups(graph)):
        rest = group.size % block
        if not rest:
            continue
        if is_up:
            sizes[i] = group.size + block - rest
        elif rest <= MAX_DROPPED * group.size and group.size > block:
            sizes[i] = group.size - rest
    if not sizes:
        return None
    with_channels(graph, sizes)
    layers = "layer" if len(sizes) == 1 else "layers"
    if is_up:
        what = (
            f"fill the channels of {len(sizes)} {layers} up to multiples of {block} with zeros, "
            f"which the runtime computes in its fastest layout"
        )
        return _edit("aligned", what, graph, model, needs_training=False)
    what = f"round the channels of {len(sizes)} {layers} down to multiples of {block}"
    return _edit("rounded", what, graph, model)


def _fewer(size: int, block: int) -> int:
    return max(block, math.floor(NARROW * size / block) * block)


def _separated(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The two convolutions that stand for one; their weights are a start for training."""
    weights = graph.array(node.input[1])
    output = node.output[0]
    names = {part: f"{output}_{part}" for part in ("deep", "deep_weight", "wide_weight")}
    graph.set_array(names["deep_weight"], weights.mean(axis=0)[:, None].astype(weights.dtype))
    pointwise = weights.mean(axis=(2, 3), keepdims=True).astype(weights.dtype)
    graph.set_array(names["wide_weight"], pointwise)
    deep = helper.make_node(
        "Conv", [node.input[0], names["deep_weight"]], [names["deep"]], name=f"{node.name}_deep"
    )
    deep.attribute.extend(a for a in node.attribute if a.name != "group")
    deep.attribute.append(helper.make_attribute("group", weights.shape[1]))
    wide = helper.make_node(
        "Conv",
        [names["deep"], names["wide_weight"], *node.input[2:]],
        [output],
        name=f"{node.name}_wide",
    )
    return [deep, wide]


def _repeated_convolutions(
    graph: Graph, costs: Costs
) -> dict[object, list[tuple[float, str, str]]]:
    """Convolutions that keep the shape, by their weights' shape."""
    alike: dict[object, list[tuple[float, str, str]]] = defaultdict(list)
    for node in graph.nodes:
        shape = graph.shapes.get(node.input[1]) if node.op_type == "Conv" else None
        keeps = graph.shapes.get(node.input[0]) == graph.shapes.get(node.output[0])
        if shape is not None and keeps and node.output[0] not in graph.outputs:
            at = shape, graph.shapes.get(node.output[0])
            alike[at].append((costs.of(graph, [node]), node.output[0], node.input[0]))
    return alike
