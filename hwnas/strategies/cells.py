"""Cells: choices that are the edges of a small graph, and what such a graph says of a network.

Where every choice names two nodes, as `op_0to1` does, and offers the same operations, data flows
from the first node to the last. What counts then is what lies on the ways through: an edge that
no way uses computes nothing, and cells with the same ways are nearly the same network.

Reference:
    White et al., BANANAS, AAAI 2021 (paths as the encoding of a cell).
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.spaces.base import Choice, GenotypeArray

__all__ = ["Cell"]

FloatArray = NDArray[np.float64]
EDGE = re.compile(r"(?:^|[^0-9])(\d+)(?:to|->|_|-)(\d+)$")
ABSENT = {"none", "zero", "zeroize", "null"}  # operations that cut the edge
IDENTITY = {"skip_connect", "skip", "identity"}  # operations that change nothing
MAX_PATHS = 32  # in a graph of six nodes there are 16; beyond, paths say little
MAX_WORDS = 4096  # what a path may pass in its order: more would take much memory, and say little


@dataclass(frozen=True)
class Cell:
    """The graph of a cell.

    Attributes:
        paths: Each as the choices that it passes, from the first node to the last.
        absent: Options that cut an edge.
        identity: Options that change nothing.
        n_options: Of each edge.
    """

    paths: tuple[tuple[int, ...], ...]
    absent: tuple[int, ...]
    identity: tuple[int, ...]
    n_options: int

    @classmethod
    def of(cls, choices: tuple[Choice, ...]) -> Cell | None:
        """The graph that the names of the choices tell; None if they tell none, or a vast one."""
        matches = [EDGE.search(choice.name) for choice in choices]
        if len(choices) < 3 or len({choice.options for choice in choices}) > 1:
            return None
        edges = [(int(m[1]), int(m[2])) for m in matches if m]
        nodes = sorted({node for edge in edges for node in edge})
        if sorted(edges) != sorted(itertools.combinations(nodes, 2)) or len(edges) < len(choices):
            return None
        number = {edge: i for i, edge in enumerate(edges)}
        paths = []
        for n_between in range(len(nodes) - 1):
            for between in itertools.combinations(nodes[1:-1], n_between):
                stops = (nodes[0], *between, nodes[-1])
                paths.append(tuple(number[edge] for edge in itertools.pairwise(stops)))
        if len(paths) > MAX_PATHS:
            return None
        words = [str(option).lower() for option in choices[0].options]
        cell = cls(
            tuple(paths),
            tuple(i for i, word in enumerate(words) if word in ABSENT),
            tuple(i for i, word in enumerate(words) if word in IDENTITY),
            len(words),
        )
        n_working = len(words) - len({*cell.absent, *cell.identity})
        return cell if n_working ** max(map(len, paths)) <= MAX_WORDS else None

    def live(self, genotypes: GenotypeArray) -> GenotypeArray:
        """The genotypes with every edge cut that no way through uses, `(n, n_choices)`."""
        if not self.absent:
            return genotypes
        is_cut = np.isin(genotypes, self.absent)
        is_used = np.zeros_like(is_cut)
        for path in self.paths:
            is_open = np.logical_not(is_cut[:, path]).all(axis=1, keepdims=True)
            is_used[:, path] |= is_open
        return np.where(is_used, genotypes, self.absent[0])

    def descriptors(self, genotypes: GenotypeArray) -> tuple[FloatArray, ...]:
        """What lies on the ways through, in groups of columns, `(n, k)` each.

        First how often each operation is used; then, for each number of operations in a row, how
        many ways pass which ones in which order.
        """
        live = self.live(genotypes)
        kinds = [i for i in range(self.n_options) if i not in self.absent]
        counts = np.array([(live == i).sum(axis=1) for i in kinds], dtype=np.float64).T
        working = [i for i in kinds if i not in self.identity]
        digit = np.zeros(self.n_options, dtype=np.int64)
        digit[working] = 1 + np.arange(len(working))
        base = len(working) + 1
        longest = max(map(len, self.paths))
        codes = np.zeros((len(genotypes), len(self.paths)), dtype=np.int64)
        lengths = np.full(codes.shape, -1)
        for i, path in enumerate(self.paths):
            is_open = ~np.isin(live[:, path], self.absent).any(axis=1)
            length = np.zeros(len(genotypes), dtype=np.int64)
            for choice in path:
                symbol = digit[live[:, choice]]
                codes[:, i] = np.where(symbol > 0, codes[:, i] * base + symbol, codes[:, i])
                length += symbol > 0
            lengths[:, i] = np.where(is_open, length, -1)
        groups = [counts]
        words: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        for n_operations in range(longest + 1):
            is_word = (codes[:, :, None] == words) & (lengths == n_operations)[:, :, None]
            groups.append(np.sqrt(is_word.sum(axis=1)))
            words = (words[:, None] * base + np.arange(1, base)).ravel()
        return tuple(groups)
