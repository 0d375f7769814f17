"""All that is predicted about a network on one target, in one object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from predictors.energy import EnergyPredictor
from predictors.network_latency import DEFAULT_LEVEL, NetworkLatencyPredictor
from predictors.peak_memory import MIN_NETWORKS, PeakMemoryPredictor
from profilers.kernels import Kernel
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.targets import Target

_PARTS: Mapping[str, type[EnergyPredictor] | type[PeakMemoryPredictor]] = {
    "energy": EnergyPredictor,
    "peak_memory": PeakMemoryPredictor,
}


@dataclass(frozen=True)
class CostPredictor:
    """Latency, and energy and peak memory where enough networks were measured for them.

    Saved, it holds what the latency's predictor holds and more, so that either can be read of
    either's file.

    Attributes:
        latency: Of the networks' latency.
        energy: None: it was not measured.
        peak_memory: Of networks of the space that it was fitted on; None: it was not measured.
    """

    latency: NetworkLatencyPredictor
    energy: EnergyPredictor | None = None
    peak_memory: PeakMemoryPredictor | None = None

    @classmethod
    def fit(
        cls,
        measurements: Sequence[NetworkMeasurement],
        *,
        estimated_peak_bytes: ArrayLike | None = None,
        isolated: Mapping[Kernel, KernelLatency] | None = None,
        level: float = DEFAULT_LEVEL,
    ) -> Self:
        """Learn what the measurements of one target say.

        Args:
            measurements: As `NetworkLatencyPredictor.fit` takes them.
            estimated_peak_bytes: Of each measurement, what `PartTable.estimate` says of it, `(n,)`;
                NaN: not known, or not of the space.
            isolated: As there.
            level: Of all intervals.

        Raises:
            PredictorError: There are too few measurements, or they are of several targets.
        """
        latency = NetworkLatencyPredictor(level=level).fit(measurements, isolated=isolated)
        energy = None
        if EnergyPredictor.is_measured(measurements):
            energy = EnergyPredictor(level=level).fit(measurements)
        if estimated_peak_bytes is None:
            return cls(latency, energy)
        estimates = np.asarray(estimated_peak_bytes, dtype=np.float64)
        known = {
            m.digest: (estimate, m.peak_memory_bytes)
            for m, estimate in zip(measurements, estimates, strict=True)
            if m.peak_memory_bytes and estimate > 0
        }
        if len(known) < MIN_NETWORKS:
            return cls(latency, energy)
        peaks = np.array(list(known.values()), dtype=np.float64)
        return cls(latency, energy, PeakMemoryPredictor(level=level).fit(peaks[:, 0], peaks[:, 1]))

    @property
    def level(self) -> float:
        """Share of networks that its intervals are made for."""
        return self.latency.level

    @property
    def target_(self) -> Target | None:
        """Where the measurements were made."""
        return self.latency.target_

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it predicts, by the names of budgets."""
        names = ["latency_ms"]
        if self.peak_memory is not None:
            names.append("peak_memory_bytes")
        if self.energy is not None:
            names.append("energy_mj")
        return tuple(names)

    def check_target(self, target: Target) -> None:
        """Refuse to speak about another target.

        Raises:
            WrongTargetError: It was fitted on another one.
        """
        self.latency.check_target(target)

    def to_data(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The learned state as JSON-able data and named arrays."""
        header, arrays = self.latency.to_data()
        for name in _PARTS:
            part: EnergyPredictor | PeakMemoryPredictor | None = getattr(self, name)
            if part is not None:
                data, own = part.to_data()
                header = header | {name: data}
                arrays = arrays | {f"{name}_{key}": array for key, array in own.items()}
        return header, arrays

    @classmethod
    def from_data(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild from `to_data`, or from that of a `NetworkLatencyPredictor`.

        Raises:
            KeyError, TypeError, ValueError: The data was written by neither.
        """
        parts: dict[str, Any] = {}
        for name, kind in _PARTS.items():
            if name in data:
                own = {
                    key.removeprefix(f"{name}_"): array
                    for key, array in arrays.items()
                    if key.startswith(f"{name}_")
                }
                parts[name] = kind.from_data(data[name], own)
        return cls(NetworkLatencyPredictor.from_data(data, arrays), **parts)
