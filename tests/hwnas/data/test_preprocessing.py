import pytest
import torch

from hwnas.data import DataSet, Preprocessing, Split, load_data, resized
from hwnas.data.scaling import resize
from hwnas.errors import DataError


def data_of(inputs):
    split = Split(inputs, torch.arange(len(inputs)) % 2)
    return DataSet("made", split, split, split, ("a", "b"))


def test_mean_and_std_are_of_train_with_bytes_scaled_to_one():
    images = torch.zeros((4, 2, 1, 1), dtype=torch.uint8)
    images[:2, 0] = 255
    data = data_of(images)
    assert data.mean == (0.5, 0.0)
    assert data.std == (0.5, 1 / 255)  # the second channel is constant: floored


def test_features_of_a_table_are_standardised_one_by_one_however_far_from_zero():
    # float32 holds 1,000,000 ± 1 exactly; mean and deviation are 1e6 and 1, 2 and 2, 7 and none
    rows = torch.tensor([[1e6 - 1, 0.0, 7.0], [1e6 + 1, 4.0, 7.0]] * 3)
    data = data_of(rows)
    assert data.mean == (1e6, 2.0, 7.0)
    assert data.std == (1.0, 2.0, 1.0)  # what does not vary is only centred
    expected = torch.tensor([[-1.0, -1.0, 0.0], [1.0, 1.0, 0.0]] * 3)
    assert torch.equal(Preprocessing.of(data, (3,)).apply(rows), expected)


@pytest.mark.parametrize("name", ["digits", "melodies", "breast-cancer"])
def test_what_networks_are_given_has_mean_zero_and_deviation_one(name):
    data = load_data(name)
    values = Preprocessing.of(data, data.input_shape).apply(data.train.inputs)
    assert values.dtype == torch.float32
    axes = [axis for axis in range(values.ndim) if axis != 1]
    assert values.mean(dim=axes).abs().max() < 1e-4
    torch.testing.assert_close(
        values.std(dim=axes, correction=0), torch.ones(values.shape[1]), atol=1e-3, rtol=0
    )


def test_token_ids_stay_as_they_are():
    ids = torch.randint(0, 9, (6, 5), generator=torch.Generator().manual_seed(0))
    data = data_of(ids)
    assert (data.mean, data.std) == ((), ())
    assert Preprocessing.of(data, (5,)).apply(ids) is ids


@pytest.mark.parametrize(
    ("inputs", "shape", "message"),
    [
        (torch.rand(4, 3, 8, 8), (1, 8, 8), "cannot take the images of 'made', 3×8×8: one for 3×h"),
        (torch.rand(4, 3, 8, 8), (192,), "one for 3×height×width is wanted"),
        (torch.rand(4, 3, 64), (3, 32), "cannot take the signals of 'made', 3×64: one for 3×64 is"),
        (torch.rand(4, 30), (29,), "network for 29 cannot take the rows of 'made', 30"),
        (torch.zeros(4, 30).long(), (16,), "cannot take the token sequences of 'made', 30"),
    ],
)
def test_a_network_for_another_shape_is_refused(inputs, shape, message):
    with pytest.raises(DataError, match=message):
        Preprocessing.of(data_of(inputs), shape)


def test_it_comes_back_from_plain_data():
    data = load_data("wine")
    given = Preprocessing.of(data, (13,))
    other = Preprocessing("table", (13,), (0.0,) * 13, (1.0,) * 13)
    assert other.stated(given.to_dict()) == given
    assert other.stated({}) == other
    for wrong in ({"mean": [1.0]}, {"std": [0.0] * 13}, {"kind": "image"}, {"std": ["x"] * 13}):
        with pytest.raises(ValueError, match="13 channels or features of table|could not convert"):
            other.stated(wrong)


def test_resized_splits_are_remembered_and_bytes_stay_bytes():
    data = load_data("digits")
    train, validation = resized(data, (1, 12, 10))
    assert train.inputs.shape == (897, 1, 12, 10) and validation.inputs.dtype == torch.uint8
    assert resized(data, (1, 12, 10))[0] is train
    assert resized(data, (1, 8, 8))[0].inputs is data.train.inputs


def test_resize_gives_the_values_of_bilinear_interpolation_by_hand():
    row = torch.tensor([[[[0, 100], [0, 100]]]], dtype=torch.uint8)
    # Pixel centres of four at -0.25, 0.25, 0.75, 1.25 of the two, clamped at the border
    assert resize(row, 4, 4)[0, 0, 0].tolist() == [0, 25, 75, 100]
    assert resize(row, 2, 4)[0, 0, 0].tolist() == [0, 25, 75, 100]
    # Halving with the filter: weights 3, 3, 1 over 7 at the border of [0, 80, 160, 240]
    ramp = torch.tensor([0.0, 80, 160, 240]).expand(1, 1, 4, 4)
    assert resize(ramp, 2, 2)[0, 0, 0].tolist() == pytest.approx([400 / 7, 1280 / 7])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_resize_keeps_type_and_constants_in_every_chunk_and_is_free_at_the_same_size(dtype):
    images = torch.full((2500, 1, 6, 4), 7, dtype=dtype)
    images[2000:] = 200
    sized = resize(images, 5, 5)
    assert (sized.shape, sized.dtype) == ((2500, 1, 5, 5), dtype)
    torch.testing.assert_close(sized[:2000], torch.full((2000, 1, 5, 5), 7, dtype=dtype))
    torch.testing.assert_close(sized[2000:], torch.full((500, 1, 5, 5), 200, dtype=dtype))
    assert resize(sized, 5, 5) is sized
    with pytest.raises(ValueError, match="at least 1×1 pixel, got 0×5"):
        resize(images, 0, 5)
