"""One module that holds the weights of every network of a space.

For each slot and parameter name it has one tensor, of the largest shape that any option of the slot
needs. A network of the space runs on parts of them (`shared_weights`): each of its blocks is built
at its own size, without values, and called with its parts as parameters. So gradients reach the
shared tensors, and nothing is written twice beside a block's `forward`.

Statistics of batch norm are a subnet's own: running averages would mix those of all subnets. In
train mode the batch's are used; in eval mode those of `recalibrate`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hwnas.errors import HwnasError
from hwnas.networks import Network
from hwnas.spaces.base import Architecture, Block, Genotype, SearchSpace, Shape
from hwnas.supernet.batch_norm import (
    recalibrate_batch_norm,
    statistics_of,
    use_batch_statistics,
)
from hwnas.supernet.initial import initial_tensors, shared_key
from hwnas.supernet.reach import Site, probe, reach
from hwnas.supernet.shared_weights import Layout, layouts, take

MAX_RECALIBRATED = 256  # subnets whose statistics are kept
MAX_SKELETONS = 4096  # modules without weights that are kept, by slot, block and shape

Path = tuple[tuple[int, Block], ...]  # the slots that hold a block, and the blocks
Statistics = Mapping[str, Tensor]


class SupernetError(HwnasError):
    """A supernet cannot do what it is asked for; the message says what to do first."""


@dataclass(frozen=True)
class _Skeleton:
    """A block's module without parameters, and which parts it takes as them.

    Attributes:
        module: Its parameters are on the meta device; buffers other than statistics are its own.
        parts: By all names of a parameter: the shared tensor's key, and the part.
        has_statistics: Whether there are batch norms in it.
    """

    module: nn.Module
    parts: tuple[tuple[tuple[str, ...], str, Layout], ...]
    has_statistics: bool


class Supernet(nn.Module):
    """The shared weights of a space, and its networks on parts of them.

    Its parameters are drawn like those of the largest networks, from torch's global generator;
    `hwnas.training.seeded` makes that repeatable.

    Args:
        space: Any. Its blocks need no declaration beyond naming layers by role, and `packed_axes`
            where an axis of a layer of their own holds several groups.

    Attributes:
        space: As given.
        mixable: Names of the choices of which no option changes a shape between slots, so that
            outputs of their options can be summed.

    Raises:
        SpaceError: A block does not fit its input, or layers of one name cannot share weights.

    Reference:
        Cai et al., Once-for-All, ICLR 2020: leading channels, central kernels.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        found = reach(space)
        self.mixable = tuple(space.choices[column].name for column in sorted(found.keeping))
        self._is_complete = found.is_complete
        self._layouts: dict[str, Layout] = {}
        for slot, sites in enumerate(found.sites):
            for key, (layout, parameter) in initial_tensors(slot, sites).items():
                self._layouts[key] = layout
                self.register_parameter(key, parameter)
        self._skeletons: dict[tuple[int, Block, Shape], _Skeleton] = {}
        self._statistics: OrderedDict[tuple[Shape, Path], tuple[Statistics, ...]] = OrderedDict()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def forward(self, x: Tensor, genotype: Genotype) -> Tensor:
        """Outputs of one subnet.

        Args:
            x: `(n, *input_shape)` of the subnet.
            genotype: Which one.
        Returns:
            `(n, n_classes)`.
        Raises:
            SupernetError: In eval mode: the subnet has batch norm and was not recalibrated.
        """
        path = self.path(genotype)
        known = None if self.training else self._statistics.get((tuple(x.shape[1:]), path))
        for i, (slot, block) in enumerate(path):
            x = self.run_block(slot, block, x, None if known is None else known[i])
        return x

    def path(self, genotype: Genotype) -> Path:
        """The slots that hold a block, and the blocks."""
        options = self.space.options(genotype)
        blocks = ((i, slot(options)) for i, slot in enumerate(self.space.slots))
        return tuple((i, block) for i, block in blocks if block is not None)

    def input_shape(self, genotype: Genotype) -> Shape:
        """What the subnet takes, without the batch."""
        return self.space.input_shape(self.space.options(genotype))

    def run_block(
        self, slot: int, block: Block, x: Tensor, statistics: Statistics | None = None
    ) -> Tensor:
        """Outputs of one block on its parts of the slot's weights.

        Args:
            slot: Position in the space's slots.
            block: One that the slot can hold.
            x: `(n, *in_shape)`.
            statistics: Of its batch norms, by name of the buffer; needed in eval mode only.
        Raises:
            SupernetError: In eval mode: there are batch norms, but no `statistics`.
        """
        skeleton = self._skeleton(slot, block, tuple(x.shape[1:]))
        if skeleton.has_statistics and statistics is None and not self.training:
            raise SupernetError(
                "a subnet has statistics of batch norm of its own: in eval mode, call "
                "Supernet.recalibrate with its genotype and some batches first"
            )
        tensors = dict(statistics or {})
        for names, key, part in skeleton.parts:
            tensors |= dict.fromkeys(names, self._part(key, part))
        if skeleton.module.training != self.training:
            skeleton.module.train(self.training)
        y: Tensor = functional_call(skeleton.module, tensors, (x,), tie_weights=False)
        return y

    def recalibrate(self, genotype: Genotype, batches: Iterable[Tensor]) -> Network:
        """Compute the subnet's own statistics of batch norm, and keep them for eval mode.

        They are forgotten where the weights may change (in train mode, on loading), where they
        move, and when 256 other subnets were recalibrated since.

        Args:
            genotype: Which subnet.
            batches: Inputs `(n, *input_shape)`, as it gets them in training.
        Returns:
            The subnet, as `extract` gives it.
        """
        network = self._assembled(genotype)
        recalibrate_batch_norm(network, batches)
        key = (self.input_shape(genotype), self.path(genotype))
        self._statistics[key] = tuple(
            {name: values.clone() for name, values in statistics_of(block).items()}
            for block in network.blocks
        )
        self._statistics.move_to_end(key)
        if len(self._statistics) > MAX_RECALIBRATED:
            self._statistics.popitem(last=False)
        return network

    def extract(self, genotype: Genotype) -> Network:
        """The subnet as an ordinary network with copies of its weights, in eval mode.

        It gives the same outputs as the supernet in eval mode.

        Raises:
            SupernetError: It has batch norm and was not recalibrated.
        """
        network = self._assembled(genotype)
        known = self._statistics.get((self.input_shape(genotype), self.path(genotype)))
        if known is None and any(statistics_of(block) for block in network.blocks):
            raise SupernetError(
                "a subnet has statistics of batch norm of its own: call Supernet.recalibrate with "
                "its genotype and some batches before it is extracted"
            )
        for block, statistics in zip(network.blocks, known or (), strict=False):
            block.load_state_dict(statistics, strict=False)
        return network.eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; in train mode statistics are forgotten."""
        if mode:
            self._statistics.clear()
        return super().train(mode)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As of any module; statistics are forgotten."""
        self._statistics.clear()
        return super().load_state_dict(state_dict, *args, **kwargs)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._statistics.clear()
        self._skeletons.clear()  # their buffers go where the weights went
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _part(self, key: str, part: Layout) -> Tensor:
        shared = self._parameters[key]
        assert shared is not None
        found = take(shared, self._layouts[key], part)
        if self.training:
            return found
        # As an extracted network holds it: products of strided matrices, and recurrent layers whose
        # weights want no gradient, round differently.
        return found.contiguous().requires_grad_(shared.requires_grad)

    def _skeleton(self, slot: int, block: Block, in_shape: Shape) -> _Skeleton:
        key = (slot, block, in_shape)
        if key not in self._skeletons:
            if len(self._skeletons) >= MAX_SKELETONS:
                self._skeletons.pop(next(iter(self._skeletons)))  # the oldest
            self._skeletons[key] = self._made(slot, block, in_shape)
        return self._skeletons[key]

    def _made(self, slot: int, block: Block, in_shape: Shape) -> _Skeleton:
        with torch.random.fork_rng(devices=()):
            module = block.build(in_shape).to(self.device)
        names = _without_values(module)
        parts = []
        for name, layer, layout in layouts(module):
            key = shared_key(slot, name, layer)
            if key not in self._layouts or not self._layouts[key].has_part(layout):
                raise SupernetError(self._too_large(slot, block, in_shape, name, layout))
            parts.append((names[name], key, layout))
        use_batch_statistics(module)
        return _Skeleton(module, tuple(parts), bool(statistics_of(module)))

    def _too_large(self, slot: int, block: Block, in_shape: Shape, name: str, part: Layout) -> str:
        text = (
            f"slot {slot} of space {self.space.name!r} has no weights of shape {part.shape} for "
            f"{name!r} of {block} on an input of shape {in_shape}"
        )
        if self._is_complete:
            return f"{text}: that cannot stand there"
        return f"{text}: it has too many combinations to look at all; split it into smaller slots"

    def _assembled(self, genotype: Genotype) -> Network:
        """The subnet with its weights; statistics of batch norm are those of a new network."""
        shape, path = self.input_shape(genotype), self.path(genotype)
        blocks = tuple(block for _, block in path)
        with torch.random.fork_rng(devices=()):
            network = Network(Architecture(shape, blocks, self.space.input_type)).to(self.device)
        skeletons = self._skeletons_on(path, shape)
        with torch.no_grad():
            for skeleton, module in zip(skeletons, network.blocks, strict=True):
                own = dict(module.named_parameters())
                for names, key, part in skeleton.parts:
                    own[names[0]].copy_(self._part(key, part))
                statistics = statistics_of(module)
                buffers = dict(skeleton.module.named_buffers())
                for name, buffer in module.named_buffers():
                    if name not in statistics:
                        buffer.copy_(buffers[name])
        return network

    def _skeletons_on(self, path: Path, shape: Shape) -> Iterator[_Skeleton]:
        input_type = self.space.input_type
        for slot, block in path:
            yield self._skeleton(slot, block, shape)
            shape = probe(Site(block, shape, input_type)).out_shape
            input_type = "float32"


def _without_values(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Move the parameters, not the buffers, to the meta device.

    Returns:
        By the first name of each parameter, all of its names: a tied one has several.
    """
    moved: dict[int, nn.Parameter] = {}
    names: dict[int, list[str]] = {}
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        meta = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        layer, _, own = name.rpartition(".")
        setattr(module.get_submodule(layer), own, moved.setdefault(id(parameter), meta))
        names.setdefault(id(parameter), []).append(name)
    return {found[0]: tuple(found) for found in names.values()}
