"""Latency of single kernels in place: physics of their group, a learned correction, how sure it is.

latency = roofline(launch, macs, bytes) · exp(f(features)), f a Gaussian process of the group, both
learned by `joint_fit.py`. Kernels that were measured outside of networks are looked up.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from predictors.evidence import Evidence
from predictors.features import N_SCALED, SCALING, group, scaled_features, work
from predictors.gaussian_process import Covariance, GroupProcess
from predictors.joint_fit import (
    MAX_CORRECTION,
    JointFit,
    ProfilerOverhead,
    fit_jointly,
)
from predictors.network_correction import NetworkCorrection
from predictors.rooflines import N_TERMS, Rooflines
from profilers.kernels import HIDES_WORK, Kernel
from profilers.measurement import NetworkMeasurement

FloatArray = NDArray[np.float64]

KNOWN_ERROR = 0.2
UNKNOWN_GROUP_ERROR = 1.0
UNSEEN_ERROR = 1e6  # of a kernel that may hold any work
_ARRAYS = ("rooflines", "inducing", "mean", "root")
OWN_STD = 0.1  # of a kernel beside those like it


class KernelLatencyPredictor:
    """Milliseconds of kernels in networks on one target, and which of them it knows.

    A kernel is known if its latency is expected to be off by no more than `KNOWN_ERROR`: because it
    was measured alone, or because enough like it were measured.

    Attributes:
        rooflines_: By group of kernels.
        processes_: Corrections of the rooflines, by group.
        alone_factor_: Log of what a kernel takes alone over what it takes in place, by group; 0 for
            all others.
        overhead_: What a profile adds to a kernel, in a network or alone.
        measured_: `Kernel.key` of what was measured, in networks or alone.
        looked_up_: Milliseconds and expected relative error of kernels measured alone, by key.
    """

    def __init__(self, fit: JointFit, measured: Iterable[Kernel]) -> None:
        self.rooflines_ = fit.rooflines
        self.processes_ = fit.processes
        self.alone_factor_ = fit.alone_factor
        self.overhead_ = fit.overhead
        self.measured_ = frozenset(kernel.key for kernel in measured)
        self.looked_up_: dict[str, tuple[float, float]] = {}

    @classmethod
    def learn(
        cls,
        networks: Sequence[NetworkMeasurement],
        alone_ms: Mapping[Kernel, float] | None = None,
    ) -> tuple[Self, NetworkCorrection]:
        """Learn from networks of one target, and from kernels measured outside of any network.

        What networks show of a kernel is more than what it takes alone, so only the others are
        looked up.

        Returns:
            The predictor, and what a network takes beside the sum of its kernels.
        """
        evidence = Evidence.of(networks, alone_ms)
        fit, correction = fit_jointly(evidence)
        in_place = evidence.has_in_place
        shown = [k for k, seen in zip(evidence.kernels, in_place, strict=True) if seen]
        seen_in_place = set(shown)
        only_alone = {k: ms for k, ms in (alone_ms or {}).items() if k not in seen_in_place}
        return cls(fit, shown).knowing(only_alone), correction

    def knowing(self, profiled_ms: Mapping[Kernel, float], *, is_alone: bool = True) -> Self:
        """The same predictor, which has also seen these kernels measured outside of their network.

        Two estimates, each by its inverse variance: what was predicted, and what was measured,
        without the profiler's own time and corrected by what measuring alone does to the group.

        Args:
            profiled_ms: What a profile said of each.
            is_alone: False: each ran among kernels that feed it, as in its network.
        """
        kernels = list(profiled_ms)
        predicted_ms, error = self._model(kernels)
        other = copy.copy(self)
        other.measured_ = self.measured_ | {kernel.key for kernel in kernels}
        other.looked_up_ = dict(self.looked_up_)
        found_ms = np.array([profiled_ms[kernel] for kernel in kernels])
        own_ms, noise = self.overhead_.own_ms(found_ms), self.overhead_.noise_alone(found_ms)
        factors = self.alone_factor_ if is_alone else {}
        for i, kernel in enumerate(kernels):
            prior = error[i] ** 2 + OWN_STD**2
            weight = prior / (prior + noise[i] ** 2)
            log_ms = np.log(own_ms[i]) - factors.get(group(kernel), 0.0)
            other.looked_up_[kernel.key] = (
                float(np.exp((1 - weight) * np.log(predicted_ms[i]) + weight * log_ms)),
                float(np.sqrt((1 - weight) * prior)),
            )
        return other

    def predict(self, kernels: Sequence[Kernel]) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Latencies in ms `(n,)`, and which of the kernels are known `(n,)`."""
        ms, error = self.estimate(kernels)
        return ms, error <= KNOWN_ERROR

    def estimate(self, kernels: Sequence[Kernel]) -> tuple[FloatArray, FloatArray]:
        """Latencies in ms `(n,)`, and their expected relative errors `(n,)`."""
        distinct = {kernel.key: kernel for kernel in kernels}
        ms, error = self._model(list(distinct.values()))
        answers = dict(zip(distinct, zip(ms, error, strict=True), strict=True))
        answers |= {key: self.looked_up_[key] for key in distinct.keys() & self.looked_up_.keys()}
        found = np.array([answers[kernel.key] for kernel in kernels]).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def _model(self, kernels: Sequence[Kernel]) -> tuple[FloatArray, FloatArray]:
        if not kernels:
            return np.zeros(0), np.zeros(0)
        groups = np.array([group(kernel) for kernel in kernels])
        x = scaled_features(kernels)
        correction = np.zeros(len(kernels))
        error = np.full(len(kernels), UNKNOWN_GROUP_ERROR)
        for name in self.processes_.keys() & set(groups.tolist()):
            here = groups == name
            correction[here], error[here] = self.processes_[name].predict(x[here])
        # A graph told as one kernel is like no other, whatever its inputs and outputs.
        for i, kernel in enumerate(kernels):
            if kernel.kind in HIDES_WORK and kernel.key not in self.measured_:
                error[i] = UNSEEN_ERROR
            elif kernel.attribute("model", "") and kernel.key not in self.measured_:
                error[i] = UNKNOWN_GROUP_ERROR
        ms = self.rooflines_.latency_ms(work(kernels), groups)
        return ms * np.exp(np.clip(correction, -MAX_CORRECTION, MAX_CORRECTION)), error

    def to_data(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The learned state as JSON-able data and named arrays."""
        names = sorted(self.processes_)
        parts = [self.processes_[name].to_arrays() for name in names]
        data = {
            "groups": names,
            "n_inducing": [len(part["mean"]) for part in parts],
            "run_ms": self.rooflines_.run_ms,
            "alone_factor": self.alone_factor_,
            "overhead_ms": [self.overhead_.ms, self.overhead_.noise_ms],
            "measured": sorted(self.measured_),
            "looked_up": {key: list(value) for key, value in self.looked_up_.items()},
            "features": SCALING,
            "covariance": asdict(Covariance()),
        }
        rooflines = [self.rooflines_.terms[name] for name in names]
        arrays = {
            "rooflines": np.stack([*rooflines, self.rooflines_.fallback]),
            "inducing": np.concatenate([part["inducing"] for part in parts]),
            "mean": np.concatenate([part["mean"] for part in parts]),
            "root": np.concatenate([_packed(part["root"]) for part in parts]),
        }
        return data, arrays

    @classmethod
    def from_data(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild from `to_data`.

        Raises:
            KeyError, TypeError, ValueError: The data was not written by `to_data`.
        """
        if data["features"] != SCALING or data["covariance"] != asdict(Covariance()):
            raise ValueError("it was fitted on other features")
        if not all(np.isfinite(arrays[name]).all() for name in _ARRAYS):
            raise ValueError("its numbers are not finite")
        names = [str(name) for name in data["groups"]]
        lines = np.asarray(arrays["rooflines"], np.float64).reshape(len(names) + 1, N_TERMS)
        if (lines < 0).any():
            raise ValueError("its rooflines are negative")
        counts = [int(n) for n in data["n_inducing"]]
        if len(counts) != len(names) or min(counts, default=1) < 1:
            raise ValueError("its arrays do not belong together")
        ends = np.cumsum(counts)[:-1]
        roots = np.cumsum([n * (n + 1) // 2 for n in counts])[:-1]
        processes = {}
        for name, n, inducing, mean, root in zip(
            names,
            counts,
            np.split(arrays["inducing"], ends),
            np.split(arrays["mean"], ends),
            np.split(arrays["root"], roots),
            strict=True,
        ):
            part = {"inducing": inducing, "mean": mean, "root": _unpacked(root, n)}
            processes[name] = GroupProcess.from_arrays(part, N_SCALED)
        run_ms = float(data["run_ms"])
        if not run_ms >= 0:
            raise ValueError(f"a run costs at least nothing, not {run_ms} ms")
        rooflines = Rooflines(dict(zip(names, lines, strict=False)), lines[-1], run_ms)
        factors = {str(name): float(value) for name, value in data["alone_factor"].items()}
        overhead = ProfilerOverhead(*(float(ms) for ms in data["overhead_ms"]))
        if not (math.isfinite(overhead.ms) and 0 <= overhead.noise_ms < math.inf):
            raise ValueError("what a profile adds is no number of milliseconds")
        fit = JointFit(rooflines, processes, factors, overhead)
        predictor = cls(fit, ())
        predictor.measured_ = frozenset(str(key) for key in data["measured"])
        for key, (ms, error) in data["looked_up"].items():
            if not (ms > 0 and error >= 0):
                raise ValueError("a kernel takes longer than nothing")
            predictor.looked_up_[str(key)] = (float(ms), float(error))
        return predictor


def _packed(root: NDArray[np.float32]) -> NDArray[np.float32]:
    return root[np.tril_indices(len(root))]


def _unpacked(values: NDArray[Any], n: int) -> FloatArray:
    root = np.zeros((n, n))
    root[np.tril_indices(n)] = values
    return root
