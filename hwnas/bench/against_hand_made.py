"""Do subnets beat the networks that a person would take, at no more latency?

For each hand-made network: those subnets are bred on a trained supernet whose predicted latency,
by the upper end of its interval, is not above what the hand-made one was measured to take. The
supernet was trained for networks of all sizes, so it is trained on for just these first. The best
of them that hold when measured beside it are trained alone, first for a quarter of the epochs, then
the best of these for all; and the best of those on validation is trained with all seeds, as the
hand-made one is. Test is read at the very end, from the ONNX files.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.bench.hand_made import hand_made
from hwnas.bench.kept import Kept
from hwnas.bench.supernet import supernet_of
from hwnas.budget import Budget
from hwnas.cost import CostTable
from hwnas.cost_fit import fit_costs
from hwnas.data import DataSet, load_data
from hwnas.errors import ConfigError, InfeasibleBudgetError, unknown_name
from hwnas.evaluation import evaluate_onnx
from hwnas.evaluators.training import train_network
from hwnas.front.sittings import SeveralSittings, time_in_sittings
from hwnas.front.verify import Trained, export_candidate
from hwnas.guides.scoring import SubnetScores
from hwnas.networks import counts
from hwnas.profiling import profile_space, untrained_model
from hwnas.progress import Progress
from hwnas.spaces.base import Architecture, Genotype, SearchSpace
from hwnas.spaces.for_data import space_for
from hwnas.strategies.base import Problem, SpaceExhaustedError, Trial
from hwnas.strategies.evolution import Evolution
from hwnas.supernet import Supernet, make_way, train_supernet
from hwnas.target_place import TargetPlace
from hwnas.training import Recipe, default_recipes, with_changes
from predictors.cost import CostPredictor
from predictors.files import load_predictor, save_predictor
from profilers.devices import this_device
from profilers.onnx_models import OnnxModel, load_model
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target

__all__ = ["HandMadeStudy", "bench_hand_made", "is_beaten"]

RESULTS, PREDICTOR, MEASUREMENTS = "results.json", "predictor.npz", "measurements.db"
SECONDS = 1.0  # for each model in each sitting
LEVEL = 0.9  # share of networks that the predicted interval is to cover
N_SIDE_BY_SIDE = 20  # bred subnets that are measured beside a hand-made network
N_SCREENED = 12  # of those that hold, that are trained for a part of the epochs
SCREENING_SHARE = 0.25


@dataclass(frozen=True)
class HandMadeStudy:
    """What is asked for.

    Attributes:
        data: Images, as `load_data` takes them.
        space: Of the supernet, as `make_space` takes it.
        epochs: Of each training alone.
        specialising_epochs: Of training the supernet on for the subnets that are fast enough.
        recipe: Changes of the recipe, see `with_changes`.
        n_seeds: Trainings of each network that is compared.
        n_evaluations: Subnets that are scored with inherited weights, for each hand-made network.
        n_candidates: That are trained once to the end, to choose one of them on validation.
        n_networks: That are measured to fit the predictor.
        target: As `make_target` takes it.
        supernet_seed: Which supernet of the study of supernets.
        against: Names of hand-made networks; empty: all.
    """

    data: str
    space: str
    epochs: float
    specialising_epochs: float = 2.0
    recipe: tuple[str, ...] = ()
    n_seeds: int = 3
    n_evaluations: int = 200
    n_candidates: int = 3
    n_networks: int = 60
    target: str = "onnxruntime-cpu"
    supernet_seed: int = 0
    against: tuple[str, ...] = ()


def bench_hand_made(
    study: HandMadeStudy,
    out: Path,
    *,
    supernets: Path,
    data_path: Path | None,
    predictor: Path | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Find a subnet for each hand-made network, and compare the two.

    Called again with the same arguments it goes on where it stopped.

    Args:
        study: What is asked for.
        out: Holds results, predictor, measurements and models.
        supernets: The `out` of `bench_supernet`.
        data_path: Folder or file of the data.
        predictor: A fitted one of the space and target; None: one is fitted after measuring.
        progress: Told how it goes on.

    Returns:
        What was asked for, and by name of the hand-made network in `against`: `hand_made` and
        `subnet`, each with `latency_ms` (measured in turns, several sittings), `test_accuracies` by
        seed, their mean and spread (largest minus smallest), `macs` and `params`;
        `latency_ratio`, `accuracy_gain` and `is_beaten`. Where no subnet is as fast, `subnet` is
        None and `reason` says why.

    Raises:
        ConfigError: The data are no images, or `out` holds the results of another study.
        RunFolderError: There is no such supernet, or `out` cannot be used.
        ProfilerError, PredictorError: Something else that the user can mend.
    """
    data = load_data(study.data, path=data_path)
    if data.kind != "image":
        raise ConfigError(f"hand-made networks are for images, {study.data} is of kind {data.kind}")
    space = space_for(study.space, data)
    supernet = supernet_of(space, supernets, seed=study.supernet_seed)
    asked = asdict(study) | {"data": f"{study.data} {data.fingerprint}"}
    networks = _chosen(study.against, hand_made(data.input_shape, data.n_classes))
    with Kept.open(out / RESULTS, asked) as kept, MeasurementStore(out / MEASUREMENTS) as store:
        comparison = _Comparison(study, data, space, supernet, out, kept, store, progress)
        problem = comparison.priced(predictor)
        rows = {name: comparison.row(name, each, problem) for name, each in networks.items()}
    return {
        **asdict(study),
        "device": this_device().cpu,
        "n_train": len(data.train),
        "n_test": len(data.test),
        "against": rows,
    }


def is_beaten(theirs: Sequence[float], ours: Sequence[float], latency_ratio: float) -> bool:
    """Whether ours are better at no more latency.

    Args:
        theirs: Accuracies of the hand-made network, one for each seed.
        ours: Of the subnet.
        latency_ratio: The subnet's over the other's, measured.

    Returns:
        Whether the means differ by more than either's spread over the seeds, and the ratio is at
        most 1.

    Example:
        >>> is_beaten([0.90, 0.91], [0.92, 0.925], 0.98)
        True
    """
    gain = statistics.fmean(ours) - statistics.fmean(theirs)
    return latency_ratio <= 1 and gain > max(_spread(theirs), _spread(ours))


class _Comparison:
    """What the comparisons with all hand-made networks share."""

    def __init__(
        self,
        study: HandMadeStudy,
        data: DataSet,
        space: SearchSpace,
        supernet: Supernet,
        out: Path,
        kept: Kept,
        store: MeasurementStore,
        progress: Progress,
    ) -> None:
        self.study, self.data, self.space, self.supernet = study, data, space, supernet
        self.out, self.kept, self.store, self.progress = out, kept, store, progress
        self.target = make_target(study.target)
        short, _ = default_recipes(data)
        self.recipe: Recipe = with_changes(replace(short, epochs=study.epochs), study.recipe)

    def priced(self, given: Path | None) -> Problem:
        """The space with predicted latencies, still without a budget."""
        path = given or self.out / PREDICTOR
        table = CostTable(self.space, Profiler(self.target), self.store)
        if given is None and not path.exists():
            found = profile_space(
                self.space,
                self.target,
                self.store,
                n_networks=self.study.n_networks,
                progress=self.progress,
            )
            save_predictor(fit_costs(found, table, self.store, level=LEVEL), path)
        costs = load_predictor(path, CostPredictor)
        costs.check_target(self.target)
        table.use(costs)
        with self.progress.task("pricing the space", None) as task:
            table.warm(np.random.default_rng(0), on_progress=task.update)
        return Problem(self.space, table.predict)

    def row(self, name: str, theirs: Architecture, problem: Problem) -> dict[str, Any]:
        """One hand-made network, and the subnet that is as fast."""
        hand_made_row = {"params": counts(theirs).params, "macs": counts(theirs).macs}
        limit_ms = self.kept.once(f"limit {name}", lambda: self._limit_ms(theirs))
        bred = self.kept.once(f"bred {name}", lambda: self._bred(limit_ms, problem))
        fast = self.kept.once(f"fast {name}", lambda: self._fast(theirs, bred["genotypes"]))
        if not fast:
            reason = bred.get("reason") or "no bred subnet is as fast when measured beside it"
            return {"hand_made": hand_made_row, "subnet": None, "reason": reason}
        screened = [self._screened(f"{name} {i}", tuple(each)) for i, each in enumerate(fast)]
        order = sorted(range(len(fast)), key=lambda i: -screened[i])[: self.study.n_candidates]
        found = {i: self._trained(f"{name} {i}", tuple(fast[i]), 0) for i in order}
        best = max(order, key=lambda i: found[i])
        genotype = tuple(fast[best])
        ours = self.space.architecture(genotype)
        seeds = range(self.study.n_seeds)
        for seed in seeds:
            self._trained(name, theirs, seed)
            self._trained(f"{name} {best}", genotype, seed)
        accuracies = [
            [
                self.kept.once(f"test {each} {seed}", partial(self._tested, each, seed))
                for seed in seeds
            ]
            for each in (name, f"{name} {best}")
        ]
        timed = self.kept.once(f"timed {name}", lambda: self._timed(name, f"{name} {best}"))
        ratio = timed[1]["latency_ms"] / timed[0]["latency_ms"]
        return {
            "hand_made": {**hand_made_row, **timed[0], **_summary(accuracies[0])},
            "subnet": {
                "genotype": self.space.to_json(genotype),
                "params": counts(ours).params,
                "macs": counts(ours).macs,
                **timed[1],
                **_summary(accuracies[1]),
            },
            "latency_ratio": ratio,
            "accuracy_gain": statistics.fmean(accuracies[1]) - statistics.fmean(accuracies[0]),
            "is_beaten": is_beaten(accuracies[0], accuracies[1], ratio),
        }

    def _limit_ms(self, theirs: Architecture) -> float:
        return self._in_turns([untrained_model(theirs)])[0].samples.latency_ms

    def _bred(self, limit_ms: float, problem: Problem) -> dict[str, Any]:
        """Subnets by inherited accuracy, best first, or the reason why there are none."""
        limited = replace(problem, budgets=(Budget("latency_ms", limit_ms),))
        try:
            scores = SubnetScores(self._specialised(limited, limit_ms), self.data)
        except InfeasibleBudgetError as error:
            return {"genotypes": [], "reason": str(error)}
        evolution = Evolution(limited, seed=0)
        n = self.study.n_evaluations
        with self.progress.task(f"breeding up to {limit_ms:.3g} ms", n) as task:
            for number in range(n):
                try:
                    genotype = evolution.ask()
                except SpaceExhaustedError:
                    break
                error_share = scores.score(genotype)
                costs = limited.predict(np.array([genotype], dtype=np.int64))
                objectives = limited.objectives(error_share, costs)[0].tolist()
                evolution.tell(Trial(number, genotype, tuple(objectives)))
                task.update(number + 1, note=f"error {min(scores.errors):.4f}")
        order = np.argsort(scores.errors, kind="stable")
        return {"genotypes": [scores.genotypes[i] for i in order[:N_SIDE_BY_SIDE]]}

    def _specialised(self, limited: Problem, limit_ms: float) -> Supernet:
        """The supernet, trained on by uniform paths within the limit (as in SPOS)."""
        supernet = deepcopy(self.supernet)
        recipe = replace(self.recipe, epochs=self.study.specialising_epochs)
        way = make_way("single-path", self.space, seed=0, problem=limited)
        with self.progress.task(f"training the supernet up to {limit_ms:.3g} ms", 1.0) as task:
            train_supernet(supernet, self.data, recipe, way, seed=0, on_progress=task.update)
        return supernet

    def _fast(self, theirs: Architecture, bred: Sequence[Genotype]) -> list[Genotype]:
        """The first of those that take no longer than the hand-made network, in turns with it."""
        if not bred:
            return []
        found = [self.space.architecture(tuple(genotype)) for genotype in bred]
        sat = self._in_turns([untrained_model(each) for each in (theirs, *found)])
        limit_ms, *ours_ms = (each.samples.latency_ms for each in sat)
        held = [g for g, ms in zip(bred, ours_ms, strict=True) if ms <= limit_ms]
        return held[:N_SCREENED]

    def _screened(self, name: str, genotype: Genotype) -> float:
        """Accuracy on validation after a part of the training."""
        recipe = replace(self.recipe, epochs=self.recipe.epochs * SCREENING_SHARE)

        def train() -> float:
            architecture = self.space.architecture(genotype)
            with self.progress.task(f"training {name} for a part", 1.0) as task:
                _, result = train_network(
                    architecture, self.data, recipe, seed=0, on_progress=task.update
                )
            return result.validation.accuracy

        return float(self.kept.once(f"screened {name}", train))

    def _trained(self, name: str, what: Architecture | Genotype, seed: int) -> float:
        """Accuracy on validation; the model is written."""
        architecture = what if isinstance(what, Architecture) else self.space.architecture(what)

        def train() -> float:
            with self.progress.task(f"training {name}, seed {seed}", 1.0) as task:
                network, result = train_network(
                    architecture, self.data, self.recipe, seed=seed, on_progress=task.update
                )
            trained = Trained(name, network, architecture, None)
            export_candidate(trained, self.data, self.target, self._path(name, seed))
            return result.validation.accuracy

        return float(self.kept.once(f"validation {name} {seed}", train))

    def _tested(self, name: str, seed: int) -> float:
        return evaluate_onnx(self._path(name, seed), self.data).accuracy

    def _timed(self, *names: str) -> list[dict[str, float]]:
        sat = self._in_turns([load_model(self._path(name, 0)) for name in names])
        return [
            {"latency_ms": s.samples.latency_ms, "low_ms": s.low_ms, "high_ms": s.high_ms}
            for s in sat
        ]

    def _in_turns(self, models: Sequence[OnnxModel]) -> list[SeveralSittings]:
        return time_in_sittings(
            models,
            TargetPlace.here(self.target).open_profiler,
            seconds=SECONDS,
            references_ms=self.store.references_ms(self.target),
            progress=self.progress,
        )

    def _path(self, name: str, seed: int) -> Path:
        return self.out / "models" / f"{name.replace(' ', '-subnet-')}-seed-{seed}.onnx"


def _chosen(names: Sequence[str], networks: dict[str, Architecture]) -> dict[str, Architecture]:
    """The networks of those names, or all."""
    for name in names:
        if name not in networks:
            raise ConfigError(unknown_name("hand-made network", name, networks))
    return {name: networks[name] for name in names or networks}


def _spread(accuracies: Sequence[float]) -> float:
    return max(accuracies) - min(accuracies)


def _summary(accuracies: Sequence[float]) -> dict[str, Any]:
    return {
        "test_accuracies": list(accuracies),
        "test_accuracy": statistics.fmean(accuracies),
        "test_spread": _spread(accuracies),
    }
