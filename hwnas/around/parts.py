"""A traced model cut into parts: each takes one tensor and gives one, so they stand in a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from hwnas.around.axes import Axis, Leaf, is_batch, leaves, resolved
from hwnas.around.steps import INPUT, Axes, Model, Ref, Step

__all__ = ["HEAVY", "Part", "cut", "layout_of"]

HEAVY = frozenset(("conv1d", "conv2d", "conv3d", "linear", "addmm", "embedding", "matmul", "bmm",
    "mm", "scaled_dot_product_attention"))  # fmt: skip
_WITH_NEXT = frozenset(("pad", "constant_pad_nd"))  # runtimes make them part of a convolution
MAX_JOINED = 4  # residual parts of one module that stay or go together
_WITH_CONVOLUTION = frozenset(("batch_norm", "instance_norm", "prelu"))


@dataclass
class Part:
    """Steps in a row with one tensor going in and one coming out.

    Attributes:
        name: The module that they are of.
        steps: In running order.
        source: The tensor that goes in.
        result: The tensor that comes out.
        is_residual: What goes in is added to what the steps make of it, and keeps all its axes: the
            network is still one without the part.
        owner: Path of the module that adds.
    """

    name: str
    steps: list[Step]
    source: Ref
    result: Ref
    is_residual: bool = False
    owner: str = ""

    @property
    def is_heavy(self) -> bool:
        """Whether there is a convolution or a product of matrices in it."""
        return any(step.kind in HEAVY for step in self.steps)

    def axes(self, model: Model) -> list[Axis]:
        """Those of all tensors and weights in it."""
        found = {self.source: model.axes[self.source]}
        for step in self.steps:
            outputs = [step.ref, *(Ref(f"{step.ref.name}.{i}") for i in range(len(step.shapes)))]
            for ref in (*step.inputs(), *outputs):
                if ref in model.axes:
                    found[ref] = model.axes[ref]
        return [axis for axes in found.values() for axis in axes]

    def given(self, model: Model) -> list[Leaf]:
        """Leaves whose number the shape of what goes in tells: those alone on an axis."""
        found: dict[Leaf, None] = {}
        for axis in model.axes[self.source][1:]:
            elastic = [leaf for p in resolved(axis) for leaf in p if leaf.is_elastic]
            if len(elastic) == 1:
                found[elastic[0]] = None
        return list(found)

    def decided(self, model: Model) -> list[Leaf]:
        """The other leaves in it."""
        given = self.given(model)
        return [leaf for leaf in leaves(self.axes(model)) if leaf.is_elastic and leaf not in given]


def cut(model: Model) -> list[Part]:
    """The parts, in running order; no step is in two."""
    parts = _joined_by_module(_with_light_steps(_finest(model), model))
    owners = Counter(part.owner for part in parts if part.is_residual)
    names: set[str] = set()
    for part in parts:
        is_whole = part.is_residual and owners[part.owner] == 1
        name = part.owner if is_whole else ""
        part.name = _unique(name or _name(part.steps), names)
    return parts


def _finest(model: Model) -> list[Part]:
    """Cut wherever only one tensor is waited for."""
    last_use: dict[Ref, int] = {model.output: len(model.steps)}
    for i, step in enumerate(model.steps):
        for ref in step.inputs():
            if not ref.is_weight:
                last_use[ref] = max(last_use.get(ref, i), i)
    parts: list[Part] = []
    source, start = INPUT, 0
    alive = {INPUT}
    for i, step in enumerate(model.steps):
        alive |= {step.ref, *(Ref(f"{step.ref.name}.{j}") for j in range(len(step.shapes)))}
        alive = {ref for ref in alive if last_use.get(ref, -1) > i}
        if len(alive) == 1 and _can_be_between(model, *alive):
            (result,) = alive
            part = Part("", model.steps[start : i + 1], source, result)
            part.is_residual = _is_residual(part, model)
            part.owner = next((s.layer for s in reversed(part.steps) if s.kind == "add"), "")
            parts.append(part)
            source, start = result, i + 1
    return parts


def _can_be_between(model: Model, ref: Ref) -> bool:
    axes = model.axes[ref]
    has_batch = [is_batch(axis) for axis in axes]
    return len(axes) > 1 and has_batch[0] and not any(has_batch[1:])


def _is_residual(part: Part, model: Model) -> bool:
    if not part.is_heavy or not _alike(model.axes[part.source], model.axes[part.result]):
        return False
    shortcut = {part.source}
    for step in part.steps:
        inputs = [ref for ref in step.inputs() if not ref.is_weight]
        if step.kind == "add" and len(inputs) == 2 and shortcut.intersection(inputs):
            return True
        if len(inputs) == 1 and shortcut.issuperset(inputs) and step.kind == "alias":
            shortcut.add(step.ref)
    return False


def layout_of(axes: Axes) -> tuple[object, ...]:
    """What lies on the axes but the batch's; equal for tensors that may stand for each other."""
    return tuple(
        tuple(tuple(leaf if leaf.is_elastic else leaf.n for leaf in p if leaf.n > 1) for p in found)
        for found in map(resolved, axes[1:])
    )


def _alike(one: Axes, other: Axes) -> bool:
    return layout_of(one) == layout_of(other)


def _with_light_steps(finest: Sequence[Part], model: Model) -> list[Part]:
    """Activations, normalisations and poolings go with what stands before, or with the next.

    Where something is residual, nothing is put to it that changes the tensor's axes: it could not
    be left out any more.
    """
    parts: list[Part] = []
    waiting: list[Part] = []  # for the next heavy one
    for i, part in enumerate(finest):
        if part.is_heavy:
            parts.append(_run_together([*waiting, part]))
            waiting = []
            continue
        following = next((p for p in finest[i + 1 :] if p.is_heavy), None)
        if parts and not waiting and _belongs_before(part, parts[-1], following, model):
            parts[-1] = _run_together([parts[-1], part])
        else:
            waiting.append(part)
    if waiting:
        parts = [*parts[:-1], _run_together([*parts[-1:], *waiting])]
    return parts


def _belongs_before(part: Part, before: Part, following: Part | None, model: Model) -> bool:
    if following is None:
        return True
    if any(step.kind in _WITH_NEXT for step in part.steps):
        return False
    if not _alike(model.axes[part.source], model.axes[part.result]):
        return not before.is_residual
    has_weights = any(ref.is_weight for step in part.steps for ref in step.inputs())
    is_fused = all(step.kind in _WITH_CONVOLUTION or not _weights(step) for step in part.steps)
    return not has_weights or is_fused or following.is_residual


def _weights(step: Step) -> list[Ref]:
    return [ref for ref in step.inputs() if ref.is_weight]


def _run_together(parts: Sequence[Part]) -> Part:
    """One part of several that follow each other, residual if one is and the others light."""
    heavy = [part for part in parts if part.is_heavy]
    is_residual = len(parts) == 1 and parts[0].is_residual
    if len(parts) > 1 and len(heavy) == 1 and heavy[0] is parts[0]:
        is_residual = heavy[0].is_residual
    if len(heavy) > 1:
        is_residual = all(part.is_residual for part in parts)
    steps = [step for part in parts for step in part.steps]
    owner = heavy[0].owner if heavy else ""
    return Part("", steps, parts[0].source, parts[-1].result, is_residual, owner)


def _joined_by_module(parts: Sequence[Part]) -> list[Part]:
    """Residual parts of one module, attention and MLP of a layer, are one part.

    A module that adds in a loop, over blocks or over pairs of attention and MLP, has one of each
    round.
    """
    found: list[Part] = []
    for key, group in groupby(parts, lambda part: part.owner if part.is_residual else ""):
        members = list(group)
        n = _period([tuple(s.kind for s in p.steps if s.kind in HEAVY) for p in members])
        if not key or n > MAX_JOINED:
            n = 1
        first = len(members) % n  # the first round may have begun with what is not residual
        found += [_joined(members[:first])] if first else []
        found += (_joined(members[i : i + n]) for i in range(first, len(members), n))
    return found


def _period(row: Sequence[object]) -> int:
    """After how many the row begins anew; its length, if it does not twice.

    Example:
        >>> _period("babab"), _period("abca"), _period("aaa")
        (2, 4, 1)
    """
    halves = range(1, len(row) // 2 + 1)
    return next((n for n in halves if row[n:] == row[:-n]), len(row))


def _joined(parts: Sequence[Part]) -> Part:
    return parts[0] if len(parts) == 1 else _run_together(parts)


def _name(steps: Sequence[Step]) -> str:
    """The innermost module that all layers with weights are in, or the first of them."""
    paths = [step.layer.split(".") for step in steps if step.kind in HEAVY and step.layer]
    if not paths:
        return next((step.layer for step in steps if step.layer), "part")
    common = 0
    while all(len(path) > common and path[common] == paths[0][common] for path in paths):
        common += 1
    return ".".join(paths[0][:common] or paths[0])


def _unique(name: str, names: set[str]) -> str:
    found, n = name, 1
    while found in names:
        n += 1
        found = f"{name}_{n}"
    names.add(found)
    return found
