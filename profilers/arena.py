"""ONNX Runtime's arena: which chunk of memory a request gets, and so how much is in use.

A chunk that was freed is handed out whole unless it is at least twice what is asked for, so what is
in use can be well above the sum of what was requested. The rules are those of its `BFCArena`
(best fit with coalescing, after TensorFlow's), with the defaults of the CPU provider.
"""

from __future__ import annotations

from dataclasses import dataclass

ALIGNMENT_BYTES = 256
FIRST_REGION_BYTES = 2**20
MAX_WASTED_BYTES = 128 * 2**20  # a chunk that would waste more is split in any case


def aligned(n_bytes: int) -> int:
    """`n_bytes`, rounded up to what the arena hands out.

    Example:
        >>> aligned(1), aligned(256), aligned(257)
        (256, 256, 512)
    """
    return -(-n_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


@dataclass(eq=False)
class Chunk:
    """A piece of a region, in use or free; the pieces of a region lie without gaps."""

    region: int
    start: int
    n_bytes: int
    is_used: bool = False


class Arena:
    """Hands out chunks and counts the bytes in use; nothing is really allocated.

    Attributes:
        bytes_in_use: Of all chunks that are handed out now.
        peak_bytes: Most that this has been since `reset_peak`, or ever.

    Example:
        >>> arena = Arena()
        >>> arena.free(arena.allocate(1000))
        >>> _ = arena.allocate(600)
        >>> arena.bytes_in_use, arena.peak_bytes
        (768, 1024)
    """

    def __init__(self) -> None:
        self.bytes_in_use = 0
        self.peak_bytes = 0
        self._next_region_bytes = FIRST_REGION_BYTES
        self._regions: list[list[Chunk]] = []

    def reset_peak(self) -> None:
        """Forget what was in use before."""
        self.peak_bytes = self.bytes_in_use

    def allocate(self, n_bytes: int) -> Chunk | None:
        """A chunk of at least `n_bytes`; None for no bytes at all."""
        if n_bytes == 0:
            return None
        wanted = aligned(n_bytes)
        chunk = self._best_fit(wanted) or self._extend(wanted)
        waste = chunk.n_bytes - wanted
        if waste >= min(wanted, MAX_WASTED_BYTES):
            chunks = self._regions[chunk.region]
            rest = Chunk(chunk.region, chunk.start + wanted, waste)
            chunks.insert(chunks.index(chunk) + 1, rest)
            chunk.n_bytes = wanted
        chunk.is_used = True
        self.bytes_in_use += chunk.n_bytes
        self.peak_bytes = max(self.peak_bytes, self.bytes_in_use)
        return chunk

    def free(self, chunk: Chunk | None) -> None:
        """Give a chunk back; free neighbours become one."""
        if chunk is None:
            return
        chunk.is_used = False
        self.bytes_in_use -= chunk.n_bytes
        chunks = self._regions[chunk.region]
        i = chunks.index(chunk)
        if i + 1 < len(chunks) and not chunks[i + 1].is_used:
            chunk.n_bytes += chunks.pop(i + 1).n_bytes
        if i and not chunks[i - 1].is_used:
            chunks[i - 1].n_bytes += chunks.pop(i).n_bytes

    def _best_fit(self, wanted: int) -> Chunk | None:
        fitting = (
            chunk
            for chunks in self._regions
            for chunk in chunks
            if not chunk.is_used and chunk.n_bytes >= wanted
        )
        return min(fitting, key=lambda c: (c.n_bytes, c.region, c.start), default=None)

    def _extend(self, wanted: int) -> Chunk:
        """A new region, at least twice the last one unless that one had been made to fit."""
        is_enough = wanted <= self._next_region_bytes
        while wanted > self._next_region_bytes:
            self._next_region_bytes *= 2
        chunk = Chunk(len(self._regions), 0, self._next_region_bytes)
        if is_enough:
            self._next_region_bytes *= 2
        self._regions.append([chunk])
        return chunk
