"""Which channels, heads and groups of a model matter most.

References:
    Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017: `l1`. https://arxiv.org/abs/1608.08710
    Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023: all weights that would go with
    a channel count, each tensor in units of its mean; `l2`. https://arxiv.org/abs/2301.12900
    Liu et al., Network Slimming, ICCV 2017: `batch_norm`. https://arxiv.org/abs/1708.06519
    Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019: `taylor`.
    https://arxiv.org/abs/1906.10771
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwnas.around.axes import Axis, Leaf, resolved
from hwnas.around.steps import Model
from hwnas.around.tracing import Logits, in_eval_mode

__all__ = ["IMPORTANCES", "gradients_of", "orders"]

IMPORTANCES = ("l1", "l2", "batch_norm", "taylor")


def orders(
    model: Model, elastic: Sequence[Leaf], kind: str, gradients: Mapping[str, Tensor] | None = None
) -> dict[Leaf, Tensor]:
    """Positions of each leaf, `(n,)`, the most important one first.

    Args:
        model: As traced.
        elastic: The leaves that are asked for.
        kind: One of `IMPORTANCES`.
        gradients: Of the loss, by name of the parameter; `taylor` needs them.
    """
    scores = {leaf: torch.zeros(leaf.n, dtype=torch.float64) for leaf in elastic}
    scales = {leaf: torch.zeros(leaf.n, dtype=torch.float64) for leaf in elastic}
    norms = {
        ref.name
        for step in model.steps
        if step.kind == "batch_norm"
        for ref in step.inputs()[1:2]
        if ref.is_weight
    }
    for ref, axes in model.axes.items():
        if not ref.is_weight or not model.is_parameter(ref.name):
            continue
        values = _values(model, ref.name, kind, gradients)
        into = scales if kind == "batch_norm" and ref.name in norms else scores
        if len(axes) < 2 and into is scores and kind != "taylor":
            continue
        for i, axis in enumerate(axes):
            others = [j for j in range(len(axes)) if j != i]
            along = values.sum(dim=others) if others else values
            _add(into, axis, along, is_squared=kind in ("l2", "batch_norm"))
    for leaf, scale in scales.items():
        if bool(scale.any()):
            scores[leaf] = scale
    return {leaf: torch.argsort(score, descending=True, stable=True)
        for leaf, score in scores.items()}  # fmt: skip


def _values(model: Model, name: str, kind: str, gradients: Mapping[str, Tensor] | None) -> Tensor:
    weight = model.weights[name].detach().double()
    if kind == "taylor":
        gradient = None if gradients is None else gradients.get(name)
        return torch.zeros_like(weight) if gradient is None else (weight * gradient).abs()
    return weight.abs() if kind == "l1" else weight.square()


def _add(scores: Mapping[Leaf, Tensor], axis: Axis, along: Tensor, *, is_squared: bool) -> None:
    """Add what entries of an axis are worth to its leaves, in units of their mean."""
    start = 0
    for product in resolved(axis):
        sizes = [leaf.n for leaf in product]
        own = along[start : start + math.prod(sizes)].view(sizes)
        start += math.prod(sizes)
        for i, leaf in enumerate(product):
            if leaf not in scores:
                continue
            others = [j for j in range(len(sizes)) if j != i]
            worth = own.sum(dim=others) if others else own
            worth = worth.sqrt() if is_squared else worth
            mean = float(worth.mean())
            scores[leaf] += worth / mean if mean > 0 else 0.0


def gradients_of(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Mean gradient of the cross-entropy in eval mode over batches of inputs and labels."""
    parameters = {
        name: p for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad
    }
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    with in_eval_mode(model), torch.enable_grad():
        for inputs, labels in batches:
            loss = functional.cross_entropy(Logits(model)(inputs), labels)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, found, strict=True):
                if gradient is not None:
                    total[name] += gradient.double() / len(batches)
    return total
