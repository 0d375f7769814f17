"""Statistics of batch norm: which buffers they are, and computing them for one network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def statistics_of(module: nn.Module) -> dict[str, Tensor]:
    """The running statistics of all batch norms inside, by name of the buffer."""
    return {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, layer in module.named_modules()
        if isinstance(layer, _BatchNorm)
        for name, buffer in layer.named_buffers(recurse=False)
    }


def recalibrate_batch_norm(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace running statistics by their means over `batches`, in place.

    All else runs as in eval mode, and the network ends in it.

    Args:
        network: Without batch norm it is only set to eval mode.
        batches: Inputs of the network, as it gets them in training.
    Reference:
        Yu and Huang, Universally Slimmable Networks, ICCV 2019, section 3.3.
    """
    network.eval()
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    with torch.no_grad():
        for x in batches if norms else ():
            network(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def use_batch_statistics(module: nn.Module) -> None:
    """Let batch norms track nothing.

    In train mode they use the batch's statistics and write none; in eval mode those that stand in
    their buffers.
    """
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.track_running_stats = False
