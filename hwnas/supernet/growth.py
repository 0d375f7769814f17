"""A network that starts from the trained weights of another one of its space, mostly a smaller one.

Where both have a block, the larger takes the smaller's weights as a supernet would share them: the
leading part of every axis, the centre of a kernel. What is new reads old channels and is read with
weights 0, and a new residual block adds nothing: a convolutional network that was only widened and
deepened computes what the smaller one did. Others begin near it: normalisations over features see
new ones, and a layer of a transformer has two branches.

References:
    Chen, Goodfellow, Shlens, Net2Net, ICLR 2016: growing that keeps the function.
    Goyal et al., Accurate, Large Minibatch SGD, 2017: residual blocks whose last norm begins at 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hwnas.networks import Network, begin_as_identity
from hwnas.spaces.base import Block, Genotype, SearchSpace
from hwnas.supernet.batch_norm import statistics_of
from hwnas.supernet.shared_weights import Layout, layouts


def grow(
    network: Network,
    genotype: Genotype,
    parent: Network,
    parent_genotype: Genotype,
    space: SearchSpace,
) -> None:
    """Give `network` the weights of `parent`, in place, as far as their shapes allow.

    Outputs in eval mode are the parent's where normalisations are by channel, only widths and
    kernels are larger and residual blocks were added; elsewhere (another stride, a new gate,
    another resolution, layer norm) they are not, and the weights are a start only. A smaller
    network gets the leading part of the parent's.

    Args:
        network: Of `genotype`, newly made.
        genotype: In `space`.
        parent: Of `parent_genotype`, trained.
        parent_genotype: In `space`.
        space: Of both.
    """
    theirs = dict(_blocks(space, parent_genotype, parent))
    with torch.no_grad():
        mine = list(_blocks(space, genotype, network))
        for slot, module in mine:
            if slot in theirs:
                _inherit(module, theirs[slot])
    begin_as_identity(network, [slot not in theirs for slot, _ in mine])


def _blocks(
    space: SearchSpace, genotype: Genotype, network: Network
) -> Iterator[tuple[int, nn.Module]]:
    """The modules of a network, by slot."""
    options = space.options(genotype)
    blocks: Iterator[Block | None] = (slot(options) for slot in space.slots)
    slots = [i for i, block in enumerate(blocks) if block is not None]
    yield from zip(slots, network.blocks, strict=True)


def _inherit(module: nn.Module, parent: nn.Module) -> None:
    """Take over what both have by name, layer and kind of axes."""
    old = {(name, layer): layout for name, layer, layout in layouts(parent)}
    values = dict(parent.named_parameters())
    mine = dict(module.named_parameters())
    for name, layer, layout in layouts(module):
        known = old.get((name, layer))
        if known is not None and layout.is_like(known):
            _copy(mine[name], layout, values[name], known)
    statistics = statistics_of(parent)
    for name, buffer in statistics_of(module).items():
        if name in statistics and buffer.ndim:
            n = min(len(buffer), len(statistics[name]))
            buffer[:n] = statistics[name][:n]
        elif name in statistics:
            buffer.copy_(statistics[name])


def _copy(new: Tensor, layout: Layout, old: Tensor, known: Layout) -> None:
    """Write the part that both have; the rest of the old outputs' weights becomes 0."""
    target, source = new.view(layout.sizes), old.view(known.sizes)
    pairs = list(zip(layout.sizes, known.sizes, strict=True))
    n_leading = len(pairs) - layout.n_centred
    into = [_range(i >= n_leading, n, min(n, m)) for i, (n, m) in enumerate(pairs)]
    out_of = [_range(i >= n_leading, m, min(n, m)) for i, (n, m) in enumerate(pairs)]
    target[tuple(into[: len(layout.axes[0])])] = 0
    target[tuple(into)] = source[tuple(out_of)]


def _range(is_centred: bool, size: int, n: int) -> slice:
    start = (size - n) // 2 if is_centred else 0
    return slice(start, start + n)
