"""The whole job: profile, fit, search, train, verify, deliver. One call, taken up where it stopped.

A run folder holds `config.toml` (what was asked, what was found), `predictor.npz`, `study.db` (the
trials), `weights/` (of networks that were trained to the end), `front/` and `candidates/` (models),
`front.csv`, `candidates.csv`, `trials.csv` and `report.html`.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from hwnas import __version__
from hwnas.baselines import baselines
from hwnas.budget import Budget, parse_budget
from hwnas.config import SearchConfig, check_same_run, read_config, write_config
from hwnas.cost import CostTable, check_measurable, check_predictable
from hwnas.cost_fit import fit_costs
from hwnas.data import load_data
from hwnas.errors import ConfigError, RunFolderError
from hwnas.evaluators import Evaluator
from hwnas.evaluators.training import TrainingEvaluator, seed_of
from hwnas.feasibility import Overview, overview, resolve_budgets
from hwnas.finalists import Finalist, choose_finalists, train_finalists
from hwnas.profiling import profile_space
from hwnas.progress import Progress, Silent
from hwnas.record import Record
from hwnas.report import write_report
from hwnas.search import SearchEvent, search
from hwnas.spaces.for_data import space_for
from hwnas.stopping import Stall
from hwnas.strategies import Problem, Trial, check_strategy, make_strategy
from hwnas.training import Recipe, default_recipes, with_changes
from hwnas.verify import BASELINE, SEARCHED, Candidate, Trained, deliver, verify
from predictors.cost import CostPredictor
from predictors.errors import PredictorFileError
from predictors.files import load_predictor, save_predictor
from profilers.devices import observed_device, this_device
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import Target, make_target

PREDICTOR, STUDY, TRIALS = "predictor.npz", "study.db", "trials.csv"
SMALL_INPUT = 256  # values of a channel, or steps
DEFAULT_MEASUREMENTS = Path("runs") / "measurements.db"
_TRIAL_COLUMNS = [
    "number", "state", "share", "genotype", "val_accuracy", "predicted_latency_ms",
    "predicted_low_ms", "predicted_high_ms", "predicted_peak_memory_bytes",
    "predicted_energy_mj", "params", "macs", "train_seconds", "failure",
]  # fmt: skip
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
) -> Result:
    """Search for networks that meet the budgets, and deliver a verified Pareto front of them.

    Called again with the same arguments it goes on where it stopped.

    Args:
        config: What to search.
        out: The run folder.
        measurements: Database that what is measured goes to, and is taken from.
        predictor: A fitted predictor of the target; None: one is fitted, after measuring what the
            database does not hold.
        command: How to say this on the command line; the report repeats it.
        progress: Where progress is shown.

    Raises:
        HwnasError, ProfilerError, PredictorError: Something that the user can mend.
    """
    return _Run(config, out, measurements, predictor, command, progress or Silent()).go()


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
    ) -> None:
        self.config = config
        self.out = out
        self.progress = progress
        self.budgets = tuple(parse_budget(text) for text in config.budgets)
        # What can be told now is told now, not after minutes of measuring.
        check_strategy(config.strategy)
        self.target = make_target(
            config.target, threads=config.threads, precision=config.precision, batch=config.batch
        )
        for budget in self.budgets:
            check_measurable(budget.metric, self.target)
        self.data = load_data(
            config.data, path=Path(config.data_path) if config.data_path else None
        )
        self.space = space_for(config.space, self.data)
        recipes = default_recipes(self.data)
        epochs = (config.search_epochs, config.final_epochs)
        self.search_recipe, self.final_recipe = (
            self.asked(recipe, given) for recipe, given in zip(recipes, epochs, strict=True)
        )
        self.measurements = measurements
        self.predictor_path = predictor
        run = {
            "data_fingerprint": self.data.fingerprint,
            "space_fingerprint": self.space.fingerprint,
            "target": self.target.key,
        }
        if predictor is not None:
            run["predictor"] = _file_digest(predictor)
        asked = {"search": config.to_table(), "run": run}
        self.has_trials = _has_trials(out / STUDY)
        check_same_run(out, asked, has_trials=self.has_trials)
        self.spent: dict[str, Any] = {}
        if (out / "config.toml").exists():
            self.spent = dict(read_config(out / "config.toml").get("spent", {}))
        self.tables: dict[str, Any] = {
            "search": config.to_table(),
            "run": run,
            "reproduce": {"command": command} if command else {},
            "target": _target_table(self.target),
            "versions": {"hwnas": __version__, "python": platform.python_version()}
            | {name: metadata.version(name) for name in _VERSIONS},
            "space": {
                "name": self.space.name,
                "size": float(self.space.size),
                "choices": {c.name: list(c.options) for c in self.space.choices},
                "constraints": [c.name for c in self.space.constraints],
            },
            "training": {"search": asdict(self.search_recipe), "final": asdict(self.final_recipe)},
        }
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"cannot create {out}: {error.strerror or error}") from None
        self.write_config()

    def asked(self, recipe: Recipe, epochs: float | None) -> Recipe:
        """A default recipe with what was asked for."""
        changed = with_changes(recipe, self.config.recipe)
        changed.check_kind(self.data.kind)
        return changed if epochs is None else replace(changed, epochs=epochs)

    def write_config(self) -> None:
        write_config(self.out, self.tables | {"spent": self.spent})

    @contextmanager
    def spending(self, name: str) -> Iterator[None]:
        """Add the block's time to what the run has spent, also when it is interrupted."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent[name] = round(self.spent.get(name, 0) + time.perf_counter() - start, 1)
            self.write_config()

    def go(self) -> Result:
        # Steps on tiny inputs take a millisecond: a second thread costs more than it brings.
        is_small = math.prod(self.data.input_shape[1:]) <= SMALL_INPUT
        torch.set_num_threads(1 if is_small else this_device().cores)
        with MeasurementStore(self.measurements) as store:
            table = CostTable(self.space, Profiler(self.target), store)
            predictor = self.fit(table, store)
            limited = [budget.metric for budget in self.budgets]
            table.use(predictor, metrics=limited)
            with self.progress.task("pricing the space", None) as task:
                table.warm(np.random.default_rng(0), on_progress=task.update)
            problem = self.check_budgets(Problem(self.space, table.predict), table)
            # The record's lock is held to the end: two searches must not share a folder.
            with Record.open(self.out / STUDY, self.space, create=True) as record:
                trials, is_complete = self.search(problem, record)
                self.write_trials(trials, record)
                if not is_complete:
                    write_report(self.out)
                    return Result(self.out, (), (), False)
                trained = self.train_finalists(trials)
                table.use(predictor, metrics=predictor.metrics)
                return self.deliver(trained, problem, predictor, store)

    def deliver(
        self,
        trained: Sequence[Trained],
        problem: Problem,
        predictor: CostPredictor,
        store: MeasurementStore,
    ) -> Result:
        """Verify what was trained, write the front and the report."""
        with self.spending("verify_seconds"):
            candidates = verify(
                trained,
                self.data,
                self.target,
                problem,
                predictor.latency,
                store,
                observed_device(),
                self.out,
                self.progress,
            )
            front = deliver(candidates, self.out)
        write_report(self.out)
        return Result(self.out, tuple(front), tuple(candidates), True)

    def fit(self, table: CostTable, store: MeasurementStore) -> CostPredictor:
        """The run's predictor: its own from before, the given one, or one fitted now."""
        path = self.out / PREDICTOR
        given = self.predictor_path
        if path.exists() and (given is None or self.has_trials):
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
            with self.spending("profile_seconds"):
                # Whatever the run's seed: measurements belong to the target, others use them too.
                measured = profile_space(
                    self.space,
                    self.target,
                    store,
                    n_networks=self.config.networks,
                    progress=self.progress,
                )
                predictor = fit_costs(measured, table, store, level=self.config.level)
                self.check_metrics(predictor)
                save_predictor(predictor, path)
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
        self.tables["budget"] = {
            "limits": [str(budget) for budget in resolved.budgets],
            "fastest_ms": latency.fastest,
            "median_ms": latency.median,
            "slowest_ms": latency.slowest,
        }
        if "latency_ms" in limits:
            self.tables["budget"]["latency_ms"] = limits["latency_ms"].limit
        self.write_config()
        return resolved

    def search(self, problem: Problem, record: Record) -> tuple[list[Trial], bool]:
        """Run the trials; False: interrupted before all were done."""
        strategy = make_strategy(self.config.strategy, problem, seed=self.config.seed)
        interrupted, n_done, share = False, 0.0, 1.0
        seconds_left = None
        if self.config.minutes is not None:  # of all calls together
            seconds_left = 60 * self.config.minutes - self.spent.get("search_seconds", 0.0)
        with (
            self.progress.task("training candidates", self.config.trials) as task,
            self.spending("search_seconds"),
        ):

            def show(event: SearchEvent) -> None:
                nonlocal interrupted, n_done, share
                interrupted |= event.kind == "interrupted"
                n_done = event.n_spent
                share = event.trial.share if event.trial is not None else share
                if event.kind == "replayed" and event.n_told:
                    self.progress.say(f"resuming: {event.n_told} trials are in the record")
                if event.kind == "stalled":
                    self.progress.say(
                        f"ended: the front has not grown for {self.config.patience} trials"
                    )
                note = ""
                if event.kind == "told" and event.trial is not None:
                    note = _trial_note(event.trial)
                task.update(n_done, note=note)

            evaluator: Evaluator = TrainingEvaluator(
                problem,
                self.data,
                self.search_recipe,
                seed=self.config.seed,
                on_progress=lambda done: task.update(n_done + done * share),
            )
            trials = search(
                problem,
                strategy,
                evaluator,
                record,
                n_trials=self.config.trials,
                seconds=seconds_left,
                stall=None if self.config.patience is None else Stall(self.config.patience),
                on_event=show,
            )
        self.spent["n_trials"] = len(trials)
        self.spent["n_failed"] = sum(trial.failure is not None for trial in trials)
        self.write_config()
        return trials, not interrupted

    def train_finalists(self, trials: Sequence[Trial]) -> list[Trained]:
        """Train the best of the search, and hand-made networks, to the end."""
        finalists = [
            Finalist(
                f"t{trial.number:03d}",
                self.space.architecture(trial.genotype),
                trial.genotype,
                SEARCHED,
                seed_of(self.config.seed, trial.number),
            )
            for trial in choose_finalists(trials, self.config.finalists)
        ]
        finalists += [
            Finalist(name, architecture, None, BASELINE, seed_of(self.config.seed, 0))
            for name, architecture in baselines(self.data).items()
        ]
        with self.spending("final_training_seconds"):
            return train_finalists(finalists, self.data, self.final_recipe, self.out, self.progress)

    def write_trials(self, trials: Sequence[Trial], record: Record) -> None:
        """Write `trials.csv`: the study's trials as a table."""
        results = record.results()
        rows = []
        for trial in sorted(trials, key=lambda trial: trial.number):
            result = results.get(trial.number, {})
            predicted = result.get("predicted", {})
            rows.append({
                "number": trial.number,
                "state": "failed" if trial.objectives is None else "complete",
                "share": trial.share,
                "genotype": json.dumps(trial.genotype),
                "val_accuracy": result.get("val_accuracy"),
                "predicted_latency_ms": predicted.get("latency_ms"),
                "predicted_low_ms": predicted.get("low_ms"),
                "predicted_high_ms": predicted.get("high_ms"),
                "predicted_peak_memory_bytes": predicted.get("peak_memory_bytes"),
                "predicted_energy_mj": predicted.get("energy_mj"),
                "params": predicted.get("params"),
                "macs": predicted.get("macs"),
                "train_seconds": result.get("train_seconds"),
                "failure": trial.failure,
            })  # fmt: skip
        try:
            pd.DataFrame(rows, columns=_TRIAL_COLUMNS).to_csv(self.out / TRIALS, index=False)
        except OSError as error:
            raise RunFolderError(f"cannot write {self.out / TRIALS}: {error}") from None


def _has_trials(study: Path) -> bool:
    """Whether a search was begun there; a file that cannot be read is left to the record."""
    if not study.exists():
        return False
    try:
        with closing(sqlite3.connect(study.absolute().as_uri() + "?mode=ro", uri=True)) as file:
            return bool(file.execute("SELECT count(*) FROM trials").fetchone()[0])
    except sqlite3.Error:
        return True


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


def _trial_note(trial: Trial) -> str:
    if trial.objectives is None:
        return f"#{trial.number} failed: {trial.failure}"
    error, latency_ms = trial.objectives
    return f"#{trial.number} {100 * (1 - error):.1f} % at {latency_ms:.4g} ms predicted"
