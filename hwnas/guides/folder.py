"""The guide of a run: learned once, kept in a folder, taken up where an interrupted call left it.

The folder holds `plan.json` (what the guide is learned from, and how long), `supernet.safetensors`
(weights, of learners that can go on from them) and, once it is learned, `guide.json`.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.data import DataSet
from hwnas.errors import RunFolderError
from hwnas.evaluators.training import seed_of, train_network
from hwnas.guides import learn_guide
from hwnas.guides.base import Lesson
from hwnas.spaces.base import Genotype, SearchSpace
from hwnas.strategies.base import Problem
from hwnas.strategies.guide import Guide
from hwnas.supernet.sampling import Sampler
from hwnas.training import Recipe
from profilers.limited import TEXT_BYTES, read_text

PLAN, SUPERNET, GUIDE = "plan.json", "supernet.safetensors", "guide.json"
VERSION = 1
TRIALS_SHARE = 0.5  # of what the trials would cost, if nothing else is said
N_TIMED, TIMED_STEPS = 4, 12  # networks, and steps of each
OVERHEAD = 1.3  # of a step on shared weights over that of a network alone
# A lesson is begun again, shorter, if by its speed all would take so many times the seconds; known
# after this share of what is left, and while this share of the lesson is not done. Twice at most:
# of some learners the shortest lesson is too long.
TOLERATED, SURE_FROM, TOO_LATE, MAX_RESTARTS = 1.2, 0.05, 0.5, 2
MIN_LEFT = 0.01  # of the seconds, when they are over


def learned_guide(
    folder: Path,
    name: str,
    problem: Problem,
    data: DataSet,
    recipe: Recipe,
    *,
    n_trials: int,
    seed: int,
    epochs: float | None = None,
    seconds: float | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
    say: Callable[[str], None] = lambda text: None,
) -> Guide:
    """The guide of the strategy `name`: the folder's, else it is learned now and written there.

    A folder whose guide was learned for something else is emptied of it first. The number of
    trials and the time may differ between calls: they count when learning begins.

    Args:
        folder: Where it is kept; need not exist.
        name: One of `hwnas.strategies.NEEDS_GUIDE`.
        problem: What is searched, budgets resolved.
        data: What is learned from.
        recipe: How candidates are trained.
        n_trials: Of the search.
        seed: Of all that is random.
        epochs: What it may cost, as passes of train through one network; None: half of what
            `n_trials` would, but no longer than `seconds`.
        seconds: See `epochs`; how much that is, is measured on single networks, and again on the
            lesson itself, which begins anew if it is too long. None: no limit.
        on_progress: Called with the share that is done; what it raises ends the learning.
        say: Called with what a user should know.

    Raises:
        RunFolderError: The folder cannot be read or written.
        InfeasibleBudgetError: No network of the space was found to meet the budgets.
        TrainingDivergedError: A loss became NaN or infinite.
        ConfigError: The strategy cannot learn on this space.
    """
    recipe = replace(recipe, compile=False)  # weights that are shared have too many graphs
    identity = _identity(name, problem, data, recipe, seed, epochs)
    watch = _Watch(None if epochs is not None else seconds, on_progress)
    plan = _read(folder / PLAN)
    if plan is None or plan.get("identity") != identity:
        if epochs is None:
            epochs = TRIALS_SHARE * n_trials * recipe.epochs
            if seconds is not None:
                epochs = min(epochs, _affordable_epochs(problem, data, recipe, seconds, seed))
        plan = {"version": VERSION, "identity": identity, "epochs": epochs}
        _begin(folder, plan)
    known = read_guide(folder / GUIDE, problem.space)
    if known is not None:
        return known
    while True:
        recipe = replace(recipe, epochs=float(plan["epochs"]))
        lesson = Lesson(problem, data, recipe, seed, folder / SUPERNET, watch.on_progress)
        watch.begin()
        try:
            guide = learn_guide(name, lesson)
        except _TooSlowError as error:
            plan["epochs"] *= error.share
            say(
                f"learning from the data is slower than was estimated: it begins anew, with "
                f"{plan['epochs']:.3g} epochs instead of {recipe.epochs:.3g}"
            )
            _begin(folder, plan)
        else:
            _write(folder / GUIDE, guide.to_json())
            return guide


class _TooSlowError(Exception):
    """A lesson would take too long; about this `share` of it fits into the time."""

    def __init__(self, share: float) -> None:
        super().__init__(share)
        self.share = share


class _Watch:
    """Ends lessons that would take much longer than there is time for, early in them.

    Steps of networks alone do not tell all that a learner does: some look at the latencies of all
    options, or run several of them beside each other. The clock runs from the watch's making.
    """

    def __init__(self, seconds: float | None, on_progress: Callable[[float], None]) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self._start = time.monotonic()
        self._on_progress = on_progress
        self._n_begun = 0
        self._first: tuple[float, float] | None = None  # when, and how much was done

    def begin(self) -> None:
        """A lesson begins."""
        self._n_begun += 1
        self._first = None

    def on_progress(self, done: float) -> None:
        """Tell of the progress.

        Raises:
            _TooSlowError: The lesson should be a shorter one.
        """
        self._on_progress(done)
        now = time.monotonic()
        if self._first is None:
            # What came before it, building a supernet say, does not grow with the lesson.
            self._first = now, done
            return
        began, done_then = self._first
        spent = now - self._start
        left = max(self._seconds - spent, MIN_LEFT * self._seconds)
        is_known = now - began > SURE_FROM * left and done_then < done < TOO_LATE
        if self._n_begun <= MAX_RESTARTS and is_known:
            seconds_each = (now - began) / (done - done_then)
            if spent + seconds_each * (1 - done) > TOLERATED * self._seconds:
                raise _TooSlowError(left / seconds_each)


def _begin(folder: Path, plan: dict[str, Any]) -> None:
    """Note what is to be learned; what was learned before is no more."""
    try:
        for other in (GUIDE, SUPERNET):
            (folder / other).unlink(missing_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot write {folder}: {error.strerror or error}") from None
    _write(folder / PLAN, plan)


def _affordable_epochs(
    problem: Problem, data: DataSet, recipe: Recipe, seconds: float, seed: int
) -> float:
    """Epochs of the space's networks that take so long here, by some steps of a few of them."""
    per_epoch, _ = recipe.steps(len(data.train))
    short = replace(recipe, epochs=TIMED_STEPS / per_epoch)
    sampler = Sampler(problem.space, seed=seed, problem=problem)

    def step_seconds(number: int, genotype: Genotype) -> float:
        architecture = problem.space.architecture(genotype)
        _, result = train_network(architecture, data, short, seed=seed_of(seed, number))
        return result.train_seconds / result.n_steps

    timed = [step_seconds(i, sampler.draw(sampler.rng(i))) for i in range(N_TIMED)]
    epoch_seconds = OVERHEAD * per_epoch * float(np.mean(timed))
    return max(seconds / epoch_seconds, 1 / per_epoch)


def _identity(
    name: str, problem: Problem, data: DataSet, recipe: Recipe, seed: int, epochs: float | None
) -> str:
    """Changes whenever another guide would be learned; not with the costs that are predicted."""
    told: list[Any] = [VERSION, name, problem.space.fingerprint, data.fingerprint]
    told += [asdict(recipe), seed, epochs, sorted(map(str, problem.budgets))]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def read_guide(path: Path, space: SearchSpace) -> Guide | None:
    """The guide in a file; None: there is no file.

    Raises:
        RunFolderError: It cannot be read, or is none for the space.
    """
    found = _read(path)
    if found is None:
        return None
    try:
        guide = Guide.from_json(found)
        guide.check(space)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunFolderError(_unreadable(path, error)) from None
    return guide


def _read(path: Path) -> dict[str, Any] | None:
    """The table in a JSON file; None if there is no file."""
    try:
        found = json.loads(read_text(path, TEXT_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(_unreadable(path, error)) from None
    if not isinstance(found, dict):
        raise RunFolderError(_unreadable(path, TypeError("it holds no table")))
    return found


def _unreadable(path: Path, error: Exception) -> str:
    return f"cannot read {path}: {error}. Remove it, and the guide is learned again"


def _write(path: Path, table: dict[str, Any]) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(table), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from None
