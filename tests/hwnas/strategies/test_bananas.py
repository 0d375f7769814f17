import numpy as np
import pytest

from hwnas import pareto
from hwnas.strategies import Bananas, RandomSearch, Trial
from hwnas.strategies.ensemble import _forward, _gradients, fit_ensemble


def objectives_of(strategy, toy, n_trials):
    found = []
    for number in range(n_trials):
        genotype = strategy.ask()
        found.append(toy.objectives(genotype))
        strategy.tell(Trial(number, genotype, found[-1]))
    return np.array(found)


def test_the_ensemble_learns_and_disagrees_where_it_has_seen_nothing():
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-1, 1, size=(400, 3))
    inputs = inputs[inputs[:, 0] < 0.2]  # nothing beyond

    def truth(x):
        return 100 + 5 * np.column_stack([np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2], x[:, 1]])

    ensemble = fit_ensemble(inputs, truth(inputs), n_networks=5, rng=rng)
    near = rng.uniform([-1, -1, -1], [0.2, 1, 1], size=(200, 3))
    said = ensemble.predict(near)
    assert said.shape == (5, 200, 2)
    errors = np.abs(said.mean(axis=0) - truth(near)).mean(axis=0)
    assert (errors < 0.2 * truth(near).std(axis=0)).all()
    far = rng.uniform([2, -1, -1], [3, 1, 1], size=(200, 3))
    assert ensemble.predict(far).std(axis=0).mean() > 3 * said.std(axis=0).mean()


def test_the_gradients_are_those_of_finite_differences():
    rng = np.random.default_rng(1)
    inputs, targets = rng.normal(size=(2, 7, 3)), rng.normal(size=(2, 7, 2))
    weights = [rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 4, 2))]
    biases = [rng.normal(size=(2, 1, 4)), rng.normal(size=(2, 1, 2))]

    def loss():
        outputs = _forward(inputs, tuple(weights), tuple(biases))[-1]
        return 0.5 * ((outputs - targets) ** 2).sum() / 7

    gradients = _gradients(inputs, targets, weights, biases)
    for values, gradient in zip([*weights, *biases], gradients, strict=True):
        for index in np.ndindex(values.shape):
            values[index] += 1e-6
            above = loss()
            values[index] -= 2e-6
            below = loss()
            values[index] += 1e-6
            assert gradient[index] == pytest.approx((above - below) / 2e-6, abs=1e-6)


def test_sixty_trials_dominate_more_than_random_search(make_toy):
    toy = make_toy(limit_ms=3.0)
    found, random = (
        pareto.hypervolume(objectives_of(make(toy.problem, seed=0), toy, 60), [1.0, 3.0])
        for make in (Bananas, RandomSearch)
    )
    assert found > 1.02 * random


def test_the_draws_of_thompson_sampling_differ_while_the_ensemble_does_not(make_toy):
    toy = make_toy(limit_ms=3.0)
    strategy = Bananas(toy.problem, seed=0)
    objectives_of(strategy, toy, 16)
    ensemble = strategy._ensemble()
    proposals = {strategy.ask() for _ in range(6)}
    assert len(proposals) == 6
    assert strategy._ensemble() is ensemble


def test_the_ensemble_is_trained_anew_as_results_come_in(make_toy):
    toy = make_toy(limit_ms=3.0)
    strategy = Bananas(toy.problem, seed=0, n_initial=4)
    trained_on = []
    for number in range(16):
        genotype = strategy.ask()
        strategy.tell(Trial(number, genotype, toy.objectives(genotype)))
        if strategy._fitted:
            trained_on.append(strategy._fitted[0])
    assert sorted(set(trained_on)) == [4, 9, 14]


@pytest.mark.parametrize("sizes", [{"n_initial": 1}, {"n_networks": 1}])
def test_one_trial_or_one_network_is_refused(make_toy, sizes):
    with pytest.raises(ValueError, match="two trials and two networks"):
        Bananas(make_toy().problem, seed=0, **sizes)
