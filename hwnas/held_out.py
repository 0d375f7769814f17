"""How good a predictor is on networks that it was not fitted on, beside what is simpler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.baselines import LatencyModel, MacsLinear, MedianLatency, Roofline, kernels_of
from predictors.metrics import Accuracy, accuracy
from predictors.network_latency import (
    ANY_FAMILY,
    NetworkLatencyPredictor,
    fit_to_learn_from,
    kind_of,
)
from profilers.measurement import FAMILY_TAG, NetworkMeasurement

FloatArray = NDArray[np.float64]

OURS = "kernels + overhead"
BASELINES: Mapping[str, Callable[[], LatencyModel]] = {
    "roofline": Roofline,
    "linear in MACs": MacsLinear,
    "median of all": MedianLatency,
}


@dataclass(frozen=True)
class HeldOut:
    """Predictions of n networks, each by a model that saw none of its group.

    Attributes:
        networks: What was measured.
        groups: What was left out with each, `n` of them.
        latency_ms: Predicted, `(n,)`.
        low_ms: Lower end of the interval, which rests on the errors of other groups, `(n,)`.
        high_ms: Upper end, `(n,)`.
        baselines_ms: What simpler predictors say, by their names, `(n,)` each.
    """

    networks: tuple[NetworkMeasurement, ...]
    groups: tuple[str, ...]
    latency_ms: FloatArray
    low_ms: FloatArray
    high_ms: FloatArray
    baselines_ms: Mapping[str, FloatArray]

    @property
    def measured_ms(self) -> FloatArray:
        """What was measured, `(n,)`."""
        return np.array([m.latency_ms for m in self.networks])

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Whether each measurement lies within its interval, `(n,)`."""
        return (self.low_ms <= self.measured_ms) & (self.measured_ms <= self.high_ms)

    @property
    def half_width(self) -> FloatArray:
        """Half of each interval as a share of the prediction, `(n,)`."""
        return (self.high_ms - self.low_ms) / 2 / self.latency_ms

    def accuracies(self) -> dict[str, Accuracy]:
        """Ours first, then the baselines, by name."""
        said = {OURS: self.latency_ms, **self.baselines_ms}
        return {name: accuracy(ms, self.measured_ms) for name, ms in said.items()}

    def of_group(self, group: str) -> HeldOut:
        """The networks of one group."""
        rows = np.array([here == group for here in self.groups])
        return HeldOut(
            tuple(m for m, is_in in zip(self.networks, rows, strict=True) if is_in),
            (group,) * int(rows.sum()),
            self.latency_ms[rows],
            self.low_ms[rows],
            self.high_ms[rows],
            {name: ms[rows] for name, ms in self.baselines_ms.items()},
        )


def hold_out(
    predictor: NetworkLatencyPredictor,
    measurements: Sequence[NetworkMeasurement],
    what: str,
    *,
    on_group: Callable[[int, int], object] = lambda done, of: None,
) -> HeldOut | None:
    """What `predictor` says of networks when those of their group are left out of its fit.

    Args:
        predictor: Fitted just now on `measurements`.
        measurements: What it was fitted on.
        what: `network`: a fifth of them is left out at a time; `family`: one family is.
        on_group: Told after each group how many are done, and how many there are.

    Returns:
        None where there are fewer than two groups.
    """
    networks = fit_to_learn_from(measurements)
    parts, latency_ms, error = predictor.left_out_[what]
    numbers = sorted(set(parts[parts >= 0].tolist()))
    if len(numbers) < 2:
        return None
    # A family that is left out is of no kind that is known.
    kinds = np.array([kind_of(m) if what == "network" else ANY_FAMILY for m in networks])
    low_ms, high_ms = np.zeros((2, len(networks)))
    baselines_ms = {name: np.zeros(len(networks)) for name in BASELINES}
    for done, number in enumerate(numbers, 1):
        here = parts == number
        calibrations = predictor.calibrations_without(networks, here)
        for kind in set(kinds[here].tolist()):
            those = here & (kinds == kind)
            calibration = calibrations.get(kind, calibrations[ANY_FAMILY])
            low_ms[those], high_ms[those] = calibration.bounds(
                latency_ms[those], error[those], level=predictor.level
            )
        known = [m for m, is_here in zip(networks, here, strict=True) if not is_here]
        asked = kernels_of([m for m, is_here in zip(networks, here, strict=True) if is_here])
        for name, make in BASELINES.items():
            baselines_ms[name][here] = make().fit(known).predict(asked)
        on_group(done, len(numbers))
    rows = np.flatnonzero(parts >= 0)
    return HeldOut(
        tuple(networks[i] for i in rows),
        tuple(_group(networks[i], what, int(parts[i])) for i in rows),
        latency_ms[rows],
        low_ms[rows],
        high_ms[rows],
        {name: ms[rows] for name, ms in baselines_ms.items()},
    )


def _group(m: NetworkMeasurement, what: str, number: int) -> str:
    return m.tags.get(FAMILY_TAG, "") if what == "family" else f"fold {number + 1}"
