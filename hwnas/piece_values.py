"""What a block computes of the tensors that it is given, so that others may share it.

Runtimes compute once what several blocks do alike to one tensor: an activation that two of them
begin with, a pooling, a change of the layout, the sum of the same two tensors. So of blocks that
take or hand on several tensors, such work is told apart from the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from profilers.kernels import Kernel, macs
from profilers.measurement import KernelNode

Chain = tuple[Kernel, ...]  # one after the other; of none, the tensor itself


@dataclass(frozen=True)
class Use:
    """What a block does to one tensor that it is given.

    Attributes:
        chains: What is computed of it alone and without weights, each from the tensor on.
        is_read_otherwise: Whether anything else reads the tensor itself.
    """

    chains: tuple[Chain, ...]
    is_read_otherwise: bool

    def to_data(self) -> list[Any]:
        """As the store keeps it."""
        return [[_chain_data(chain) for chain in self.chains], self.is_read_otherwise]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> Use:
        """Rebuild from `to_data`."""
        chains, is_read_otherwise = data
        return cls(tuple(map(_chain, chains)), is_read_otherwise)


@dataclass(frozen=True)
class Join:
    """A kernel without weights that reads given tensors, or what is computed of one of them.

    Attributes:
        kernel: Such as a sum.
        operands: Index of the given tensor, and what is done to it before.
        part: Index of the tensor that the block hands on, if it is this; else None.
    """

    kernel: Kernel
    operands: tuple[tuple[int, Chain], ...]
    part: int | None

    def to_data(self) -> list[Any]:
        """As the store keeps it."""
        operands = [[i, _chain_data(chain)] for i, chain in self.operands]
        return [self.kernel.to_dict(), operands, self.part]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> Join:
        """Rebuild from `to_data`."""
        kernel, operands, part = data
        return cls(Kernel.from_dict(kernel), tuple((i, _chain(c)) for i, c in operands), part)


def shared_work(
    nodes: Sequence[KernelNode], given: Sequence[str], handed_on: Sequence[str]
) -> tuple[tuple[Use, ...], tuple[Join, ...], set[str]]:
    """What others may do alike.

    Constants that are no numbers of type float, such as where a slice starts, are taken to be equal
    if the kernels are.

    Args:
        nodes: The kernels of a block in running order.
        given: Names of the tensors that it takes.
        handed_on: Names of those that it hands on.

    Returns:
        What is done to each of `given`, what joins several of them, and the names of the nodes that
        make up the first.
    """
    values: dict[str, tuple[int, Chain]] = {name: (i, ()) for i, name in enumerate(given)}
    known = {*given, *(name for node in nodes for name in node.writes)}
    chains: list[dict[Chain, None]] = [{} for _ in given]  # sets in running order
    are_read_otherwise = [False for _ in given]
    joins, names = [], set()
    for node in nodes:
        read = [name for name in node.reads if name in known]
        is_free = (
            bool(read) and all(name in values for name in read) and _has_no_weights(node, read)
        )
        if is_free and len(set(read)) == len(node.writes) == 1:
            i, chain = values[read[0]]
            chain = (*chain, node.kernel)
            chains[i][chain] = None
            values[node.writes[0]] = i, chain
            names.add(node.name)
            continue
        if is_free and len(node.writes) == 1:
            part = handed_on.index(node.writes[0]) if node.writes[0] in handed_on else None
            joins.append(Join(node.kernel, tuple(values[name] for name in read), part))
        for name in read:
            if name in values and not values[name][1]:
                are_read_otherwise[values[name][0]] = True
    uses = zip(chains, are_read_otherwise, strict=True)
    return tuple(Use(tuple(own), otherwise) for own, otherwise in uses), tuple(joins), names


def _has_no_weights(node: KernelNode, read: Sequence[str]) -> bool:
    n_floats = sum("float" in tensor.dtype for tensor in node.kernel.inputs)
    return n_floats <= len(read) and macs(node.kernel) == 0


def _chain_data(chain: Chain) -> list[Any]:
    return [kernel.to_dict() for kernel in chain]


def _chain(data: Sequence[Any]) -> Chain:
    return tuple(Kernel.from_dict(kernel) for kernel in data)
