"""The whole job: profile, fit, search, train, verify, deliver. One call, taken up where it stopped.

A run folder holds `config.toml` (what was asked, what was found), `predictor.npz`, `study.db` (the
trials, unless `--storage` names another place), `guide/` (what was learned before them), `weights/`
(of networks that were trained to the end; `NAME.failed` and `NAME.unusable` say why one is left
out), `verified.json` (what verification found), `front/` (models and cards), `candidates/` and
`forms/` (models), `front.csv`, `candidates.csv`, `forms.csv`, `trials.csv`, `explanation.json`,
`predict.py` and `report.html`.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwnas import __version__
from hwnas.baselines import baselines
from hwnas.budget import Budget, parse_budget
from hwnas.code_digest import own_digest
from hwnas.config import CONFIG, SearchConfig, read_config
from hwnas.cost import CostTable, check_measurable, check_predictable
from hwnas.cost_fit import fit_costs
from hwnas.data import load_data
from hwnas.delivery import FormOptions, check_deliverable, deliver_forms
from hwnas.errors import ConfigError
from hwnas.evaluators.catalog import evaluator_digest
from hwnas.evaluators.plan import EvaluatorPlan
from hwnas.executors.ray_cluster import RayCluster
from hwnas.executors.ray_profiler import target_place
from hwnas.feasibility import Overview, overview, resolve_budgets
from hwnas.front.filling import latency_limit
from hwnas.front.final_training import train_finalists
from hwnas.front.hold import Workplace, hold_front
from hwnas.front.verify import Candidate, deliver
from hwnas.guides.folder import learned_guide
from hwnas.profiling import profile_space
from hwnas.progress import Progress, Silent
from hwnas.record import Record
from hwnas.record_place import STUDY_FILE, STUDY_NAME, new_study_name, parse_place, place_text
from hwnas.record_storage import has_trials
from hwnas.report.explain import explain_run
from hwnas.report.explanation import write_explanation
from hwnas.report.write import write_report
from hwnas.run_folder import RunFolder
from hwnas.run_trials import past_seconds, run_trials
from hwnas.run_workers import Workers
from hwnas.spaces.for_data import default_space, space_for
from hwnas.strategies import (
    NEEDS_GUIDE,
    Guide,
    Problem,
    Trial,
    check_strategy,
    make_strategy,
)
from hwnas.target_place import OpenProfiler, TargetPlace
from hwnas.training import Recipe, default_recipes, with_changes
from hwnas.trials_table import write_trials
from predictors.cost import CostPredictor
from predictors.errors import PredictorFileError
from predictors.files import load_predictor, save_predictor
from profilers.devices import this_device
from profilers.store import MeasurementStore
from profilers.targets import Target, make_target

PREDICTOR, STUDY = "predictor.npz", STUDY_FILE
GUIDE = "guide"  # folder
SMALL_INPUT = 256  # values of a channel, or steps
DEFAULT_MEASUREMENTS = Path("runs") / "measurements.db"
_VERSIONS = ("torch", "onnx", "onnxruntime", "optuna", "scikit-learn", "moocore", "numpy")


@dataclass(frozen=True)
class Result:
    """What a search delivered.

    Attributes:
        folder: The run folder.
        front: Members of the verified front, fastest first.
        candidates: All networks that were trained to the end, baselines included.
        is_complete: False: it was interrupted, and the same call goes on.
    """

    folder: Path
    front: tuple[Candidate, ...]
    candidates: tuple[Candidate, ...]
    is_complete: bool


def run_search(
    config: SearchConfig,
    out: Path,
    *,
    measurements: Path = DEFAULT_MEASUREMENTS,
    predictor: Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
    storage: str | None = None,
    ray_address: str | None = None,
) -> Result:
    """Search for networks that meet the budgets, and deliver a verified Pareto front of them.

    Called again with the same arguments it goes on where it stopped, also where it was killed.

    Args:
        config: What to search.
        out: The run folder.
        measurements: Database that what is measured goes to, and is taken from.
        predictor: A fitted predictor of the target; None: one is fitted, after measuring what the
            database does not hold.
        command: How to say this on the command line; the report repeats it.
        progress: Where progress is shown.
        storage: URL of the database that keeps the trials; None: a file in the run folder.
        ray_address: Of the cluster, with the executor `ray`; None: see `RayCluster`.

    Raises:
        HwnasError, ProfilerError, PredictorError: Something that the user can mend.
    """
    with RayCluster(ray_address) if config.executor == "ray" else nullcontext() as cluster:
        return _Run(
            config, out, measurements, predictor, command, progress or Silent(), storage, cluster
        ).go()


class _Run:
    """The state that the steps of one `run_search` share."""

    def __init__(
        self,
        config: SearchConfig,
        out: Path,
        measurements: Path,
        predictor: Path | None,
        command: str | None,
        progress: Progress,
        storage: str | None,
        cluster: RayCluster | None,
    ) -> None:
        self.cluster = cluster
        self.out = out
        self.progress = progress
        self.budgets = tuple(parse_budget(text) for text in config.budgets)
        self.config = config
        # What can be told now is told now, not after minutes of measuring.
        check_strategy(config.strategy)
        self.place = self.place_in(config.precision)
        self.target = self.place.target
        check_deliverable(self.target)
        for budget in self.budgets:
            check_measurable(budget.metric, self.target)
        self.data = load_data(
            config.data, path=Path(config.data_path) if config.data_path else None
        )
        if not config.space:
            self.config = config = replace(config, space=default_space(self.data))
            progress.say(f"space {config.space}, the first that is for such data; see --space")
        self.space = space_for(config.space, self.data)
        recipes = default_recipes(self.data)
        epochs = (config.search_epochs, config.final_epochs)
        self.search_recipe, self.final_recipe = (
            self.asked(recipe, given) for recipe, given in zip(recipes, epochs, strict=True)
        )
        self.measurements = measurements
        self.predictor_path = predictor
        # Before a folder is made for it.
        self.run = {
            "data_fingerprint": self.data.fingerprint,
            "space_fingerprint": self.space.fingerprint,
            "target": self.target.key,
        }
        if (digest := evaluator_digest(config.evaluator)) is not None:
            self.run["evaluator_digest"] = digest
            self.plan(config.evaluator, self.search_recipe).build()  # can it be used?
        if predictor is not None:
            self.run["predictor"] = _file_digest(predictor)
        self.storage = storage
        self.record_place, self.study = parse_place(out / STUDY), STUDY_NAME
        if storage is not None:
            place = parse_place(storage)  # a path stays where it is, wherever the search goes on
            self.record_place = place.absolute() if isinstance(place, Path) else place
            self.study = _study_of(out)
            self.run |= {"storage": place_text(self.record_place), "study": self.study}
        self.command = command

    def place_in(self, precision: str) -> TargetPlace:
        """The target, run in a precision."""
        config = self.config
        options = {"threads": config.threads, "batch": config.batch}
        if self.cluster is not None:
            return target_place(self.cluster, config.target, precision=precision, **options)
        return TargetPlace.here(make_target(config.target, precision=precision, **options))

    def asked(self, recipe: Recipe, epochs: float | None) -> Recipe:
        """A default recipe with what was asked for."""
        changed = with_changes(recipe, self.config.recipe)
        changed.check_kind(self.data.kind)
        return changed if epochs is None else replace(changed, epochs=epochs)

    def first_tables(self) -> dict[str, Any]:
        """The tables of `config.toml` that are known before anything was measured."""
        return {
            "search": self.config.to_table(),
            "run": self.run,
            "reproduce": {"command": self.command} if self.command else {},
            "target": _target_table(self.target),
            "versions": {
                "hwnas": __version__,
                "the code of hwnas": own_digest(),
                "python": platform.python_version(),
            }
            | {name: metadata.version(name) for name in _VERSIONS},
            "space": {
                "name": self.space.name,
                "size": float(self.space.size),
                "choices": {c.name: list(c.options) for c in self.space.choices},
                "constraints": [c.name for c in self.space.constraints],
            },
            "training": {"search": asdict(self.search_recipe), "final": asdict(self.final_recipe)},
        }

    def go(self) -> Result:
        # Steps on tiny inputs take a millisecond: a second thread costs more than it brings.
        is_small = math.prod(self.data.input_shape[1:]) <= SMALL_INPUT
        self.n_threads = 1 if is_small else this_device().cores
        torch.set_num_threads(self.n_threads)
        with (
            # Held to the end: two searches must not share a folder.
            RunFolder.open(
                self.out,
                self.first_tables(),
                has_trials=lambda: has_trials(self.record_place, self.study),
            ) as self.folder,
            MeasurementStore(self.measurements) as store,
            self.place.open_asker() as self.asker,
        ):
            if self.folder.has_trials and self.folder.changed:
                self.progress.say(
                    f"note: since this run was last called, {'; '.join(self.folder.changed)}; "
                    f"results may differ from those of before"
                )
            table = CostTable(self.space, self.asker, store)
            predictor = self.fit(store)
            limited = [budget.metric for budget in self.budgets]
            table.use(predictor, metrics=limited)
            with self.progress.task("pricing the space", None) as task:
                table.warm(np.random.default_rng(0), on_progress=task.update)
            problem = self.check_budgets(Problem(self.space, table.predict), table)
            with Record.open(
                self.record_place, self.space, create=True, study=self.study
            ) as record:
                trials, is_complete = self.search(problem, record)
                write_trials(self.out, trials, record.results())
                if not is_complete:
                    write_report(self.out, storage=self.storage)
                    return Result(self.out, (), (), False)
                table.use(predictor, metrics=predictor.metrics)
                return self.deliver(trials, problem, table, predictor, store, record)

    def deliver(
        self,
        trials: Sequence[Trial],
        problem: Problem,
        table: CostTable,
        predictor: CostPredictor,
        store: MeasurementStore,
        record: Record,
    ) -> Result:
        """Train and verify the best of the search, write the front and the report."""
        length, past_s = None, list[float]()  # trials by another evaluator are no trainings
        if self.config.evaluator == "training":
            length = self.final_recipe.epochs / self.search_recipe.epochs
            past_s = [length * seconds for seconds in past_seconds(record)]
        train = partial(
            train_finalists,
            plan=self.plan("training", self.final_recipe),
            workers=Workers(self.config, self.n_threads, self.progress.say, self.cluster),
            out=self.out,
            progress=self.progress,
            past_s=tuple(past_s),
            length=length,
        )
        place = Workplace(
            train,
            self.data,
            self.target,
            predictor.latency,
            store,
            self.place.observed_device(),
            self.out,
            self.config.seed,
            self.progress,
            self.folder.spending,
            self.place.open_profiler,
        )
        held = hold_front(
            trials,
            self.config.finalists,
            problem,
            place,
            level=self.config.level,
            beside=baselines(self.data),
        )
        front = deliver(held.candidates, self.out)
        config = self.config
        options = FormOptions(
            int8=config.int8, dynamic_batch=config.dynamic_batch, raw_input=config.raw_input
        )
        with self.folder.spending("forms_seconds"):
            deliver_forms(
                front,
                held.trained,
                self.data,
                self.target,
                self.out,
                options,
                limit_ms=latency_limit(problem),
                open_in=partial(self.open_in, store),
                progress=self.progress,
            )
        with self.folder.spending("explain_seconds"):
            explained = explain_run(self.out, problem, table, predictor, self.asker)
            write_explanation(self.out, explained)
        write_report(self.out, storage=self.storage)
        return Result(self.out, tuple(front), tuple(held.candidates), True)

    def open_in(self, store: MeasurementStore, precision: str) -> OpenProfiler:
        """What opens the profiler of a precision, with its own times of the reference network."""
        place = self.place_in(precision)
        return partial(place.open_profiler, references_ms=store.references_ms(place.target))

    def fit(self, store: MeasurementStore) -> CostPredictor:
        """The run's predictor: its own from before, the given one, or one fitted now."""
        path = self.out / PREDICTOR
        given = self.predictor_path
        if path.exists() and (given is None or self.folder.has_trials):
            predictor = load_predictor(path, CostPredictor)
        elif given is not None:
            predictor = load_predictor(given, CostPredictor)
            predictor.check_target(self.target)
            if predictor.level != self.config.level:
                raise ConfigError(
                    f"{given} was fitted for intervals of level {predictor.level}, but level "
                    f"{self.config.level} is asked for; fit it again, or ask for its level"
                )
            self.check_metrics(predictor)
            save_predictor(predictor, path)
        else:
            with self.folder.spending("profile_seconds"):
                # Whatever the run's seed: measurements belong to the target, others use them too.
                references_ms = store.references_ms(self.target)
                with self.place.open_profiler(references_ms=references_ms) as profiler:
                    measured = profile_space(
                        self.space,
                        self.target,
                        store,
                        n_networks=self.config.networks,
                        progress=self.progress,
                        profiler=profiler,
                        device=self.place.observed_device(),
                    )
                # Not the table of the search: what a table says of a large space depends on what it
                # was asked before, and a run that is resumed finds a predictor and asks nothing.
                own = CostTable(self.space, self.asker, store)
                predictor = fit_costs(measured, own, store, level=self.config.level)
                self.check_metrics(predictor)
                save_predictor(predictor, path)
                # As a run that goes on will read it: its numbers are rounded in another order.
                predictor = load_predictor(path, CostPredictor)
        predictor.check_target(self.target)
        self.check_metrics(predictor)
        return predictor

    def check_metrics(self, predictor: CostPredictor) -> None:
        for budget in self.budgets:
            check_predictable(budget.metric, predictor)

    def check_budgets(self, problem: Problem, table: CostTable) -> Problem:
        """Resolve the budgets, show them against the space, refuse the impossible."""
        rng = np.random.default_rng(0)
        affordable = table.affordable
        resolved, overviews = resolve_budgets(problem, self.budgets, rng, affordable=affordable)
        if "latency_ms" not in overviews:
            overviews["latency_ms"] = overview(problem, "latency_ms", rng, affordable=affordable)
        limits = {budget.metric: budget for budget in resolved.budgets}
        for found in overviews.values():
            self.progress.say(_describe(found, limits.get(found.metric)))
        latency = overviews["latency_ms"]
        tables = self.folder.tables
        tables["budget"] = {
            "limits": [str(budget) for budget in resolved.budgets],
            "fastest_ms": latency.fastest,
            "median_ms": latency.median,
            "slowest_ms": latency.slowest,
        }
        if "latency_ms" in limits:
            tables["budget"]["latency_ms"] = limits["latency_ms"].limit
        self.folder.write()
        return resolved

    def search(self, problem: Problem, record: Record) -> tuple[list[Trial], bool]:
        """Run the trials; False: interrupted before all were done."""
        try:
            guide = self.learn(problem)
        except KeyboardInterrupt:
            return record.trials(), False
        trials, is_complete = run_trials(
            self.config,
            problem,
            make_strategy(self.config.strategy, problem, seed=self.config.seed, guide=guide),
            self.plan(self.config.evaluator, self.search_recipe),
            record,
            self.folder,
            self.progress,
            n_threads=self.n_threads,
            cluster=self.cluster,
        )
        self.folder.spent["n_trials"] = len(trials)
        self.folder.spent["n_failed"] = sum(trial.failure is not None for trial in trials)
        self.folder.write()
        return trials, is_complete

    def plan(self, evaluator: str, recipe: Recipe) -> EvaluatorPlan:
        """How networks are trained, for whatever process does it."""
        config, fingerprint = self.config, self.space.fingerprint
        return EvaluatorPlan(evaluator, self.data, config.space, fingerprint, recipe, config.seed)

    def learn(self, problem: Problem) -> Guide | None:
        """What the strategy learns before the first trial; None: nothing."""
        if self.config.strategy not in NEEDS_GUIDE:
            return None
        minutes, seconds = self.config.minutes, None
        if minutes is not None:  # half; the rest is for trials. Earlier calls have spent some.
            seconds = max(30 * minutes - self.folder.spent.get("guide_seconds", 0.0), 1.0)
        with (
            self.progress.task("learning from the data", 1.0) as task,
            self.folder.spending("guide_seconds") as save,
        ):

            def on_progress(share: float) -> None:
                task.update(share)
                save()  # a kill should not win time

            return learned_guide(
                self.out / GUIDE,
                self.config.strategy,
                problem,
                self.data,
                self.search_recipe,
                n_trials=self.config.trials,
                seed=self.config.seed,
                epochs=self.config.guide_epochs,
                seconds=seconds,
                on_progress=on_progress,
                say=self.progress.say,
            )


def _study_of(out: Path) -> str:
    """The run's study in a database that others share: as noted, or a new one."""
    path = out / CONFIG
    noted = read_config(path).get("run", {}).get("study") if path.exists() else None
    return str(noted) if noted else new_study_name(out)


def _file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise PredictorFileError(f"cannot read {path}: {error.strerror or error}") from None


def _target_table(target: Target) -> dict[str, Any]:
    return {
        "device": target.device_name,
        "fingerprint": target.device,
        "runtime": target.runtime,
        "version": target.version,
        "precision": target.precision,
        "threads": target.threads,
        "batch": target.batch,
    }


def _describe(found: Overview, budget: Budget | None) -> str:
    text = (
        f"{found.metric} of the space: least {found.fastest:.4g}, median {found.median:.4g}, "
        f"most {found.slowest:.4g}"
    )
    return text if budget is None else f"{text}; budget {budget}"
