"""Which block of a network each of its kernels belongs to, by the names that the model has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from profilers.kernels import Kernel
from profilers.measurement import KernelNode
from profilers.onnx_models import OnnxModel

MIN_BLOCKS, MAX_BLOCKS = 4, 40
REST = "the rest"
_QUOTED = re.compile(r"'([^']*)'")
_SCOPES = "pkg.torch.onnx.name_scopes"  # a property of nodes that PyTorch's exporter writes
_BLOCKED = "_nchwc"  # ends the name that ONNX Runtime gives to kernels of its blocked layout


def blocks_of(model: OnnxModel, nodes: Sequence[KernelNode]) -> tuple[str, ...]:
    """The block of each kernel, in running order.

    A block is a module of the network: of `/layer1/layer1.0/conv1/Conv` it is `layer1`, or
    `layer1.0` if there would be fewer than `MIN_BLOCKS` else. What the runtime adds (reorders) goes
    with what runs before it. A model without such names is told apart by the size of its images.
    """
    modules = _modules(model)
    paths: list[tuple[str, ...]] = []
    for node in nodes:
        names = (*node.writes, node.name.removesuffix(_BLOCKED), node.name)
        found = next((modules[name] for name in names if name in modules), ())
        paths.append(found or (paths[-1] if paths else ()))
    depth = _depth(paths)
    if depth is None:
        return _by_size([node.kernel for node in nodes])
    return tuple(_label(path[:depth]) for path in paths)


def _modules(model: OnnxModel) -> dict[str, tuple[str, ...]]:
    """The module of every node, as names from the outermost one; by node and by what it writes."""
    found: dict[str, tuple[str, ...]] = {}
    for node in model.proto.graph.node:
        path = _scopes({p.key: p.value for p in node.metadata_props}.get(_SCOPES, ""))
        if not path and node.name.startswith("/"):
            path = tuple(node.name.strip("/").split("/")[:-1])
        if path:
            found |= dict.fromkeys((node.name, *filter(None, node.output)), path)
    return found


def _scopes(text: str) -> tuple[str, ...]:
    """The modules that PyTorch's exporter notes: `['', 'layer1', 'layer1.0', 'conv2d']`."""
    if not (text.startswith("[") and text.endswith("]")):
        return ()
    return tuple(name for name in _QUOTED.findall(text)[:-1] if name)  # a stranger's: not evaluated


def _depth(paths: Sequence[tuple[str, ...]]) -> int | None:
    """How much of each path is a block: the least that tells enough of them apart; None: none."""
    deepest = max((len(path) for path in paths), default=0)
    for depth in range(1, deepest + 1):
        n_blocks = len({path[:depth] for path in paths})
        if n_blocks > MAX_BLOCKS:
            return depth - 1 or None
        if n_blocks >= MIN_BLOCKS:
            return depth
    return deepest if len(set(paths)) > 1 else None


def _label(path: tuple[str, ...]) -> str:
    """The path without what its next name repeats: `layer1/layer1.0` is `layer1.0`."""
    kept = [
        name
        for name, inner in zip(path, (*path[1:], "")[: len(path)], strict=True)
        if not inner.startswith(f"{name}.")
    ]
    return "/".join(kept) or REST


def _by_size(kernels: Sequence[Kernel]) -> tuple[str, ...]:
    """The size of the image that each kernel writes; of others, of the kernel before it."""
    sizes: list[str] = []
    for kernel in kernels:
        shape = kernel.outputs[0].shape if kernel.outputs else ()
        is_image = len(shape) == 4 and shape[2] * shape[3] > 1
        text = f"at {shape[2]}×{shape[3]}" if is_image else (sizes[-1] if sizes else REST)
        sizes.append(text)
    return tuple(sizes if len(Counter(sizes)) <= MAX_BLOCKS else [REST] * len(sizes))
