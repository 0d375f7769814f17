import numpy as np
import pytest

from hwnas.evaluators.learned import LearnedAccuracy, LearnedEvaluator
from hwnas.strategies import Trial
from predictors.errors import NotFittedError


@pytest.fixture(scope="module")
def toy(make_toy):
    return make_toy(n_stages=2, n_layers=2)


@pytest.fixture(scope="module")
def drawn(toy):
    """Networks, and their errors with noise of a tenth."""
    rng = np.random.default_rng(0)
    genotypes = np.unique(toy.problem.space.canonical(toy.problem.space.sample(rng, 300)), axis=0)
    genotypes = rng.permutation(genotypes)
    truth = np.array([toy.error(tuple(row)) for row in genotypes.tolist()])
    return genotypes, truth, truth * np.exp(0.1 * rng.standard_normal(len(truth)))


@pytest.fixture(scope="module")
def accuracy(toy, drawn):
    genotypes, _, noisy = drawn
    return LearnedAccuracy(toy.problem).fit([tuple(row) for row in genotypes[:100]], noisy[:100])


def test_unseen_networks_are_ranked_as_they_are(accuracy, drawn):
    genotypes, truth, _ = drawn
    found = accuracy.predict(genotypes[100:])
    ranks = [np.argsort(np.argsort(values)) for values in (found.error, truth[100:])]
    assert np.corrcoef(ranks)[0, 1] > 0.8


def test_intervals_hold_what_they_say(accuracy, drawn):
    genotypes, _, noisy = drawn
    found = accuracy.predict(genotypes[100:])
    assert (found.low < found.error).all() and (found.error < found.high).all()
    covered = (found.low <= noisy[100:]) & (noisy[100:] <= found.high)
    assert 0.75 < covered.mean() <= 1.0
    assert (found.high / found.low).mean() < 2.5  # without any network known: 10 and more


def test_the_evaluator_gives_the_predicted_error_and_keeps_the_interval(accuracy, drawn):
    genotype = tuple(drawn[0][-1].tolist())
    evaluation = LearnedEvaluator(accuracy)(Trial(0, genotype, None))
    found = accuracy.predict(np.array([genotype]))
    assert evaluation.objectives == (found.error[0],)
    result = evaluation.result
    assert result["low_accuracy"] < result["val_accuracy"] < result["high_accuracy"]
    assert result["val_accuracy"] == pytest.approx(1 - found.error[0])


def test_equivalent_genotypes_are_one_network(accuracy, toy):
    shallow = toy.problem.space.sample(np.random.default_rng(1), 50)
    canonical = toy.problem.space.canonical(shallow)
    assert (shallow != canonical).any()
    np.testing.assert_allclose(accuracy.predict(shallow).error, accuracy.predict(canonical).error)


def test_errors_of_nothing_can_be_learned_from(toy, drawn):
    genotypes = [tuple(row) for row in drawn[0][:20]]
    found = LearnedAccuracy(toy.problem).fit(genotypes, np.zeros(20)).predict(drawn[0])
    assert np.isfinite(found.error).all() and found.error.max() < 0.01


def test_what_it_needs_is_told(toy, drawn):
    genotypes, _, noisy = drawn
    with pytest.raises(NotFittedError, match="before fit"):
        LearnedAccuracy(toy.problem).predict(genotypes)
    for n, n_errors in ((3, 3), (8, 7)):
        with pytest.raises(ValueError, match=f"got {n} networks and {n_errors} errors"):
            LearnedAccuracy(toy.problem).fit([tuple(r) for r in genotypes[:n]], noisy[:n_errors])
