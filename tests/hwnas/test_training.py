import math

import pytest
import torch
from torch import nn

from hwnas.data import DataSet, Split, load_data, normalise
from hwnas.errors import ConfigError
from hwnas.training import (
    Recipe,
    TrainingDivergedError,
    default_recipes,
    evaluate,
    predict_logits,
    seeded,
    train,
)

QUICK = Recipe(epochs=2, batch_size=16)


class Forbidden:
    """Stands for a split that must not be read."""

    def __getattr__(self, name):
        raise AssertionError(f"the split was read: .{name}")


def make_data(n=50, *, classes=2, side=8):
    """Stripes across or along, a class each, with noise: learnt in a few steps."""
    noise = torch.rand((n, 1, side, side), generator=torch.Generator().manual_seed(0)) * 0.2
    stripes = (torch.arange(side) % 4 < 2).float()
    labels = torch.arange(n) % classes
    along = (labels == 0).view(-1, 1, 1, 1)
    images = noise + torch.where(along, stripes.view(1, 1, 1, -1), stripes.view(1, 1, -1, 1))
    split = Split((images * 200).to(torch.uint8), labels)
    data = DataSet("stripes", split, split, split, tuple(map(str, range(classes))))
    object.__setattr__(data, "test", Forbidden())
    return data


def make_network(n_classes=2, *, dropout=0.0):
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(32, n_classes),
        )


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_training_learns_and_never_reads_the_test_split():
    result = train(make_network(), make_data(), Recipe(10, 16), resolution=8, seed=0)
    assert result.validation.accuracy == 1.0
    assert result.validation.n == 50
    assert result.n_steps == 30  # 10 epochs of 50 // 16
    assert 0 < result.final_loss < math.log(2)
    assert result.train_seconds > 0


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before():
    data = make_data()

    def trained(seed):
        torch.rand(17)
        network = make_network(dropout=0.5)
        result = train(network, data, QUICK, resolution=8, seed=seed)
        return weights(network), result.final_loss

    first, again, other = trained(3), trained(3), trained(4)
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    assert not torch.equal(first[0], other[0])


def test_training_leaves_the_random_state_and_the_memory_layout_as_they_were():
    network = make_network(dropout=0.5)
    strides = [p.stride() for p in network.parameters()]
    before = torch.get_rng_state()
    train(network, make_data(), QUICK, resolution=8, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert [p.stride() for p in network.parameters()] == strides
    assert not network.training


def test_seeded_draws_the_same_numbers_inside_and_restores_the_state_outside():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with seeded(5):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(2), expected)
    with seeded(5):
        assert torch.equal(torch.rand(3), inside)


@pytest.mark.parametrize(
    ("epochs", "n_images", "steps"),
    [(1, 50, (3, 3)), (0.25, 640, (40, 10)), (0.01, 50, (3, 1)), (2, 9, (1, 2))],
)
def test_fractions_of_an_epoch_are_steps_and_there_is_at_least_one(epochs, n_images, steps):
    assert Recipe(epochs, 16).steps(n_images) == steps


@pytest.mark.parametrize("n", [9, 17, 33])  # 17 = 16 + 1: a last batch of one image
def test_batch_norm_never_meets_a_batch_of_one(n):
    train(make_network(), make_data(n), Recipe(2, 16), resolution=1, seed=0)


def test_images_are_resized_to_the_resolution_of_the_network():
    sides = []
    network = make_network()
    network.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[2:]))
    train(network, make_data(), QUICK, resolution=12, seed=0)
    assert set(sides) == {(12, 12)}


@pytest.mark.parametrize("max_shift", [0.0, 0.25])
def test_batches_are_the_normalised_images_shifted_by_no_more_than_asked(max_shift):
    data = make_data()
    batches = []
    network = make_network()
    hook = network.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0].clone()))
    train(network, data, Recipe(1, 16, max_shift=max_shift), resolution=8, seed=0)
    hook.remove()
    known = normalise(data.train.images, data.mean, data.std)
    reach = round(8 * max_shift)
    padded = nn.functional.pad(known, (reach,) * 4, mode="replicate")
    shifted = torch.stack(
        [
            padded[..., i : i + 8, j : j + 8]
            for i in range(2 * reach + 1)
            for j in range(2 * reach + 1)
        ]
    )
    seen = torch.cat(batches[:3])  # one epoch; then comes validation
    found = torch.tensor([bool((shifted == image).flatten(2).all(2).any()) for image in seen])
    assert found.all()
    is_shifted = torch.tensor([not (known == image).flatten(1).all(1).any() for image in seen])
    assert bool(is_shifted.any()) == (max_shift > 0)


def test_divergence_is_an_error_that_names_the_step_and_the_learning_rate():
    network = make_network()
    with torch.no_grad():
        network[0].weight.fill_(float("nan"))
    with pytest.raises(
        TrainingDivergedError, match=r"became nan within 1 of 6 steps at .* rate 0\.01;"
    ):
        train(network, make_data(), QUICK, resolution=8, seed=0)


def test_outputs_that_overflow_only_in_eval_mode_are_divergence_too():
    network = make_network()
    network[1].running_var.fill_(float("nan"))
    with pytest.raises(TrainingDivergedError, match="logits"):
        evaluate(network, make_data(), make_data().train, resolution=8)


def test_progress_rises_to_one_and_what_it_raises_ends_the_training():
    shares = []
    recipe = Recipe(epochs=40, batch_size=16)
    train(make_network(), make_data(), recipe, resolution=8, seed=0, on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert 20 <= len(shares) <= 50

    def interrupt(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_network(), make_data(), recipe, resolution=8, seed=0, on_progress=interrupt)


def test_logits_do_not_depend_on_the_batch_size_and_follow_the_order_of_images():
    data, network = make_data(), make_network(dropout=0.5)
    images = normalise(data.train.images, data.mean, data.std)
    logits = predict_logits(network, images, batch_size=7)
    assert logits.shape == (50, 2)
    torch.testing.assert_close(logits, predict_logits(network, images, batch_size=50))
    torch.testing.assert_close(logits[3:4], predict_logits(network, images[3:4], batch_size=1))


def test_the_learning_rate_rises_then_falls_to_zero():
    recipe = Recipe(1, learning_rate=0.5, warmup_share=0.2)
    rates = [recipe.learning_rate_at(share) for share in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert rates == pytest.approx([0.0, 0.25, 0.5, 0.25, 0.0])


@pytest.mark.parametrize(
    "values", [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": -1.0}, {"max_shift": 1.0}]
)
def test_a_recipe_that_cannot_work_is_refused(values):
    with pytest.raises(ConfigError, match=f"{next(iter(values))} must be"):
        Recipe(**({"epochs": 1} | values))


def test_default_recipes_show_fewer_images_in_the_search_than_at_the_end():
    for data in (load_data("digits"), make_data(54_000, side=1)):
        search, final = default_recipes(data)
        assert search.steps(len(data.train))[1] < final.steps(len(data.train))[1] < 2000
