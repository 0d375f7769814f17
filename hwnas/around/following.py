"""All of a model followed: which axes must stay alike, and which must stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from hwnas.around.axes import Leaf, batch_axis, fixed, hold, leaves
from hwnas.around.part_module import layer_path
from hwnas.around.rules import follow
from hwnas.around.steps import INPUT, Model, Ref, Step
from hwnas.around.tracing import TRACED_BATCH
from hwnas.errors import unknown_name
from hwnas.spaces.base import SpaceError

__all__ = ["follow_all", "is_excluded"]


def is_excluded(path: str, exclude: Sequence[str]) -> bool:
    """Whether the layer, or a module that it is in, is named."""
    return any(fnmatchcase(one, pattern) for one in _inside(path) for pattern in exclude)


def _inside(path: str) -> list[str]:
    """The layer, and the modules that it is in."""
    names = path.split(".")
    return [".".join(names[:i]) for i in range(1, len(names) + 1)]


def _check_patterns(model: Model, exclude: Sequence[str]) -> None:
    paths = [step.layer for step in model.steps if step.layer] + list(model.weights)
    known = {one for path in paths for one in _inside(path)}
    for pattern in exclude:
        if not any(fnmatchcase(one, pattern) for one in known):
            layers = {step.layer for step in model.steps if step.layer}
            raise SpaceError(unknown_name("layer in exclude", pattern, layers))


def follow_all(model: Model, exclude: Sequence[str]) -> None:
    """Find the axes of everything, and hold what must stay.

    Raises:
        SpaceError: What could be fewer goes into operators that cannot be followed, or there is no
            layer of an excluded name.
    """
    _check_patterns(model, exclude)
    model.axes[INPUT] = (batch_axis(TRACED_BATCH), *(fixed(n) for n in model.input_shape))
    unknown: list[tuple[Step, list[Leaf]]] = []
    for step in model.steps:
        axes = follow(model, step)
        if is_excluded(step.layer, exclude):
            for axis in axes:
                hold(axis)
            _hold_outputs(model, step)
        elif axes:
            unknown.append((step, leaves(axes)))
        for ref in () if layer_path(step) else step.inputs():
            if ref.is_weight and is_excluded(ref.name, exclude):
                for axis in model.axes.get(ref, ()):
                    hold(axis)
    for axis in model.axes[model.output]:
        hold(axis)
    for axes_of in model.axes.values():
        leaves(axes_of)  # some are held only when they are looked at
    lost = {step.ref: _still_elastic(found) for step, found in unknown}
    told = [f"{s.kind} in {s.layer or 'the forward'!r}" for s, _ in unknown if lost[s.ref]]
    if told:
        makers = {leaf.name.rpartition(".")[0]: None for found in lost.values() for leaf in found}
        raise SpaceError(
            f"widths cannot be followed through {', '.join(dict.fromkeys(told))}: what goes in has "
            f"to stay as wide as it is. Say so by exclude={list(makers)!r}"
        )


def _still_elastic(found: Sequence[Leaf]) -> list[Leaf]:
    now = leaves([((leaf,),) for leaf in found])
    return [leaf for leaf in now if leaf.is_elastic]


def _hold_outputs(model: Model, step: Step) -> None:
    """Let a layer be as wide as it is: what it makes, not what it is given."""
    given = {leaf for ref in step.inputs() if not ref.is_weight
             for leaf in leaves(model.axes.get(ref, ()))}  # fmt: skip
    for ref in (step.ref, *(Ref(f"{step.ref.name}.{i}") for i in range(len(step.shapes)))):
        for leaf in leaves(model.axes.get(ref, ())):
            if leaf not in given:
                leaf.is_held = True
