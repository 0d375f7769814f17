from itertools import islice

import pytest
import torch
from torch import nn

from hwnas.data.scaling import normalise
from hwnas.errors import ConfigError
from hwnas.training import Recipe, batches

CPU = torch.device("cpu")


def take(n, data, recipe, *, seed=0):
    """The first n batches of train: inputs and labels, each joined."""
    found = list(islice(batches(data.train, recipe, data, seed=seed, device=CPU), n))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def places(found, known):
    """For each found example, the first of the known ones that it equals; -1: none."""
    equal = (found[:, None] == known[None]).flatten(2).all(2)
    return torch.where(equal.any(1), equal.int().argmax(1), -1)


def test_an_epoch_is_a_random_order_of_examples_with_their_labels(make_data):
    data = make_data(48)
    known = normalise(data.train.inputs, data.mean, data.std)
    images, labels = take(6, data, Recipe(1, 16))
    first, second = places(images, known).split(48)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(48))
    assert first.tolist() != second.tolist()
    assert torch.equal(labels, data.train.labels[torch.cat([first, second])])


def test_batches_of_images_lie_channels_last(make_data):
    images, _ = next(batches(make_data().train, Recipe(1, 16), make_data(), seed=0, device=CPU))
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("max_shift", [0.0, 0.25])
def test_images_are_normalised_and_shifted_by_no_more_than_asked(make_data, max_shift):
    data = make_data()
    seen, _ = take(3, data, Recipe(1, 16, max_shift=max_shift))
    known = normalise(data.train.inputs, data.mean, data.std)
    reach = round(8 * max_shift)
    padded = nn.functional.pad(known, (reach,) * 4, mode="replicate")
    shifted = torch.stack(
        [
            padded[..., i : i + 8, j : j + 8]
            for i in range(2 * reach + 1)
            for j in range(2 * reach + 1)
        ]
    )
    found = torch.tensor([bool((shifted == image).flatten(2).all(2).any()) for image in seen])
    assert found.all()
    is_shifted = places(seen, known) < 0
    assert bool(is_shifted.any()) == (max_shift > 0)


def test_signals_are_shifted_in_time_with_their_ends_repeated(make_other):
    data = make_other("signal")
    seen, labels = take(4, data, Recipe(1, 16, max_shift=0.125))
    known = normalise(data.train.inputs, data.mean, data.std)
    padded = nn.functional.pad(known, (4, 4), mode="replicate")
    shifted = torch.cat([padded[..., i : i + 32] for i in range(9)])
    found = places(seen, shifted)
    assert (found >= 0).all() and len((found // 64).unique()) > 4
    assert torch.equal(labels, data.train.labels[found % 64])


def test_half_of_the_images_are_mirrored_left_to_right(make_data):
    data = make_data(64)
    seen, labels = take(4, data, Recipe(1, 16, flip=True))
    known = normalise(data.train.inputs, data.mean, data.std)
    as_they_are, mirrored = places(seen, known), places(seen, known.flip(3))
    assert ((as_they_are >= 0) ^ (mirrored >= 0)).all()
    assert 16 < (mirrored >= 0).sum() < 48
    assert torch.equal(labels, data.train.labels[torch.maximum(as_they_are, mirrored)])


def test_a_square_of_each_image_is_set_to_the_mean(make_data):
    data = make_data(64)
    plain, _ = take(4, data, Recipe(1, 16))
    seen, _ = take(4, data, Recipe(1, 16, erase=0.5))
    is_erased = (seen == 0) & (plain != 0)
    assert torch.equal(seen[~is_erased], plain[~is_erased])
    for mask in is_erased[:, 0]:
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        assert 1 <= len(rows) <= 5 and 1 <= len(columns) <= 5  # half of 8, less at the border
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert len({tuple(mask.flatten().tolist()) for mask in is_erased}) > 20


@pytest.mark.parametrize("kind", ["signal", "table"])
def test_noise_has_the_deviation_that_was_asked_for(make_other, kind):
    data = make_other(kind)
    plain, _ = take(40, data, Recipe(1, 16))
    seen, _ = take(40, data, Recipe(1, 16, noise=0.3))
    # The order comes from the same stream, so that only the first epoch can be compared.
    noise = (seen - plain)[:64]
    assert abs(float(noise.mean())) < 0.05
    assert float(noise.std()) == pytest.approx(0.3, rel=0.15)


def test_token_ids_are_dropped_at_the_rate_that_was_asked_for_and_no_other_changes(make_other):
    data = make_other("tokens")
    seen, labels = take(4, data, Recipe(1, 16, token_dropout=0.25))
    plain, plain_labels = take(4, data, Recipe(1, 16))
    assert torch.equal(labels, plain_labels) and seen.dtype == torch.int64
    is_dropped = seen == 0
    assert torch.equal(seen[~is_dropped], plain[~is_dropped])
    assert float(is_dropped.float().mean()) == pytest.approx(0.25, abs=0.05)


def test_mixed_examples_and_labels_have_the_same_shares(make_other):
    data = make_other("table")
    # A table of one-hot labels: what happens to labels happens to inputs.
    rows = nn.functional.one_hot(data.train.labels, 2).float()
    object.__setattr__(data.train, "inputs", rows)
    seen, shares = take(20, data, Recipe(1, 16, mixup=0.5))
    torch.testing.assert_close(seen, normalise(shares, data.mean, data.std))
    assert shares.dtype == torch.float32 and ((shares > 0.01) & (shares < 0.99)).any()
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(320))
    assert shares.mean(dim=0).tolist() == pytest.approx([0.5, 0.5], abs=0.1)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("image", {"max_shift": 0.1, "flip": True, "erase": 0.3, "mixup": 0.2}),
        ("signal", {"max_shift": 0.1, "noise": 0.1, "mixup": 0.2}),
        ("table", {"noise": 0.1, "mixup": 0.2}),
        ("tokens", {"token_dropout": 0.2}),
    ],
)
def test_a_seed_decides_everything_and_touches_no_global_state(make_data, make_other, kind, values):
    data = make_data() if kind == "image" else make_other(kind)
    recipe = Recipe(1, 16, **values)
    state = torch.get_rng_state()
    first, again, other = (take(5, data, recipe, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_an_augmentation_for_another_kind_is_refused(make_other):
    data = make_other("tokens")
    with pytest.raises(ConfigError, match="noise is for data of kind signal or table"):
        next(batches(data.train, Recipe(1, noise=0.1), data, seed=0, device=CPU))
