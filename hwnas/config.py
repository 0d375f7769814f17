"""What was asked of a search, and `config.toml`, where a run folder says it."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import tomli_w

from hwnas.errors import ConfigError, RunFolderError, unknown_name
from profilers.limited import read_text

CONFIG = "config.toml"
MAX_BYTES = 4 * 2**20  # parsing more of TOML takes seconds
_LISTS = ("budgets", "recipe")
EXECUTORS = ("processes", "ray")
# May differ when a run is taken up again: they say how far and how fast to go, and what to deliver
# beside the front, not what to do.
_MAY_GROW = (
    "trials", "minutes", "patience", "executor", "workers", "gpus_per_trial", "trial_seconds",
    "trial_memory_mb", "int8", "dynamic_batch", "raw_input",
)  # fmt: skip
# As long as no trial was begun, a run is only what was measured for it.
_BEFORE_TRIALS = (
    "data", "data_path", "data_fingerprint", "space", "space_fingerprint", "target", "threads",
    "precision", "batch", "networks", "level", "storage", "study",
)  # fmt: skip


# What is noted of things that may change behind their name, and what it means if it did.
_CHANGED = {
    "data_fingerprint": "the data are not those that it was begun with",
    "space_fingerprint": "the space no longer makes the networks that it made then",
    "evaluator_digest": "the evaluator's code has changed since",
    "predictor": "the predictor is not the file that it was begun with",
}


@dataclass(frozen=True)
class SearchConfig:
    """Everything that decides what a search does; with the same predictor, equal proposals.

    Attributes:
        data: As `hwnas.data.load_data` takes it.
        data_path: Folder or file of the data, where the name alone does not say it.
        space: A name of `hwnas.spaces.catalog.SPACES`, `FILE.py:FUNCTION` or `MODULE:FUNCTION`;
            empty: see `hwnas.spaces.for_data.default_space`.
        budgets: Such as `latency_ms<=5`, `latency_ms<=40%`, a share of the space's median, or
            `latency_ms<=p25`, a percentile of the space.
        strategy: As `hwnas.strategies.STRATEGIES` names it.
        trials: Networks to train shortly in all.
        minutes: Start no trial after so long; None: no limit.
        guide_epochs: What strategies that learn from the data before the first trial may spend on
            that, as passes of train through one network; None: half of what the trials would, and
            half of `minutes` at most.
        patience: End after so many trials that let the front grow no more; None: never.
        finalists: Networks that shall meet the budgets when trained longer, exported and measured;
            the front is chosen from them. What misses is replaced, up to as many again.
        search_epochs: Of the short training; None: by the size of the data.
        final_epochs: Of the long training; None: by the size of the data.
        recipe: Other values of both trainings, such as `learning_rate=0.003`; see
            `hwnas.training.Recipe`.
        seed: Of everything that is random.
        evaluator: How a trial finds out how good a network is: `training`, `supernet:FILE`,
            `FILE.py:FUNCTION` or `MODULE:FUNCTION`.
        executor: Where trials run: `processes` of this machine, or a cluster of `ray`.
        workers: Trials at once, each in a process of its own; with several, each computes with one
            thread. None: one, or as many as fit on the cluster. 0: in this process, one after the
            other and without limits, to debug.
        gpus_per_trial: Of a cluster, such as 0.5; None: one where the cluster has any.
        trial_seconds: A trial that takes longer has hung; None: see `hwnas.executors.limits`.
        trial_memory_mb: Megabytes (10^6 bytes) that a trial's process may hold; None: a share of
            the machine's.
        target: Runtime.
        threads: Threads within one kernel on the target.
        precision: On the target.
        batch: Examples in one run on the target.
        networks: Networks measured to fit the predictor.
        level: Share of networks that the predicted intervals are to cover.
        int8: Deliver an INT8 form of the networks on the front, where the target computes in INT8.
        dynamic_batch: Deliver a form for any number of examples at once, too.
        raw_input: Deliver forms with the preprocessing as a part of the model, too.
    """

    data: str = "digits"
    data_path: str | None = None
    space: str = "mobile"
    budgets: tuple[str, ...] = ()
    strategy: str = "guided"
    trials: int = 64
    minutes: float | None = None
    guide_epochs: float | None = None
    patience: int | None = None
    finalists: int = 24
    search_epochs: float | None = None
    final_epochs: float | None = None
    recipe: tuple[str, ...] = ()
    seed: int = 0
    evaluator: str = "training"
    executor: str = "processes"
    workers: int | None = None
    gpus_per_trial: float | None = None
    trial_seconds: float | None = None
    trial_memory_mb: float | None = None
    target: str = "onnxruntime-cpu"
    threads: int = 1
    precision: str = "fp32"
    batch: int = 1
    networks: int = 80
    level: float = 0.9
    int8: bool = True
    dynamic_batch: bool = False
    raw_input: bool = False

    def __post_init__(self) -> None:
        lowest_of = {"trials": 1, "finalists": 1, "networks": 8, "seed": 0, "workers": 0}
        for name, lowest in lowest_of.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ConfigError(f"{name} must be at least {lowest}, got {value}")
        for name in (
            *("minutes", "patience", "search_epochs", "final_epochs"),
            *("guide_epochs", "trial_seconds", "trial_memory_mb"),
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, got {value}")
            if value is not None and name.endswith("epochs") and value == math.inf:
                raise ConfigError(f"{name} must be finite; limit the time by minutes")
        if self.executor not in EXECUTORS:
            raise ConfigError(unknown_name("executor", self.executor, EXECUTORS))
        if self.gpus_per_trial is not None and self.gpus_per_trial < 0:
            raise ConfigError(f"gpus_per_trial must be at least 0, got {self.gpus_per_trial}")
        if not 0 < self.level < 1:
            raise ConfigError(f"level must lie between 0 and 1, got {self.level}")

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> SearchConfig:
        """Read the `[search]` table of a TOML file.

        Raises:
            ConfigError: It has an unknown key, or a value that cannot be used.
        """
        known = {field.name: field for field in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in known:
                raise ConfigError(unknown_name("key in [search]", key, known))
            values[key] = tuple(value) if key in _LISTS and isinstance(value, list) else value
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"[search] has a value of a wrong type: {error}") from None

    def to_table(self) -> dict[str, Any]:
        """As a TOML table: what is None is left out."""
        table = {key: value for key, value in asdict(self).items() if value is not None}
        return table | {name: list(table[name]) for name in _LISTS}


def write_config(folder: Path, tables: Mapping[str, Any]) -> None:
    """Write `config.toml` whole or not at all.

    Raises:
        RunFolderError: The folder cannot be written.
    """
    part = folder / f"{CONFIG}.part"
    try:
        part.write_text(tomli_w.dumps(dict(tables)), encoding="utf-8")
        part.replace(folder / CONFIG)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise RunFolderError(f"cannot write {folder / CONFIG}: {error.strerror or error}") from None


def read_config(path: Path) -> dict[str, Any]:
    """Read a `config.toml`.

    Raises:
        RunFolderError: It is missing, no TOML, or something in it is no table.
    """
    try:
        tables = tomllib.loads(read_text(path, MAX_BYTES))
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8; nested without end
        raise RunFolderError(f"{path} is not TOML: {error}") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise RunFolderError(f"{path}: {name!r} must be a table, got {table!r:.80}")
    return tables


def check_trusted(config: SearchConfig, folder: Path, *, trust: bool) -> None:
    """Refuse to run code that a run folder names unless it is trusted: it may be a stranger's.

    Raises:
        ConfigError: It names some, and `trust` is false.
    """
    from hwnas.data.sources import names_code
    from hwnas.user_code import is_reference

    named = [config.data] if names_code(config.data) else []
    named += [config.space] if is_reference(config.space) else []
    if named and not trust:
        raise ConfigError(
            f"{folder / CONFIG} names code that would be run: {', '.join(named)}. If you trust it, "
            f"say so with --trust"
        )


def check_same_run(folder: Path, asked: Mapping[str, Any], *, has_trials: bool) -> None:
    """Make sure that a folder holds this run, or none yet.

    Args:
        folder: The run folder; need not exist.
        asked: The `[search]` and `[run]` tables of the run to be started.
        has_trials: Whether it has trials. Before that, budgets and how to search may still change:
            a budget that turned out infeasible can be raised in place.

    Raises:
        RunFolderError: It holds another run, or files that are no run.
    """
    path = folder / CONFIG
    if not path.exists():
        if _is_foreign(folder):
            raise RunFolderError(
                f"{folder} exists and is no run folder (it has no {CONFIG}); give "
                f"--out a new or an empty folder"
            )
        return
    there = read_config(path)
    # A run that was begun before an option existed had its default.
    defaults = {k: v for k, v in SearchConfig().to_table().items() if k in asked["search"]}
    there["search"] = defaults | there.get("search", {})
    differences = []
    for table in asked:
        before, now = there.get(table, {}), asked[table]
        keys = {*before, *now} - set(_MAY_GROW)
        if not has_trials:  # a predictor may still be given: then it is that one from now on
            is_dropped = "predictor" in before and "predictor" not in now
            keys &= {*_BEFORE_TRIALS, *(["predictor"] if is_dropped else [])}
        for key in sorted(keys):
            if before.get(key) != now.get(key):
                differences.append(_difference(key, before.get(key), now.get(key)))
    if differences:
        raise RunFolderError(
            f"{folder} holds another run: {'; '.join(differences)}. Give --out "
            f"another folder, or the options of that run to resume it"
        )


def check_unchanged(folder: Path, noted: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Make sure that what a finished run is used with again is what it was made with.

    Args:
        folder: Of the run.
        noted: The table `[run]` of its `config.toml`.
        now: What it should say; what was not noted then is not compared.

    Raises:
        RunFolderError: Something has changed; what.
    """
    changed = [
        _difference(key, noted[key], value)
        for key, value in now.items()
        if key in noted and noted[key] != value
    ]
    if changed:
        raise RunFolderError(f"{folder} is of another time: {'; '.join(changed)}")


def _is_foreign(folder: Path) -> bool:
    """Whether something is there that no run has left, not even one that was killed at once."""
    ours = (f"{CONFIG}.lock", f"{CONFIG}.part")
    try:
        if not folder.exists():
            return False
        return not folder.is_dir() or any(path.name not in ours for path in folder.iterdir())
    except OSError as error:
        raise RunFolderError(f"cannot read {folder}: {error.strerror or error}") from None


def _difference(key: str, before: object, now: object) -> str:
    text = f"{key} is {before!r} there, {now!r} asked"
    return f"{_CHANGED[key]} ({text})" if key in _CHANGED else text
