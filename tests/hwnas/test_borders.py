"""Blocks that begin or end with what the runtime fuses across them, of inputs of every kind."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hwnas import cost, piece_library
from hwnas.cost import CostTable
from hwnas.networks import counts
from hwnas.pieces import BLOCKED, Border, Piece
from hwnas.profiling import untrained_model
from hwnas.spaces.base import Choice, SearchSpace
from predictors.cost import CostPredictor
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target


@dataclass(frozen=True)
class Layers:
    """A block of layers in a row, made from the input's shape."""

    name: str
    args: tuple[int | str, ...] = ()

    def build(self, in_shape):
        return LAYERS[self.name](in_shape, *self.args)


def conv_bn(in_channels, channels, kernel_size=3, stride=1):
    padding = kernel_size // 2
    conv = nn.Conv2d(in_channels, channels, kernel_size, stride, padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


def relu_conv_bn(*args, **options):
    return nn.Sequential(nn.ReLU(), *conv_bn(*args, **options))


class Dag(nn.Module):
    """Three edges of a cell: input to node, input to output, node to output."""

    EDGES = ((0, 1), (0, 2), (1, 2))

    def __init__(self, shape, *names):
        super().__init__()
        edge = {
            "none": nn.Identity, "skip": nn.Identity,
            "conv": lambda: relu_conv_bn(shape[0], shape[0]),
            "mix": lambda: relu_conv_bn(shape[0], shape[0], 1),
            "pool": lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        }  # fmt: skip
        self.names = names
        self.edges = nn.ModuleList(edge[name]() for name in names)

    def forward(self, x):
        nodes = {0: x}
        for (source, target), name, edge in zip(self.EDGES, self.names, self.edges, strict=True):
            if name != "none" and source in nodes:
                y = edge(nodes[source])
                nodes[target] = nodes[target] + y if target in nodes else y
        return nodes.get(2, x * 0.0)


class Reduction(nn.Module):
    def __init__(self, shape, channels):
        super().__init__()
        first, second = relu_conv_bn(shape[0], channels, 3, 2), relu_conv_bn(channels, channels)
        self.path = nn.Sequential(first, second)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(shape[0], channels, 1, bias=False))

    def forward(self, x):
        return self.shortcut(x) + self.path(x)


class Joined(nn.Module):
    """1×1 preprocessing that begins with ReLU, two nodes, joined by channel."""

    def __init__(self, shape, channels, name):
        super().__init__()
        self.before = relu_conv_bn(shape[0], channels, 1)
        self.nodes = nn.ModuleList(Dag((channels,), name, "skip", "conv") for _ in range(2))

    def forward(self, x):
        x = self.before(x)
        return torch.cat([node(x) for node in self.nodes], dim=1)


class Preactivated(nn.Module):
    def __init__(self, shape, channels):
        super().__init__()
        self.norm = nn.BatchNorm2d(shape[0])
        self.body = nn.Sequential(
            *conv_bn(shape[0], channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )
        keeps = shape[0] == channels
        self.shortcut = nn.Identity() if keeps else nn.Conv2d(shape[0], channels, 1, bias=False)

    def forward(self, x):
        y = functional.relu(self.norm(x))
        return self.shortcut(x if isinstance(self.shortcut, nn.Identity) else y) + self.body(y)


class Encoder(nn.Module):
    """Pre-norm: attention, then an MLP."""

    def __init__(self, shape, heads, ratio):
        super().__init__()
        width, self.heads = shape[1], heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.packed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width)
        )

    def forward(self, x):
        packed = self.packed(self.norms[0](x)).chunk(3, dim=-1)
        parts = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in packed)
        attended = functional.scaled_dot_product_attention(*parts)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


class Patches(nn.Module):
    def __init__(self, shape, width, has_class):
        super().__init__()
        self.patches = nn.Conv2d(shape[0], width, 4, 4)
        length = (shape[1] // 4) * (shape[2] // 4) + has_class
        self.token = nn.Parameter(torch.ones(1, 1, width)) if has_class else None
        self.position = nn.Parameter(torch.randn(1, length, width))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        return x + self.position


class Embedding(nn.Module):
    def __init__(self, shape, width):
        super().__init__()
        self.tokens = nn.Embedding(50, width)
        self.position = nn.Parameter(torch.randn(shape[0], width))

    def forward(self, ids):
        return self.tokens(ids) + self.position


class SequenceHead(nn.Module):
    def __init__(self, shape, pooling):
        super().__init__()
        self.norm, self.classify = nn.LayerNorm(shape[1]), nn.Linear(shape[1], 5)
        self.pooling = pooling

    def forward(self, x):
        x = self.norm(x)
        return self.classify(x.mean(dim=1) if self.pooling == "mean" else x[:, 0])


class Dilated(nn.Module):
    """`x` plus a gated convolution of it."""

    def __init__(self, shape, dilation):
        super().__init__()
        self.filter, self.gate = (
            nn.Conv1d(shape[0], shape[0], 3, padding=dilation, dilation=dilation) for _ in range(2)
        )

    def forward(self, x):
        return x + torch.tanh(self.filter(x)) * torch.sigmoid(self.gate(x))


class Recurrent(nn.Module):
    def __init__(self, shape, cell, width, bidirectional):
        super().__init__()
        cells = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
        self.cell = cells[cell](shape[1], width, batch_first=True, bidirectional=bidirectional)

    def forward(self, x):
        return self.cell(x)[0]


class Frames(nn.Module):
    def __init__(self, shape, channels):
        super().__init__()
        self.filter = nn.Conv1d(shape[0], channels, 5, 2, 2)

    def forward(self, x):
        return functional.relu(self.filter(x)).transpose(1, 2)


class Dense(nn.Module):
    def __init__(self, shape, ratio, norm):
        super().__init__()
        width = shape[0]
        norms = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        self.body = nn.Sequential(
            norms[norm](width),
            nn.Linear(width, ratio * width),
            nn.ReLU(),
            nn.Linear(ratio * width, width),
        )

    def forward(self, x):
        return x + self.body(x)


LAYERS = {
    "conv": lambda shape, channels: conv_bn(shape[0], channels),
    "bare conv": lambda shape, channels: nn.Conv2d(shape[0], channels, 3, padding=1, bias=False),
    "dag": Dag,
    "reduction": Reduction,
    "joined": Joined,
    "preactivated": Preactivated,
    "image head": lambda shape: nn.Sequential(
        nn.BatchNorm2d(shape[0]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(shape[0], 5),
    ),
    "patches": Patches,
    "embedding": Embedding,
    "encoder": Encoder,
    "sequence head": SequenceHead,
    "conv 1d": lambda shape, channels: nn.Sequential(
        nn.Conv1d(shape[0], channels, 3, 2, 1, bias=False), nn.BatchNorm1d(channels), nn.ReLU()
    ),
    "dilated": Dilated,
    "signal head": lambda shape: nn.Sequential(
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(shape[0], 5)
    ),
    "frames": Frames,
    "recurrent": Recurrent,
    "linear": lambda shape, width: nn.Linear(shape[0], width),
    "dense": Dense,
    "relu": lambda shape: nn.ReLU(),
}  # fmt: skip


def layers(name, *keys, when=lambda options: True):
    """A slot: the layers of that name, with options or with plain numbers."""

    def slot(options):
        args = tuple(options[key] if isinstance(key, str) else key for key in keys)
        return Layers(name, args) if when(options) else None

    return slot


def deeper_than(depth):
    return lambda options: options["depth"] > depth


EDGES = ("none", "skip", "conv", "mix", "pool")
WIDTHS = (12, 16, 32)  # the runtime blocks the layout of the last two
cell_choices = tuple(Choice(f"edge_{i}", EDGES) for i in range(3))
cell = layers("dag", "edge_0", "edge_1", "edge_2")
encoder = [layers("encoder", f"heads_{i}", f"ratio_{i}", when=deeper_than(i)) for i in range(2)]
encoder_choices = (
    Choice("width", (16, 32)), Choice("depth", (0, 1, 2)), Choice("pooling", ("mean", "first")),
    *(Choice(f"heads_{i}", (1, 2)) for i in range(2)),
    *(Choice(f"ratio_{i}", (1, 2)) for i in range(2)),
)  # fmt: skip
recurrent = [
    layers("recurrent", "cell", f"width_{i}", "bidirectional", when=deeper_than(i))
    for i in range(2)
]

SPACES = {
    "cells": SearchSpace(
        "cells", (Choice("width", WIDTHS), *cell_choices), lambda options: (3, 8, 8),
        (layers("conv", "width"), cell, cell, layers("reduction", 32), cell, layers("image head")),
    ),
    "joined": SearchSpace(
        "joined", (Choice("width", WIDTHS), Choice("edge", EDGES)), lambda options: (3, 8, 8),
        (layers("conv", "width"), *[layers("joined", "width", "edge")] * 2, layers("image head")),
    ),
    "preactivated": SearchSpace(
        "preactivated",
        (Choice("stem", WIDTHS), Choice("width_1", WIDTHS), Choice("width_2", WIDTHS),
         Choice("depth", (0, 1, 2))),
        lambda options: (3, 8, 8),
        (layers("bare conv", "stem"), layers("preactivated", "width_1", when=deeper_than(0)),
         layers("preactivated", "width_2", when=deeper_than(1)), layers("image head")),
    ),
    "alone": SearchSpace(  # blocks that are nothing but what is fused, or not even that
        "alone",
        (Choice("stem", WIDTHS), Choice("depth", (0, 1, 2, 3)), Choice("edge", EDGES)),
        lambda options: (3, 8, 8),
        (layers("bare conv", "stem"), *(layers("relu", when=deeper_than(i)) for i in range(2)),
         layers("joined", "stem", "edge", when=deeper_than(2)),
         layers("image head")),
    ),
    "vision": SearchSpace(
        "vision", (Choice("class", (False, True)), *encoder_choices), lambda options: (3, 8, 8),
        (layers("patches", "width", "class"), *encoder, layers("sequence head", "pooling")),
    ),
    "tokens": SearchSpace(
        "tokens", encoder_choices, lambda options: (6,),
        (layers("embedding", "width"), *encoder, layers("sequence head", "pooling")),
        input_type="int64",
    ),
    "signals": SearchSpace(
        "signals",
        (Choice("width", WIDTHS), Choice("depth", (0, 1, 2)), Choice("dilation", (1, 4))),
        lambda options: (2, 40),
        (layers("conv 1d", "width"),
         *(layers("dilated", "dilation", when=deeper_than(i)) for i in range(2)),
         layers("conv 1d", 16), layers("signal head")),
    ),
    "recurrent": SearchSpace(
        "recurrent",
        (Choice("cell", ("lstm", "gru", "rnn")), Choice("depth", (0, 1, 2)),
         Choice("bidirectional", (False, True)), Choice("pooling", ("mean", "first")),
         *(Choice(f"width_{i}", (8, 12)) for i in range(2))),
        lambda options: (2, 20),
        (layers("frames", 8), *recurrent, layers("sequence head", "pooling")),
    ),
    "table": SearchSpace(
        "table",
        (Choice("width", (8, 24)), Choice("depth", (0, 1, 2)), Choice("norm", ("batch", "layer"))),
        lambda options: (7,),
        (layers("linear", "width"),
         *(layers("dense", 2, "norm", when=deeper_than(i)) for i in range(2)),
         layers("linear", 5)),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def profiler():
    return Profiler(make_target())


@pytest.fixture
def store():
    with MeasurementStore(":memory:") as opened:
        yield opened


def sample(space, n, seed=0):
    rows = space.canonical(space.sample(np.random.default_rng(seed), n))
    return [tuple(row) for row in np.unique(rows, axis=0).tolist()]


def whole_kernels(space, genotype, profiler):
    model = untrained_model(space.architecture(genotype), batch=profiler.target.batch)
    return [node.kernel for node in profiler.kernels(model)]


def keys(kernels):
    return Counter(kernel.key for kernel in kernels)


@pytest.mark.parametrize("name", SPACES)
def test_pieces_have_the_kernels_of_the_whole_network(name, profiler, store):
    space = SPACES[name]
    genotypes = sample(space, 6)
    table = CostTable(space, profiler, store)
    table.counts(np.array(genotypes))  # all at once: pieces are exported side by side
    for genotype in genotypes:
        whole = whole_kernels(space, genotype, profiler)
        assert keys(table.kernels(genotype)) == keys(whole), space.architecture(genotype)


def test_pieces_of_a_batch_are_those_of_that_batch(store):
    profiler = Profiler(make_target(batch=3))
    for name in ("tokens", "recurrent", "cells"):
        space = SPACES[name]
        (genotype,) = sample(space, 1, seed=5)
        kernels = CostTable(space, profiler, store).kernels(genotype)
        assert keys(kernels) == keys(whole_kernels(space, genotype, profiler))


@pytest.mark.parametrize("name", ["cells", "vision"])
def test_predictions_are_those_of_the_whole_network(name, profiler, store, fit_made_up):
    space = SPACES[name]
    predictor = fit_made_up(space)
    genotypes = sample(space, 4, seed=1)
    table = CostTable(space, profiler, store)
    table.use(CostPredictor(predictor))
    found = table.predict(np.array(genotypes))
    direct = predictor.predict([whole_kernels(space, g, profiler) for g in genotypes])
    for field in ("latency_ms", "low_ms", "high_ms", "known_share"):
        np.testing.assert_allclose(getattr(found, field), getattr(direct, field), rtol=1e-9)
    expected = [counts(space.architecture(genotype)) for genotype in genotypes]
    assert found.params.tolist() == [c.params for c in expected]
    assert found.macs.tolist() == [c.macs for c in expected]


@pytest.mark.parametrize("name", ["cells", "tokens", "recurrent"])
def test_stored_pieces_are_not_exported_again(name, profiler, store, monkeypatch):
    space = SPACES[name]
    genotypes = sample(space, 3)
    first = CostTable(space, profiler, store)
    expected = [first.kernels(genotype) for genotype in genotypes]
    monkeypatch.setattr(piece_library, "export_pieces", lambda *a: pytest.fail("exported"))
    second = CostTable(space, profiler, store)
    assert [second.kernels(genotype) for genotype in genotypes] == expected


def test_only_a_block_that_changes_what_stands_before_depends_on_it(profiler, store):
    library = piece_library.PieceLibrary(profiler, store)
    block, shape = Layers("joined", (16, "pool")), (16, 8, 8)
    begins_with_relu = Piece(block, shape, Border(BLOCKED))
    begins_with_conv = Piece(Layers("conv", (16,)), shape, Border(BLOCKED))
    relu, conv = library.find([begins_with_relu, begins_with_conv])
    assert relu.is_open and not conv.is_open
    assert [kernel.activation for kernel in relu.replaced] == [None]
    assert relu.kernels[0].activation == "Relu" and conv.replaced == ()


class State(nn.Module):
    """`step` on two tensors; of one tensor, which stands for them packed, if it is alone."""

    def __init__(self, shapes, step):
        super().__init__()
        self.shapes, self.step = shapes, step

    def forward(self, x):
        parts = x if isinstance(x, list) else getattr(x, "parts", None)
        if parts is None:
            flat = x.split([int(np.prod(shape)) for shape in self.shapes], dim=1)
            parts = [f.unflatten(1, s) for f, s in zip(flat, self.shapes, strict=True)]
            y = self.step(*parts)
            return torch.cat([t.flatten(1) for t in y], dim=1) if isinstance(y, list) else y
        return self.step(*parts)


class Begin(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = conv_bn(channels, channels)

    def forward(self, x):
        parts = [x, self.conv(x)]
        packed = torch.cat([part.flatten(1) for part in parts], dim=1)
        packed.parts = parts
        return packed


class Step(nn.Module):
    def __init__(self, channels, activates):
        super().__init__()
        self.first, self.second = (conv_bn(channels, channels, k) for k in (1, 3))
        self.activates = activates

    def forward(self, before, last):
        if self.activates:
            before, last = functional.relu(before), functional.relu(last)
        return [last, self.first(before) + self.second(last)]


class Node(nn.Module):
    """One tensor more: the sum of two operations, each on one of those before."""

    def __init__(self, channels, inputs, operations):
        super().__init__()
        made = {
            "skip": nn.Identity, "pool": lambda: nn.MaxPool2d(3, 1, 1),
            "conv": lambda: relu_conv_bn(channels, channels),
        }  # fmt: skip
        self.inputs = inputs
        self.operations = nn.ModuleList(made[name]() for name in operations)

    def forward(self, *parts):
        first, second = (op(parts[i]) for i, op in zip(self.inputs, self.operations, strict=True))
        return [*parts, first + second]


class End(nn.Module):
    def __init__(self, channels, n_joined):
        super().__init__()
        self.n_joined = n_joined
        self.layers = LAYERS["image head"]((n_joined * channels,))

    def forward(self, *parts):
        return self.layers(torch.cat(parts[-self.n_joined :], dim=1))


STEPS = {"step": Step, "node": Node, "end": End}


@dataclass(frozen=True)
class OnState:
    """A block that takes several tensors, the shapes of which are its `state`."""

    kind: str
    state: tuple[tuple[int, ...], ...]
    args: tuple = ()

    def build(self, in_shape):
        return State(self.state, STEPS[self.kind](self.state[0][0], *self.args))


@dataclass(frozen=True)
class BeginState:
    def build(self, in_shape):
        return Begin(in_shape[0])


def state_space():
    def state(options):
        return ((options["width"], 8, 8),) * 2

    def step(options):
        return OnState("step", state(options), (options["activates"],))

    return SearchSpace(
        "state", (Choice("width", (16, 32)), Choice("activates", (False, True))),
        lambda options: (3, 8, 8),
        (layers("conv", "width"), lambda options: BeginState(), step, step,
         lambda options: OnState("end", state(options), (1,))),
    )  # fmt: skip


def node_space():
    """The first of three nodes reads the two tensors that all begins with; all are joined."""
    operations = ("skip", "pool", "conv")

    def node(i):
        def slot(options):
            shapes = ((options["width"], 8, 8),) * (2 + i)
            inputs = options[f"inputs_{i}"] if i else (0, 1)
            names = options[f"first_{i}"], options[f"second_{i}"]
            return OnState("node", shapes, (inputs, names))

        return slot

    choices = [Choice("width", WIDTHS)]
    for i in range(3):
        choices += [Choice(f"inputs_{i}", ((0, 1), (0, 2), (1, 2)))] if i else []
        choices += [Choice(f"{which}_{i}", operations) for which in ("first", "second")]
    return SearchSpace(
        "nodes", tuple(choices), lambda options: (3, 8, 8),
        (layers("bare conv", "width"), lambda options: BeginState(), node(0), node(1), node(2),
         lambda options: OnState("end", ((options["width"], 8, 8),) * 5, (3,))),
    )  # fmt: skip


def test_blocks_may_hand_on_several_tensors(profiler, store):
    space = state_space()
    table = CostTable(space, profiler, store)
    for width in (0, 1):
        kernels = table.kernels((width, 0))
        assert keys(kernels) == keys(whole_kernels(space, (width, 0), profiler))


def test_what_several_blocks_do_to_one_tensor_alike_is_counted_once(profiler, store):
    space = state_space()
    # Both steps activate what the first was given as last: the runtime does it once. Nothing else
    # reads it, so it is done by the convolution before.
    kernels = CostTable(space, profiler, store).kernels((1, 1))
    assert keys(kernels) == keys(whole_kernels(space, (1, 1), profiler))


def test_nodes_of_a_cell_have_the_kernels_of_the_whole_network(profiler, store):
    space = node_space()
    genotypes = sample(space, 8)
    table = CostTable(space, profiler, store)
    table.counts(np.array(genotypes))
    for genotype in genotypes:
        whole = whole_kernels(space, genotype, profiler)
        assert keys(table.kernels(genotype)) == keys(whole), space.architecture(genotype)


@pytest.mark.parametrize("operations", [(0, 0), (0, 1), (1, 1)])
def test_nodes_that_are_the_same_sum_are_one(operations, profiler, store):
    space = node_space()
    table = CostTable(space, profiler, store)
    # The second node is the first again; the third reads both of them, or one twice.
    genotype = (1, *operations, 0, *operations, 2, 1, 1)
    kernels = table.kernels(genotype)
    assert keys(kernels) == keys(whole_kernels(space, genotype, profiler))
    assert sum(kernel.kind in ("Add", "Sum") for kernel in kernels) == 2


def test_what_is_shared_is_the_same_for_many_networks_at_once(profiler, store, fit_made_up):
    space = node_space()
    predictor = fit_made_up(space)
    genotypes = space.sample(np.random.default_rng(2), 300)
    table = CostTable(space, profiler, store)
    table.use(CostPredictor(predictor))
    together = table.predict(genotypes).latency_ms
    alone = [table.kernels(tuple(row)) for row in genotypes.tolist()]
    np.testing.assert_allclose(together, predictor.predict(alone).latency_ms, rtol=1e-9)


def test_a_space_with_too_many_pieces_is_met_in_part(profiler, store, monkeypatch):
    space = SPACES["cells"]
    monkeypatch.setattr(cost, "SURVEY_PIECES", 30)
    table = CostTable(space, profiler, store)
    drawn = space.sample(np.random.default_rng(0), 500)
    first = table.affordable(drawn, n_least=4)
    assert 4 <= first.sum() < 250
    n_pieces = table.n_pieces
    assert 20 <= n_pieces < 60
    monkeypatch.setattr(piece_library, "export_pieces", lambda *a: pytest.fail("exported"))
    table.counts(drawn[first])
    assert (table.affordable(drawn, n_least=4) == first).all()  # asking again costs nothing
    assert table.n_pieces == n_pieces


def test_any_look_gets_to_see_some_networks(profiler, store, monkeypatch):
    space = SPACES["cells"]
    monkeypatch.setattr(cost, "SURVEY_PIECES", 0)
    table = CostTable(space, profiler, store)
    assert table.affordable(space.sample(np.random.default_rng(0), 20), n_least=3).sum() >= 3


def test_all_of_a_space_with_few_pieces_is_affordable(profiler, store):
    space = SPACES["table"]
    table = CostTable(space, profiler, store)
    table.warm(np.random.default_rng(0), n=500)
    n_pieces = table.n_pieces
    assert table.affordable(space.sample(np.random.default_rng(1), 500)).all()
    assert table.n_pieces == n_pieces


def test_what_is_affordable_does_not_depend_on_what_is_stored(profiler, store, monkeypatch):
    space = SPACES["cells"]
    monkeypatch.setattr(cost, "SURVEY_PIECES", 20)
    drawn = space.sample(np.random.default_rng(0), 60)
    first, second = (
        CostTable(space, profiler, store).affordable(drawn, n_least=2) for _ in range(2)
    )
    assert first.tolist() == second.tolist()
