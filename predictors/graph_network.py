"""A graph neural network over the kernels of a network, in PyTorch.

Nodes are kernels. A measurement keeps them in running order but not what feeds what, so edges are
derived: each input of a kernel comes from the most recent earlier kernel that has an output of the
same type and shape, if there is one. Weights find none, unless an activation has their very shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from predictors.baselines import (
    MIN_MS,
    FloatArray,
    check_enough,
    kernels_of,
    measured_ms,
    not_fitted,
)
from predictors.features import FEATURES, group, kernel_features
from profilers.kernels import Kernel, Tensor
from profilers.measurement import NetworkMeasurement

if TYPE_CHECKING:
    import torch

IntArray = NDArray[np.int64]

WIDTH, N_ROUNDS = 48, 3
BATCHES, MAX_EPOCHS, PATIENCE = 8, 250, 40  # batches a pass
LEARNING_RATE, WEIGHT_DECAY = 4e-3, 1e-4
KERNEL_WEIGHT = 1.0  # of the errors on kernels, beside 1 for those on networks
CHECK_SHARE = 0.15  # of the training networks: they say when to stop
UNKNOWN_SHARE = 0.1  # of nodes whose group is hidden in training, so that "unknown" is learned
UNKNOWN = 0  # the code of a group never met
FAR = 3.0  # standard deviations beyond which a feature counts as that far
TINY = 1e-12


@dataclass(frozen=True)
class Graphs:
    """n networks as one graph of m nodes in n parts.

    Attributes:
        x: Features of the nodes, `(m, d)`.
        group: Code of each node's `features.group`, `(m,)`.
        owner: Which network a node belongs to, 0 to n - 1, `(m,)`.
        edges: From a node to one that reads what it wrote, `(2, e)`.
        n: Networks.
    """

    x: FloatArray
    group: IntArray
    owner: IntArray
    edges: IntArray
    n: int


class GraphNetwork:
    """Message passing over kernels; a network is the sum of what its nodes answer.

    Each node answers two positive numbers: its share of the network's latency, and its latency as
    the profiler sees it. The first are summed, with a constant, so that a network twice as long
    takes twice as long whatever was seen. Both are learned at once, by relative errors: on the
    training networks' latencies, and on their kernels'.

    Attributes:
        n_epochs_: Passes over the training networks after which the check networks were predicted
            best; those weights are kept.

    Reference:
        Gilmer et al., Neural Message Passing for Quantum Chemistry, ICML 2017;
        Dudziak et al., BRP-NAS, NeurIPS 2020, for graphs and latency.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self.groups_: dict[str, int] = {}
        self.mean_ = np.zeros(len(FEATURES))
        self.std_ = np.ones(len(FEATURES))
        self.unit_ms_ = 1.0
        self.n_epochs_ = 0
        self.model_: torch.nn.ModuleDict | None = None

    def fit(self, measurements: Sequence[NetworkMeasurement]) -> Self:
        """Learn from at least one measured network; with fewer than eight, none are set aside."""
        import torch

        check_enough(measurements)
        networks = kernels_of(measurements)
        flat = [kernel for kernels in networks for kernel in kernels]
        self.groups_ = {
            name: code
            for code, name in enumerate(sorted({group(k) for k in flat}), start=UNKNOWN + 1)
        }
        features = kernel_features(flat)
        self.mean_, self.std_ = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
        kernel_ms = [np.maximum([k.latency_ms for k in m.kernels], MIN_MS) for m in measurements]
        self.unit_ms_ = float(np.median(np.concatenate(kernel_ms)))
        order = np.random.default_rng(self.seed).permutation(len(networks))
        n_check = round(CHECK_SHARE * len(networks)) if len(networks) >= 8 else 0
        check, rest = order[:n_check], order[n_check:]
        examples = [
            _Example(self._graphs([kernels]), ms, float(total))
            for kernels, ms, total in zip(
                networks, kernel_ms, measured_ms(measurements), strict=True
            )
        ]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.model_ = _make_model(len(self.groups_) + 1)
            self.n_epochs_ = _train(
                self.model_,
                [examples[i] for i in rest],
                [examples[i] for i in (check if n_check else rest)],
                unit_ms=self.unit_ms_,
                rng=np.random.default_rng([self.seed, 1]),
            )
        return self

    def predict(self, networks: Sequence[Sequence[Kernel]]) -> FloatArray:
        """Latencies in ms of n networks, `(n,)`."""
        import torch

        if self.model_ is None:
            raise not_fitted(self)
        if not networks:
            return np.zeros(0)
        with torch.no_grad():
            log_ms, _ = _forward(self.model_, self._graphs(networks))
        return np.asarray(np.exp(log_ms.numpy().astype(np.float64)) * self.unit_ms_)

    def _graphs(self, networks: Sequence[Sequence[Kernel]]) -> Graphs:
        flat = [kernel for kernels in networks for kernel in kernels]
        x = np.clip((kernel_features(flat) - self.mean_) / self.std_, -FAR, FAR)
        sizes = [len(kernels) for kernels in networks]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        edges = [
            derived_edges(kernels) + start for kernels, start in zip(networks, starts, strict=True)
        ]
        return Graphs(
            x,
            np.array([self.groups_.get(group(kernel), UNKNOWN) for kernel in flat], dtype=np.int64),
            np.repeat(np.arange(len(networks)), sizes),
            np.concatenate(edges, axis=1),
            len(networks),
        )


@dataclass(frozen=True)
class _Example:
    """One training network: its graph, its kernels' latencies `(m,)` and its own, in ms."""

    graph: Graphs
    kernel_ms: FloatArray
    latency_ms: float


def derived_edges(kernels: Sequence[Kernel]) -> IntArray:
    """Which kernel feeds which, guessed from types and shapes, `(2, e)`: from, to.

    Example:
        >>> x, y = Tensor("float", (1, 8)), Tensor("float", (1, 4))
        >>> shrink, grow = Kernel("Gemm", (), (x,), (y,)), Kernel("Gemm", (), (y,), (x,))
        >>> derived_edges([shrink, grow, shrink]).tolist()
        [[0, 1], [1, 2]]
    """
    writer: dict[Tensor, int] = {}
    found: list[tuple[int, int]] = []
    for position, kernel in enumerate(kernels):
        sources = {writer[tensor] for tensor in kernel.inputs if tensor in writer}
        found += [(source, position) for source in sorted(sources)]
        writer.update(dict.fromkeys(kernel.outputs, position))
    return np.array(found, dtype=np.int64).reshape(-1, 2).T


def _joined(graphs: Sequence[Graphs]) -> Graphs:
    nodes = np.concatenate([[0], np.cumsum([len(g.group) for g in graphs])[:-1]]).astype(np.int64)
    parts = np.concatenate([[0], np.cumsum([g.n for g in graphs])[:-1]]).astype(np.int64)
    return Graphs(
        np.concatenate([g.x for g in graphs]),
        np.concatenate([g.group for g in graphs]),
        np.concatenate([g.owner + part for g, part in zip(graphs, parts, strict=True)]),
        np.concatenate([g.edges + node for g, node in zip(graphs, nodes, strict=True)], axis=1),
        sum(g.n for g in graphs),
    )


def _make_model(n_groups: int) -> torch.nn.ModuleDict:
    from torch import nn

    model = nn.ModuleDict({
        "group": nn.Embedding(n_groups, WIDTH),
        "features": nn.Linear(len(FEATURES), WIDTH),
        "read": nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU()),
        "answer": nn.Linear(WIDTH, 2),
        "constant": nn.Linear(1, 1, bias=False),
    })  # fmt: skip
    for i in range(N_ROUNDS):
        model[f"message {i}"] = nn.Sequential(
            nn.LayerNorm(3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)
        )
    return model


def _forward(
    model: torch.nn.ModuleDict, graphs: Graphs, hidden: NDArray[np.bool_] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithms of latencies over the unit: of networks `(n,)`, and of kernels `(m,)`.

    `hidden` `(m,)` marks nodes whose group is not told.
    """
    import torch
    from torch.nn import functional

    groups = graphs.group if hidden is None else np.where(hidden, UNKNOWN, graphs.group)
    source, sink = torch.from_numpy(np.ascontiguousarray(graphs.edges))
    state = model["features"](torch.from_numpy(graphs.x.astype(np.float32)))
    state = model["read"](state + model["group"](torch.from_numpy(groups)))
    for i in range(N_ROUNDS):
        around = [
            torch.zeros_like(state).index_add(0, to, state[of])
            for of, to in ((source, sink), (sink, source))
        ]
        state = state + model[f"message {i}"](torch.cat([state, *around], dim=1))
    answers = functional.softplus(model["answer"](state)) + TINY
    constant = functional.softplus(model["constant"](torch.ones(graphs.n, 1)))[:, 0]
    total = constant.index_add(0, torch.from_numpy(graphs.owner), answers[:, 0])
    return total.log(), answers[:, 1].log()


def _train(
    model: torch.nn.ModuleDict,
    examples: Sequence[_Example],
    check: Sequence[_Example],
    *,
    unit_ms: float,
    rng: np.random.Generator,
) -> int:
    """Leave the model with the weights that were best on `check`; returns after which epoch."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, MAX_EPOCHS)
    best, best_epoch, kept = math.inf, 0, _copied(model)
    to_check = _joined([e.graph for e in check]), _log_over([e.latency_ms for e in check], unit_ms)
    for epoch in range(1, MAX_EPOCHS + 1):
        order = rng.permutation(len(examples))
        for rows in np.array_split(order, min(BATCHES, len(order))):
            batch = [examples[i] for i in rows]
            graphs = _joined([e.graph for e in batch])
            log_ms, log_kernel_ms = _forward(
                model, graphs, rng.random(len(graphs.group)) < UNKNOWN_SHARE
            )
            of_networks = (log_ms - _log_over([e.latency_ms for e in batch], unit_ms)).abs().mean()
            kernel_ms = _log_over(np.concatenate([e.kernel_ms for e in batch]), unit_ms)
            of_kernels = (log_kernel_ms - kernel_ms).abs().mean()
            optimizer.zero_grad()
            torch.autograd.backward(of_networks + KERNEL_WEIGHT * of_kernels)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            error = float((_forward(model, to_check[0])[0] - to_check[1]).abs().mean())
        if error < best:
            best, best_epoch, kept = error, epoch, _copied(model)
        if epoch - best_epoch >= PATIENCE:
            break
    model.load_state_dict(kept)
    return best_epoch


def _copied(model: torch.nn.ModuleDict) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _log_over(ms: Sequence[float] | FloatArray, unit_ms: float) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.log(np.asarray(ms) / unit_ms).astype(np.float32))
