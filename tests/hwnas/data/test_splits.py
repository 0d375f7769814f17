import pytest
import torch

from hwnas.data import DataSet, Split, load_data
from hwnas.data.sources import KNOWN_NAMES
from hwnas.data.splits import class_names_of, stratified_order, three_splits
from hwnas.errors import DataError

BUNDLED = {
    # name: kind, shape of an example, classes
    "digits": ("image", (1, 8, 8), 10),
    "breast-cancer": ("table", (30,), 2),
    "wine": ("table", (13,), 3),
    "iris": ("table", (4,), 3),
    "melodies": ("signal", (1, 512), 8),
    "python-functions": ("tokens", (128,), 6),
}


@pytest.mark.parametrize("name", BUNDLED)
def test_what_is_bundled_has_splits_of_one_kind_with_all_classes_in_proportion(name):
    data = load_data(name)
    assert (data.kind, data.input_shape, data.n_classes) == BUNDLED[name]
    share = torch.bincount(data.train.labels) / len(data.train)
    for split in (data.validation, data.test):
        assert split.inputs.dtype == data.train.inputs.dtype
        found = torch.bincount(split.labels, minlength=data.n_classes) / len(split)
        torch.testing.assert_close(found, share, atol=0.05, rtol=0)
    assert load_data(name).fingerprint == data.fingerprint
    assert name in KNOWN_NAMES


@pytest.mark.parametrize("name", BUNDLED)
def test_no_example_is_in_two_splits(name):
    data = load_data(name)
    if name in ("iris", "python-functions"):
        pytest.skip("it holds equal examples")
    rows = [x.numpy().tobytes() for s in (data.train, data.validation, data.test) for x in s.inputs]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize(("share", "n_rare"), [(0.1, 4), (0.5, 20)])
def test_every_part_of_the_stratified_order_holds_the_classes_in_proportion(share, n_rare):
    labels = torch.tensor([0] * 360 + [1] * 40)
    order = stratified_order(labels)
    assert sorted(order) == list(range(400))
    n = int(400 * share)
    for part in (order[:n], order[-n:]):
        assert abs(int(labels[torch.from_numpy(part)].sum()) - n_rare) <= 1


def test_names_that_do_not_exist_are_explained(write_module):
    with pytest.raises(DataError, match="unknown data set 'digit'; did you mean 'digits'"):
        load_data("digit")
    with pytest.raises(DataError, match="No module named 'no_such_module'; looked in"):
        load_data("no_such_module:load")
    with pytest.raises(DataError, match="has no function 'lod'"):
        load_data(write_module("pass").replace(":load", ":lod"))
    with pytest.raises(DataError, match="needs a path"):
        load_data("folder")


def test_a_path_that_would_be_ignored_is_refused(tmp_path):
    with pytest.raises(DataError, match="takes no data path"):
        load_data("digits", path=tmp_path)


def two_class_data(images):
    split = Split(images, torch.arange(len(images)) % 2)
    return DataSet("made", split, split, split, ("a", "b"))


def test_the_fingerprint_changes_with_a_single_value():
    images = torch.zeros((4, 1, 2, 2), dtype=torch.uint8)
    before = two_class_data(images).fingerprint
    assert two_class_data(images.clone()).fingerprint == before
    images[3, 0, 1, 1] = 1
    assert two_class_data(images).fingerprint != before


def test_the_fingerprint_changes_with_the_words_that_ids_stand_for():
    split = Split(torch.tensor([[2, 0], [3, 2]]), torch.tensor([0, 1]))

    def with_words(*words):
        return DataSet("made", split, split, split, ("a", "b"), words)

    assert with_words("no", "yes").fingerprint != with_words("yes", "no").fingerprint
    assert with_words("no", "yes").vocabulary == 4


def test_missing_splits_are_cut_off_train_and_those_that_are_there_are_kept():
    def split(n):
        return Split(torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n) % 2)

    sizes = {
        ("train",): [70, 15, 15],
        ("train", "test"): [85, 15, 100],
        ("train", "validation"): [85, 100, 15],
        ("train", "validation", "test"): [100, 100, 100],
    }
    for parts, expected in sizes.items():
        found = three_splits({part: split(100) for part in parts})
        assert [len(one) for one in found] == expected, parts


def test_classes_are_ordered_by_number_where_all_are_numbers():
    assert class_names_of(["10", "9", "9"]) == ("9", "10")
    assert class_names_of(["10", "9", "b"]) == ("10", "9", "b")


def test_data_of_two_kinds_are_refused():
    rows = Split(torch.rand(4, 3), torch.arange(4) % 2)
    signals = Split(torch.rand(4, 1, 3), torch.arange(4) % 2)
    with pytest.raises(DataError, match=r"test: signals are \(1, 3\) but rows of train are \(3,\)"):
        DataSet("mixed", rows, rows, signals, ("a", "b"))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.rand(4, 3) / 0, r"rows\[0\] has NaN or infinite"),
        (torch.rand(4, 0), "no rows"),
        (torch.full((4, 3), -1), "token ids must be >= 0, got -1"),
        (torch.rand(4, 3).double(), r"got \(4, 3\), torch.float64"),
    ],
)
def test_the_messages_of_other_kinds_speak_of_no_images(inputs, message):
    with pytest.raises(DataError, match=message) as caught:
        two_class_data(inputs)
    assert "image" not in str(caught.value).partition("expected")[0]


def test_a_data_set_describes_itself():
    assert load_data("wine").describe() == "178 rows of 13 in 3 classes"
    assert load_data("digits").describe() == "1,797 images of 1×8×8 in 10 classes"
