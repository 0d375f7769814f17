"""Do searched networks beat those that a person would take, at no more latency?

For each hand-made network, the default strategy searches a space for networks whose predicted
latency, by the upper end of its interval, is not above what the hand-made one was measured to take;
candidates are trained briefly. The best of them that hold when measured beside it are trained for a
quarter of the epochs, the best of these for all, and the best of those on validation with all
seeds, as the hand-made one is. Test is read at the very end, from the ONNX files.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.bench.hand_made import hand_made
from hwnas.bench.kept import Kept
from hwnas.budget import Budget
from hwnas.cost import CostTable
from hwnas.cost_fit import fit_costs
from hwnas.data import DataSet, load_data
from hwnas.errors import ConfigError, InfeasibleBudgetError, unknown_name
from hwnas.evaluation import evaluate_onnx
from hwnas.evaluators.training import train_network
from hwnas.front.sittings import SeveralSittings, time_in_sittings
from hwnas.front.verify import Trained, export_candidate
from hwnas.networks import counts
from hwnas.profiling import profile_space, untrained_model
from hwnas.progress import Progress
from hwnas.spaces.base import Architecture, Genotype, SearchSpace
from hwnas.spaces.for_data import space_for
from hwnas.strategies import Guided
from hwnas.strategies.base import Problem, SpaceExhaustedError, Trial
from hwnas.target_place import TargetPlace
from hwnas.training import Recipe, default_recipes, with_changes
from predictors.cost import CostPredictor
from predictors.files import load_predictor, save_predictor
from profilers.devices import this_device
from profilers.errors import ModelError
from profilers.onnx_models import OnnxModel, load_model
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target

__all__ = ["HandMadeStudy", "bench_hand_made", "is_beaten"]

RESULTS, PREDICTOR, MEASUREMENTS = "results.json", "predictor.npz", "measurements.db"
SECONDS = 1.0  # for each model in each sitting
LEVEL = 0.9  # share of networks that the predicted interval is to cover
CANDIDATE_SHARE = 0.1  # of the epochs, for a candidate of the search
N_SIDE_BY_SIDE = 20  # of them that are measured beside a hand-made network
N_SCREENED = 12  # of those that hold, that are trained for a larger part
SCREENING_SHARE = 0.25


@dataclass(frozen=True)
class HandMadeStudy:
    """What is asked for.

    Attributes:
        data: Images, as `load_data` takes them.
        space: What is searched, as `make_space` takes it.
        epochs: Of each training alone.
        recipe: Changes of the recipe, see `with_changes`.
        n_seeds: Trainings of each network that is compared.
        n_evaluations: Candidates of the search, for each hand-made network.
        n_candidates: That are trained once to the end, to choose one of them on validation.
        n_networks: That are measured to fit the predictor.
        target: As `make_target` takes it.
        against: Names of hand-made networks; empty: all.
    """

    data: str
    space: str
    epochs: float
    recipe: tuple[str, ...] = ()
    n_seeds: int = 3
    n_evaluations: int = 200
    n_candidates: int = 3
    n_networks: int = 60
    target: str = "onnxruntime-cpu"
    against: tuple[str, ...] = ()


def bench_hand_made(
    study: HandMadeStudy,
    out: Path,
    *,
    data_path: Path | None,
    predictor: Path | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Search a network for each hand-made one, and compare the two.

    Called again with the same arguments it goes on where it stopped.

    Args:
        study: What is asked for.
        out: Holds results, predictor, measurements and models.
        data_path: Folder or file of the data.
        predictor: A fitted one of the space and target; None: one is fitted after measuring.
        progress: Told how it goes on.

    Returns:
        What was asked for, and by name of the hand-made network in `against`: `hand_made` and
        `searched`, each with `latency_ms` (measured in turns, several sittings), `test_accuracies`
        by seed, their mean and spread (largest minus smallest), `macs` and `params`;
        `latency_ratio`, `accuracy_gain` and `is_beaten`. Where none is as fast, `searched` is
        None and `reason` says why.

    Raises:
        ConfigError: The data are no images, or `out` holds the results of another study.
        RunFolderError: `out` cannot be used.
        ProfilerError, PredictorError: Something else that the user can mend.
    """
    data = load_data(study.data, path=data_path)
    if data.kind != "image":
        raise ConfigError(f"hand-made networks are for images, {study.data} is of kind {data.kind}")
    space = space_for(study.space, data)
    asked = asdict(study) | {"data": f"{study.data} {data.fingerprint}"}
    networks = _chosen(study.against, hand_made(data.input_shape, data.n_classes))
    with Kept.open(out / RESULTS, asked) as kept, MeasurementStore(out / MEASUREMENTS) as store:
        comparison = _Comparison(study, data, space, out, kept, store, progress)
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
        ours: Of the searched one.
        latency_ratio: The searched one's over the other's, measured.

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
        out: Path,
        kept: Kept,
        store: MeasurementStore,
        progress: Progress,
    ) -> None:
        self.study, self.data, self.space = study, data, space
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
        """One hand-made network, and the searched one that is as fast."""
        hand_made_row = {"params": counts(theirs).params, "macs": counts(theirs).macs}
        limit_ms = self.kept.once(f"limit {name}", lambda: self._limit_ms(theirs))
        found = self.kept.once(f"found {name}", lambda: self._found(name, limit_ms, problem))
        fast = self.kept.once(f"fast {name}", lambda: self._fast(theirs, found["genotypes"]))
        if not fast:
            reason = found.get("reason") or "none is as fast when measured beside it"
            return {"hand_made": hand_made_row, "searched": None, "reason": reason}
        screened = []
        with self.progress.task(f"screening for {name}", len(fast)) as task:
            for i, each in enumerate(fast):
                screened.append(self._briefly(f"{name} {i}", tuple(each), SCREENING_SHARE))
                task.update(i + 1, note=f"best {max(screened):.4f}")
        order = sorted(range(len(fast)), key=lambda i: -screened[i])[: self.study.n_candidates]
        accuracies_of = {i: self._trained(f"{name} {i}", tuple(fast[i]), 0) for i in order}
        best = max(order, key=lambda i: accuracies_of[i])
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
            "searched": {
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

    def _found(self, name: str, limit_ms: float, problem: Problem) -> dict[str, Any]:
        """Networks by their accuracy after a brief training, or the reason why there are none."""
        limited = replace(problem, budgets=(Budget("latency_ms", limit_ms),))
        strategy = Guided(limited, seed=0)  # the default
        n, found = self.study.n_evaluations, dict[Genotype, float]()
        with self.progress.task(f"searching up to {limit_ms:.3g} ms", n) as task:
            for number in range(n):
                try:
                    genotype = strategy.ask()
                except SpaceExhaustedError:
                    break
                except InfeasibleBudgetError as error:
                    return {"genotypes": [], "reason": str(error)}
                accuracy = self._briefly(f"{name} trial {number}", genotype, CANDIDATE_SHARE)
                costs = limited.predict(np.array([genotype], dtype=np.int64))
                objectives = limited.objectives(1 - accuracy, costs)[0].tolist()
                strategy.tell(Trial(number, genotype, tuple(objectives)))
                found[genotype] = accuracy
                task.update(number + 1, note=f"best {max(found.values()):.4f}")
        return {"genotypes": sorted(found, key=lambda each: -found[each])[:N_SIDE_BY_SIDE]}

    def _fast(self, theirs: Architecture, searched: Sequence[Genotype]) -> list[Genotype]:
        """The first of those that take no longer than the hand-made network, in turns with it."""
        if not searched:
            return []
        found = [self.space.architecture(tuple(genotype)) for genotype in searched]
        sat = self._in_turns([untrained_model(each) for each in (theirs, *found)])
        limit_ms, *ours_ms = (each.samples.latency_ms for each in sat)
        held = [g for g, ms in zip(searched, ours_ms, strict=True) if ms <= limit_ms]
        return held[:N_SCREENED]

    def _briefly(self, name: str, genotype: Genotype, share: float) -> float:
        """Accuracy on validation after that share of the training."""
        recipe = replace(self.recipe, epochs=self.recipe.epochs * share)

        def train() -> float:
            _, result = train_network(self.space.architecture(genotype), self.data, recipe, seed=0)
            return result.validation.accuracy

        return float(self.kept.once(f"briefly {name}", train))

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
        found = []
        for sat in time_in_sittings(
            models,
            TargetPlace.here(self.target).open_profiler,
            seconds=SECONDS,
            references_ms=self.store.references_ms(self.target),
            progress=self.progress,
        ):
            if isinstance(sat, ModelError):
                raise sat
            found.append(sat)
        return found

    def _path(self, name: str, seed: int) -> Path:
        return self.out / "models" / f"{name.replace(' ', '-searched-')}-seed-{seed}.onnx"


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
