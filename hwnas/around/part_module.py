"""The module of a part: its steps, on slices of the model's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hwnas.around.axes import Leaf, indices, leaves, resolved
from hwnas.around.parts import Part
from hwnas.around.steps import Batch, Model, Ref, Sized, Step, mapped
from hwnas.around.tracing import operator_of

__all__ = ["CONVOLUTIONS", "PartModule", "Slices", "layer_path"]

CONVOLUTIONS: dict[str, Any] = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d}
_BATCH_NORMS: dict[int, Any] = {
    2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d,
}  # fmt: skip
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh,
    "hardswish": nn.Hardswish, "hardsigmoid": nn.Hardsigmoid, "elu": nn.ELU,
}  # fmt: skip
# By the rank of the input, where it counts.
_DROPOUTS: dict[tuple[str, int | None], Any] = {
    ("dropout", None): nn.Dropout,
    ("alpha_dropout", None): nn.AlphaDropout,
    ("feature_dropout", 3): nn.Dropout1d,
    ("feature_dropout", 4): nn.Dropout2d,
    ("feature_dropout", 5): nn.Dropout3d,
}
# Arguments that are weights, by position: what modules call them.
_ROLES = {
    "batch_norm": {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"},
    "embedding": {0: "weight"},
} | {kind: {1: "weight", 2: "bias"} for kind in (*CONVOLUTIONS, "linear")}
_ROLES |= {kind: {2: "weight", 3: "bias"} for kind in ("layer_norm", "group_norm")}
_CALLS = "calls"  # holds the modules without weights


@dataclass(frozen=True)
class Slices:
    """The weights of a model with fewer channels.

    Attributes:
        model: As traced.
        orders: Positions of each leaf, the most important one first.
        kept: How many of each leaf stay; of those not in it, all.
        kernel_sizes: By path of the convolution.
        is_sorted: Slices keep the order of importance, not that of the model.
    """

    model: Model
    orders: Mapping[Leaf, Tensor]
    kept: Mapping[Leaf, int]
    kernel_sizes: Mapping[str, int]
    is_sorted: bool

    def take(self, name: str) -> Tensor:
        """A copy of what stays of a weight."""
        found = self.model.weights[name].detach()
        for i, axis in enumerate(self.model.axes.get(Ref(name, is_weight=True), ())):
            if any(self.is_sorted or self._n(leaf) < leaf.n for leaf in leaves([axis])):
                found = found.index_select(i, indices(axis, self._positions))
        path, _, own = name.rpartition(".")
        if path in self.kernel_sizes and own == "weight":
            size = self.kernel_sizes[path]
            for i in range(2, found.ndim):
                found = found.narrow(i, (found.shape[i] - size) // 2, size)
        return found.clone(memory_format=torch.contiguous_format)

    def put(self, module: nn.Module, role: str, name: str) -> None:
        """Make what stays of a weight the one of `module` that it calls `role`."""
        value, whole = self.take(name), self.model.weights[name]
        if self.model.is_parameter(name):
            module.register_parameter(role, nn.Parameter(value, whole.requires_grad))
        else:
            module.register_buffer(role, value)

    def packed(self, name: str) -> dict[int, tuple[int, ...]]:
        """Axes that hold groups one after another, as `packed_axes` of a layer states them."""
        found = {}
        for i, axis in enumerate(self.model.axes.get(Ref(name, is_weight=True), ())):
            products = resolved(axis)
            sizes = [[self._n(leaf) for leaf in p if leaf.n > 1] for p in products]
            if len(products) > 1 and all(p == products[0] for p in products):
                found[i] = (len(products), *sizes[0][:-1])
            elif len(products) == 1 and any(leaf in self.orders for leaf in products[0]):
                found[i] = tuple(sizes[0][:-1])
        return {i: sizes for i, sizes in found.items() if sizes}

    def _n(self, leaf: Leaf) -> int:
        return self.kept.get(leaf, leaf.n)

    def _positions(self, leaf: Leaf) -> Tensor:
        if leaf not in self.orders:
            return torch.arange(leaf.n)
        most_important = self.orders[leaf][: self._n(leaf)]
        return most_important if self.is_sorted else most_important.sort().values


class _Call(NamedTuple):
    """What is run on what: a module by its path, or an operator.

    `place` is empty for an operator.
    """

    ref: Ref
    place: str
    op: str
    args: list[Any]
    kwargs: dict[str, Any]
    is_tuple: bool


class PartModule(nn.Module):
    """Runs the steps of a part on slices of the model's weights.

    Layers with weights have the names that they have in the model. `keeps_weights` tells `Network`
    that nothing is to be drawn anew.
    """

    keeps_weights = True

    def __init__(self, part: Part, slices: Slices) -> None:
        super().__init__()
        self._source, self._result = part.source, part.result
        self._calls = [self._made(step, slices) for step in part.steps]

    def forward(self, x: Tensor) -> Tensor:
        """A batch of what the part takes to one of what it gives."""
        values: dict[Ref, Any] = {self._source: x}

        def value(item: Any) -> Any:
            if isinstance(item, Ref):
                return self._weight(item.name) if item.is_weight else values[item]
            return x.shape[0] if isinstance(item, Batch) else item

        for call in self._calls:
            run = self.get_submodule(call.place) if call.place else operator_of(call.op)
            found = run(*mapped(call.args, value), **mapped(call.kwargs, value))
            if call.is_tuple:
                values |= {Ref(f"{call.ref.name}.{i}"): one for i, one in enumerate(found)}
            else:
                values[call.ref] = found
        result: Tensor = values[self._result]
        return result

    def _weight(self, name: str) -> Tensor:
        path, _, own = name.rpartition(".")
        found: Tensor = getattr(self.get_submodule(path), own)
        return found

    def _made(self, step: Step, slices: Slices) -> _Call:
        """Put the layer or the weights of a step in their places."""

        def sized(item: Any) -> Any:
            return item(slices.kept) if isinstance(item, Sized) else item

        args, kwargs = mapped([list(step.args), step.kwargs], sized)
        place = layer_path(step)
        if step.kind in CONVOLUTIONS and place in slices.kernel_sizes:
            args = _cropped(args, slices, place)
        weights = [ref for ref in step.inputs() if ref.is_weight]
        if place:
            self._put_layer(place, step, args, weights, slices)
            return _Call(step.ref, place, "", [args[step.kind == "embedding"]], {}, False)
        plain = None if weights else _plain(step)
        if plain is not None:
            self._container(_CALLS).add_module(step.ref.name, plain)
            return _Call(step.ref, f"{_CALLS}.{step.ref.name}", "", args[:1], {}, False)
        for ref in weights:
            self._put_weight(ref.name, slices)
        return _Call(step.ref, "", step.op, args, kwargs, step.is_tuple)

    def _container(self, path: str) -> nn.Module:
        found: nn.Module = self
        for name in path.split(".") if path else ():
            if name not in found._modules:
                found.add_module(name, nn.Module())
            found = found.get_submodule(name)
        return found

    def _put_weight(self, name: str, slices: Slices) -> None:
        path, _, own = name.rpartition(".")
        container = self._container(path)
        if own in container._parameters or own in container._buffers:
            return
        slices.put(container, own, name)

    def _put_layer(
        self, place: str, step: Step, args: list[Any], weights: list[Ref], slices: Slices
    ) -> None:
        path, _, own = place.rpartition(".")
        container = self._container(path)
        if own in container._modules and container.get_submodule(own)._parameters:
            return  # it is run again
        names = {ref.name.rpartition(".")[2]: ref.name for ref in weights}
        layer = _layer(step, args, slices.take(weights[0].name).shape, set(names))
        for role, name in names.items():
            slices.put(layer, role, name)
        if "num_batches_tracked" in layer._buffers:
            layer.register_buffer("num_batches_tracked", torch.tensor(0))
        packed = {ref.name.rpartition(".")[2]: slices.packed(ref.name) for ref in weights}
        layer.packed_axes = {name: axes for name, axes in packed.items() if axes}  # type: ignore[assignment]
        container.add_module(own, layer)


def layer_path(step: Step) -> str:
    """Path of the layer that a step is; empty: it is none of a kind that torch has modules for."""
    roles = _ROLES.get(step.kind, {})
    given = {
        i: arg.name.rpartition(".")
        for i, arg in enumerate(step.args)
        if isinstance(arg, Ref) and arg.is_weight
    }
    paths = {path for path, _, _ in given.values()}
    names = {i: own for i, (_, _, own) in given.items()}
    if len(paths) != 1 or any(roles.get(i) != own for i, own in names.items()):
        return ""
    return paths.pop() if "weight" in names.values() or step.kind == "batch_norm" else ""


def _cropped(args: list[Any], slices: Slices, place: str) -> list[Any]:
    """Less padding, so that a smaller kernel stands where the larger one stood."""
    kernel = slices.model.weights[f"{place}.weight"].shape[2:]
    n = len(kernel)
    padding, dilation = _numbers(args, 4, n, 0), _numbers(args, 5, n, 1)
    if isinstance(padding, str):
        return args
    less = [
        d * (k - slices.kernel_sizes[place]) // 2 for d, k in zip(dilation, kernel, strict=True)
    ]
    return [*args[:4], [p - x for p, x in zip(padding, less, strict=True)], *args[5:]]


def _numbers(args: list[Any], i: int, n: int, default: int) -> Any:
    """An argument that is a number for each dimension of an image, or a word."""
    found = args[i] if i < len(args) else default
    if isinstance(found, str):
        return found
    found = [found] if isinstance(found, int) else list(found)
    return found * n if len(found) == 1 else found


def _plain(step: Step) -> nn.Module | None:
    """The module of an activation, or of dropout, which is off in the steps."""
    if step.kind in _ACTIVATIONS and len(step.args) == 1 and not step.kwargs:
        return _ACTIVATIONS[step.kind]()
    if step.kind == "gelu" and len(step.args) == 1:
        return nn.GELU(step.kwargs.get("approximate", "none"))
    if step.kind == "leaky_relu":
        return nn.LeakyReLU(*step.args[1:])
    if step.kind == "hardtanh" and list(step.args[1:]) == [0.0, 6.0]:
        return nn.ReLU6()
    dropout = _DROPOUTS.get((step.kind, len(step.shapes[0]))) or _DROPOUTS.get((step.kind, None))
    return None if dropout is None else dropout(step.args[1])


def _layer(step: Step, args: list[Any], shape: torch.Size, roles: set[str]) -> nn.Module:
    """The layer of a step, its weights, the main one of that shape, yet to be put in."""
    kind, has_bias = step.kind, "bias" in roles
    with torch.device("meta"):
        if kind in CONVOLUTIONS:
            n = len(shape) - 2
            groups = args[6] if len(args) > 6 else 1
            stride, padding, dilation = (
                _tuple(_numbers(args, i, n, default)) for i, default in ((3, 1), (4, 0), (5, 1))
            )
            layer: nn.Module = CONVOLUTIONS[kind](
                shape[1] * groups, shape[0], tuple(shape[2:]), stride, padding, dilation, groups,
                has_bias,
            )  # fmt: skip
        elif kind == "linear":
            layer = nn.Linear(shape[1], shape[0], bias=has_bias)
        elif kind == "batch_norm":
            norm = _BATCH_NORMS[len(step.shapes[0])]
            # A momentum of None, a plain average over all batches, is traced as 0 in eval mode.
            layer = norm(
                shape[0], args[7], args[6] or None, affine="weight" in roles,
                track_running_stats="running_mean" in roles,
            )  # fmt: skip
        elif kind == "embedding":
            layer = nn.Embedding(shape[0], shape[1], padding_idx=_padding_index(args))
        elif kind == "group_norm":
            layer = nn.GroupNorm(args[1], shape[0], *args[4:5])
        else:
            layer = nn.LayerNorm(args[1], args[4] if len(args) > 4 else 1e-5, bias=has_bias)
    return layer


def _tuple(value: Any) -> Any:
    return value if isinstance(value, str) else tuple(value)


def _padding_index(args: list[Any]) -> int | None:
    found = args[2] if len(args) > 2 else -1
    return found if found >= 0 else None
