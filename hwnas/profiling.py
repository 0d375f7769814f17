"""Measure a space on a target: networks of it, end to end and kernel by kernel, in place."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from hwnas.cost import CostTable
from hwnas.export import network_to_onnx
from hwnas.networks import Network
from hwnas.progress import Progress, Silent
from hwnas.spaces.base import Architecture, Genotype, GenotypeArray, SearchSpace
from hwnas.training import seeded
from profilers.devices import this_device
from profilers.measurement import NetworkMeasurement
from profilers.onnx_models import OnnxModel, make_model
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import Target

SECONDS_PER_NETWORK = 0.7
FAMILY_TAG, ARCHITECTURE_TAG, SPACE_TAG = "family", "architecture", "space"
N_SAMPLE, N_COVER, N_CORNERS = 4096, 1024, 2


def architecture_digest(architecture: Architecture) -> str:
    """Tells architectures apart, whatever their weights."""
    return hashlib.sha256(architecture.to_json().encode()).hexdigest()


def space_key(space: SearchSpace) -> str:
    """Tells spaces apart, also those of one name made for different data."""
    choices = json.dumps([[choice.name, choice.options] for choice in space.choices])
    return f"{space.name}-{hashlib.sha256(choices.encode()).hexdigest()[:12]}"


def untrained_model(architecture: Architecture, *, batch: int = 1) -> OnnxModel:
    """The architecture as ONNX with fixed random weights: latency does not depend on them."""
    with seeded(0):
        network = Network(architecture)
    proto = network_to_onnx(network, architecture.input_shape, batch=batch)
    digest = architecture_digest(architecture)
    return make_model(proto, name=digest[:12], digest=digest)


def profile_space(
    space: SearchSpace,
    target: Target,
    store: MeasurementStore,
    *,
    n_networks: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[NetworkMeasurement]:
    """Measure `n_networks` networks of a space, with all their kernels in place.

    The same call goes on where an interrupted one stopped: what is stored is not measured again.

    Returns:
        Every measurement of the target that the store then holds.
    """
    progress = progress or Silent()
    profiler = Profiler(target)
    rng = np.random.default_rng(seed)
    table = CostTable(space, profiler, store)
    with progress.task("asking the runtime for its kernels", None) as task:
        table.warm(rng, on_progress=lambda n_pieces: task.update(n_pieces))
        sample = sample_networks(space, rng, max(N_SAMPLE, 8 * n_networks))
        genotypes = choose_networks(table, sample, n_networks)
    device = this_device()
    known = {m.digest for m in store.networks(target)}
    with progress.task("measuring networks", len(genotypes)) as task:
        for i, genotype in enumerate(genotypes):
            architecture = space.architecture(genotype)
            note = "known"
            if architecture_digest(architecture) not in known:
                model = untrained_model(architecture, batch=target.batch)
                tags = {
                    FAMILY_TAG: space.name,
                    SPACE_TAG: space_key(space),
                    ARCHITECTURE_TAG: architecture.to_json(),
                    "genotype": json.dumps(genotype),
                }
                measurement = profiler.profile(model, seconds=SECONDS_PER_NETWORK, tags=tags)
                store.add(measurement, device)
                note = f"{measurement.latency_ms:.3f} ms"
            task.update(i + 1, note=note)
    return store.networks(target)


def sample_networks(space: SearchSpace, rng: np.random.Generator, n: int) -> GenotypeArray:
    """About `n` distinct networks, the cheapest and the dearest corner of the space first.

    Half are uniform; in the others every choice is the lower of two draws, options being in order
    from small to large: budgets ask for small networks, and a search goes to where they are.
    """
    corners = np.array([[0] * len(space.choices), [m - 1 for m in space.n_options]])
    low = np.minimum(space.sample(rng, n // 2), space.sample(rng, n // 2))
    drawn = space.canonical(np.concatenate([corners, low, space.sample(rng, n - n // 2)]))
    _, first = np.unique(drawn, axis=0, return_index=True)
    return drawn[np.sort(first)]


def choose_networks(table: CostTable, sample: GenotypeArray, n: int) -> list[Genotype]:
    """`n` of the sampled genotypes to measure: half for the interval, half for the kernels.

    The first half are the sample's first two, its corners, and others spread evenly over the ranks
    of MACs, so that small and large networks count the same. Each of the others is the one with
    the most kernels that none before it has, per kernel that it runs: greedy cover.
    """
    order = np.argsort(table.counts(sample).macs, kind="stable")
    n_spread = min((n + 1) // 2, len(sample))
    ranks = np.linspace(0, len(sample) - 1, max(0, n_spread - N_CORNERS)).round().astype(int)
    corners = list(range(min(N_CORNERS, len(sample))))
    chosen = list(dict.fromkeys([*corners, *order[ranks].tolist()]))[:n]
    candidates = range(0, len(sample), max(1, len(sample) // N_COVER))
    rows = {i: tuple(int(v) for v in sample[i]) for i in {*chosen, *candidates}}
    kernels = {i: {kernel.key for kernel in table.kernels(row)} for i, row in rows.items()}
    covered = set().union(*(kernels[i] for i in chosen))
    while len(chosen) < min(n, len(rows)):
        left = [i for i in rows if i not in chosen]
        best = max(left, key=lambda i: (len(kernels[i] - covered) / len(kernels[i]), -i))
        chosen.append(best)
        covered |= kernels[best]
    return [rows[i] for i in chosen]
