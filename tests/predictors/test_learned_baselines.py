from dataclasses import replace

import numpy as np
import pytest

import predictors.learned_baselines as module
from predictors.learned_baselines import (
    ForestPerGroup,
    KernelBoosting,
    KernelGaussianProcess,
    NetworkBoosting,
    Tuned,
)
from predictors.metrics import accuracy

MODELS = (ForestPerGroup, KernelBoosting, NetworkBoosting, KernelGaussianProcess)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Seconds, not minutes."""
    monkeypatch.setattr(module, "N_TREES", 20)
    monkeypatch.setattr(module, "N_TREES_TUNING", 3)
    monkeypatch.setattr(module, "N_BOOSTS", 60)
    few = {"max_leaf_nodes": (8,), "min_samples_leaf": (5, 20), "learning_rate": (0.1,)}
    monkeypatch.setattr(module, "BOOST_GRID", few)
    monkeypatch.setattr(module, "N_MARGINAL", 60)


@pytest.mark.parametrize(("model", "mape"), [(ForestPerGroup, 0.06), (KernelBoosting, 0.06),
                                             (NetworkBoosting, 0.25),
                                             (KernelGaussianProcess, 0.02)])  # fmt: skip
def test_networks_like_those_measured_are_predicted(model, mape, random_networks, measure):
    fitted = model(seed=0).fit(measure(random_networks(30)))
    new = random_networks(20, seed=1)
    truth = [m.latency_ms for m in measure(new)]
    assert accuracy(fitted.predict(new), truth).mape < mape


@pytest.mark.parametrize("model", MODELS)
def test_the_same_seed_gives_the_same_predictions(model, random_networks, measure):
    measurements, new = measure(random_networks(12), noise=0.05), random_networks(5, seed=1)
    first, second = (model(seed=3).fit(measurements).predict(new) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("model", MODELS)
def test_kinds_never_met_and_nothing_at_all_have_a_latency(model, random_networks, measure):
    networks = random_networks(10)
    fitted = model().fit(measure(networks))
    assert fitted.predict([]).shape == (0,)
    foreign = [replace(kernel, kind="Einsum") for kernel in networks[0]]
    found = fitted.predict([networks[0], foreign, []])
    assert found.shape == (3,)
    assert (found > 0).all()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("model", MODELS)
def test_a_single_network_of_a_single_kernel_can_be_learned_from(model, measure, make_conv):
    networks = [[make_conv(8, 8, 7)]]
    (measured,) = measure(networks)
    assert model().fit([measured]).predict(networks)[0] == pytest.approx(
        measured.latency_ms, rel=0.05
    )


def test_options_are_those_with_the_least_error_on_examples_held_out():
    grid = {"a": (1, 2), "b": (10, 20)}
    errors = {(1, 10): 3.0, (1, 20): 2.0, (2, 10): 1.0, (2, 20): 2.5}
    best = module._best(grid, lambda options: np.array([errors[options["a"], options["b"]]]))
    assert best == {"a": 2, "b": 10}


def test_no_example_is_predicted_by_a_model_that_saw_it():
    class Remembers:
        def fit(self, x, y):
            self.seen = set(x[:, 0])
            return self

        def predict(self, x):
            assert not self.seen & set(x[:, 0])
            return np.full(len(x), float(len(self.seen)))

    x, y = np.arange(9.0)[:, None], np.zeros(9)
    # Three folds of three: each is predicted by a model of the six others.
    assert module._cross_validated(Remembers, x, y, seed=0).tolist() == [6.0] * 9


def test_a_process_learns_from_no_more_than_it_can_afford(monkeypatch, random_networks, measure):
    monkeypatch.setattr(module, "N_MARGINAL", 10)
    monkeypatch.setattr(module, "N_CONDITIONED", 25)
    fitted = KernelGaussianProcess().fit(measure(random_networks(12)))
    assert {len(p.process_.X_train_) for p in fitted.processes_.values()} <= set(range(6, 26))
    assert max(len(p.process_.X_train_) for p in fitted.processes_.values()) == 25


def test_models_that_choose_options_say_which(random_networks, measure):
    measurements = measure(random_networks(8))
    fitted = ForestPerGroup().fit(measurements)
    assert isinstance(fitted, Tuned)
    assert set(fitted.options_) == set(module.FOREST_GRID)
    assert not isinstance(KernelGaussianProcess(), Tuned)
