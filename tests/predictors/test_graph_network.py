from dataclasses import replace

import numpy as np
import pytest
import torch

import predictors.graph_network as module
from predictors.graph_network import GraphNetwork, derived_edges
from predictors.metrics import accuracy
from profilers.kernels import Kernel, Tensor


def kernel(reads, writes):
    return Kernel("K", (), tuple(Tensor("float", shape) for shape in reads),
                  tuple(Tensor("float", shape) for shape in writes))  # fmt: skip


def test_an_input_comes_from_the_most_recent_kernel_that_wrote_its_shape():
    a, b, c, weight = (1, 4), (1, 8), (1, 2), (8, 4)
    graph = [
        kernel([a, weight], [b]),  # 0: reads the network's input, and a weight that nobody wrote
        kernel([b], [c]),  # 1: from 0
        kernel([b], [b]),  # 2: from 0, and from now on b is its
        kernel([b, c], [a]),  # 3: from 2 and 1
        kernel([a, a], [c]),  # 4: from 3, once
    ]
    assert derived_edges(graph).T.tolist() == [[0, 1], [0, 2], [1, 3], [2, 3], [3, 4]]


def test_no_kernels_have_no_edges_and_types_tell_tensors_apart():
    assert derived_edges([]).shape == (2, 0)
    whole = Kernel("K", (), (), (Tensor("int64", (1, 4)),))
    assert derived_edges([whole, kernel([(1, 4)], [])]).shape == (2, 0)


@pytest.fixture(scope="module")
def fitted(random_networks, measure):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_EPOCHS", 80)
        patch.setattr(module, "WIDTH", 24)
        return GraphNetwork(seed=0).fit(measure(random_networks(30)))


@pytest.fixture
def _few_epochs(monkeypatch):
    monkeypatch.setattr(module, "MAX_EPOCHS", 3)


def test_networks_like_those_measured_are_predicted(fitted, random_networks, measure):
    new = random_networks(30, seed=1)
    truth = [m.latency_ms for m in measure(new)]
    assert accuracy(fitted.predict(new), truth).mape < 0.2
    assert 0 < fitted.n_epochs_ <= module.MAX_EPOCHS


def test_a_network_beside_another_costs_what_it_costs_alone(fitted, random_networks):
    networks = random_networks(5, seed=2)
    alone = [fitted.predict([kernels])[0] for kernels in networks]
    np.testing.assert_allclose(fitted.predict(networks), alone, rtol=1e-5)


def test_a_network_ten_times_as_long_takes_about_ten_times_as_long(fitted, random_networks):
    # Ten times the sum of nodes that see the same neighbours, beyond all that was measured.
    network = random_networks(1, seed=3)[0]
    once, often = fitted.predict([network, network * 10])
    assert 8 < often / once < 12


@pytest.mark.usefixtures("_few_epochs")
def test_the_same_seed_gives_the_same_predictions_and_leaves_the_global_one_alone(
    random_networks, measure
):
    measurements, new = measure(random_networks(12)), random_networks(3, seed=1)
    before = torch.random.get_rng_state()
    first = GraphNetwork(seed=1).fit(measurements).predict(new)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    assert np.array_equal(GraphNetwork(seed=1).fit(measurements).predict(new), first)
    assert not np.array_equal(GraphNetwork(seed=2).fit(measurements).predict(new), first)


@pytest.mark.usefixtures("_few_epochs")
def test_kinds_never_met_nothing_at_all_and_few_networks_have_a_latency(random_networks, measure):
    networks = random_networks(2)
    fitted = GraphNetwork().fit(measure(networks))
    assert fitted.predict([]).shape == (0,)
    foreign = [replace(k, kind="Einsum") for k in networks[0]]
    found = fitted.predict([networks[0], foreign, []])
    assert (found > 0).all()
    assert np.isfinite(found).all()


def test_training_ends_where_the_check_networks_are_predicted_worse_and_keeps_the_best_weights(
    monkeypatch, fitted, random_networks
):
    graphs = [fitted._graphs([kernels]) for kernels in random_networks(6)]

    def train(n_epochs):
        monkeypatch.setattr(module, "MAX_EPOCHS", n_epochs)
        monkeypatch.setattr(module, "PATIENCE", 3)
        # All that is learned from the first five makes the sixth worse.
        slow, fast = (
            [module._Example(g, np.full(len(g.group), ms), ms) for g in graphs]
            for ms in (1e3, 1e-3)
        )
        torch.manual_seed(0)
        model = module._make_model(len(fitted.groups_) + 1)
        rng = np.random.default_rng(0)
        best = module._train(model, slow[:5], fast[5:], unit_ms=1.0, rng=rng)
        return best, model.state_dict()

    with torch.random.fork_rng(devices=[]):
        best, kept = train(30)
        _, after_one = train(1)
    assert best == 1
    assert all(torch.equal(kept[name], after_one[name]) for name in after_one)
