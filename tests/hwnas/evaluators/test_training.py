import numpy as np
import pytest

from hwnas.baselines import Dense
from hwnas.data import load_data
from hwnas.evaluators import training
from hwnas.evaluators.training import TrainingEvaluator, seed_of
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.strategies import Problem, Trial
from hwnas.strategies.base import Costs
from hwnas.training import Recipe


@pytest.fixture(scope="module")
def wine():
    return load_data("wine")


@pytest.fixture
def problem():
    """A perceptron of one hidden layer for wine; its latency is its width in microseconds."""
    widths = (4, 64)
    space = SearchSpace(
        name="narrow",
        choices=(Choice("width", widths),),
        input_shape=lambda options: (13,),
        slots=(lambda options: Dense(options["width"], True), lambda options: Dense(3, False)),
    )

    def predict(genotypes):
        latency_ms = np.array(widths)[genotypes[:, 0]] / 1000
        counts = np.ones(len(genotypes), dtype=np.int64)
        return Costs(latency_ms, latency_ms, latency_ms, counts.astype(float), counts, counts)

    return Problem(space, predict, ())


def test_the_objectives_are_the_validation_error_and_the_predicted_latency(problem, wine):
    evaluate = TrainingEvaluator(problem, wine, Recipe(20, 16), seed=0)
    evaluation = evaluate(Trial(0, (1,), None))
    error, latency_ms = evaluation.objectives
    assert evaluation.result["val_accuracy"] == pytest.approx(1 - error)
    assert error < 0.2 and latency_ms == 0.064
    assert evaluation.result["train_seconds"] > 0


def test_the_same_trial_gives_the_same_and_its_number_decides_the_weights(problem, wine):
    def losses(*, seed, numbers):
        evaluate = TrainingEvaluator(problem, wine, Recipe(1, 16), seed=seed)
        return [evaluate(Trial(n, (0,), None)).objectives[0] for n in numbers]

    first = losses(seed=0, numbers=range(6))
    assert losses(seed=0, numbers=range(6)) == first
    assert losses(seed=0, numbers=[5, 4])[0] == first[5]  # whatever was evaluated before
    assert losses(seed=1, numbers=range(6)) != first
    assert seed_of(1, 2) != seed_of(2, 1)


@pytest.mark.parametrize(("share", "epochs"), [(1.0, 8.0), (0.25, 2.0)])
def test_a_trial_with_a_share_of_the_training_has_that_share_of_the_epochs(
    problem, wine, monkeypatch, share, epochs
):
    seen = []

    def note(network, data, recipe, **options):
        seen.append(recipe.epochs)
        return train(network, data, recipe, **options)

    train = training.train
    monkeypatch.setattr(training, "train", note)
    evaluate = TrainingEvaluator(problem, wine, Recipe(8, 16), seed=0)
    evaluate(Trial(0, (0,), None, share=share))
    assert seen == [epochs]


def test_progress_is_told(problem, wine):
    shares = []
    evaluate = TrainingEvaluator(problem, wine, Recipe(2, 16), seed=0, on_progress=shares.append)
    evaluate(Trial(0, (0,), None))
    assert shares[-1] == 1.0 and shares == sorted(shares)
