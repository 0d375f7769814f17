"""Measure a space on a target: its pieces, and sampled networks in situ and end to end."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from hwnas.cost import CostTable
from hwnas.export import network_to_onnx
from hwnas.networks import Network
from hwnas.progress import Progress, Silent
from hwnas.spaces.base import Architecture, Genotype, SearchSpace
from hwnas.training import seeded
from profilers.devices import this_device
from profilers.measurement import NetworkMeasurement
from profilers.onnx_models import OnnxModel, make_model
from profilers.onnx_runtime import OnnxRuntimeProfiler
from profilers.store import MeasurementStore
from profilers.targets import Target

SECONDS_PER_NETWORK = 1.0
FAMILY_TAG, ARCHITECTURE_TAG = "family", "architecture"
N_SPREAD = 4096


def architecture_digest(architecture: Architecture) -> str:
    """Tells architectures apart, whatever their weights."""
    return hashlib.sha256(architecture.to_json().encode()).hexdigest()


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
    """Measure the pieces of a space and `n_networks` networks of it; what is stored is not redone.

    The networks are drawn so that small and large ones are equally many: of a random sample,
    evenly over the ranks of their multiply-accumulates.

    Returns:
        Every measurement of the target that the store then holds.
    """
    progress = progress or Silent()
    profiler = OnnxRuntimeProfiler(target)
    rng = np.random.default_rng(seed)
    table = CostTable(space, profiler, store, measure=True)
    with progress.task("measuring the space's blocks", None) as task:
        table.warm(rng, on_progress=lambda n_pieces: task.update(n_pieces))
    device = this_device()
    known = {m.digest for m in store.networks(target)}
    genotypes = spread_genotypes(space, table, rng, n_networks)
    with progress.task("measuring networks", n_networks) as task:
        for i, genotype in enumerate(genotypes):
            architecture = space.architecture(genotype)
            if architecture_digest(architecture) not in known:
                model = untrained_model(architecture, batch=target.batch)
                tags = {
                    FAMILY_TAG: space.name,
                    ARCHITECTURE_TAG: architecture.to_json(),
                    "genotype": json.dumps(genotype),
                }
                measurement = profiler.profile(model, seconds=SECONDS_PER_NETWORK, tags=tags)
                store.add(measurement, device)
                note = f"{measurement.latency_ms:.3f} ms"
                task.update(i + 1, note=note)
            else:
                task.update(i + 1, note="known")
    return store.networks(target)


def spread_genotypes(
    space: SearchSpace, table: CostTable, rng: np.random.Generator, n: int
) -> list[Genotype]:
    """`n` genotypes of distinct networks, evenly over the ranks of MACs in a random sample."""
    sample = np.unique(space.canonical(space.sample(rng, max(N_SPREAD, 8 * n))), axis=0)
    order = np.argsort(table.counts(sample).macs, kind="stable")
    ranks = np.unique(np.linspace(0, len(sample) - 1, min(n, len(sample))).round().astype(int))
    return [tuple(int(i) for i in sample[order[rank]]) for rank in ranks]
