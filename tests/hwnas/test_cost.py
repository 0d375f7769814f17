import copy
import sqlite3
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from hwnas import cost, piece_library
from hwnas.blocks import ClassifierHead, ConvBlock, InvertedResidual, conv_bn
from hwnas.cost import CostTable
from hwnas.errors import BudgetError, ConfigError
from hwnas.networks import counts
from hwnas.pieces import BLOCKED, PLAIN, Border, Piece, export_pieces
from hwnas.profiling import untrained_model
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.spaces.mobilenet import mobile_space
from predictors.cost import CostPredictor
from predictors.energy import EnergyPredictor
from predictors.errors import WrongTargetError
from predictors.intervals import Calibration
from predictors.peak_memory import PeakMemoryPredictor
from profilers.kernels import Kernel, macs
from profilers.measurement import KernelNode
from profilers.memory import computed_peak_bytes
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import available_targets, make_target

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
        return _Beside(*(conv_bn(in_shape[0], self.out_channels, k) for k in (1, 3)))


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
    table.use(CostPredictor(predictor))
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


@pytest.mark.parametrize("name", [name for name in SPACES if name != "mobile"])
@pytest.mark.parametrize(
    "runtime", [r for r in ("openvino-cpu", "torch-cpu") if r in available_targets()]
)
def test_pieces_have_the_kernels_of_the_whole_network_on_other_runtimes(runtime, name, store):
    profiler = Profiler(make_target(runtime))
    table = CostTable(SPACES[name], profiler, store)
    for row in sample(SPACES[name], 8):
        genotype = tuple(row)
        model = untrained_model(SPACES[name].architecture(genotype))
        whole = Counter(node.kernel.key for node in profiler.kernels(model))
        assert Counter(k.key for k in table.kernels(genotype)) == whole


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
    at_once.use(CostPredictor(predictor))
    whole = at_once.predict(genotypes).latency_ms
    one_by_one.use(CostPredictor(predictor))
    single = [one_by_one.predict(row[None]).latency_ms[0] for row in genotypes]
    np.testing.assert_allclose(single, whole, rtol=1e-12)  # sums of one are added in another order


def test_a_predictor_may_come_after_pieces_were_met_and_be_replaced(profiler, store, predictor):
    space = SPACES["plain"]
    genotypes = sample(space, 5)
    late, early = (CostTable(space, profiler, store) for _ in range(2))
    late.warm(np.random.default_rng(0), n=50)
    late.use(CostPredictor(predictor))
    late.use(CostPredictor(predictor))
    early.use(CostPredictor(predictor))
    assert (
        late.predict(genotypes).latency_ms.tolist() == early.predict(genotypes).latency_ms.tolist()
    )


def test_stored_pieces_are_not_exported_again(profiler, tmp_path, predictor, monkeypatch):
    space = SPACES["residual"]
    genotypes = sample(space, 20)
    path = tmp_path / "measurements.db"
    with MeasurementStore(path) as store:
        first = CostTable(space, profiler, store)
        first.use(CostPredictor(predictor))
        expected = first.predict(genotypes)
    monkeypatch.setattr(piece_library, "export_pieces", lambda *a: pytest.fail("exported"))
    with MeasurementStore(path) as store:
        second = CostTable(space, profiler, store)
        second.use(CostPredictor(predictor))
        found = second.predict(genotypes)
        assert second.n_pieces == first.n_pieces > 0
        assert second.kernels(tuple(genotypes[0])) == first.kernels(tuple(genotypes[0]))
    assert found.latency_ms.tolist() == expected.latency_ms.tolist()
    assert found.macs.tolist() == expected.macs.tolist()


@pytest.mark.parametrize("damage", ["[1]", "{}", "null", '[[{"kind": 3}], 2, 3, 4, 5, 6, 7, 8, 9]'])
def test_stored_pieces_that_are_damaged_are_exported_again(profiler, tmp_path, predictor, damage):
    path, space = tmp_path / "measurements.db", SPACES["plain"]
    genotypes = sample(space, 5)

    def latencies():
        with MeasurementStore(path) as store:
            table = CostTable(space, profiler, store)
            table.use(CostPredictor(predictor))
            return table.predict(genotypes).latency_ms.tolist()

    expected = latencies()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE graph SET nodes = ?", (damage,))
    connection.close()
    assert latencies() == expected
    with sqlite3.connect(path) as connection:
        assert not connection.execute("SELECT 1 FROM graph WHERE nodes = ?", (damage,)).fetchone()
    connection.close()


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
    pieces = [
        Piece(ConvBlock(8, 3, 1, "relu"), (4 + i, 6, 6), Border(PLAIN)) for i in range(n_pieces)
    ]
    with pytest.raises(ConfigError, match=r"onnxruntime-cpu shows whole models.* or torch-cuda$"):
        export_pieces(pieces, profiler)


def test_a_piece_alone_is_what_it_is_beside_others(profiler):
    pieces = [Piece(ConvBlock(8, 3, 1, "relu"), (c, 6, 6), Border(BLOCKED)) for c in (8, 16)]
    assert export_pieces(pieces[:1], profiler) == export_pieces(pieces, profiler)[:1]


def test_blocks_of_one_name_from_two_modules_are_two_pieces():
    @dataclass(frozen=True)
    class Pool:
        def build(self, in_shape):
            return nn.AvgPool2d(2)

    Pool.__qualname__, Pool.__module__ = "Pool", "elsewhere"
    ours, theirs = (Piece(block, (8, 4, 4), Border(PLAIN)) for block in (POOL, Pool()))
    assert ours.key != theirs.key
    assert ours.key == Piece(type(POOL)(), (8, 4, 4), Border(PLAIN)).key


def test_warming_leaves_nothing_to_export(profiler, store, predictor, monkeypatch):
    space = SPACES["plain"]
    table = CostTable(space, profiler, store)
    met = []
    table.warm(np.random.default_rng(0), n=3000, on_progress=met.append)
    assert met == sorted(met) and met[-1] == table.n_pieces
    table.use(CostPredictor(predictor))
    monkeypatch.setattr(piece_library, "export_pieces", lambda *a: pytest.fail("exported"))
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
        table.use(CostPredictor(predictor))


def test_a_wrong_genotype_is_refused(profiler, store):
    with pytest.raises(ValueError, match="'plain' has 5 indices"):
        CostTable(SPACES["plain"], profiler, store).kernels((0, 0, 0, 0, 9))


def test_a_budget_on_what_the_predictor_does_not_know_is_refused(predictor):
    costs = CostPredictor(predictor)
    for metric in ("latency_ms", "params", "macs"):
        cost.check_predictable(metric, costs)
    with pytest.raises(BudgetError, match=r"nothing about energy_mj.*available: latency_ms, para"):
        cost.check_predictable("energy_mj", costs)


def test_a_budget_on_what_a_target_cannot_measure_is_refused_before_anything_is(monkeypatch):
    target = make_target()
    for metric in ("latency_ms", "params", "macs", "peak_memory_bytes"):
        cost.check_measurable(metric, target)
    with pytest.raises(BudgetError, match="openvino-cpu .*does not say how much memory"):
        cost.check_measurable("peak_memory_bytes", replace(target, runtime="openvino-cpu"))
    monkeypatch.setattr(cost, "energy_counter", lambda target: None)
    with pytest.raises(BudgetError, match="no energy counter .*no budget on energy_mj: leave"):
        cost.check_measurable("energy_mj", target)
    monkeypatch.setattr(cost, "energy_counter", lambda target: object())
    cost.check_measurable("energy_mj", target)


@pytest.mark.parametrize("name", ["plain", "residual", "squeeze_excite"])
def test_the_memory_of_pieces_is_about_that_of_the_whole_network(name, profiler, store):
    space = SPACES[name]
    genotypes = sample(space, 12)
    found = CostTable(space, profiler, store).estimated_peak_bytes(genotypes)
    models = [untrained_model(space.architecture(tuple(row))) for row in genotypes]
    expected = [computed_peak_bytes(profiler.kernels(model), model) for model in models]
    ratio = found / np.array(expected)
    assert np.abs(np.log(ratio)).max() < 0.3 and np.median(np.abs(ratio - 1)) < 0.02


def all_costs(predictor):
    """1 W, 2 mJ for 10^9 multiply-accumulates, 3 for 10^9 bytes; twice the estimated memory."""
    estimated = np.linspace(1e3, 1e6, 20)
    memory = PeakMemoryPredictor().fit(estimated, 2 * estimated)
    energy = EnergyPredictor()
    energy.coef_ = np.array([1.0, 2.0, 3.0, 4.0])
    return CostPredictor(predictor, energy, memory)


def test_energy_and_memory_are_predicted_where_they_are_asked_for(profiler, store, predictor):
    space = SPACES["residual"]
    genotypes = sample(space, 6)
    table, costs = CostTable(space, profiler, store), all_costs(predictor)
    table.use(costs)
    plain = table.predict(genotypes)
    assert plain.energy_mj is plain.peak_memory_bytes is None
    table.use(costs, metrics=costs.metrics)
    found = table.predict(genotypes)
    assert found.latency_ms.tolist() == plain.latency_ms.tolist()
    assert found.macs.tolist() == plain.macs.tolist()
    np.testing.assert_allclose(
        found.peak_memory_bytes, 2 * table.estimated_peak_bytes(genotypes), rtol=0.01
    )
    kernels = [table.kernels(tuple(row)) for row in genotypes]
    expected_mj = [
        ms + sum(2 * macs(k) / 1e9 + 3 * k.n_bytes / 1e9 for k in of_one) + 4
        for ms, of_one in zip(found.latency_ms, kernels, strict=True)
    ]
    np.testing.assert_allclose(found.energy_mj, expected_mj, rtol=1e-9)
    assert found.upper("energy_mj").tolist() == found.high_energy_mj.tolist()
    assert found.upper("peak_memory_bytes").tolist() == found.high_peak_memory_bytes.tolist()
    assert (found.high_energy_mj >= found.energy_mj).all()


def test_intervals_are_of_the_space_for_that_data(profiler, store, predictor):
    space, table = SPACES["residual"], CostTable(SPACES["residual"], profiler, store)
    genotypes = sample(space, 4)
    exact = Calibration.of(np.ones(40), np.zeros(40), np.ones(40))
    found = []
    for kinds in ({}, {space.name: exact}, {space.key: exact}):
        other = copy.copy(predictor)
        other.calibrations_ = {"": predictor.calibrations_[""]} | kinds
        table.use(CostPredictor(other))
        costs = table.predict(genotypes)
        found.append((costs.high_ms - costs.low_ms) / costs.latency_ms)
    assert np.array_equal(found[0], found[1])  # of that name, but maybe for images of another size
    assert (found[2] < found[0]).all()


def test_many_genotypes_cost_what_each_costs(profiler, store, predictor, monkeypatch):
    space = SPACES["residual"]
    genotypes = sample(space, 23)
    table, costs = CostTable(space, profiler, store), all_costs(predictor)
    table.use(costs, metrics=costs.metrics)
    whole = table.predict(genotypes)
    monkeypatch.setattr(cost, "CHUNK", 5)
    parts = table.predict(genotypes)
    assert len(parts) == 23
    for name, values in vars(whole).items():
        assert values.tolist() == getattr(parts, name).tolist()
    assert len(table.predict(genotypes[:0])) == 0


def test_the_memory_of_a_piece_met_later_is_known_too(profiler, store):
    space = SPACES["plain"]
    genotypes = sample(space, 30)
    late, early = (CostTable(space, profiler, store) for _ in range(2))
    late.estimated_peak_bytes(genotypes[:1])
    expected = early.estimated_peak_bytes(genotypes).tolist()
    assert late.estimated_peak_bytes(genotypes).tolist() == expected
