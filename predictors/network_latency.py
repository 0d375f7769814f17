"""Latency of whole networks: kernels, what the network is as a whole, and an interval."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from predictors import network_correction
from predictors.errors import NotFittedError, PredictorError, WrongTargetError
from predictors.intervals import Calibration, min_examples
from predictors.kernel_latency import KNOWN_ERROR, UNKNOWN_GROUP_ERROR, KernelLatencyPredictor
from predictors.network_correction import NetworkCorrection
from profilers.kernels import Kernel
from profilers.measurement import (
    EXCERPT_FAMILY,
    EXCERPT_TAG,
    FAMILY_TAG,
    OF_NO_FAMILY,
    SPACE_TAG,
    SURVEY_FAMILY,
    KernelLatency,
    NetworkMeasurement,
)
from profilers.targets import Target

FloatArray = NDArray[np.float64]

MIN_NETWORKS = 8
N_FOLDS = 5
N_OF_FAMILY = 30
DEFAULT_LEVEL = 0.9
# Additive over kernels: ms, ms · expected error, ms of known ones, what the correction needs.
N_TERMS = 3 + network_correction.N_FEATURES
ANY_FAMILY = ""
# By what share measurements of another sitting differ, where none was repeated to show it: seen on
# 300 networks that were measured twice, ten minutes apart.
DRIFT, MIN_REPEATED = 0.02, 20


@dataclass(frozen=True)
class LatencyPrediction:
    """Predicted latencies of n networks, all arrays `(n,)`.

    Attributes:
        latency_ms: What is expected.
        low_ms: Lower end of the interval.
        high_ms: Upper end; what a budget is compared with.
        known_share: Share of the kernels' latency that rests on known kernels.
    """

    latency_ms: FloatArray
    low_ms: FloatArray
    high_ms: FloatArray
    known_share: FloatArray


class NetworkLatencyPredictor:
    """End-to-end latency on one target, with an interval calibrated on held-out networks.

    latency = (run + sum of kernels) · exp(g), all learned together, see `joint_fit.py`.

    Attributes:
        target_: Where the measurements were made.
        kernels_: The predictor of single kernels.
        correction_: g, of what the network is as a whole.
        calibrations_: How far off predictions were, by what the networks were drawn from (as
            `kind_of`); `""` is for all others, learned by leaving one family out at a time.
        held_out_: `(predicted_ms, measured_ms)` of the networks, each by a model that did not see
            it, `(2, n)`.
        left_out_: Of the same networks, after `fit` alone: by what was left out (`network`,
            `family`) the number of the part that each was in, what a model without that part
            predicts in ms, and the relative error that it expects, `(3, n)`; part -1: none.
        knows_others_: Whether a survey, or several families, told how far off it is on networks of
            yet another kind.
        drift_: By what share measurements of another sitting may differ, after `fit` alone.
    """

    def __init__(self, *, level: float = DEFAULT_LEVEL, seed: int = 0) -> None:
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level=}")
        self.level = level
        self.seed = seed
        self.target_: Target | None = None
        self.kernels_: KernelLatencyPredictor | None = None
        self.correction_ = NetworkCorrection.prior(np.ones((1, network_correction.N_FEATURES)))
        self.calibrations_: dict[str, Calibration] = {}
        self.held_out_ = np.zeros((2, 0))
        self.left_out_: dict[str, FloatArray] = {}
        self.drift_ = 0.0
        self.knows_others_ = False

    def fit(
        self,
        measurements: Sequence[NetworkMeasurement],
        *,
        isolated: Mapping[Kernel, KernelLatency] | None = None,
        on_progress: Callable[[int, int], object] = lambda done, total: None,
    ) -> Self:
        """Learn from the measurements of one target, at least `MIN_NETWORKS`.

        Args:
            measurements: Networks; their tags `FAMILY_TAG` and `SPACE_TAG` tell what they are.
            isolated: What `MeasurementStore.isolated` says of that target.
            on_progress: Told how many of the fits are done: one of all, one for each fold and for
                each family that is left out.

        Raises:
            PredictorError: There are too few, or they are of several targets.
        """
        self.target_ = _one_target(measurements)
        networks = fit_to_learn_from(measurements)
        if not networks:
            raise PredictorError(
                "none of the measured networks shows its kernels; measure with a runtime that does"
            )
        families = np.array([m.tags.get(FAMILY_TAG, ANY_FAMILY) for m in networks])
        is_whole = families != EXCERPT_FAMILY  # the others are parts of one, with the same kernels
        architectures = _architectures(networks)
        n_whole = len({name for name, whole in zip(architectures, is_whole, strict=True) if whole})
        if n_whole < MIN_NETWORKS:
            raise PredictorError(
                f"at least {MIN_NETWORKS} different measured networks are needed, got "
                f"{n_whole} (other weights do not make another); measure more with `hwnas profile`"
            )
        alone_ms = {kernel: run.latency_ms for kernel, run in (isolated or {}).items()}
        folds, kin = _folds(architectures, self.seed), _left_out(networks, families)
        unseen = np.where(is_whole, kin, -1)
        self.knows_others_ = SURVEY_FAMILY in families or int(unseen.max()) > 0
        n_fits = 1 + int(folds.max()) + 1 + (int(kin.max()) + 1)
        done = 0

        def fitted(
            part: NDArray[np.bool_], known_ms: Mapping[Kernel, float] = alone_ms
        ) -> NetworkLatencyPredictor:
            nonlocal done
            model = type(self)(level=self.level, seed=self.seed)
            model._fit_once([m for m, used in zip(networks, part, strict=True) if used], known_ms)
            done += 1
            on_progress(done, n_fits)
            return model

        def without_family(part: NDArray[np.bool_]) -> NetworkLatencyPredictor:
            """Nor with what was measured alone for it: of a new family nobody has that."""
            only_there = _kernels(networks, ~part) - _kernels(networks, part)
            return fitted(part, {k: ms for k, ms in alone_ms.items() if k not in only_there})

        measured = np.array([m.latency_ms for m in networks])
        sums = _left_out_sums(networks, folds, fitted)
        self.held_out_ = np.stack([sums[0], measured])[:, is_whole]
        by_family = _left_out_sums(networks, kin, without_family) if kin.max() >= 0 else sums
        by_family = np.where(unseen >= 0, by_family, sums)  # the survey is of no family
        self.left_out_ = {
            "network": np.vstack([np.where(is_whole, folds, -1), sums]),
            "family": np.vstack([unseen, by_family]),
        }
        self.drift_ = 0.0 if _n_repeated(networks) >= MIN_REPEATED else DRIFT
        self.calibrations_ = self.calibrations_without(networks, np.zeros(len(networks), bool))
        self._fit_once(networks, alone_ms)
        on_progress(n_fits, n_fits)
        return self

    def calibrations_without(
        self, networks: Sequence[NetworkMeasurement], left_out: NDArray[np.bool_]
    ) -> dict[str, Calibration]:
        """What `calibrations_` are without some networks, `(n,)`, after `fit` alone.

        Args:
            networks: Those that it learned from, `fit_to_learn_from`.
            left_out: Which of them.
        """
        whole = (self.left_out_["network"][0] >= 0) & ~left_out
        families = np.array([m.tags.get(FAMILY_TAG, ANY_FAMILY) for m in networks])
        measured = np.array([m.latency_ms for m in networks])
        _, predicted, error = self.left_out_["family"][:, whole]
        found = {
            ANY_FAMILY: _new_family_calibration(
                families[whole], predicted, error, measured[whole], drift=self.drift_
            )
        }
        kinds = np.array([kind_of(m) for m in networks])
        for kind in set(kinds[whole].tolist()) - {ANY_FAMILY, *OF_NO_FAMILY}:
            here = whole & (kinds == kind)
            if here.sum() >= min_examples(self.level):
                _, predicted, error = self.left_out_["network"][:, here]
                found[kind] = Calibration.of(predicted, error, measured[here], drift=self.drift_)
        return found

    def _fit_once(
        self, networks: Sequence[NetworkMeasurement], alone_ms: Mapping[Kernel, float]
    ) -> None:
        self.kernels_, self.correction_ = KernelLatencyPredictor.learn(networks, alone_ms)

    def with_excerpt(self, profiled_ms: Mapping[Kernel, float]) -> Self:
        """The same predictor, which also knows kernels of an excerpt (`profilers/excerpts.py`).

        Args:
            profiled_ms: What the excerpt's profile says of each.

        Raises:
            NotFittedError: The predictor was not fitted.
        """
        if self.kernels_ is None:
            raise NotFittedError("with_excerpt was called before fit")
        other = copy.copy(self)
        other.kernels_ = self.kernels_.knowing(profiled_ms, is_alone=False)
        return other

    def predict(
        self, networks: Sequence[Sequence[Kernel]], *, family: str = ANY_FAMILY
    ) -> LatencyPrediction:
        """Latencies of n networks, each given by its kernels.

        Args:
            networks: Kernels of each network.
            family: What the networks were drawn from, as `kind_of` tells it of measured ones:
                intervals are narrower where that was measured.
        """
        return self.predict_sums(self._sums(networks), family=family)

    def _sums(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        flat = [kernel for kernels in networks for kernel in kernels]
        owner = np.repeat(np.arange(len(networks)), [len(kernels) for kernels in networks])
        sums = np.zeros((len(networks), N_TERMS))
        np.add.at(sums, owner, self.terms(flat))
        return sums

    def terms(self, kernels: Sequence[Kernel]) -> FloatArray:
        """What each kernel adds to the sums of `predict_sums`, `(n, N_TERMS)`."""
        if self.kernels_ is None:
            raise NotFittedError("a predictor was asked before fit")
        ms, error = self.kernels_.estimate(kernels)
        known_ms = ms * (error <= KNOWN_ERROR)
        return np.column_stack([ms, ms * error, known_ms, network_correction.kernel_terms(kernels)])

    def predict_sums(self, sums: FloatArray, *, family: str = ANY_FAMILY) -> LatencyPrediction:
        """Latencies from the sums of `terms` over the kernels of each network, `(n, N_TERMS)`.

        This is the whole network-level model: the inner loop of a search ends here.
        """
        latency_ms, error = self._latency_and_error(sums)
        calibration = self.calibrations_.get(family, self.calibrations_[ANY_FAMILY])
        low_ms, high_ms = calibration.bounds(latency_ms, error, level=self.level)
        known_share = sums[:, 2] / np.maximum(sums[:, 0], 1e-12)
        known_share[error > UNKNOWN_GROUP_ERROR] = 0.0  # what is not seen may be most of it
        return LatencyPrediction(latency_ms, low_ms, high_ms, known_share)

    def _latency_and_error(self, sums: FloatArray) -> FloatArray:
        """Latency in ms and expected relative error, as if kernels erred together; `(2, n)`."""
        if self.kernels_ is None:
            raise NotFittedError("a predictor was asked before fit")
        total = sums[:, 0] + self.kernels_.rooflines_.run_ms
        latency_ms = total * np.exp(self.correction_(sums[:, 3:]))
        return np.stack([latency_ms, sums[:, 1] / np.maximum(total, 1e-12)])

    def interval_at(self, latency_ms: float, *, family: str = ANY_FAMILY) -> tuple[float, float]:
        """Ends of the interval of a network that it is as sure of as usual, as shares."""
        if self.kernels_ is None:
            raise NotFittedError("interval_at was called before fit")
        calibration = self.calibrations_.get(family, self.calibrations_[ANY_FAMILY])
        usual = np.array([calibration.usual])
        low, high = calibration.bounds(np.array([latency_ms]), usual, level=self.level)
        return float(low[0] / latency_ms), float(high[0] / latency_ms)

    def check_target(self, target: Target) -> None:
        """Refuse to speak about another target.

        Raises:
            WrongTargetError: It was fitted on another one.
        """
        if self.target_ is None:
            raise NotFittedError("check_target was called before fit")
        if self.target_.key != target.key:
            raise WrongTargetError(
                f"this predictor was fitted on {self.target_.describe()} "
                f"[{self.target_.key}], but asked about {target.describe()} "
                f"[{target.key}]. Fit one there: hwnas profile, hwnas fit"
            )

    def to_data(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The learned state as JSON-able data and named arrays."""
        if self.kernels_ is None or self.target_ is None:
            raise NotFittedError("a predictor can only be saved after fit")
        data, arrays = self.kernels_.to_data()
        families = sorted(self.calibrations_)
        parts = {"correction": self.correction_.to_arrays()} | {
            f"calibration_{i}": self.calibrations_[family].to_arrays()
            for i, family in enumerate(families)
        }
        header = {
            "level": self.level,
            "seed": self.seed,
            "target": self.target_.to_dict(),
            "families": families,
            "knows_others": self.knows_others_,
            "kernels": data,
        }
        named = {f"{part}_{name}": a for part, of in parts.items() for name, a in of.items()}
        return header, arrays | named | {"held_out": self.held_out_}

    @classmethod
    def from_data(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild from `to_data`.

        Raises:
            KeyError, TypeError, ValueError: The data was not written by `to_data`.
        """

        def part(name: str) -> dict[str, NDArray[Any]]:
            prefix = f"{name}_"
            return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

        predictor = cls(level=float(data["level"]), seed=int(data["seed"]))
        predictor.target_ = Target.from_dict(data["target"])
        predictor.held_out_ = np.asarray(arrays["held_out"], np.float64).reshape(2, -1)
        predictor.correction_ = NetworkCorrection.from_arrays(part("correction"))
        predictor.calibrations_ = {
            str(family): Calibration.from_arrays(part(f"calibration_{i}"))
            for i, family in enumerate(data["families"])
        }
        if ANY_FAMILY not in predictor.calibrations_:
            raise ValueError("it has no intervals for networks of new families")
        if not isinstance(data["knows_others"], bool):
            raise ValueError("it does not say whether it knows networks of several kinds")
        predictor.knows_others_ = data["knows_others"]
        predictor.kernels_ = KernelLatencyPredictor.from_data(data["kernels"], arrays)
        return predictor


def _new_family_calibration(
    families: NDArray[np.str_],
    predicted_ms: FloatArray,
    error: FloatArray,
    measured_ms: FloatArray,
    *,
    drift: float = 0.0,
) -> Calibration:
    """Of a family that was not measured: how far off is a model without the network's own family.

    A network of a new family is as likely to be like one family as like another, however many
    networks of each were measured. And that those were predicted too high, say, is of no use: the
    next one may be predicted too low, by as much.

    Args:
        families: Of n networks, `(n,)`.
        predicted_ms: By a model without that family, `(n,)`.
        error: The relative error that it expected, `(n,)`.
        measured_ms: What they take, `(n,)`.
        drift: As `Calibration.of` has it.
    """
    some = _evenly(families, measured_ms)
    return Calibration.of(
        predicted_ms[some],
        error[some],
        measured_ms[some],
        drift=drift,
        either_sign=len(set(families.tolist())) > 1,
    )


def _one_target(measurements: Sequence[NetworkMeasurement]) -> Target:
    targets = {m.target.key: m.target for m in measurements}
    if len(targets) != 1:
        raise PredictorError(
            f"measurements of exactly one target are needed, got "
            f"{len(targets)}: {', '.join(sorted(targets)) or 'none'}"
        )
    return next(iter(targets.values()))


def undisturbed(measurements: Sequence[NetworkMeasurement]) -> list[NetworkMeasurement]:
    """Those that a fit rests on: whose latency can be trusted, where they are half or more."""
    steady = [m for m in measurements if m.samples.warning is None]
    is_enough = _n_distinct(steady) >= max(MIN_NETWORKS, _n_distinct(measurements) / 2)
    return steady if is_enough else list(measurements)


def fit_to_learn_from(measurements: Sequence[NetworkMeasurement]) -> list[NetworkMeasurement]:
    """The undisturbed ones that show kernels: nothing is left of the others but constants."""
    return [m for m in undisturbed(measurements) if m.kernels]


def kind_of(m: NetworkMeasurement) -> str:
    """What a network was drawn from: a space made for certain data, else its family.

    A space for other data has other kernels, though its networks are of one family.
    """
    return m.tags.get(SPACE_TAG) or m.tags.get(FAMILY_TAG, ANY_FAMILY)


def _kernels(networks: Sequence[NetworkMeasurement], part: NDArray[np.bool_]) -> set[Kernel]:
    return {run.kernel for m, used in zip(networks, part, strict=True) if used for run in m.kernels}


def _n_distinct(networks: Sequence[NetworkMeasurement]) -> int:
    """How many networks a fit tells apart."""
    whole = [m for m in networks if m.tags.get(FAMILY_TAG) != EXCERPT_FAMILY]
    return len(set(_architectures(whole)))


def _n_repeated(networks: Sequence[NetworkMeasurement]) -> int:
    """How many networks were measured more than once."""
    # The same one may stand in a database and in a table of it.
    counts = Counter(digest for digest, _ in {(m.digest, m.latency_ms) for m in networks})
    return sum(n > 1 for n in counts.values())


def _architectures(networks: Sequence[NetworkMeasurement]) -> list[str]:
    """For each network, the digest of the first one with the same kernels: with other weights, say.

    For what was cut out of a network, that of the network.
    """
    kernels = [tuple(run.kernel.key for run in m.kernels) or (m.digest,) for m in networks]
    first: dict[tuple[str, ...], str] = {}
    for m, keys in zip(networks, kernels, strict=True):
        first[keys] = min(first.get(keys, m.digest), m.digest)
    of_digest = {m.digest: first[keys] for m, keys in zip(networks, kernels, strict=True)}
    return [of_digest.get(m.tags.get(EXCERPT_TAG, ""), of_digest[m.digest]) for m in networks]


def _folds(architectures: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Fold of each network; all that shows the kernels of one architecture is in one."""
    distinct = sorted(set(architectures))
    order = np.random.default_rng(seed).permutation(len(distinct))
    fold_of = {distinct[at]: position % N_FOLDS for position, at in enumerate(order)}
    return np.array([fold_of[name] for name in architectures])


def _left_out(
    networks: Sequence[NetworkMeasurement], families: NDArray[np.str_]
) -> NDArray[np.int64]:
    """With which family each network is left out, -1 where with none.

    Parts of a network go with it: they show the very kernels that its family brings.
    """
    whole = families[families != EXCERPT_FAMILY]
    n_others = {name: int((whole != name).sum()) for name in set(whole.tolist())}
    # What nobody named may be of any kind.
    of_none = {ANY_FAMILY, *OF_NO_FAMILY}
    names = sorted(
        name for name, n in n_others.items() if n >= MIN_NETWORKS and name not in of_none
    )
    of_digest = dict(zip((m.digest for m in networks), families.tolist(), strict=True))
    kin = [
        of_digest.get(m.tags.get(EXCERPT_TAG, ""), str(family))
        for m, family in zip(networks, families, strict=True)
    ]
    return np.array([names.index(f) if f in names else -1 for f in kin])


def _evenly(families: NDArray[np.str_], measured_ms: FloatArray) -> NDArray[np.int64]:
    """At most `N_OF_FAMILY` networks of each family, from the fastest to the slowest."""
    if len(set(families.tolist())) == 1:
        return np.arange(len(families))
    found = []
    for family in sorted(set(families.tolist())):
        here = np.flatnonzero(families == family)
        here = here[np.argsort(measured_ms[here], kind="stable")]
        at = np.linspace(0, len(here) - 1, min(len(here), N_OF_FAMILY)).round().astype(np.int64)
        found.append(here[at])
    return np.concatenate(found)


def _left_out_sums(
    networks: Sequence[NetworkMeasurement],
    parts: NDArray[np.int64],
    fitted: Callable[[NDArray[np.bool_]], NetworkLatencyPredictor],
) -> FloatArray:
    """Latency and expected error of each network by a model that saw no other of its part."""
    found = np.ones((2, len(networks)))
    for part in range(int(parts.max()) + 1):
        here = np.flatnonzero(parts == part)
        if not len(here):
            continue
        model = fitted(parts != part)
        kernels = [[run.kernel for run in networks[i].kernels] for i in here.tolist()]
        found[:, here] = model._latency_and_error(model._sums(kernels))
    return found
