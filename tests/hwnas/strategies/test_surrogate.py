import numpy as np
import pytest
from scipy.optimize import approx_fprime

from hwnas.spaces.base import Choice
from hwnas.strategies.encoding import Encoding, Part
from hwnas.strategies.surrogate import GaussianProcess

OPERATORS = ("none", "pool", "conv1", "conv3", "skip")
CHOICES = (
    *(Choice(f"op_{i}", OPERATORS) for i in range(4)),
    Choice("width", (8, 16, 24, 32, 48)),
    Choice("bias", (False, True)),
)


def sample(n, seed):
    sizes = [len(choice.options) for choice in CHOICES]
    return np.random.default_rng(seed).integers(0, sizes, size=(n, len(sizes)))


def truth(genotypes):
    """Options count wherever they stand, the wider the better, and `none` first spoils it all."""
    value = np.array([0.0, 0.3, 0.8, 1.0, 0.4])
    quality = value[genotypes[:, :4]].sum(axis=1) + 0.3 * genotypes[:, 4]
    return np.where(genotypes[:, 0] == 0, 0.3 * quality, quality)


def learnt(trained, values, choices=CHOICES):
    encoded = Encoding(choices).one_hot(trained)
    return GaussianProcess(Encoding(choices)).learn(encoded, values)


def predicted(model, trained, values, unseen):
    one_hot = model.encoding.one_hot
    return model.fit(one_hot(trained), one_hot(unseen)).predict(values)


def test_the_gradient_is_that_of_the_loss():
    model = GaussianProcess(
        Encoding(CHOICES, parts=(Part((1, 2), (1.0, 2.0), 0.5, 0.3), Part((3,), (1.0,), 0.2, 0.1)))
    )
    genotypes = sample(25, seed=0)
    rng = np.random.default_rng(1)
    inputs = np.concatenate([model.encoding.one_hot(genotypes), rng.normal(size=(25, 6))], axis=1)
    target = truth(genotypes) - 1.5
    at = model._prior + 0.3 * rng.normal(size=len(model._prior))
    _, gradient = model._loss(at, inputs, target)
    numeric = approx_fprime(at, lambda vector: model._loss(vector, inputs, target)[0], 1e-6)
    assert gradient == pytest.approx(numeric, abs=1e-3)


def test_interactions_are_learnt_that_a_linear_model_cannot_hold():
    trained, unseen = sample(120, seed=2), sample(400, seed=3)
    model = learnt(trained, truth(trained))
    mean, _ = predicted(model, trained, truth(trained), unseen)
    one_hot = model.encoding.one_hot
    weights, *_ = np.linalg.lstsq(one_hot(trained), truth(trained), rcond=None)
    linear_error = np.abs(one_hot(unseen) @ weights - truth(unseen)).mean()
    assert np.abs(mean - truth(unseen)).mean() < 0.4 * linear_error


def test_learning_the_parameters_makes_predictions_better():
    trained, unseen = sample(60, seed=4), sample(400, seed=5)
    errors = []
    for model in (GaussianProcess(Encoding(CHOICES)), learnt(trained, truth(trained))):
        mean, _ = predicted(model, trained, truth(trained), unseen)
        errors.append(np.abs(mean - truth(unseen)).mean())
    assert errors[1] < 0.8 * errors[0]


def test_a_known_cost_that_decides_all_is_made_use_of():
    trained, unseen = sample(40, seed=8), sample(200, seed=9)
    rng = np.random.default_rng(0)
    costs, unseen_costs = rng.normal(size=(40, 1)), rng.normal(size=(200, 1))
    encoding = Encoding(CHOICES, parts=(Part((1,), (1.0,), 0.5, 0.3),))
    inputs = np.concatenate([encoding.one_hot(trained), costs], axis=1)
    candidates = np.concatenate([encoding.one_hot(unseen), unseen_costs], axis=1)
    values = np.sin(2 * costs[:, 0])
    posterior = GaussianProcess(encoding).learn(inputs, values).fit(inputs, candidates)
    off = posterior.predict(values)[0] - np.sin(2 * unseen_costs[:, 0])
    assert np.abs(off).mean() < 0.1


def test_a_trial_added_later_counts_like_one_that_was_there():
    trained, unseen = sample(30, seed=10), sample(50, seed=11)
    model = learnt(trained[:20], truth(trained[:20]))
    rows, candidates = model.encoding.one_hot(trained), model.encoding.one_hot(unseen)
    grown = model.fit(rows[:20], candidates)
    for row in rows[20:]:
        grown = grown.extended(row)
    whole = model.fit(rows, candidates)
    expected = whole.predict(truth(trained))
    for got, wanted in zip(grown.predict(truth(trained)), expected, strict=True):
        assert got == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    # Other networks are predicted in single precision.
    others = grown.predict_at(candidates[:7], truth(trained))
    for got, wanted in zip(others, expected, strict=True):
        assert got == pytest.approx(wanted[:7], rel=1e-3, abs=1e-3)


def test_deviations_say_how_far_off_predictions_are():
    rng = np.random.default_rng(6)
    trained, unseen = sample(100, seed=6), sample(500, seed=7)
    values = truth(trained) + 0.1 * rng.normal(size=100)
    model = learnt(trained, values)
    mean, deviation = predicted(model, trained, values, unseen)
    off = (truth(unseen) + 0.1 * rng.normal(size=500) - mean) / deviation
    assert 0.8 < (np.abs(off) < 2).mean() <= 1  # 0.954 of a normal distribution
    assert 0.5 < np.std(off) < 2
    # It is surer of what it has seen.
    assert predicted(model, trained, values, trained)[1].mean() < deviation.mean()


def test_choices_with_the_same_options_share_what_is_learnt():
    encoding = Encoding(CHOICES)
    assert encoding.groups == (0, 0, 0, 0, 1, 2)
    # 1 and True are equal in Python, and are not the same option.
    assert Encoding((Choice("a", (0, 1)), Choice("b", (False, True)))).groups == (0, 1)


def test_numbers_are_like_their_neighbours_and_categories_are_not():
    numbers, names = Encoding((Choice("n", (3, 5, 7, 9)), Choice("s", ("a", "b", "c")))).factors
    similarity = numbers @ numbers.T
    assert np.diag(similarity) == pytest.approx(np.ones(4))
    assert similarity[0, 1] > similarity[0, 2] > similarity[0, 3]
    similarity = names @ names.T
    assert similarity[0, 1] == pytest.approx(similarity[0, 2])


@pytest.mark.parametrize("n_options", [1, 2, 9, 40])
@pytest.mark.parametrize("option", [int, str])
def test_any_number_of_options_gives_a_model(n_options, option):
    choices = (Choice("a", tuple(map(option, range(n_options)))), Choice("b", ("x", "y")))
    genotypes = np.random.default_rng(0).integers(0, (n_options, 2), size=(30, 2))
    values = genotypes.sum(axis=1).astype(float)
    model = learnt(genotypes, values, choices)
    mean, deviation = predicted(model, genotypes, values, genotypes)
    assert np.abs(mean - values).mean() <= max(0.25 * values.std(), 1e-6)
    assert (deviation > 0).all()


def test_trials_that_are_all_alike_are_no_error():
    genotypes = sample(8, seed=0)
    values = np.full(8, 0.25)
    mean, deviation = predicted(learnt(genotypes, values), genotypes, values, sample(5, seed=1))
    assert mean == pytest.approx(np.full(5, 0.25), abs=1e-6)
    assert np.isfinite(deviation).all()
