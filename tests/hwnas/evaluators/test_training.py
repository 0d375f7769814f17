import pytest

from hwnas.baselines import Dense
from hwnas.blocks import Residual
from hwnas.data import load_data
from hwnas.evaluators import training
from hwnas.evaluators.training import TrainingEvaluator, seed_of, train_network
from hwnas.executors.progress import reporting_to
from hwnas.networks import Network
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.spaces.mobilenet import mobile_space
from hwnas.strategies import Trial
from hwnas.training import Recipe, seeded


@pytest.fixture(scope="module")
def wine():
    return load_data("wine")


@pytest.fixture
def space():
    """A perceptron of one hidden layer for wine."""
    return SearchSpace(
        name="narrow",
        choices=(Choice("width", (4, 64)),),
        input_shape=lambda options: (13,),
        slots=(lambda options: Dense(options["width"], True), lambda options: Dense(3, False)),
    )


def test_what_is_found_is_the_error_on_the_validation_split(space, wine):
    evaluate = TrainingEvaluator(space, wine, Recipe(20, 16), seed=0)
    evaluation = evaluate(Trial(0, (1,), None))
    (error,) = evaluation.objectives
    assert evaluation.result["val_accuracy"] == pytest.approx(1 - error)
    assert error < 0.2
    assert evaluation.result["train_seconds"] > 0


def test_the_same_trial_gives_the_same_and_its_number_decides_the_weights(space, wine):
    def losses(*, seed, numbers):
        evaluate = TrainingEvaluator(space, wine, Recipe(1, 16), seed=seed)
        return [evaluate(Trial(n, (0,), None)).objectives[0] for n in numbers]

    first = losses(seed=0, numbers=range(6))
    assert losses(seed=0, numbers=range(6)) == first
    assert losses(seed=0, numbers=[5, 4])[0] == first[5]  # whatever was evaluated before
    assert losses(seed=1, numbers=range(6)) != first
    assert seed_of(1, 2) != seed_of(2, 1)


@pytest.mark.parametrize(("share", "epochs"), [(1.0, 8.0), (0.25, 2.0)])
def test_a_trial_with_a_share_of_the_training_has_that_share_of_the_epochs(
    space, wine, monkeypatch, share, epochs
):
    seen = []

    def note(network, data, recipe, **options):
        seen.append(recipe.epochs)
        return train(network, data, recipe, **options)

    train = training.train
    monkeypatch.setattr(training, "train", note)
    evaluate = TrainingEvaluator(space, wine, Recipe(8, 16), seed=0)
    evaluate(Trial(0, (0,), None, share=share))
    assert seen == [epochs]


def test_progress_is_told(space, wine):
    shares = []
    evaluate = TrainingEvaluator(space, wine, Recipe(2, 16), seed=0)
    with reporting_to(shares.append):
        evaluate(Trial(0, (0,), None))
    assert shares[-1] == 1.0 and shares == sorted(shares)


def test_residual_blocks_begin_as_identities(monkeypatch):
    space = mobile_space((1, 8, 8), 10)
    largest = space.architecture(tuple(n - 1 for n in space.n_options))
    seen = []

    def look(network, *given, **named):
        seen.append(sum(bool(p.eq(0).all()) for p in network.parameters() if p.ndim == 1))
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", look)
    with pytest.raises(KeyboardInterrupt):
        train_network(largest, load_data("digits"), Recipe(1), seed=0)
    with seeded(0):
        plain = Network(largest)
    n_zero = sum(bool(p.eq(0).all()) for p in plain.parameters() if p.ndim == 1)
    n_residual = sum(isinstance(block, Residual) for block in plain.blocks)
    assert seen == [n_zero + n_residual] and n_residual > 3
