"""A search space around a model: which of it there can be less of, as choices and slots.

The model is traced (`tracing.py`); operators say which axes must stay alike (`rules.py`, with
`axes.py`); it is cut where one tensor passes (`parts.py`). Each part is a slot: its block
(`block.py`) says how many channels stay and how large kernels are, and is built from slices of the
model's weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.around.axes import Leaf, leaves
from hwnas.around.block import MODELS, ModelPart, Parent
from hwnas.around.choices import plan
from hwnas.around.following import follow_all
from hwnas.around.importance import IMPORTANCES, gradients_of, orders
from hwnas.around.parts import Part, cut
from hwnas.around.steps import Model, Sized, mapped
from hwnas.around.tracing import Logits, in_eval_mode, trace
from hwnas.errors import unknown_name
from hwnas.networks import without_fast_paths
from hwnas.spaces.base import Genotype, SearchSpace, Shape, SpaceError

__all__ = ["space_around"]

WIDTHS = (0.25, 0.5, 0.75, 1.0)
ROUNDING = 1e-4  # of outputs, where sums are taken in another order


def space_around(
    model: nn.Module,
    example: Tensor,
    *,
    widths: Sequence[float] = WIDTHS,
    kernel_sizes: bool = True,
    depths: bool = True,
    exclude: Sequence[str] = (),
    importance: str = "l2",
    batches: Sequence[tuple[Tensor, Tensor]] = (),
    is_sorted: bool = False,
    name: str = "around",
) -> SearchSpace:
    """Thinner and shallower variants of `model`, which begin with its weights.

    Channels, attention heads and groups can be fewer, the most important ones stay; kernels of 5
    and more can be smaller, down to 3, their centre stays; of residual parts that follow each other
    the last ones can be left out, up to half, rounded up. The genotype of all last options is the
    model itself: the outputs are the same to the last bit, in eval mode without PyTorch's fused
    attention. The model is not changed.

    Args:
        model: Takes one tensor `(n, ...)`, gives one `(n, ...)`, or something with `logits`.
        example: A batch that it takes, float32 or int64 token ids.
        widths: Shares of channels that may stay, of 8 or a multiple where there are 16 and more.
        kernel_sizes: Whether kernels can be smaller.
        depths: Whether residual parts can be left out.
        exclude: Paths of layers, with `*` and `?`, that stay as wide as they are, with all within
            them; what they read may still be narrower.
        importance: `l1` or `l2`: of all weights that go with a channel; `batch_norm`: the size of
            the scale behind it, where there is one; `taylor`: by how much the loss would change,
            to first order.
        batches: Inputs and labels for `taylor`.
        is_sorted: Slices lie in order of importance, so that leading parts, which supernets share,
            are the most important ones; outputs of the model itself then differ by rounding.
        name: Of the space.

    Raises:
        SpaceError: The model cannot be traced; an operator cannot be followed (the message names
            the layers to exclude); or nothing is left that could be smaller.
        ValueError: An argument is out of range.
    """
    _check(widths, importance, batches)
    traced = trace(model, example)
    follow_all(traced, exclude)
    parts = cut(traced)
    parent = _parent(traced, parts, importance, gradients_of(model, batches), is_sorted)
    digest = _digest(parent, importance, batches)
    MODELS[digest] = parent
    choices, slots = plan(
        parent,
        digest,
        widths=widths,
        exclude=exclude,
        kernel_sizes=kernel_sizes,
        depths=depths,
    )
    space = SearchSpace(
        name=name,
        choices=tuple(choices),
        input_shape=partial(_input_shape, traced.input_shape),
        slots=tuple(slots),
        input_type=traced.input_type,
    )
    if not space.choices:
        raise SpaceError(
            f"nothing of {type(model).__name__} can be smaller: no layer between its input and its "
            f"output has a width of its own. Exclude less, or ask for more `widths`"
        )
    # Kernels for other layouts in memory take sums in another order.
    is_exact = not is_sorted and all(t.is_contiguous() for t in (*model.parameters(), example))
    _verify(space, model, example, is_exact=is_exact)
    return space


def _check(
    widths: Sequence[float], importance: str, batches: Sequence[tuple[Tensor, Tensor]]
) -> None:
    if not widths or not all(0 < share <= 1 for share in widths):
        raise ValueError(f"widths must be shares above 0 and at most 1, got {tuple(widths)}")
    if importance not in IMPORTANCES:
        raise ValueError(unknown_name("importance", importance, IMPORTANCES))
    if importance == "taylor" and not batches:
        raise ValueError("importance 'taylor' needs batches of inputs and labels")


def _input_shape(shape: Shape, options: Mapping[str, Any]) -> Shape:
    return shape


def _parent(
    model: Model,
    parts: Sequence[Part],
    importance: str,
    gradients: Mapping[str, Tensor],
    is_sorted: bool,
) -> Parent:
    found: dict[str, Leaf] = {}
    elastic = [leaf for part in parts for leaf in leaves(part.axes(model)) if leaf.is_elastic]
    for leaf in dict.fromkeys(elastic):
        name, n = leaf.name, 1
        while name in found:
            n += 1
            name = f"{leaf.name}_{n}"
        found[name] = leaf
    ranked = orders(model, list(found.values()), importance, gradients)
    return Parent(model, {part.name: part for part in parts}, found, ranked, is_sorted)


def _digest(parent: Parent, importance: str, batches: Sequence[tuple[Tensor, Tensor]]) -> str:
    """Tells models apart by their steps, their weights, and how it is said which matter most.

    Not by the order itself: with `taylor` that hangs on how gradients round on a machine.
    """
    found = hashlib.sha256()
    for part in parent.parts.values():
        steps = [[step.op, *mapped([step.args, step.kwargs], _told)] for step in part.steps]
        found.update(json.dumps([part.name, steps]).encode())
    for name, value in parent.model.weights.items():
        found.update(json.dumps([name, list(value.shape)]).encode())
        found.update(_bytes(value))
    for batch in batches if importance == "taylor" else ():
        for value in batch:
            found.update(_bytes(value))
    leaves = [[name, leaf.n] for name, leaf in parent.leaves.items()]
    found.update(json.dumps([leaves, importance, parent.is_sorted]).encode())
    return found.hexdigest()[:16]


def _bytes(value: Tensor) -> memoryview:
    return value.detach().contiguous().view(-1).view(torch.uint8).numpy().data


def _told(argument: Any) -> str:
    return type(argument).__name__ if isinstance(argument, Sized) else repr(argument)


def _verify(space: SearchSpace, model: nn.Module, example: Tensor, *, is_exact: bool) -> None:
    """Make sure that the model itself is in the space, and that its smallest variant runs.

    Raises:
        SpaceError: Something is not as it was followed.
    """
    name = type(model).__name__
    rng = torch.random.fork_rng(devices=())
    with rng, torch.no_grad(), in_eval_mode(model), without_fast_paths():
        expected = Logits(model)(example)
        found = _outputs(space, tuple(n - 1 for n in space.n_options), example, name)
        _outputs(space, (0,) * len(space.choices), example, f"the smallest variant of {name}")
    worst = float((found - expected).abs().max())
    if not worst <= (0 if is_exact else ROUNDING * max(1.0, float(expected.abs().max()))):
        raise SpaceError(
            f"the steps that {name} was traced to give other outputs than it, by up to "
            f"{worst:.3g}: it may depend on the batch size, or write in place into what it reads "
            f"again; change that in its forward"
        )


def _outputs(space: SearchSpace, genotype: Genotype, example: Tensor, name: str) -> Tensor:
    x, shape = example, tuple(example.shape[1:])
    for block in space.architecture(genotype).blocks:
        assert isinstance(block, ModelPart)
        try:
            x = block.build(shape).eval()(x)
        except (RuntimeError, ValueError) as error:
            raise SpaceError(
                f"{name} does not run as it was followed, in {block.part!r}: {error}. Say "
                f"exclude=[{block.part!r}], if that does not help change the forward"
            ) from error
        shape = tuple(x.shape[1:])
    return x
