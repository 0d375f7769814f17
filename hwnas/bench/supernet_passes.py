"""What running through a supernet costs: against the same network as a plain module, in turns."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from hwnas.data import DataSet
from hwnas.networks import Network, counts
from hwnas.spaces.base import Genotype
from hwnas.supernet import Supernet
from hwnas.supernet.training import fitted
from hwnas.training import Recipe, batches, channels_last, seeded

__all__ = ["time_passes"]


def time_passes(
    supernet: Supernet, genotype: Genotype, data: DataSet, recipe: Recipe, *, n_rounds: int
) -> dict[str, Any]:
    """Time forward and backward of one subnet through the supernet and as a module of its own.

    Both get the same batch, in turns, the other one first in every other round; the first round is
    not counted.

    Args:
        supernet: Left in train mode.
        genotype: Of the subnet.
        data: Where the batch comes from.
        recipe: Its batch size and augmentations.
        n_rounds: That count.

    Returns:
        `ratio`, the median over rounds of the supernet's time over the module's in that round, the
        `ratios`, and the medians of both, `supernet_ms` and `module_ms`.
    """
    architecture = supernet.space.architecture(genotype)
    with seeded(0):
        module = Network(architecture)
    inputs, labels = next(batches(data.train, recipe, data, seed=0, device=supernet.device))
    inputs = fitted(inputs, architecture.input_shape)
    taken_ms: dict[str, list[float]] = {"supernet": [], "module": []}
    with seeded(0), channels_last(supernet), channels_last(module):
        supernet.train()
        module.train()
        for number in range(n_rounds + 1):
            for name in ("supernet", "module") if number % 2 else ("module", "supernet"):
                network: nn.Module = supernet if name == "supernet" else module
                for parameter in network.parameters():
                    parameter.grad = None
                start = time.perf_counter()
                logits = supernet(inputs, genotype) if name == "supernet" else module(inputs)
                torch.autograd.backward(functional.cross_entropy(logits, labels))
                taken_ms[name].append(1e3 * (time.perf_counter() - start))
    through, plain = taken_ms["supernet"][1:], taken_ms["module"][1:]
    ratios = [a / b for a, b in zip(through, plain, strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "supernet_ms": statistics.median(through),
        "module_ms": statistics.median(plain),
        "batch_size": len(labels),
        "macs": counts(architecture).macs,
    }
