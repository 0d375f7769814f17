"""Do inherited weights rank subnets as training alone does?

For each seed a supernet is trained for so many minutes. Subnets that are spread over the MACs are
scored with the weights that they inherit, and again after each was trained alone, all by one recipe
and for equal epochs. Accuracies are on validation; test is not read.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from hwnas.bench.rank_agreement import rank_agreement
from hwnas.bench.subnets import spread_subnets
from hwnas.bench.supernet_seed import (
    PASSES,
    WEIGHTS,
    KeptOfSeed,
    SupernetStudy,
    alone_name,
    complete_seed,
    inherited_name,
    study_data,
    study_recipes,
)
from hwnas.errors import ConfigError
from hwnas.networks import counts
from hwnas.progress import Progress
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.for_data import space_for
from hwnas.supernet import Supernet, load_supernet
from profilers.devices import this_device

__all__ = ["bench_supernet", "supernet_of"]


def bench_supernet(
    study: SupernetStudy,
    out: Path,
    *,
    seeds: Sequence[int],
    data_path: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    """Train supernets and subnets, and compare the orders.

    Called again with the same arguments it goes on where it stopped. Calls with one seed each may
    run side by side on the same `out`, and one with all of them then puts their results together.
    With other `alone_epochs` it compares the supernets that are there.

    Args:
        study: What is asked for.
        out: Holds a folder for each seed.
        seeds: Of what is random, but the choice of subnets, which is the same for all.
        data_path: Folder or file of the data.
        progress: Told how it goes on.

    Returns:
        What was asked for; the `subnets`, by rising MACs; and by `seeds` the accuracies `inherited`
        and `alone` in that order, how far they agree (see `rank_agreement`), how far MACs and
        `alone` do (`macs_spearman`), `passes` (see `time_passes`), and the seconds of everything.
        Means over the seeds are `spearman` and `kendall`; `alone_spearman` is that of training
        alone with two seeds, the most that can be expected of inherited weights.

    Raises:
        ConfigError: There is nothing to compare, or `out` holds the results of another study.
        RunFolderError: `out` cannot be used.
    """
    if not seeds:
        raise ConfigError("at least one seed is needed")
    data = study_data(study, data_path)
    space = space_for(study.space, data)
    recipe, supernet_recipe = study_recipes(study, data)
    subnets = spread_subnets(space, study.n_subnets)
    sizes = [counts(space.architecture(genotype)) for genotype in subnets]
    asked = {"data": f"{study.data} {data.fingerprint}"}
    found = {}
    with _threads(study.threads):
        for seed in seeds:
            folder = _folder(out, seed)
            with KeptOfSeed.open(folder, study, asked | {"seed": seed}) as kept:
                complete_seed(
                    study, data, space, subnets,
                    seed=seed, folder=folder, kept=kept, progress=progress,
                )  # fmt: skip
                found[seed] = _seed_row(kept, [size.macs for size in sizes])
    return {
        **asdict(study),
        "recipe": asdict(recipe),
        "supernet_recipe": {**asdict(supernet_recipe), "epochs": None},  # by `seeds`
        "n_train": len(data.train),
        "n_validation": len(data.validation),
        "device": this_device().cpu,
        "spearman": statistics.fmean(row["spearman"]["value"] or 0.0 for row in found.values()),
        "kendall": statistics.fmean(row["kendall"]["value"] or 0.0 for row in found.values()),
        "alone_spearman": {
            f"{a}, {b}": rank_agreement(found[a]["alone"], found[b]["alone"])["spearman"]
            for a, b in combinations(found, 2)
        },
        "seeds": {str(seed): row for seed, row in found.items()},
        "subnets": [
            {"genotype": space.to_json(genotype), "macs": size.macs, "params": size.params}
            for genotype, size in zip(subnets, sizes, strict=True)
        ],
    }


def supernet_of(space: SearchSpace, out: Path, *, seed: int) -> Supernet:
    """The supernet of a study that is done, or under way.

    Raises:
        RunFolderError: There is none in `out`.
    """
    return load_supernet(space, _folder(out, seed) / WEIGHTS)


def _folder(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}"


def _seed_row(kept: KeptOfSeed, macs: Sequence[int]) -> dict[str, Any]:
    """A complete seed in numbers."""
    n = len(macs)
    inherited = [kept.supernet.get(inherited_name(i, n)) for i in range(n)]
    alone = [kept.alone.get(alone_name(i)) for i in range(n)]
    accuracies = [[each["accuracy"] for each in found] for found in (inherited, alone)]
    return {
        **rank_agreement(*accuracies),
        "macs_spearman": rank_agreement(macs, accuracies[1])["spearman"],
        "supernet_epochs": kept.supernet.get("epochs"),
        **kept.supernet.get("training"),
        "supernet_seconds": kept.supernet.get("spent")["seconds"],
        "supernet_cpu_seconds": kept.supernet.get("spent")["cpu_seconds"],
        "inherited_seconds": sum(each["seconds"] for each in inherited),
        "alone_seconds": sum(each["seconds"] for each in alone),
        "passes": kept.supernet.get(PASSES),
        "inherited": accuracies[0],
        "alone": accuracies[1],
        "each_alone_seconds": [each["seconds"] for each in alone],
    }


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """So many threads in torch's layers, until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
