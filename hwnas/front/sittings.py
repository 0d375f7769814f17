"""Time exported models so that the figure holds when somebody measures them again later.

One sitting is one process that runs all models in turns, so that all meet the same machine. What
differs between sittings (where memory came to lie, how warm the machine is, who else is on it) no
number of rounds within one can show: so there are several, and the interval spans all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

from hwnas.progress import Progress
from hwnas.target_place import OpenProfiler
from profilers.errors import ModelError
from profilers.isolation import AnyProfiler
from profilers.onnx_models import OnnxModel
from profilers.timing import MAX_RELATIVE_ERROR, LatencySamples

N_SITTINGS, MAX_SITTINGS = 3, 5  # the latter for models that the machine disturbed
# By what share a later sitting may lie outside of all that these said. Of 16 networks in ten
# sittings over ten minutes, on a shared machine with others at work: the sittings together rose and
# fell by 6 %, each network around them by 1 %.
LATER_SHARE = 0.05


@dataclass(frozen=True)
class SeveralSittings:
    """What several sittings say about one model.

    Attributes:
        samples: Of all sittings that count.
        low_ms: No later sitting is expected to find less.
        high_ms: Or more; what a budget is compared with.
    """

    samples: LatencySamples
    low_ms: float
    high_ms: float

    @classmethod
    def of(cls, sittings: Sequence[LatencySamples]) -> SeveralSittings:
        """Join the sittings, at least one.

        Those that the machine disturbed count only where there are no others.
        """
        counted = [samples for samples in sittings if samples.warning is None] or sittings
        ends = [_ends(samples) for samples in counted]
        return cls(
            reduce(LatencySamples.extended, counted),
            (1 - LATER_SHARE) * min(low for low, _ in ends),
            (1 + LATER_SHARE) * max(high for _, high in ends),
        )


def _ends(samples: LatencySamples) -> tuple[float, float]:
    """The ends of one sitting's interval; of too few samples, what no warning would allow."""
    low, high = samples.interval_ms
    if math.isfinite(high):
        return low, high
    return samples.min_ms, (1 + MAX_RELATIVE_ERROR) * samples.latency_ms


def time_each(
    models: Sequence[OnnxModel],
    profiler: AnyProfiler,
    *,
    seconds: float,
    on_round: Callable[[int, int], object] = lambda done, of: None,
) -> list[LatencySamples | ModelError]:
    """Samples of models in turns, as `Profiler.latency` has them; or why one has none.

    If they cannot be run together, because of one of them or for want of memory, they are run by
    halves.
    """
    try:
        return list(profiler.latency(models, seconds=seconds, on_round=on_round))
    except ModelError as error:
        if len(models) == 1:
            return [error]
    half = len(models) // 2
    return [
        found
        for part in (models[:half], models[half:])
        for found in time_each(part, profiler, seconds=seconds, on_round=on_round)
    ]


def time_in_sittings(
    models: Sequence[OnnxModel],
    open_profiler: OpenProfiler,
    *,
    seconds: float,
    references_ms: Sequence[float],
    progress: Progress,
) -> list[SeveralSittings | ModelError]:
    """Time all models in turns, in several processes one after the other.

    Models whose samples come with a warning get further sittings; one that cannot be run gets none.

    Args:
        models: What is timed.
        open_profiler: Opens what measures, with a process of its own each time.
        seconds: For each model in each sitting; four times that while the machine is slow.
        references_ms: As `Profiler` takes them.
        progress: Told how it goes on.

    Returns:
        What was found of each model, or why it cannot be run.
    """
    sittings: list[list[LatencySamples]] = [[] for _ in models]
    failures: dict[int, ModelError] = {}
    with progress.task("measuring in turns", N_SITTINGS) as task:
        for number in range(MAX_SITTINGS):
            left = [
                i
                for i, done in enumerate(sittings)
                if _n_steady(done) < N_SITTINGS and i not in failures
            ]
            if not left:
                break

            def show(done: int, of: int, before: int = number) -> None:
                task.update(min(before + done / of, N_SITTINGS), note=f"sitting {before + 1}")

            with open_profiler(references_ms=references_ms) as profiler:
                sat = time_each([models[i] for i in left], profiler, seconds=seconds, on_round=show)
            for i, found in zip(left, sat, strict=True):
                if isinstance(found, ModelError):
                    failures[i] = found
                else:
                    sittings[i].append(found)
    return [failures.get(i) or SeveralSittings.of(done) for i, done in enumerate(sittings)]


def _n_steady(sittings: Sequence[LatencySamples]) -> int:
    return sum(samples.warning is None for samples in sittings)
