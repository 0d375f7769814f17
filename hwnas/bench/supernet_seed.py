"""One seed of `hwnas bench supernet`: a supernet is trained, and subnets with it and alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from hwnas.bench.kept import Kept
from hwnas.bench.supernet_passes import time_passes
from hwnas.data import DataSet, load_data
from hwnas.data.splits import stratified_order
from hwnas.errors import ConfigError
from hwnas.evaluators.training import seed_of, train_network
from hwnas.progress import Progress
from hwnas.spaces.base import Genotype, SearchSpace
from hwnas.supernet import (
    Supernet,
    SupernetTraining,
    evaluate_subnet,
    load_supernet,
    make_way,
    train_supernet,
)
from hwnas.training import Recipe, default_recipes, seeded, with_changes

__all__ = [
    "PASSES",
    "WEIGHTS",
    "KeptOfSeed",
    "SupernetStudy",
    "alone_name",
    "complete_seed",
    "inherited_name",
    "study_data",
    "study_recipes",
]

WEIGHTS = "supernet.safetensors"
EPOCHS, SPENT, TRAINING, PASSES = "epochs", "spent", "training", "passes"
N_TIMED = 64  # steps; by the second half of them it is known how many fit into the time
N_ROUNDS = 7  # of timing passes


@dataclass(frozen=True)
class SupernetStudy:
    """What is asked for; with a seed it decides all results but those in seconds.

    Attributes:
        data: As `load_data` takes it.
        space: As `make_space` takes it.
        way: Of training the supernet, as `make_way` takes it.
        n_subnets: That are compared.
        minutes: For training a supernet: by the speed of its first steps.
        alone_epochs: Of training a subnet alone.
        train_examples: So many of train are used; None: all.
        recipe: Changes of the recipe of subnets alone, see `with_changes`.
        supernet_recipe: Changes of that of the supernet.
        threads: Of training.
    """

    data: str
    space: str
    way: str
    n_subnets: int
    minutes: float
    alone_epochs: float
    train_examples: int | None = None
    recipe: tuple[str, ...] = ()
    supernet_recipe: tuple[str, ...] = ()
    threads: int = 1

    def supernet_only(self) -> dict[str, Any]:
        """What decides the supernet, as plain data."""
        of_subnets = ("n_subnets", "alone_epochs", "recipe")
        return {name: value for name, value in asdict(self).items() if name not in of_subnets}


@dataclass(frozen=True)
class KeptOfSeed:
    """Results of one seed: with other trainings alone, the same supernet is compared again.

    Attributes:
        supernet: What concerns it.
        alone: What concerns subnets that are trained alone.
    """

    supernet: Kept
    alone: Kept

    @classmethod
    @contextmanager
    def open(cls, folder: Path, study: SupernetStudy, asked: Mapping[str, Any]) -> Iterator[Self]:
        """Hold the results in a seed's folder until the block ends; see `Kept.open`.

        Args:
            folder: Made if it is missing.
            study: What is asked for.
            asked: What else decides all results; in the place of the study's values of that name.
        """
        alone = folder / f"alone-{study.alone_epochs:g}-epochs.json"
        with (
            Kept.open(folder / "supernet.json", study.supernet_only() | dict(asked)) as supernet,
            Kept.open(alone, asdict(study) | dict(asked)) as trained,
        ):
            yield cls(supernet, trained)


def inherited_name(i: int, n: int) -> str:
    """What the accuracy of subnet `i` of `n` with inherited weights is kept as."""
    return f"inherited {i} of {n}"


def alone_name(i: int) -> str:
    """What that of subnet `i` trained alone is kept as."""
    return f"alone {i}"


def study_data(study: SupernetStudy, path: Path | None) -> DataSet:
    """The data of a study, with as many training examples as it asks for, classes in proportion.

    Raises:
        ConfigError: There are not so many.
    """
    data = load_data(study.data, path=path)
    n = study.train_examples
    if n is None:
        return data
    if not 0 < n <= len(data.train):
        raise ConfigError(
            f"train_examples must be 1 to {len(data.train)}, as many as {study.data} has, got {n}"
        )
    return replace(data, train=data.train.take(stratified_order(data.train.labels)[:n]))


def study_recipes(study: SupernetStudy, data: DataSet) -> tuple[Recipe, Recipe]:
    """Of subnets alone, and of the supernet, whose epochs do not count."""
    short, _ = default_recipes(data)
    alone = replace(short, epochs=study.alone_epochs)
    return with_changes(alone, study.recipe), with_changes(short, study.supernet_recipe)


def complete_seed(
    study: SupernetStudy,
    data: DataSet,
    space: SearchSpace,
    subnets: Sequence[Genotype],
    *,
    seed: int,
    folder: Path,
    kept: KeptOfSeed,
    progress: Progress,
) -> None:
    """Do all steps that are not kept yet, with this process' threads.

    Kept with the supernet are its `epochs`, its `training`, `inherited I of N` of each subnet, and
    the `passes` of the last one, see `time_passes`; of trainings alone, `alone I`. Accuracies are
    on validation.

    Args:
        study: What is asked for.
        data: As `study_data` gives them.
        space: Of the subnets.
        subnets: The last one is the largest.
        seed: Of all that is random.
        folder: Where the weights lie.
        kept: The seed's results so far.
        progress: Told how it goes on.
    """
    alone, shared = study_recipes(study, data)
    n = len(subnets)
    supernet = _trained(study, data, space, shared, seed, folder / WEIGHTS, kept.supernet, progress)

    def inherited_accuracy(i: int) -> dict[str, float]:
        start = time.perf_counter()
        accuracy = evaluate_subnet(supernet, subnets[i], data).accuracy
        return {"accuracy": accuracy, "seconds": time.perf_counter() - start}

    def alone_accuracy(i: int) -> dict[str, float]:
        start = time.perf_counter()
        _, result = train_network(
            space.architecture(subnets[i]), data, alone, seed=seed_of(seed, i)
        )
        accuracy = result.validation.accuracy
        return {"accuracy": accuracy, "seconds": time.perf_counter() - start}

    # In random order: what an interrupted study has, is spread over the MACs too.
    order = np.random.default_rng(seed).permutation(n).tolist()
    with progress.task(f"seed {seed}: subnets, inherited", n) as task:
        for done, i in enumerate(order, 1):
            found = kept.supernet.once(inherited_name(i, n), partial(inherited_accuracy, i))
            task.update(done, note=f"accuracy {found['accuracy']:.4f}")
    with progress.task(f"seed {seed}: subnets, alone", n) as task:
        for done, i in enumerate(order, 1):
            found = kept.alone.once(alone_name(i), partial(alone_accuracy, i))
            task.update(done, note=f"accuracy {found['accuracy']:.4f}")
    kept.supernet.once(
        PASSES, lambda: time_passes(supernet, subnets[-1], data, shared, n_rounds=N_ROUNDS)
    )


def _trained(
    study: SupernetStudy,
    data: DataSet,
    space: SearchSpace,
    recipe: Recipe,
    seed: int,
    path: Path,
    kept: Kept,
    progress: Progress,
) -> Supernet:
    """The supernet, trained for the time of the study, with what was spent on it kept."""
    if kept.get(TRAINING) is not None:
        return load_supernet(space, path)
    way = make_way(study.way, space, seed=seed)

    def made(epochs: float, **more: Any) -> tuple[Supernet, SupernetTraining]:
        with seeded(seed):
            supernet = Supernet(space)
        exact = replace(recipe, epochs=epochs)
        return supernet, train_supernet(supernet, data, exact, way, seed=seed, **more)

    def affordable() -> float:
        per_epoch, _ = recipe.steps(len(data.train))
        told: list[tuple[float, float]] = []
        made(
            N_TIMED / per_epoch,
            on_progress=lambda share: told.append((share, time.perf_counter())),
        )
        half, half_s = next(found for found in told if found[0] >= 0.5)
        step_s = (told[-1][1] - half_s) / (1 - half) / N_TIMED
        return 60 * study.minutes / step_s / per_epoch

    epochs = kept.once(EPOCHS, affordable)
    before = kept.get(SPENT, {"seconds": 0.0, "cpu_seconds": 0.0})
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    with progress.task(f"seed {seed}: supernet, {epochs:.3g} epochs", 1.0) as task:

        def tell(share: float) -> None:
            spent = {
                "seconds": before["seconds"] + time.perf_counter() - start_s,
                "cpu_seconds": before["cpu_seconds"] + time.process_time() - start_cpu_s,
            }
            kept.put(SPENT, spent)
            task.update(share)

        supernet, found = made(epochs, checkpoint=path, on_progress=tell)
    kept.put(TRAINING, {"final_loss": found.final_loss, "n_steps": found.n_steps})
    return supernet
