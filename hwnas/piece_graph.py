"""The runtime's graph of a model of pieces, cut into theirs; and what lies between two blocks."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import onnx

from hwnas.errors import ConfigError
from hwnas.piece_values import Join, Use, shared_work
from profilers.kernels import Kernel, Tensor, macs
from profilers.measurement import KernelNode
from profilers.targets import Target

PLAIN, BLOCKED, TOKENS = "plain", "blocked", "tokens"
# How a block ends that hands over the blocked layout: with a convolution without an activation,
# with one that adds another tensor, or with anything else, to which nothing is fused.
CONV, SUM, CLOSED = "conv", "sum", "closed"
_BLOCKED_DOMAIN = "com.microsoft.nchwc:"
_REORDER_INPUT = "com.microsoft.nchwc:ReorderInput"
_REORDERS = (_REORDER_INPUT, "com.microsoft.nchwc:ReorderOutput", "Reorder")  # that: OpenVINO's
_ACTIVATION = ("activation", "activation_params")
# Runtimes that show the kernels of every block.
_COSTED = ("onnxruntime-cpu", "openvino-cpu", "torch-cpu", "torch-cuda")
# Operators of ONNX that runtimes do not fuse into what stands before them.
_HEAVY = frozenset(
    ("Conv", "ConvTranspose", "Gemm", "MaxPool", "AveragePool", "GlobalAveragePool",
     "GlobalMaxPool")
)  # fmt: skip
_CONVOLUTIONS = ("Conv", "ConvTranspose")
# The same, if something else reads the tensor as well.
_JOINING = frozenset(("Add", "Sum", "Mul", "Concat"))
_FOLDED = frozenset(("Add", "BatchNormalization", "Div", "Mul", "Sub"))
_TAIL_DEPTH = 2  # kernels that a runtime may fuse into one with what follows


@dataclass(frozen=True)
class Border:
    """How a block hands its output to the next.

    Attributes:
        layout: Of the tensor in memory: `PLAIN`, or `BLOCKED` by 8 or 16 channels, as ONNX Runtime
            keeps images between convolutions; `TOKENS` are integers, the network's input.
        tail: The block's last kernels as far as a runtime may fuse them with what follows; equal
            text means the same ones. None: nothing that could be.
    """

    layout: str
    tail: str | None = None


def with_conv(kind: str, kernel: Kernel) -> str:
    """The tail that ends with that convolution, `kind` being `CONV` or `SUM`."""
    return f"{kind}:{kernel.key}"


def conv_of(tail: str) -> tuple[str, Kernel | None]:
    """The kind of a tail in the blocked layout, and its convolution if that is open."""
    kind, _, key = tail.partition(":")
    return kind, Kernel.from_key(key) if key else None


def activated(tail: Kernel, bare: Kernel, changed: Kernel) -> Kernel:
    """What becomes of the convolution `tail`, if the next block makes `changed` of `bare`."""
    added = [pair for pair in changed.attributes if pair not in bare.attributes]
    inputs = list(tail.inputs)
    if any(_is_bias(t) for t in changed.inputs) and not any(_is_bias(t) for t in inputs):
        inputs.insert(2, Tensor("float", (tail.outputs[0].shape[1],)))
    attributes = tuple(sorted((*tail.attributes, *added)))
    return replace(tail, attributes=attributes, inputs=tuple(inputs))


def cancelled(
    kernels: Iterable[Kernel], replaced: Iterable[Kernel]
) -> tuple[tuple[Kernel, ...], tuple[Kernel, ...]]:
    """Both without what is in both, each as often as it is in the other."""
    left = Counter(replaced)
    kept = []
    for kernel in kernels:
        if left[kernel]:
            left[kernel] -= 1
        else:
            kept.append(kernel)
    return tuple(kept), tuple(left.elements())


def open_heads(graph: onnx.GraphProto, inputs: Mapping[str, bool]) -> dict[str, set[str]]:
    """The operators that blocks begin with and runtimes may fuse into what stands before them.

    Args:
        graph: A model of blocks side by side, before a runtime has optimized it.
        inputs: By name of the input at which a block stands, whether a convolution is in between.

    Returns:
        By input.
    """
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            readers[name].append(node)

    def first(name: str) -> list[onnx.NodeProto]:
        found: list[onnx.NodeProto] = []
        for node in readers[name]:
            found += first(node.output[0]) if node.op_type == "Identity" else [node]
        return found

    found = {}
    for x, has_stand_in in inputs.items():
        nodes = first(x)
        if has_stand_in and nodes:
            nodes = first(nodes[0].output[0])
        kinds = [node.op_type for node in nodes]
        joins = _JOINING if len(kinds) > 1 else frozenset[str]()
        found[x] = {kind for kind in kinds if kind not in _HEAVY and kind not in joins}
    return found


def fold_norms(graph: onnx.GraphProto) -> None:
    """Make one of each convolution and the batch norm behind it, as exporting a network does.

    Every runtime does that itself, but names the result and lists its operators in other ways. The
    numbers are made up: no kernel depends on them.
    """
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    copied = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity"}
    convs = {node.output[0]: node for node in graph.node if node.op_type in _CONVOLUTIONS}
    nodes = []
    for node in graph.node:
        conv = convs.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if conv is not None and readers[node.input[0]] == 1:
            bias = node.input[2]
            conv.input[:] = [*conv.input[:2], copied.get(bias, bias)]
            conv.output[0] = node.output[0]
        else:
            nodes.append(node)
    read = {name for node in nodes for name in node.input}
    read.update(output.name for output in graph.output)
    nodes = [node for node in nodes if not read.isdisjoint(node.output)]
    weights = [weight for weight in graph.initializer if weight.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)


def is_absorbed(heads: Set[str]) -> bool:
    """Whether a convolution may take up such an operator without looking different."""
    return not _FOLDED.isdisjoint(heads)


def split(
    nodes: Sequence[KernelNode], row_of: Mapping[str, int], target: Target
) -> dict[int, list[KernelNode]]:
    """The kernels of each row, in running order.

    Args:
        nodes: Of all rows, in running order.
        row_of: The row that each input of the model belongs to.
        target: Whose runtime has made them.

    Raises:
        ConfigError: Some belong to several rows.
    """
    owner = dict(row_of)
    owned: dict[int, list[KernelNode]] = {row: [] for row in row_of.values()}
    is_apart = True
    for node in nodes:  # in running order
        owners = {owner[tensor] for tensor in node.reads if tensor in owner}
        is_apart = is_apart and len(owners) <= 1
        for row in owners:
            owner.update(dict.fromkeys(node.writes, row))
            owned[row].append(node)
    if not is_apart or len(owner) == len(row_of):  # or nothing reads the pieces' inputs
        raise ConfigError(
            f"target {target.runtime} shows whole models only, or kernels across blocks, so a "
            f"space cannot be costed on it: use {', '.join(_COSTED[:-1])} or {_COSTED[-1]}"
        )
    return owned


@dataclass(frozen=True)
class Cut:
    """One row of a model of pieces, without what stands for the neighbours.

    Attributes:
        nodes: In running order.
        given: The tensors that they are given, by name.
        kernels: Of the nodes, without what `uses` tells; before them the convolution before, if
            they changed it.
        replaced: That convolution as it is without them.
        border: Over which the last block hands on its output; None: as it was handed to the first.
        parts: Of several tensors that are handed on: the index of the given tensor that one is, or
            how a new one is handed on.
        uses: What is done to each given tensor, if there are several, or several are handed on.
        joins: What joins given tensors, in that case.
    """

    nodes: tuple[KernelNode, ...]
    given: Mapping[str, Tensor]
    kernels: tuple[Kernel, ...]
    replaced: tuple[Kernel, ...]
    border: Border | None
    parts: tuple[int | Border, ...]
    uses: tuple[Use, ...]
    joins: tuple[Join, ...]


def cut(
    own: Sequence[KernelNode],
    stand_ins: Mapping[str, str | None],
    neighbours: Mapping[str, bool],
) -> Cut:
    """Cut one row of blocks out of its surroundings.

    Args:
        own: All kernels of the row, in running order.
        stand_ins: By name of an input: how what stands there for the block before ends, `CONV`,
            `SUM` or `CLOSED`; None: nothing does.
        neighbours: By name of an output, whether a convolution stands there for the block behind.
    """
    before = {x: _stand_in(own, x) if kind else [] for x, kind in stand_ins.items()}
    outside = [node for nodes in before.values() for node in nodes]
    layout_of = {x: PLAIN for x, nodes in before.items() if not nodes}  # of what is given
    layout_of |= {y: BLOCKED for nodes in before.values() if nodes for y in nodes[-1].writes}
    writer = {name: node for node in own for name in node.writes}
    after = {y: _last(writer, y) if is_there else None for y, is_there in neighbours.items()}
    outside += [node for node in after.values() if node is not None]
    inside, nodes = set(layout_of), []
    for node in own:
        if node not in outside and inside.intersection(node.reads):
            inside.update(node.writes)
            nodes.append(node)
    handed_on = []
    for y, neighbour in after.items():
        name = y if neighbour is None else neighbour.reads[0]
        source = writer.get(name)
        if source is not None and source.kernel.kind in _REORDERS and source not in outside:
            is_read = any(set(source.writes).intersection(node.reads) for node in nodes)
            if source in nodes and not is_read:
                nodes.remove(source)  # the neighbour asked for it, and it is counted there
            name = source.reads[0]
        handed_on.append(name)
    uses: tuple[Use, ...] = ()
    joins: tuple[Join, ...] = ()
    shared: set[str] = set()
    if len(stand_ins) > 1 or len(handed_on) > 1:
        starts = [nodes_before[-1].writes[0] if nodes_before else x
                  for x, nodes_before in before.items()]  # fmt: skip
        uses, joins, shared = shared_work(nodes, starts, handed_on)
    kernels, replaced = [node.kernel for node in nodes if node.name not in shared], []
    (first, kind), *others = stand_ins.items()
    if kind in (CONV, SUM) and not others and before[first]:
        changed = before[first][-1].kernel
        if changed != (bare := _bare(changed)):
            kernels.insert(0, changed)
            replaced.append(bare)
    blocked = _blocked(own)
    border: Border | None
    parts: tuple[int | Border, ...] = ()
    if len(handed_on) > 1:
        parts = tuple(
            starts.index(name) if name in starts
            else Border(BLOCKED, _blocked_tail(nodes, writer[name])) if name in blocked
            else Border(PLAIN)
            for name in handed_on
        )  # fmt: skip
        border = Border(" ".join(BLOCKED if name in blocked else PLAIN for name in handed_on))
    elif handed_on[0] in layout_of:
        border = Border(BLOCKED, CLOSED) if replaced else None
    elif handed_on[0] in blocked:
        border = Border(BLOCKED, _blocked_tail(nodes, writer[handed_on[0]]))
    else:
        border = Border(PLAIN, _tail(nodes, handed_on[0]))
    given = _tensors(nodes, set(layout_of))
    return Cut(tuple(nodes), given, tuple(kernels), tuple(replaced), border, parts, uses, joins)


def _stand_in(own: Sequence[KernelNode], x: str) -> list[KernelNode]:
    """The kernels of the convolutions that stand for the block before: nothing else reads `x`."""
    names, found = {x}, []
    for node in own:
        if names.intersection(node.reads):
            found.append(node)
            if node.kernel.kind in _REORDERS:
                names.update(node.writes)
    return found


def _last(writer: Mapping[str, KernelNode], y: str) -> KernelNode | None:
    """The kernel that writes `y`, maybe in another layout."""
    node = writer.get(y)
    while node is not None and node.kernel.kind in _REORDERS:
        node = writer.get(node.reads[0])
    return node


def _blocked(own: Iterable[KernelNode]) -> set[str]:
    """The tensors in the blocked layout, or in another than that of the model's inputs."""
    blocked: set[str] = set()
    for node in own:  # in running order
        kind = node.kernel.kind
        layouts = dict(node.kernel.attributes).get("layouts")
        if isinstance(layouts, tuple):  # OpenVINO says it: of the first input, and of the output
            layout = str(layouts[-1])
            is_image = len(node.kernel.outputs[0].shape) == 4
            if is_image and layout != "".join(sorted(layout)):  # such as acdb, or aBcd16b
                blocked.update(node.writes)
            continue
        # What stands in no domain of its own (adding, joining channels) keeps its layout.
        keeps = kind.startswith(_BLOCKED_DOMAIN) or not blocked.isdisjoint(node.reads)
        if kind == _REORDER_INPUT or (kind not in _REORDERS and keeps):
            blocked.update(node.writes)
    return blocked


def _blocked_tail(nodes: Sequence[KernelNode], last: KernelNode) -> str:
    kernel = last.kernel
    is_read = any(set(last.writes).intersection(node.reads) for node in nodes)
    if is_read or not kernel.kind.endswith("Conv") or kernel.activation is not None:
        return CLOSED
    n_images = sum(len(tensor.shape) == 4 for tensor in kernel.inputs)
    return with_conv(SUM if n_images > 2 else CONV, kernel)  # one is the weights


def _tail(nodes: Sequence[KernelNode], handed_on: str) -> str:
    """What the last kernels are, and what joins them, as a short text."""
    writer = {name: node for node in nodes for name in node.writes}
    n_readers = Counter(name for node in nodes for name in set(node.reads))

    def described(name: str, depth: int) -> Any:
        node = writer.get(name)
        if node is None:
            return None
        is_heavy = macs(node.kernel) > 0 and depth > 0
        row = [node.kernel.kind if is_heavy else node.kernel.key, n_readers[name]]
        if not is_heavy and depth + 1 < _TAIL_DEPTH:
            row += [described(read, depth + 1) for read in node.reads if read in writer]
        return row

    text = json.dumps(described(handed_on, 0))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _bare(kernel: Kernel) -> Kernel:
    """A convolution that was made without bias, as it is where nothing is fused into it."""
    return replace(
        kernel,
        attributes=tuple(pair for pair in kernel.attributes if pair[0] not in _ACTIVATION),
        inputs=tuple(tensor for tensor in kernel.inputs if not _is_bias(tensor)),
    )


def _is_bias(tensor: Tensor) -> bool:
    return len(tensor.shape) == 1


def _tensors(nodes: Sequence[KernelNode], names: Set[str]) -> dict[str, Tensor]:
    """Those of the tensors that some node reads, by name."""
    return {
        name: tensor
        for node in nodes
        for name, tensor in zip(node.reads, node.kernel.inputs, strict=False)
        if name in names
    }
