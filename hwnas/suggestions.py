"""What would make a network faster: edits of its graph, judged by the kernels that come of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from hwnas.graph_edits import EDITS, Costs, Edit, costs_by_tensor
from predictors.explain import Explanation, explain
from predictors.network_latency import ANY_FAMILY, NetworkLatencyPredictor
from profilers.devices import this_device
from profilers.errors import ModelError
from profilers.isolation import AnyProfiler
from profilers.onnx_models import OnnxModel

MIN_SAVING = 0.02  # of the latency: less is not worth a change
WIDE_BLOCK, NARROW_BLOCK = 16, 8  # floats in a register of AVX-512, of others


@dataclass(frozen=True)
class Suggestion:
    """A change of the model, and what it is predicted to bring.

    Attributes:
        edit: The change, and the changed model.
        before: The model's prediction without it.
        after: With it, from the kernels that the runtime makes of the changed model.
    """

    edit: Edit
    before: Explanation
    after: Explanation

    @property
    def saving_ms(self) -> float:
        """Predicted milliseconds less."""
        return self.before.latency_ms - self.after.latency_ms

    @property
    def saving(self) -> float:
        """The same as a share of the latency."""
        return self.saving_ms / self.before.latency_ms


def suggest(
    model: OnnxModel,
    before: Explanation,
    predictor: NetworkLatencyPredictor,
    profiler: AnyProfiler,
    *,
    n: int = 3,
    family: str = ANY_FAMILY,
    on_edit: Callable[[int, int], object] = lambda done, of: None,
) -> list[Suggestion]:
    """The `n` edits that save most of a model's predicted latency, the best first.

    Every edited model is loaded by the runtime and run once, untimed; one that cannot be run, or
    that saves less than `MIN_SAVING`, is no suggestion.

    Args:
        model: What was predicted.
        before: That prediction.
        predictor: What predicts.
        profiler: Whose runtime is asked for kernels.
        n: At most so many.
        family: What kind of network it is, as for `before`.
        on_edit: Told after each edit how many were tried, and how many there are.
    """
    costs = Costs(
        costs_by_tensor((k.node.name, k.node.writes, k.latency_ms) for k in before.kernels),
        channel_block(),
    )
    found: list[Suggestion] = []
    for done, make in enumerate(EDITS, 1):
        edit = make(model, costs)
        if edit is not None:
            with suppress(ModelError):  # what the checker let through, the runtime does not
                after = explain(predictor, profiler.kernels(edit.model), family=family)
                # No more models are held than are asked for: each has all weights.
                found = best([*found, Suggestion(edit, before, after)], n)
        on_edit(done, len(EDITS))
    return found


def as_measured(found: Sequence[Suggestion], measured: Explanation) -> list[Suggestion]:
    """The same savings, as shares of what was predicted again after measuring kernels.

    Kernels of an edited model have other shapes than those that were measured, so that both sides
    of a saving are to come from the predictor as it was before.
    """
    scaled = []
    for each in found:
        factor = measured.latency_ms / each.before.latency_ms
        after = replace(
            each.after,
            latency_ms=factor * each.after.latency_ms,
            low_ms=factor * each.after.low_ms,
            high_ms=factor * each.after.high_ms,
        )
        scaled.append(Suggestion(each.edit, measured, after))
    return scaled


def best(found: Sequence[Suggestion], n: int) -> list[Suggestion]:
    """The `n` that save most, of those that save enough."""
    worth = [suggestion for suggestion in found if suggestion.saving >= MIN_SAVING]
    return sorted(worth, key=lambda suggestion: -suggestion.saving_ms)[:n]


def channel_block() -> int:
    """Channels that kernels for this machine's CPU compute together."""
    return WIDE_BLOCK if "avx512f" in this_device().isa else NARROW_BLOCK
