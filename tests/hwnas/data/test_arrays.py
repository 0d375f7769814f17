import numpy as np
import pytest
import torch

from hwnas.data import load_data
from hwnas.data.arrays import to_inputs
from hwnas.data.kinds import kind_of
from hwnas.errors import DataError

MADE = """
rng = np.random.default_rng(0)
def make(n):
    return rng.integers(0, 256, (n, 5, 5), dtype=np.uint8), np.arange(n) % 3
"""


@pytest.mark.parametrize(
    ("body", "sizes"),
    [
        ("return make(60), make(9)", [51, 9, 9]),
        ("return make(60), make(12), make(9)", [60, 12, 9]),
    ],
)
def test_a_function_of_arrays_is_split_only_where_validation_is_missing(write_module, body, sizes):
    data = load_data(write_module(MADE + body))
    assert [len(s) for s in (data.train, data.validation, data.test)] == sizes
    assert data.input_shape == (1, 5, 5)


def test_a_function_may_return_torch_data_sets_with_named_classes(write_module):
    data = load_data(
        write_module(
            "class Own(torch.utils.data.Dataset):\n"
            "    classes = ['low', 'high']\n"
            "    def __len__(self):\n"
            "        return 20\n"
            "    def __getitem__(self, i):\n"
            "        return torch.full((3, 4, 4), i % 2 / 2), i % 2\n"
            "return Own(), Own()"
        )
    )
    assert data.class_names == ("low", "high")
    assert data.test.inputs.dtype == torch.float32
    assert data.test.inputs[:, 0, 0, 0].tolist() == [0.0, 0.5] * 10
    assert data.mean == pytest.approx([0.25] * 3, abs=0.02)  # not divided by 255


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('disk on fire')", r"RuntimeError: disk on fire \(.*\.py:8\)"),
        ("return 1", r"must return \(train, test\) or .* got int"),
        ("return make(5), 3", "expected a torch Dataset"),
        ("x, y = make(60); return (x, y[:9]), make(9)", r"labels must be \(60,\)"),
        ("x, y = make(60); return (x, y + 1), make(9)", "none for class 0"),
        ("x, y = make(60); return (x, y - 1), make(9)", "labels must be >= 0, got -1"),
        ("x, y = make(9); return make(60), (x, y + 1)", "labels must be in 0 to 2"),
        ("x, y = make(60); return (x, y / 2), make(9)", "labels must be integers"),
        (
            "x, y = make(60); return (x[:, None].astype(int), y), make(9)",
            "uint8 or floats, got int",
        ),
        ("x, y = make(60); return (x / np.nan, y), make(9)", r"images\[0\] has NaN"),
        ("x, y = make(9); return make(60), (x[:, 1:], y)", r"images are \(1, 4, 5\) but"),
        ("x, y = make(60); return (np.stack([x] * 3, 3), y), make(9)", r"look like \(n, H, W, C\)"),
        ("return make(0), make(9)", "no images"),
        (
            "return (np.zeros(9), np.arange(9)), make(9)",
            r"expected images .*; got \(9,\), torch.float",
        ),
        ("return (np.zeros((9, 2, 2, 2, 2)), np.arange(9)), make(9)", "expected images .*float32"),
        ("return (np.array(['a'] * 9), np.arange(9)), make(9)", "expected images"),
        ("return make(3), make(9)", "too few"),
    ],
)
def test_a_function_that_fails_or_returns_nonsense_says_what_and_where(write_module, body, message):
    with pytest.raises(DataError, match=message):
        load_data(write_module(MADE.strip() + "\n" + body))


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "kept"),
    [
        ((9, 3, 4, 5), np.uint8, "image", (3, 4, 5)),
        ((9, 3, 4, 5), np.float64, "image", (3, 4, 5)),
        ((9, 6, 6), np.float32, "image", (1, 6, 6)),
        ((9, 6, 4), np.uint8, "image", (1, 6, 4)),
        ((9, 2, 40), np.float64, "signal", (2, 40)),
        ((9, 1, 40), np.int16, "signal", (1, 40)),
        ((9, 30), np.float16, "table", (30,)),
        ((9, 30), np.int32, "tokens", (30,)),
        ((9, 30), np.uint8, "tokens", (30,)),
    ],
)
def test_the_kind_of_an_array_is_told_by_its_axes_and_type(shape, dtype, kind, kept):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    inputs = to_inputs("here", array)
    assert kind_of(inputs) == kind
    assert inputs.shape == (9, *kept)
    assert np.array_equal(inputs.numpy().reshape(shape), array)
    array[:] = 0
    assert inputs.any()  # a copy


def save(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def rows(n, *, features=4):
    rng = np.random.default_rng(n)
    labels = np.arange(n) % 2
    return rng.normal(size=(n, features)) + labels[:, None], labels


def test_arrays_of_one_file_are_split_or_brought_split(tmp_path):
    inputs, labels = rows(100)
    whole = load_data(save(tmp_path / "whole.npz", inputs=inputs, labels=labels))
    assert [len(s) for s in (whole.train, whole.validation, whole.test)] == [70, 15, 15]
    assert whole.kind == "table" and whole.class_names == ("0", "1")
    parts = {f"{part}_inputs": rows(n)[0] for part, n in (("train", 40), ("test", 10))}
    parts |= {f"{part}_labels": rows(n)[1] for part, n in (("train", 40), ("test", 10))}
    split = load_data(save(tmp_path / "parts.npz", **parts, classes=np.array(["no", "yes"])))
    assert [len(s) for s in (split.train, split.validation, split.test)] == [34, 6, 10]
    assert split.class_names == ("no", "yes")
    torch.testing.assert_close(split.test.inputs, torch.tensor(rows(10)[0], dtype=torch.float32))


def test_nothing_is_unpickled(tmp_path):
    inputs, labels = rows(10)
    name = save(tmp_path / "own.npz", inputs=inputs.astype(object), labels=labels)
    with pytest.raises(DataError, match="cannot read .*allow_pickle=False.*arrays of numbers"):
        load_data(name)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": rows(20)[0]}, "train has inputs; both inputs and labels needed"),
        ({"x": rows(20)[0]}, "unknown array 'x'; expected inputs and labels"),
        ({"dev_inputs": rows(20)[0]}, "unknown array 'dev_inputs'"),
        (
            {"train_inputs": rows(20)[0], "train_labels": rows(20)[1],
             "val_inputs": rows(20)[0], "val_labels": rows(20)[1]},
            "arrays in train, validation, but both train and test are needed",
        ),
        ({"inputs": -np.ones((20, 4), int), "labels": rows(20)[1]}, "token ids must be >= 0"),
    ],
)  # fmt: skip
def test_arrays_that_cannot_be_used_say_why(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load_data(save(tmp_path / "own.npz", **arrays))


def test_a_file_that_is_no_archive_is_one_message(tmp_path):
    (tmp_path / "own.npz").write_bytes(b"PK\x03\x04garbage")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name in ("own.npz", "one.npy", "missing.npz"):
        with pytest.raises(DataError, match=f"cannot read .*{name}.*numpy.savez"):
            load_data(f"npz:{tmp_path / name}")


def test_token_ids_of_an_array_have_the_vocabulary_that_they_use(tmp_path):
    ids = np.random.default_rng(0).integers(0, 9, (40, 6))
    ids[-1, 0] = 11
    data = load_data(save(tmp_path / "ids.npz", inputs=ids, labels=np.arange(40) % 2))
    assert (data.kind, data.vocabulary, data.words) == ("tokens", 12, ())


def test_a_function_may_return_a_data_set_of_its_own(write_module):
    data = load_data(
        write_module(
            "from hwnas.data import DataSet, Split\n"
            "split = Split(torch.rand(9, 2, 30), torch.arange(9) % 3)\n"
            "return DataSet('mine', split, split, split, ('a', 'b', 'c'))"
        )
    )
    assert (data.name, data.kind, data.input_shape) == ("mine", "signal", (2, 30))
