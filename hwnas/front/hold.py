"""A front that holds: finalists are trained, exported and measured, and what misses is replaced.

What misses the budget when measured, differs from PyTorch when exported, or diverges in training
leaves room. The measurements mend the predictions (`mending.py`), and further trials of the
record that these allow take the places, until as many hold as were asked for, the record has no
more, or twice as many as asked for were trained. Then the budget is filled: while the slowest
member leaves more of it unused than it may, networks nearer to it are tried, of the record or new.

Taken up again, everything is decided as before, by what is on disk: weights, models, and what was
measured (`hwnas/front/journal.py`). With more trials others may be chosen; what was measured of
those that were chosen before stays, and may still be on the front.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas.data import DataSet
from hwnas.evaluators.training import seed_of
from hwnas.front.filling import (
    MAX_SLACK,
    grown_to_budget,
    latency_limit,
    near_budget,
    proposals_near_budget,
)
from hwnas.front.final_training import Finalist
from hwnas.front.finalists import choose_finalists, whole_trials
from hwnas.front.journal import FrontJournal
from hwnas.front.mending import mended
from hwnas.front.verify import BASELINE, FRONT, SEARCHED, Candidate, Trained, judge, verify
from hwnas.profiling import architecture_digest
from hwnas.progress import Progress
from hwnas.spaces.base import Architecture, Genotype
from hwnas.strategies.base import Problem, Trial
from hwnas.target_place import OpenProfiler
from predictors.network_latency import NetworkLatencyPredictor
from profilers.devices import Device
from profilers.store import MeasurementStore
from profilers.targets import Target

__all__ = ["HeldFront", "Workplace", "hold_front"]

MIN_FILLINGS, FILLING_SHARE = 6, 0.5  # networks that are tried near the budget, at most
FILLINGS_AT_ONCE = 3
DRIFT = 0.02  # by which a network may be faster when it is measured again, later


@dataclass(frozen=True)
class Workplace:
    """Where networks are trained, exported and measured.

    Attributes:
        train: Trains networks to the end, or takes what was trained before; gives those that have
            weights. No process of it is left when it returns.
        data: What they are scored on.
        target: What they are measured on.
        predictor: Of the latency, for networks that are not of the space.
        store: Where measurements go.
        device: The state of the device that they are noted with.
        folder: Of the run.
        seed: Of the run.
        progress: Told how it goes on.
        open_profiler: Opens what measures on the target; None: a process of this machine.
        spending: A block whose time counts for what it is given: `final_training_seconds` or
            `verify_seconds`.
    """

    train: Callable[[Sequence[Finalist]], list[Trained]]
    data: DataSet
    target: Target
    predictor: NetworkLatencyPredictor
    store: MeasurementStore
    device: Device
    folder: Path
    seed: int
    progress: Progress
    spending: Callable[[str], AbstractContextManager[object]]
    open_profiler: OpenProfiler | None = None


@dataclass(frozen=True)
class HeldFront:
    """What became of the finalists.

    Attributes:
        candidates: All that were measured, with their verdicts; the front is those of verdict
            `FRONT`.
        trained: All that were trained to the end, with their weights.
    """

    candidates: list[Candidate]
    trained: list[Trained]


def hold_front(
    trials: Sequence[Trial],
    n: int,
    problem: Problem,
    place: Workplace,
    *,
    level: float,
    beside: Mapping[str, Architecture],
) -> HeldFront:
    """Train, export and measure the best trials until the front that they form holds.

    Args:
        trials: Of the search.
        n: Finalists that shall meet the budgets when measured.
        problem: With all metrics predicted that can be.
        place: Where this is done.
        level: Share of networks that the intervals of the predictions are to cover.
        beside: Hand-made networks that are trained and measured alike, by name.

    Raises:
        HwnasError, ProfilerError: Something that the user can mend; what was done is kept.
    """
    return _Front(trials, n, problem, place, level).hold(beside)


class _Front:
    """The state that the steps of one `hold_front` share.

    Attributes:
        candidates: All that were measured.
        trained: All that were trained.
        finalists: All that were trained, also if they were left out, by genotype.
        n_fillings: How many of them were tried to fill the budget.
    """

    def __init__(
        self, trials: Sequence[Trial], n: int, problem: Problem, place: Workplace, level: float
    ) -> None:
        self.trials = whole_trials(trials)
        self.n = n
        self.problem = problem
        self.place = place
        self.level = level
        self.limit_ms = latency_limit(problem)
        self.journal = FrontJournal(place.folder)
        self.candidates: list[Candidate] = []
        self.trained: list[Trained] = []
        self.finalists: dict[Genotype, Finalist] = {}
        self.n_fillings = 0

    def hold(self, beside: Mapping[str, Architecture]) -> HeldFront:
        """Add networks until nothing is missing."""
        first = choose_finalists(self.allowed(), self.n, limit_ms=self.limit_ms)
        seed = seed_of(self.place.seed, 0)
        baselines = [Finalist(name, a, None, BASELINE, seed) for name, a in beside.items()]
        self.add([*map(self.of_trial, first), *baselines])
        while wanted := self.replacements() or self.fillings():
            self.add(wanted)
        # Last, so that an interrupted call decides the same when it is taken up again.
        for trained, candidate in self.journal.others(self.finalists, self.problem.space):
            self.trained.append(trained)
            self.candidates.append(candidate)
        return HeldFront(judge(self.candidates, self.problem.budgets), self.trained)

    def add(self, finalists: Sequence[Finalist]) -> None:
        """Train, export and measure; what was done before is taken from disk."""
        place = self.place
        self.finalists |= {f.genotype: f for f in finalists if f.genotype is not None}
        with place.spending("final_training_seconds"):
            trained = place.train(finalists)
        self.trained += trained
        known = {item.name: self.journal.get(item) for item in trained}
        new = [item for item in trained if known[item.name] is None]
        if new:
            with place.spending("verify_seconds"):
                found = verify(
                    new,
                    place.data,
                    place.target,
                    self.problem,
                    place.predictor,
                    place.store,
                    place.device,
                    place.folder,
                    place.progress,
                    open_profiler=place.open_profiler,
                )
            by_name = {item.name: item for item in new}
            self.journal.add((by_name[candidate.name], candidate) for candidate in found)
            known |= {candidate.name: candidate for candidate in found}
        self.candidates += [candidate for candidate in known.values() if candidate is not None]

    def replacements(self) -> list[Finalist]:
        """Trials of the record for the places of those that did not hold."""
        n_holding = sum(c.kind == SEARCHED and c.meets_budget for c in self.candidates)
        n_missing = min(self.n - n_holding, 2 * self.n - (len(self.finalists) - self.n_fillings))
        chosen = choose_finalists(self.allowed(), max(0, n_missing), limit_ms=self.limit_ms)
        if chosen:
            self.place.progress.say(
                f"{n_holding} of {self.n} networks hold when measured; tried as well: "
                f"{len(chosen)} of the search, by predictions corrected by the measurements"
            )
        return [self.of_trial(trial) for trial in chosen]

    def fillings(self) -> list[Finalist]:
        """Networks nearer to the latency budget than the slowest member of the front."""
        n_left = max(MIN_FILLINGS, round(FILLING_SHARE * self.n)) - self.n_fillings
        if self.limit_ms is None or n_left <= 0:
            return []
        front = [c for c in judge(self.candidates, self.problem.budgets) if c.verdict == FRONT]
        slowest_ms = max((c.latency_ms for c in front), default=0.0)
        unused = 1 - slowest_ms / self.limit_ms
        if unused <= MAX_SLACK - DRIFT or max((c.val_accuracy for c in front), default=0.0) >= 1:
            return []
        n = min(FILLINGS_AT_ONCE, n_left)
        promising = choose_finalists(self.promising(), max(0, n - 2))
        found = [self.of_trial(trial) for trial in promising]
        taken = {*self.finalists, *(trial.genotype for trial in promising)}
        found += self.proposals(taken, n - len(found))
        self.n_fillings += len(found)
        if found:
            self.place.progress.say(
                f"{unused:.0%} of the latency budget is unused; tried as well: {len(found)} nearer "
                f"to it"
            )
        return found

    def proposals(self, taken: Collection[Genotype], n: int) -> list[Finalist]:
        """New networks near the budget: the most accurate one grown, then what promises most.

        What grows starts from its parent's weights: what it must beat, it can do already.
        """
        problem, errors = self.mended, self.errors
        rng = np.random.default_rng([self.place.seed, self.n_fillings])
        taken, found = set(taken), list[Finalist]()
        ms = {c.genotype: c.latency_ms for c in self.candidates}
        # Of equally accurate ones the slowest: it needs the fewest changes.
        for parent in sorted(errors, key=lambda genotype: (errors[genotype], -ms[genotype])):
            while len(found) < max(1, n - 1):
                grown = grown_to_budget(problem, parent, taken, rng)
                if grown is None:
                    break
                taken.add(grown)
                found.append(self.of_proposal(grown, self.finalists[parent]))
        promising = proposals_near_budget(
            problem, self.trials, errors, taken, n - len(found), seed=self.place.seed
        )
        return found + [self.of_proposal(genotype) for genotype in promising]

    @property
    def errors(self) -> dict[Genotype, float]:
        """Of networks of the space that were trained to the end, on the validation split."""
        found = [(c.genotype, 1 - c.val_accuracy) for c in self.candidates]
        return {genotype: error for genotype, error in found if genotype is not None}

    @property
    def mended(self) -> Problem:
        """The problem as it looks by what was measured until now."""
        return mended(self.problem, self.candidates, level=self.level)

    def allowed(self, *, near: bool = False) -> list[Trial]:
        """Trials that were not tried and by now are expected to hold; `near`: to the budget."""
        left = [trial for trial in self.trials if trial.genotype not in self.finalists]
        if not left:
            return []
        genotypes = np.array([trial.genotype for trial in left], dtype=np.int64)
        problem = near_budget(self.mended) if near else self.mended
        return [t for t, holds in zip(left, problem.is_feasible(genotypes), strict=True) if holds]

    def promising(self) -> list[Trial]:
        """Those near the budget that the search found no worse than most of what was tried."""
        tried = [t for t in self.trials if t.genotype in self.finalists]
        errors = [trial.objectives[0] for trial in tried if trial.objectives]
        usual = float(np.median(errors)) if errors else 0.0
        return [t for t in self.allowed(near=True) if t.objectives and t.objectives[0] <= usual]

    def of_trial(self, trial: Trial) -> Finalist:
        return Finalist(
            f"t{trial.number:03d}",
            self.problem.space.architecture(trial.genotype),
            trial.genotype,
            SEARCHED,
            seed_of(self.place.seed, trial.number),
        )

    def of_proposal(self, genotype: Genotype, parent: Finalist | None = None) -> Finalist:
        """Named by what it is: with other trials, another one may be the first."""
        architecture = self.problem.space.architecture(genotype)
        digest = architecture_digest(architecture)[:8]
        seed = seed_of(self.place.seed, int(digest, 16))
        name = f"n{digest}" + (f"-of-{parent.name.partition('-')[0]}" if parent else "")
        return Finalist(name, architecture, genotype, SEARCHED, seed, parent)
