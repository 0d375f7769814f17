"""The shared tensors of a slot: how large they must be, and their first values."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hwnas.networks import Network
from hwnas.spaces.base import Architecture, SpaceError
from hwnas.supernet.reach import Site, probe
from hwnas.supernet.shared_weights import Layout, layouts, take


def shared_key(slot: int, name: str, layer: str) -> str:
    """Of a shared tensor, by the class of its layer: an LSTM's gates and a GRU's are not alike."""
    return f"{slot}/{name.replace('.', '/')}:{layer}"  # names of parameters hold no dots


def initial_tensors(slot: int, sites: Iterable[Site]) -> dict[str, tuple[Layout, nn.Parameter]]:
    """The slot's tensors by key, as large as any site needs.

    Values are those that the largest modules have in a new network. What lies in no module's part
    is 0: nothing ever reads it.

    Raises:
        SpaceError: A block does not fit its input, or layers of one name cannot share weights.
    """
    largest = _largest(slot, sites)
    drawn: dict[str, list[tuple[Layout, nn.Parameter]]] = {key: [] for key in largest}
    for site in dict.fromkeys(site for found in largest.values() for _, site in found):
        whole = Network(Architecture(site.in_shape, (site.block,), site.input_type))
        module = whole.blocks[0]
        parameters = dict(module.named_parameters())
        for name, layer, layout in layouts(module):
            drawn[shared_key(slot, name, layer)].append((layout, parameters[name]))
    return {key: _joined(key, found) for key, found in drawn.items()}


def _largest(slot: int, sites: Iterable[Site]) -> dict[str, list[tuple[Layout, Site]]]:
    """By key, the layouts that are no part of another, and where they are met."""
    largest: dict[str, list[tuple[Layout, Site]]] = {}
    for site in sites:
        for name, layer, layout in probe(site).parameters:
            found = largest.setdefault(shared_key(slot, name, layer), [])
            if any(other.has_part(layout) for other, _ in found):
                continue
            if not all(other.is_like(layout) for other, _ in found):
                raise SpaceError(
                    f"slot {slot}: {name!r} of {site.block} cannot share weights with that of "
                    f"{found[0][1].block}: their axes or groups differ in number; give the layers "
                    f"different names"
                )
            found[:] = [pair for pair in found if not layout.has_part(pair[0])]
            found.append((layout, site))
    return largest


def _joined(key: str, found: list[tuple[Layout, nn.Parameter]]) -> tuple[Layout, nn.Parameter]:
    """One tensor that has all of `found` as parts; where they overlap, the largest's values."""
    whole, first = found[0]
    for layout, _ in found:
        whole = whole.joined(layout)
    shared = torch.full(whole.shape, torch.nan, dtype=first.dtype)
    with torch.no_grad():
        for layout, parameter in sorted(found, key=lambda pair: pair[1].numel()):
            _write(shared, whole, layout, parameter)
        is_drawn = all(not take(shared, whole, layout).isnan().any() for layout, _ in found)
        assert is_drawn, f"{key} has values that were not drawn"
        shared.nan_to_num_(nan=0.0)
    return whole, nn.Parameter(shared, requires_grad=first.requires_grad)


def _write(shared: Tensor, whole: Layout, part: Layout, values: Tensor) -> None:
    # By sizes: a part of packed axes is then a view, too.
    flat_whole, flat_part = (
        Layout(tuple((size,) for size in layout.sizes), layout.n_centred)
        for layout in (whole, part)
    )
    view = take(shared.view(whole.sizes), flat_whole, flat_part)
    view.copy_(values.view(part.sizes))
