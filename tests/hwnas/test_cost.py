from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from hwnas import cost
from hwnas.blocks import ClassifierHead, ConvBlock, InvertedResidual, conv_bn
from hwnas.cost import CostTable, Piece, export_pieces
from hwnas.errors import BudgetError, ConfigError
from hwnas.networks import counts
from hwnas.profiling import untrained_model
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.spaces.mobilenet import mobile_space
from predictors.errors import WrongTargetError
from profilers.kernels import Kernel
from profilers.measurement import KernelNode
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target

# Below, at, and between multiples of the 8 or 16 channels in which the runtime blocks its layout.
CHANNELS = (8, 16, 24, 32, 48)


@dataclass(frozen=True)
class Pool:
    """A block without weights, which the runtime has in both layouts."""

    def build(self, in_shape):
        return nn.MaxPool2d(2)


POOL = Pool()


@dataclass(frozen=True)
class Nothing:
    """A block that hands on what it is given."""

    def build(self, in_shape):
        return nn.Identity()


@dataclass(frozen=True)
class TwoPaths:
    """Two convolutions of one input, beside each other, then joined by channel."""

    out_channels: int

    def build(self, in_shape):
        return _Beside(
            *(nn.Sequential(*conv_bn(in_shape[0], self.out_channels, k)) for k in (1, 3))
        )


class _Beside(nn.Module):
    def __init__(self, *paths):
        super().__init__()
        self.paths = nn.ModuleList(paths)

    def forward(self, x):
        return torch.cat([path(x) for path in self.paths], dim=1)


def head(options):
    return ClassifierHead(32, 10, "relu")


def plain_space():
    """Stacks of one to three 3×3 convolutions, any two widths beside each other."""

    def conv(i):
        def slot(options):
            if i > options["depth"]:
                return None
            return ConvBlock(options[f"channels_{i}"], 3, options["stride"], "relu")

        return slot

    return SearchSpace(
        "plain",
        (Choice("depth", (1, 2, 3)), Choice("stride", (1, 2)),
         *(Choice(f"channels_{i}", CHANNELS) for i in (1, 2, 3))),
        lambda options: (3, 12, 12),
        (*(conv(i) for i in (1, 2, 3)), head),
    )  # fmt: skip


def bottleneck_space(*, squeeze_excite):
    """A stem and up to two inverted bottlenecks, residual where their widths agree."""

    def bottleneck(i):
        def slot(options):
            if i > options["depth"]:
                return None
            return InvertedResidual(
                options[f"channels_{i}"],
                3,
                options[f"stride_{i}"],
                options["expand"],
                squeeze_excite,
                options["activation"],
            )

        return slot

    return SearchSpace(
        "bottlenecks",
        (Choice("stem", CHANNELS), Choice("depth", (0, 1, 2)), Choice("expand", (1, 2, 3)),
         Choice("activation", ("relu", "hard_swish")),
         *(Choice(f"channels_{i}", CHANNELS) for i in (1, 2)),
         *(Choice(f"stride_{i}", (1, 2)) for i in (1, 2))),
        lambda options: (1, 8, 8),
        (lambda options: ConvBlock(options["stem"], 3, 1, options["activation"]),
         bottleneck(1), bottleneck(2), head),
    )  # fmt: skip


def odd_space():
    """Blocks that begin or end with something else than a convolution."""
    middle = {"nothing": Nothing(), "pool": POOL, "none": None}
    return SearchSpace(
        "odd",
        (Choice("stem", CHANNELS), Choice("middle", tuple(middle)),
         Choice("paths", (0, *CHANNELS))),
        lambda options: (3, 8, 8),
        (lambda options: ConvBlock(options["stem"], 3, 1, "relu"),
         lambda options: middle[options["middle"]],
         lambda options: TwoPaths(options["paths"]) if options["paths"] else None,
         head),
    )  # fmt: skip


SPACES = {
    "plain": plain_space(),
    "residual": bottleneck_space(squeeze_excite=False),
    "squeeze_excite": bottleneck_space(squeeze_excite=True),
    "odd": odd_space(),
    "mobile": mobile_space((1, 8, 8), 10),
}


@pytest.fixture(scope="module")
def profiler():
    return Profiler(make_target())


@pytest.fixture
def store():
    with MeasurementStore(":memory:") as opened:
        yield opened


@pytest.fixture(scope="module")
def predictor(fit_made_up):
    return fit_made_up(SPACES["residual"])


def sample(space, n, seed=0):
    return space.canonical(space.sample(np.random.default_rng(seed), n))


@pytest.mark.parametrize("name", SPACES)
def test_pieces_have_the_kernels_of_the_whole_network(name, profiler, store, predictor):
    space = SPACES[name]
    table = CostTable(space, profiler, store)
    genotypes = sample(space, 3 if name == "mobile" else 8)
    table.use(predictor)
    costs = table.predict(genotypes)
    for i, row in enumerate(genotypes):
        genotype = tuple(row)
        model = untrained_model(space.architecture(genotype))
        whole = [node.kernel for node in profiler.kernels(model)]
        assert Counter(k.describe() for k in table.kernels(genotype)) == Counter(
            k.describe() for k in whole
        )
        assert Counter(k.key for k in table.kernels(genotype)) == Counter(k.key for k in whole)
        direct = predictor.predict([whole])
        for field in ("latency_ms", "low_ms", "high_ms", "known_share"):
            assert getattr(costs, field)[i] == pytest.approx(getattr(direct, field)[0], rel=1e-12)


def test_the_kernels_of_a_batch_are_those_of_that_batch(store):
    space = SPACES["residual"]
    profiler = Profiler(make_target(batch=3))
    (genotype,) = map(tuple, sample(space, 1, seed=4))
    kernels = CostTable(space, profiler, store).kernels(genotype)
    model = untrained_model(space.architecture(genotype), batch=3)
    whole = [node.kernel.key for node in profiler.kernels(model)]
    assert Counter(k.key for k in kernels) == Counter(whole)
    assert kernels[-1].outputs[0].shape == (3, 10)


def test_counts_are_those_of_the_network(profiler, store):
    space = SPACES["squeeze_excite"]
    genotypes = sample(space, 20)
    found = CostTable(space, profiler, store).counts(genotypes)
    expected = [counts(space.architecture(tuple(row))) for row in genotypes]
    assert found.params.tolist() == [c.params for c in expected]
    assert found.macs.tolist() == [c.macs for c in expected]


def test_costs_do_not_depend_on_what_was_asked_beside_or_before(profiler, store, predictor):
    space = SPACES["plain"]
    genotypes = sample(space, 30)
    at_once, one_by_one = (CostTable(space, profiler, store) for _ in range(2))
    at_once.use(predictor)
    whole = at_once.predict(genotypes).latency_ms
    one_by_one.use(predictor)
    single = [one_by_one.predict(row[None]).latency_ms[0] for row in genotypes]
    assert single == whole.tolist()


def test_a_predictor_may_come_after_pieces_were_met_and_be_replaced(profiler, store, predictor):
    space = SPACES["plain"]
    genotypes = sample(space, 5)
    late, early = (CostTable(space, profiler, store) for _ in range(2))
    late.warm(np.random.default_rng(0), n=50)
    late.use(predictor)
    late.use(predictor)
    early.use(predictor)
    assert (
        late.predict(genotypes).latency_ms.tolist() == early.predict(genotypes).latency_ms.tolist()
    )


def test_stored_pieces_are_not_exported_again(profiler, tmp_path, predictor, monkeypatch):
    space = SPACES["residual"]
    genotypes = sample(space, 20)
    path = tmp_path / "measurements.db"
    with MeasurementStore(path) as store:
        first = CostTable(space, profiler, store)
        first.use(predictor)
        expected = first.predict(genotypes)
    monkeypatch.setattr(cost, "export_pieces", lambda *a, **k: pytest.fail("it was exported"))
    with MeasurementStore(path) as store:
        second = CostTable(space, profiler, store)
        second.use(predictor)
        found = second.predict(genotypes)
        assert second.n_pieces == first.n_pieces > 0
        assert second.kernels(tuple(genotypes[0])) == first.kernels(tuple(genotypes[0]))
    assert found.latency_ms.tolist() == expected.latency_ms.tolist()
    assert found.macs.tolist() == expected.macs.tolist()


def test_stored_pieces_of_another_batch_are_not_used(store):
    space = SPACES["plain"]
    row = sample(space, 1)[0]
    ones = CostTable(space, Profiler(make_target()), store).kernels(tuple(row))
    twos = CostTable(space, Profiler(make_target(batch=2)), store).kernels(tuple(row))
    assert (ones[-1].outputs[0].shape, twos[-1].outputs[0].shape) == ((1, 10), (2, 10))


class WholeModels:
    """A profiler whose runtime shows one kernel that reads and writes all that the model does."""

    target = make_target()

    def kernels(self, model):
        graph = model.proto.graph
        reads, writes = ([t.name for t in tensors] for tensors in (graph.input, graph.output))
        return (KernelNode("all", Kernel("model", (), (), ()), tuple(reads), tuple(writes)),)


class Unconnected(WholeModels):
    """A profiler whose runtime does not say what its kernels read."""

    def kernels(self, model):
        return tuple(replace(node, reads=()) for node in super().kernels(model))


@pytest.mark.parametrize("n_pieces", [1, 3])
@pytest.mark.parametrize("profiler", [WholeModels(), Unconnected()])
def test_a_runtime_that_shows_no_kernels_of_blocks_is_refused(profiler, n_pieces):
    pieces = [Piece(ConvBlock(8, 3, 1, "relu"), (4 + i, 6, 6), cost.PLAIN) for i in range(n_pieces)]
    with pytest.raises(ConfigError, match=r"onnxruntime-cpu shows whole models.* or torch-cuda$"):
        export_pieces(pieces, profiler)


def test_a_piece_alone_is_what_it_is_beside_others(profiler):
    pieces = [Piece(ConvBlock(8, 3, 1, "relu"), (c, 6, 6), cost.BLOCKED) for c in (8, 16)]
    assert export_pieces(pieces[:1], profiler) == export_pieces(pieces, profiler)[:1]


def test_blocks_of_one_name_from_two_modules_are_two_pieces():
    @dataclass(frozen=True)
    class Pool:
        def build(self, in_shape):
            return nn.AvgPool2d(2)

    Pool.__qualname__, Pool.__module__ = "Pool", "elsewhere"
    ours, theirs = (cost.Piece(block, (8, 4, 4), cost.PLAIN) for block in (POOL, Pool()))
    assert ours.key != theirs.key
    assert ours.key == cost.Piece(type(POOL)(), (8, 4, 4), cost.PLAIN).key


def test_warming_leaves_nothing_to_export(profiler, store, predictor, monkeypatch):
    space = SPACES["plain"]
    table = CostTable(space, profiler, store)
    met = []
    table.warm(np.random.default_rng(0), n=3000, on_progress=met.append)
    assert met == sorted(met) and met[-1] == table.n_pieces
    table.use(predictor)
    monkeypatch.setattr(cost, "export_pieces", lambda *a, **k: pytest.fail("it was exported"))
    costs = table.predict(space.sample(np.random.default_rng(1), 3000))
    assert len(costs) == 3000 and (costs.latency_ms > 0).all()
    assert (costs.low_ms <= costs.latency_ms).all() and (costs.latency_ms <= costs.high_ms).all()


def test_the_random_state_is_left_alone(profiler, store):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    CostTable(SPACES["plain"], profiler, store).kernels(tuple(sample(SPACES["plain"], 1)[0]))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_predictor_of_another_target_is_refused(store, predictor):
    table = CostTable(SPACES["plain"], Profiler(make_target(batch=2)), store)
    with pytest.raises(WrongTargetError, match="batch 1.*batch 2"):
        table.use(predictor)


def test_a_wrong_genotype_is_refused(profiler, store):
    with pytest.raises(ValueError, match="'plain' has 5 indices"):
        CostTable(SPACES["plain"], profiler, store).kernels((0, 0, 0, 0, 9))


def test_a_budget_on_what_cannot_be_predicted_is_refused_at_once():
    cost.check_predictable("latency_ms")
    with pytest.raises(BudgetError, match="energy_mj cannot be predicted .*available: latency_ms"):
        cost.check_predictable("energy_mj")
