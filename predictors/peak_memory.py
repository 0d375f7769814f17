"""Peak memory of networks whose parts follow each other, corrected by what was measured.

What is in use at any moment lies within one part, or is a buffer that the runtime holds from an
earlier part for a later one. So the estimate is the largest over the parts of the part's own peak
and of what is held meanwhile. What it misses (the arena's rounding, the rules of other runtimes)
is learned from measured networks, and the interval is made of the errors on held-out ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from predictors.errors import NotFittedError, PredictorError
from predictors.intervals import conformal_bounds, folds, local_scale, read_scale
from profilers.arena import aligned
from profilers.memory import PartBuffer, PartMemory

FloatArray = NDArray[np.float64]

MIN_NETWORKS = 8
DEFAULT_LEVEL = 0.9
RIDGE, N_REWEIGHTINGS, MIN_RESIDUAL = 1e-3, 12, 1e-3
WORD = 64  # bits
NEGLIGIBLE = 0.02  # of a peak
_Shape = tuple[tuple[int, ...], int]  # of a tensor, and the bytes of an element


class PartTable:
    """Parts of networks as arrays; part 0 is no part at all.

    Buffers of one shape are counted, and a count is as many bits set: the larger of two counts is
    their `or`, the smaller their `and`. So a part's buffers are a few machine words.

    Args:
        parts: None: its memory is not known, and so that of no network with it.
    """

    def __init__(self, parts: Sequence[PartMemory | None]) -> None:
        self._peak = np.array([0.0, *(math.nan if p is None else p.peak_bytes for p in parts)])
        buffers = [() if part is None else part.buffers for part in parts]
        counts = [Counter(_shape(b) for b in of_part) for of_part in buffers]
        first_bit: dict[_Shape, int] = {}
        sizes: list[int] = []
        for shape in _worth_counting(counts, self._peak[1:]):
            first_bit[shape] = len(sizes)
            sizes += [_n_bytes(shape)] * max(count[shape] for count in counts)

        def words(chosen: Callable[[PartBuffer], bool]) -> NDArray[np.uint64]:
            """The chosen buffers of each part, `(n_words, n_parts + 1)`."""
            bits = np.zeros((1 + len(parts), WORD * -(-len(sizes) // WORD)), dtype=np.uint8)
            for row, of_part in zip(bits[1:], buffers, strict=True):
                for shape, n in Counter(_shape(b) for b in of_part if chosen(b)).items():
                    if shape in first_bit:
                        row[first_bit[shape] : first_bit[shape] + n] = 1
            packed = np.packbits(bits, axis=1, bitorder="little").view("<u8")
            return np.ascontiguousarray(packed.T, dtype=np.uint64)

        self._needed = words(lambda b: True)
        self._made = words(lambda b: b.is_made_by_peak)
        self._used = words(lambda b: b.is_used_after_peak)
        self._not_live = ~words(lambda b: b.is_made_by_peak and b.is_used_after_peak)
        # By word, byte of it and value of that byte: bytes of memory.
        bit_of = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        padded = np.zeros(len(self._needed) * WORD)
        padded[: len(sizes)] = sizes
        self._bytes_of = (padded.reshape(-1, 8) @ bit_of.T).reshape(-1, 8, 256)

    @property
    def n_parts(self) -> int:
        """How many it was made of."""
        return len(self._peak) - 1

    def estimate(self, paths: NDArray[np.integer[Any]]) -> FloatArray:
        """Peak memory in bytes of n networks, `(n,)`; NaN: not known.

        Args:
            paths: `(n_slots, n)`: the part that each network has at each place, 0 for none.
        """
        peak = np.zeros(paths.shape[1])
        made = np.zeros((len(self._needed), paths.shape[1]), dtype=np.uint64)
        for part, later in zip(paths, self._later(paths), strict=True):
            held = (made | self._made.take(part, axis=1)) & later
            held &= self._not_live.take(part, axis=1)
            total = self._peak.take(part)
            rows = np.flatnonzero(held.any(axis=0))
            total[rows] += self._memory(held.take(rows, axis=1))
            np.maximum(peak, total, out=peak)
            made |= self._needed.take(part, axis=1)
        return peak

    def _later(self, paths: NDArray[np.integer[Any]]) -> list[NDArray[np.uint64]]:
        """By slot, the buffers that are needed from the peak of its part on."""
        needed = np.zeros((len(self._needed), paths.shape[1]), dtype=np.uint64)
        found = []
        for part in paths[::-1]:
            found.append(needed | self._used.take(part, axis=1))
            needed = needed | self._needed.take(part, axis=1)
        return found[::-1]

    def _memory(self, words: NDArray[np.uint64]) -> FloatArray:
        """Bytes of the buffers that are set in `words`, `(n_words, n)`, of each column."""
        total = np.zeros(words.shape[1])
        for word, tables in zip(words, self._bytes_of, strict=True):
            values = word.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)
            for table, column in zip(tables, values.T, strict=True):
                if table.any():
                    total += table.take(column)
        return total


def _shape(buffer: PartBuffer) -> _Shape:
    return buffer.shape, buffer.element_bytes


def _n_bytes(shape: _Shape) -> int:
    return aligned(math.prod(shape[0]) * shape[1])


def _worth_counting(counts: Sequence[Counter[_Shape]], peaks: FloatArray) -> list[_Shape]:
    """Shapes whose buffers are not negligible beside the peak of every part that has them."""
    least_peak: dict[_Shape, float] = {}
    for count, peak in zip(counts, peaks, strict=True):
        for shape in count:
            least_peak[shape] = min(least_peak.get(shape, math.inf), peak)
    return [s for s, peak in least_peak.items() if _n_bytes(s) > NEGLIGIBLE * peak]


@dataclass(frozen=True)
class PeakMemoryPrediction:
    """Predicted peaks of n networks, all arrays `(n,)`.

    Attributes:
        peak_memory_bytes: What is expected.
        low_bytes: Lower end of the interval.
        high_bytes: Upper end; what a budget is compared with.
    """

    peak_memory_bytes: FloatArray
    low_bytes: FloatArray
    high_bytes: FloatArray


class PeakMemoryPredictor:
    """From the estimate of `PartTable` to what a target shows, with an interval.

    log(peak) = a + b · log(estimate), by least absolute errors, drawn towards a = 0, b = 1.

    Attributes:
        coef_: `(a, b)`, around `centre_`.
        centre_: Mean log of the estimates that it was fitted on.
        scale_: `(2, k)`: by log of the predicted peak, how far predictions near it are off.
        bounds_: Log of measured over predicted, in units of that scale.
        held_out_: `(predicted, measured)` bytes of the networks, each by a model that did not see
            it, `(2, n)`.
    """

    def __init__(self, *, level: float = DEFAULT_LEVEL, seed: int = 0) -> None:
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level=}")
        self.level = level
        self.seed = seed
        self.coef_: FloatArray | None = None
        self.centre_ = 0.0
        self.scale_ = np.array([[0.0], [1.0]])
        self.bounds_ = (0.0, 0.0)
        self.held_out_ = np.zeros((2, 0))

    def fit(self, estimated_bytes: FloatArray, measured_bytes: FloatArray) -> Self:
        """Learn from networks, each once: their estimates and their measured peaks, `(n,)`.

        Raises:
            PredictorError: There are fewer than `MIN_NETWORKS`.
        """
        x, y = np.log(estimated_bytes), np.log(measured_bytes)
        if len(x) < MIN_NETWORKS:
            raise PredictorError(
                f"the peak memory of at least {MIN_NETWORKS} different networks is needed, got "
                f"{len(x)}; measure more with `hwnas profile`"
            )
        self.centre_ = float(x.mean())
        predicted = np.zeros(len(x))
        for held_out in folds(len(x), seed=self.seed):
            coef = _fit_line(x[~held_out] - self.centre_, y[~held_out] - x[~held_out])
            predicted[held_out] = x[held_out] + coef[0] + coef[1] * (x[held_out] - self.centre_)
        self.held_out_ = np.exp(np.stack([predicted, y]))
        errors = y - predicted
        self.scale_ = local_scale(predicted, errors)
        self.bounds_ = conformal_bounds(
            errors / np.interp(predicted, *self.scale_), level=self.level
        )
        self.coef_ = _fit_line(x - self.centre_, y - x) + np.array([0.0, 1.0])
        return self

    def predict(self, estimated_bytes: FloatArray) -> PeakMemoryPrediction:
        """Peaks of n networks from their estimates, `(n,)`; NaN where the estimate is."""
        if self.coef_ is None:
            raise NotFittedError("PeakMemoryPredictor.predict was called before fit")
        x = np.log(np.maximum(estimated_bytes, 1.0))
        y = self.coef_[0] + self.centre_ + self.coef_[1] * (x - self.centre_)
        scale = np.interp(y, *self.scale_)
        low, high = self.bounds_
        return PeakMemoryPrediction(
            np.exp(y),
            np.exp(y + min(low, 0.0) * scale),
            np.exp(y + max(high, 0.0) * scale),
        )

    def to_data(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The learned state as JSON-able data and named arrays."""
        if self.coef_ is None:
            raise NotFittedError("a predictor can only be saved after fit")
        data = {
            "level": self.level,
            "seed": self.seed,
            "coef": self.coef_.tolist(),
            "centre": self.centre_,
            "bounds": list(self.bounds_),
        }
        return data, {"held_out": self.held_out_, "scale": self.scale_}

    @classmethod
    def from_data(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild from `to_data`.

        Raises:
            KeyError, TypeError, ValueError: The data was not written by `to_data`.
        """
        predictor = cls(level=float(data["level"]), seed=int(data["seed"]))
        predictor.coef_ = np.asarray(data["coef"], np.float64).reshape(2)
        predictor.centre_ = float(data["centre"])
        low, high = (float(bound) for bound in data["bounds"])
        predictor.bounds_ = (low, high)
        predictor.scale_, predictor.held_out_ = read_scale(arrays)
        return predictor


def _fit_line(x: FloatArray, y: FloatArray) -> FloatArray:
    """Offset and slope of `y` over `x`, `(2,)`, least absolute errors, drawn towards 0."""
    z = np.column_stack([np.ones(len(x)), x])
    weights = np.ones(len(z))
    step = np.zeros(2)
    for _ in range(N_REWEIGHTINGS):
        zw = z * weights[:, None]
        step = np.linalg.solve(zw.T @ z + RIDGE * weights.sum() * np.eye(2), zw.T @ y)
        weights = 1 / np.maximum(np.abs(y - z @ step), MIN_RESIDUAL)
    return np.asarray(step, dtype=np.float64)
