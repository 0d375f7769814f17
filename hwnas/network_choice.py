"""Which networks of a space to measure: corners, a spread from small to large, and new kernels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hwnas.cost import CostTable
from hwnas.spaces.base import Genotype, GenotypeArray, SearchSpace

N_COVER, N_CORNERS = 1024, 2
N_RANDOM = 1024  # of so many the random ones are taken


def sample_networks(space: SearchSpace, rng: np.random.Generator, n: int) -> GenotypeArray:
    """About `n` distinct valid networks, the cheapest and the dearest corner of the space first.

    Half are uniform; in the others every choice is the lower of two draws, options being in order
    from small to large: budgets ask for small networks, and a search goes to where they are.
    """
    corners = np.array([[0] * len(space.choices), [m - 1 for m in space.n_options]])
    low = np.minimum(space.sample(rng, n // 2), space.sample(rng, n // 2))
    drawn = np.concatenate([corners, low, space.sample(rng, n - n // 2)])
    drawn, are_valid = space.repair(drawn, rng)
    drawn = space.canonical(drawn[are_valid])
    _, first = np.unique(drawn, axis=0, return_index=True)
    return drawn[np.sort(first)]


def random_networks(space: SearchSpace, rng: np.random.Generator, n: int) -> list[Genotype]:
    """The two corners of the space, then others at random, `n` in all or as many as it has."""
    sample = sample_networks(space, rng, max(N_RANDOM, 8 * n))
    n_others = min(max(0, n - N_CORNERS), max(0, len(sample) - N_CORNERS))
    others = N_CORNERS + rng.choice(max(0, len(sample) - N_CORNERS), n_others, replace=False)
    return [_row(sample, i) for i in (*range(min(n, N_CORNERS, len(sample))), *others)]


def networks_in_turn(table: CostTable, sample: GenotypeArray) -> Iterator[Genotype]:
    """All sampled genotypes, for a campaign that may end after any of them.

    First the sample's first two, its corners; then in turns one for the spread over the ranks of
    MACs, each halving a gap that those before it have left, and one for the cover, the one with the
    most kernels that none before it has, per kernel that it runs, as long as there are new kernels.
    """
    order = np.argsort(table.counts(sample).macs, kind="stable")
    cover = _Cover(table, sample)
    spread = (int(order[rank]) for rank in _halving(len(sample)))
    chosen: set[int] = set()
    for i in range(min(N_CORNERS, len(sample))):
        chosen.add(i)
        cover.add(i)
        yield _row(sample, i)
    for i in spread:
        if i not in chosen:
            chosen.add(i)
            cover.add(i)
            yield _row(sample, i)
        best = cover.best()
        if best is not None and cover.n_new(best):
            chosen.add(best)
            cover.add(best)
            yield _row(sample, best)


def _row(sample: GenotypeArray, i: int) -> Genotype:
    return tuple(int(v) for v in sample[i])


def _halving(n: int) -> Iterator[int]:
    """0 to n - 1, each once: the middle, the middles of the halves, and so on."""
    gaps = [(0, n)]
    while gaps:
        next_gaps = []
        for low, high in gaps:
            if low < high:
                middle = (low + high) // 2
                yield middle
                next_gaps += [(low, middle), (middle + 1, high)]
        gaps = next_gaps


class _Cover:
    """Which kernels the chosen networks have, and which network would add the most."""

    def __init__(self, table: CostTable, sample: GenotypeArray) -> None:
        self._table, self._sample = table, sample
        step = max(1, len(sample) // N_COVER)
        self._left = {i: self._kernels(i) for i in range(0, len(sample), step)}
        self._covered: set[str] = set()

    def _kernels(self, i: int) -> frozenset[str]:
        return frozenset(k.key for k in self._table.kernels(_row(self._sample, i)))

    def add(self, i: int) -> None:
        """Count network `i` as chosen."""
        self._covered |= self._left.pop(i) if i in self._left else self._kernels(i)

    def n_new(self, i: int) -> int:
        """Kernels of network `i`, not chosen yet, that no chosen one has."""
        return len(self._left[i] - self._covered)

    def best(self) -> int | None:
        """The network with the most new kernels per kernel that it runs; None: all are chosen."""
        if not self._left:
            return None
        return max(self._left, key=lambda i: (self.n_new(i) / len(self._left[i]), -i))
