"""The record of a search: an Optuna study, in a file of SQLite or in a PostgreSQL database.

One row of the study is one start of one proposal. Beside Optuna's own columns (options by choice
name, objectives, constraints) it has our user attributes:

    proposal   index of the proposal; Optuna's trial numbers shift when a proposal is run again
    after      how many trials the strategy had been told of when this one was started
    genotype   option indices
    share      of the training; 1 where it is missing
    predicted  what the predictor said about it, by name
    outcome    {"told": order of arrival, "objectives": [...] or null, "failure": null or why,
               "result": whatever the evaluation reported}; written once, at the end

Everything known at the start is one transaction, so a kill leaves no half-described trial. At the
end `outcome` is written before the state: a trial with an outcome is finished, whatever its state
says. A proposal with no outcome was interrupted; it runs again, in a new row. A trial with a part
of the training only ends as `PRUNED`, so that Optuna's front and plots are of whole ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from hwnas.errors import HwnasError, RunFolderError
from hwnas.record_lock import RecordLock
from hwnas.record_place import STUDY_NAME, Place, parse_place
from hwnas.record_storage import (
    SEE_TO_SERVER,
    describe,
    open_lock,
    open_storage,
    open_study,
    storage_errors,
)
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import OBJECTIVES, Proposal, Trial

__all__ = ["Record"]

INTERRUPTED = "interrupted"


class Record:
    """The trials of one search, written as they happen. Made by `Record.open`.

    Attributes:
        where: The path, or the URL and the study, as messages show it.
        study: The Optuna study, for its plots, importances and data frames.
    """

    def __init__(
        self,
        storage: RDBStorage,
        study_id: int,
        space: SearchSpace,
        *,
        where: str,
        study: str,
        lock: RecordLock | None,
    ) -> None:
        self.where = where
        self.study = optuna.load_study(study_name=study, storage=storage)
        self._storage = storage
        self._study_id = study_id
        self._space = space
        self._lock = lock
        self._distributions: dict[str, BaseDistribution] = {
            choice.name: CategoricalDistribution(choice.options) for choice in space.choices
        }
        self._stale: dict[int, list[int]] = {}  # proposal number to rows that a kill left running
        self._shares: dict[int, float] = {}  # of the training, by handle of what runs
        self._n_told: int | None = None  # None: opened for reading

    @classmethod
    def open(
        cls, location: Place | str, space: SearchSpace, *, create: bool, study: str = STUDY_NAME
    ) -> Self:
        """Open the record at a path, or at a database URL.

        Args:
            location: File of an SQLite database, or the URL of a PostgreSQL one, such as
                `postgresql+psycopg://user@host/name`.
            space: What is searched; a record of another space is refused.
            create: Open it for a search: it is created if it does not exist, no second search
                can open it meanwhile, and what a killed search left is taken over. Without, for
                reading only: it must exist, and a search may be running on it.
            study: Name of the study in the database; many searches may share one on a server.

        Raises:
            ConfigError: If the location is no URL of a database that can be used.
            RunFolderError: If it is missing, damaged, in use, of something else, cannot be
                reached or not be written.
        """
        place = parse_place(location)
        where = describe(place, study)
        is_file = isinstance(place, Path)
        if isinstance(place, Path) and not create and not place.exists():
            raise RunFolderError(f"there is no record of a search at {where}")
        hint = "Use another folder, or mend it" if is_file else SEE_TO_SERVER
        with storage_errors(f"cannot open the record {where}", hint), ExitStack() as undo:
            lock = open_lock(place, study) if create else None
            if lock is not None:
                undo.callback(lock.close)
            storage = open_storage(place, lock)
            undo.callback(storage.engine.dispose)
            study_id = open_study(storage, study, space, where, create=create)
            record = cls(storage, study_id, space, where=where, study=study, lock=lock)
            if create:
                record._take_over()
            undo.pop_all()
        return record

    def trials(self) -> list[Trial]:
        """All finished trials, in the order in which the strategy was told of them."""
        return [row.trial for row in self._told_rows()]

    def interrupted(self) -> list[Trial]:
        """Proposals that were started and never finished, by number; they are to run first."""
        rows = self._rows()
        told = {row.trial.number for row in rows if row.told is not None}
        started = {row.trial.number: row.trial for row in rows if row.told is None}
        return [trial for number, trial in sorted(started.items()) if number not in told]

    def results(self) -> dict[int, Mapping[str, Any]]:
        """What the evaluations reported and `predicted`, by number of the proposal."""
        return {
            row.trial.number: {**row.result, "predicted": row.predicted}
            for row in self._told_rows()
        }

    def start(
        self, trial: Trial, predicted: Mapping[str, float], constraints: Mapping[str, float]
    ) -> int:
        """Write that a proposal is about to be evaluated; with `create` only.

        Args:
            trial: A running one; the number of an interrupted one starts it again.
            predicted: Its predicted costs by name.
            constraints: By budget, how far the prediction is above the limit; <= 0 is feasible.

        Returns:
            The handle for `finish` or `fail`.
        """
        if self._n_told is None:
            raise ValueError(
                f"the record {self.where} was opened for reading, not with create=True"
            )
        row = create_trial(
            state=TrialState.RUNNING,
            params=self._space.options(trial.genotype),
            distributions=self._distributions,
            user_attrs={
                "proposal": trial.number,
                "genotype": list(trial.genotype),
                "share": trial.share,
                "predicted": dict(predicted),
                "after": self._n_told,
            },
            constraints=dict(constraints),
        )
        with self._writing():
            # Not `study.ask`, which commits every parameter by itself.
            handle = self._storage.create_new_trial(self._study_id, template_trial=row)
            for stale in self._stale.pop(trial.number, []):
                self._storage.set_trial_user_attr(stale, "failure", INTERRUPTED)
                self._storage.set_trial_state_values(stale, TrialState.FAIL)
        self._shares[handle] = trial.share
        return handle

    def finish(self, handle: int, objectives: Sequence[float], result: Mapping[str, Any]) -> None:
        """Write the objectives of a trial, and whatever else is worth keeping (plain JSON)."""
        self._end(handle, objectives=[float(v) for v in objectives], failure=None, result=result)

    def fail(self, handle: int, reason: str, result: Mapping[str, Any] | None = None) -> None:
        """Write that a trial has no objectives, and why."""
        self._end(handle, objectives=None, failure=reason, result=result or {})

    def _end(self, handle: int, **outcome: Any) -> None:
        assert self._n_told is not None  # `start` made the handle
        with self._writing():
            told = {"told": self._n_told, **outcome}
            self._storage.set_trial_user_attr(handle, "outcome", told)
            self._n_told += 1
            self._set_state(handle, outcome["objectives"], self._shares.pop(handle))

    def _set_state(self, handle: int, values: Sequence[float] | None, share: float) -> None:
        state = TrialState.COMPLETE
        if values is None:
            state = TrialState.FAIL
        elif share < 1:
            values, state = None, TrialState.PRUNED  # `outcome` has them
        self._storage.set_trial_state_values(handle, state, values)

    def close(self) -> None:
        """Let go of the database; SQLite then folds its write-ahead log into the file."""
        self._storage.engine.dispose()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Make sure that nobody else searches here, and that what goes wrong is one message."""
        assert self._lock is not None
        with storage_errors(
            f"cannot write the record {self.where}",
            "What was recorded before is kept: make room, mend it or see to its server, then "
            "start again",
        ):
            self._lock.check()
            yield

    def _rows(self) -> list[_Row]:
        """Our rows in the order of their start; somebody else's in the same study are not ours."""
        with storage_errors(
            f"cannot read the record {self.where}", "It may be damaged, or its server be gone"
        ):
            # Through the study, which keeps finished rows in memory.
            rows = self.study.get_trials(deepcopy=False)
            own = [_Row.of(row, self._space) for row in rows if "proposal" in row.user_attrs]
            told = [row.trial.number for row in own if row.told is not None]
            if len(set(told)) < len(told):
                raise ValueError("a trial has ended twice")
            return own

    def _told_rows(self) -> list[_Row]:
        """Those that ended, in the order in which they did."""
        return sorted((row for row in self._rows() if row.told is not None), key=lambda r: r.place)

    def _take_over(self) -> None:
        """Settle what a killed search left: finish the rows that ended, note those that did not."""
        rows = self._rows()
        self._n_told = max((row.place + 1 for row in rows), default=0)
        for row in rows:
            if not row.is_running:
                continue
            handle = self._storage.get_trial_id_from_study_id_trial_number(
                self._study_id, row.number
            )
            if row.told is None:
                self._stale.setdefault(row.trial.number, []).append(handle)
            else:
                self._set_state(handle, row.trial.objectives, row.trial.share)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the study, as a search writes it.

    Attributes:
        number: Optuna's.
        is_running: By Optuna's state.
        trial: What was proposed, and its objectives once there are some.
        predicted: What the predictor said.
        told: Its place among those that ended; None: it did not.
        result: What the evaluation reported.
    """

    number: int
    is_running: bool
    trial: Trial
    predicted: Mapping[str, Any]
    told: int | None
    result: Mapping[str, Any]

    @property
    def place(self) -> int:
        """Among those that ended; -1: it did not."""
        return -1 if self.told is None else self.told

    @classmethod
    def of(cls, row: FrozenTrial, space: SearchSpace) -> Self:
        """Read what Optuna holds.

        Raises:
            ValueError: No search wrote that.
        """
        attributes = row.user_attrs
        try:
            genotype = space.check(tuple(attributes["genotype"]))
            share = Proposal(genotype, float(attributes.get("share", 1.0))).share
            told, objectives, failure, result = _ended(attributes.get("outcome"))
            trial = Trial(int(attributes["proposal"]), genotype, objectives, failure, share)
            predicted = dict(attributes["predicted"])
            if trial.number < 0:
                raise ValueError("its number is negative")
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, HwnasError) as e:
            raise ValueError(f"trial {row.number} is not as a search writes it: {e!r:.200}") from e
        return cls(row.number, row.state == TrialState.RUNNING, trial, predicted, told, result)


def _ended(
    outcome: Mapping[str, Any] | None,
) -> tuple[int | None, tuple[float, ...] | None, str | None, dict[str, Any]]:
    """Place among those that ended, objectives, failure and what was reported.

    Raises:
        LookupError, TypeError, ValueError: No search wrote that.
    """
    if outcome is None:
        return None, None, None, {}
    told, values, failure = int(outcome["told"]), outcome["objectives"], outcome["failure"]
    if (values is None) == (failure is None) or told < 0:
        raise ValueError("it neither failed nor has objectives, or both")
    if values is None:
        return told, None, str(failure), dict(outcome["result"])
    objectives = tuple(float(value) for value in values)
    if len(objectives) != len(OBJECTIVES):
        raise ValueError(f"it has {len(objectives)} objectives, not {len(OBJECTIVES)}")
    return told, objectives, None, dict(outcome["result"])
