import gzip
import struct
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image

from hwnas.data import (
    DataSet,
    Split,
    load_data,
    normalise,
    resize,
    stratified_order,
)
from hwnas.data.sources import FASHION_MNIST_FOLDER
from hwnas.errors import DataError


def write_idx(path, values, *, magic=None):
    header = struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(
        gzip.compress((magic or bytes((0, 0, 8, values.ndim))) + header + bytes(values))
    )


@pytest.fixture
def idx_folder(tmp_path):
    """100 train and 20 test images of 4×4, ten classes in turn; each image is its own number."""
    for part, n in (("train", 100), ("t10k", 20)):
        images = np.arange(n, dtype=np.uint8)[:, None, None] + np.zeros((1, 4, 4), np.uint8)
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(n, dtype=np.uint8) % 10)
    return tmp_path


def write_images(folder, *, n=20, size=(6, 6), mode="L", classes=("cat", "dog")):
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            colour = 10 * label + i if mode == "L" else (10 * label + i, 0, 200)
            Image.new(mode, size, colour).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Write the body of `load()` to a module in the current directory; returns its data name."""
    monkeypatch.chdir(tmp_path)
    n_written = iter(range(100))

    def write(body):
        module = f"own_data_{tmp_path.name.replace('-', '_')}_{next(n_written)}"
        source = "import numpy as np\nimport torch\n\ndef load():\n" + textwrap.indent(body, "    ")
        (tmp_path / f"{module}.py").write_text(source)
        return f"{module}:load"

    return write


MADE = """
rng = np.random.default_rng(0)
def make(n):
    return rng.integers(0, 256, (n, 5, 5), dtype=np.uint8), np.arange(n) % 3
"""


@pytest.fixture(params=["digits", "idx", "folder", "folder of splits", "module"])
def loaded(request, tmp_path):
    """Every source, by the shortest data that it can load."""
    if request.param == "digits":
        return load_data("digits")
    if request.param == "idx":
        return load_data("fashion-mnist", path=request.getfixturevalue("idx_folder"))
    if request.param == "folder":
        return load_data(f"folder:{write_images(tmp_path / 'images')}")
    if request.param == "folder of splits":
        for part in ("train", "val", "test"):
            write_images(tmp_path / "images" / part)
        return load_data("folder", path=tmp_path / "images")
    return load_data(request.getfixturevalue("write_module")(MADE + "return make(60), make(9)"))


def test_every_source_gives_splits_of_one_shape_with_all_classes(loaded):
    for split in (loaded.train, loaded.validation, loaded.test):
        assert split.images.shape == (len(split), *loaded.input_shape)
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
        assert set(split.labels.tolist()) == set(range(loaded.n_classes))
    assert all(0 < mean < 1 for mean in loaded.mean)
    assert all(std > 0 for std in loaded.std)
    assert len(loaded.fingerprint) == 16


def test_digits_are_split_as_documented_in_proportion_and_always_alike():
    data, again = load_data("digits"), load_data("digits")
    splits = (data.train, data.validation, data.test)
    assert [len(split) for split in splits] == [897, 450, 450]
    assert data.fingerprint == again.fingerprint == "0ad259733d331a5e"
    assert data.input_shape == (1, 8, 8)
    assert data.train.images.max() == 255
    for split in splits:  # 1797 digits, 174 to 183 of each
        counts = torch.bincount(split.labels) / len(split)
        assert counts.min() > 0.09
        assert counts.max() < 0.11
    rows = [tuple(image.flatten().tolist()) for split in splits for image in split.images]
    assert len(rows) == 1797
    assert len(set(rows)) == 1797  # no image is in two splits


@pytest.mark.parametrize(("share", "n_rare"), [(0.1, 4), (0.5, 20)])
def test_every_part_of_the_stratified_order_holds_the_classes_in_proportion(share, n_rare):
    labels = torch.tensor([0] * 360 + [1] * 40)
    order = stratified_order(labels)
    assert sorted(order) == list(range(400))
    n = int(400 * share)
    for part in (order[:n], order[-n:]):
        assert abs(int(labels[torch.from_numpy(part)].sum()) - n_rare) <= 1


def test_fashion_mnist_keeps_the_official_test_and_takes_validation_off_train(idx_folder):
    data = load_data("fashion-mnist", path=idx_folder)
    numbers = data.train.images[:, 0, 0, 0].tolist() + data.validation.images[:, 0, 0, 0].tolist()
    assert sorted(numbers) == list(range(100))
    assert torch.bincount(data.validation.labels).tolist() == [1] * 10
    assert data.test.images[:, 0, 0, 0].tolist() == list(range(20))
    assert data.test.labels.tolist() == [*range(10), *range(10)]
    assert data.class_names[9] == "Ankle boot"


def test_a_missing_fashion_mnist_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"apt install dataset-fashion-mnist.*--data-path"):
        load_data("fashion-mnist", path=tmp_path / "none")


def damage(folder, kind):
    path = folder / "train-images-idx3-ubyte.gz"
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "not gzip":
        path.write_bytes(b"<html>not found</html>")
    elif kind == "wrong magic":
        write_idx(path, np.zeros((100, 4, 4), np.uint8), magic=b"\0\0\x0d\3")
    elif kind == "short":
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    else:
        write_idx(path, np.zeros((99, 4, 4), np.uint8))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "has no file train-images"),
        ("truncated", "cannot be read"),
        ("not gzip", "cannot be read"),
        ("wrong magic", "expected it to begin with 00 00 08 03, got 00 00 0d 03"),
        ("short", "announces 100×4×4 bytes but holds 1,599"),
        ("mismatch", "99 images but 100 labels"),
    ],
)
def test_a_damaged_idx_file_is_named_with_what_is_wrong(idx_folder, kind, message):
    damage(idx_folder, kind)
    with pytest.raises(DataError, match=message):
        load_data("fashion-mnist", path=idx_folder)


@pytest.mark.skipif(not FASHION_MNIST_FOLDER.is_dir(), reason="fashion-mnist is not installed")
def test_the_installed_fashion_mnist_has_its_known_size_and_mean():
    data = load_data("fashion-mnist")
    splits = (data.train, data.validation, data.test)
    assert [len(split) for split in splits] == [54_000, 6_000, 10_000]
    assert torch.bincount(data.validation.labels).tolist() == [600] * 10
    assert data.mean == pytest.approx((0.286,), abs=0.001)  # published for all 60,000
    assert data.std == pytest.approx((0.353,), abs=0.001)


def test_a_folder_is_split_70_15_15_with_classes_by_name(tmp_path):
    data = load_data(f"folder:{write_images(tmp_path)}")
    assert [len(s) for s in (data.train, data.validation, data.test)] == [28, 6, 6]
    assert torch.bincount(data.test.labels).tolist() == [3, 3]
    assert data.class_names == ("cat", "dog")
    assert data.input_shape == (1, 6, 6)
    assert data.train.images[:, 0, 0, 0].max() == data.train.images.max()


def test_folder_splits_are_kept_and_validation_is_optional(tmp_path):
    write_images(tmp_path / "train", n=20, mode="RGB")
    write_images(tmp_path / "test", n=4, mode="RGB")
    data = load_data(f"folder:{tmp_path}")
    assert [len(s) for s in (data.train, data.validation, data.test)] == [34, 6, 8]
    assert data.input_shape == (3, 6, 6)
    assert sorted(set(data.test.images[:, 0, 0, 0].tolist())) == [0, 1, 2, 3, 10, 11, 12, 13]
    assert data.test.images[:, 2].unique().tolist() == [200]


def test_images_that_differ_in_size_or_colour_become_64_pixels_rgb(tmp_path):
    write_images(tmp_path)
    Image.new("RGB", (30, 10), (255, 0, 0)).save(tmp_path / "cat" / "wide.jpg")
    assert load_data(f"folder:{tmp_path}").input_shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "cat" / "0.png").write_bytes(b"no image"), r"0\.png cannot be decoded"),
        (lambda f: Image.new("I;16", (6, 6)).save(f / "cat" / "0.png"), "more than 8 bits"),
        (lambda f: write_images(f / "train"), r"in train, but both train and test are needed"),
        (lambda f: (f / "bird").mkdir(), "none for class bird"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(tmp_path, break_it, message):
    break_it(write_images(tmp_path))
    with pytest.raises(DataError, match=message):
        load_data(f"folder:{tmp_path}")


def test_a_folder_without_images_or_with_an_unknown_class_in_test_says_why(tmp_path):
    with pytest.raises(DataError, match="has no images"):
        load_data(f"folder:{tmp_path}")
    write_images(tmp_path / "train")
    write_images(tmp_path / "test", classes=("cat", "cow"))
    with pytest.raises(DataError, match="classes that train has not: cow"):
        load_data(f"folder:{tmp_path}")


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
    assert data.test.images.dtype == torch.float32
    assert data.test.images[:, 0, 0, 0].tolist() == [0.0, 0.5] * 10
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
        ("x, y = make(60); return (x.astype(int), y), make(9)", "uint8 or floats, got int64"),
        ("x, y = make(60); return (x / np.nan, y), make(9)", "image 0 has NaN"),
        ("x, y = make(9); return make(60), (x[:, 1:], y)", r"images are \(1, 4, 5\) but"),
        ("x, y = make(60); return (np.stack([x] * 3, 3), y), make(9)", r"look like \(n, H, W, C\)"),
        ("return make(0), make(9)", "no images"),
        ("return make(3), make(9)", "too few"),
    ],
)
def test_a_function_that_fails_or_returns_nonsense_says_what_and_where(write_module, body, message):
    with pytest.raises(DataError, match=message):
        load_data(write_module(MADE.strip() + "\n" + body))


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


def test_mean_and_std_are_of_train_with_bytes_scaled_to_one():
    images = torch.zeros((4, 2, 1, 1), dtype=torch.uint8)
    images[:2, 0] = 255
    data = two_class_data(images)
    assert data.mean == (0.5, 0.0)
    assert data.std == (0.5, 1 / 255)  # the second channel is constant: floored


def test_the_fingerprint_changes_with_a_single_pixel():
    images = torch.zeros((4, 1, 2, 2), dtype=torch.uint8)
    before = two_class_data(images).fingerprint
    assert two_class_data(images.clone()).fingerprint == before
    images[3, 0, 1, 1] = 1
    assert two_class_data(images).fingerprint != before


def test_normalised_images_have_mean_zero_and_deviation_one():
    data = load_data("digits")
    values = normalise(data.train.images, data.mean, data.std)
    assert values.dtype == torch.float32
    assert float(values.mean()) == pytest.approx(0, abs=1e-5)
    assert float(values.std()) == pytest.approx(1, abs=1e-4)


def test_resize_gives_the_values_of_bilinear_interpolation_by_hand():
    row = torch.tensor([[[[0, 100], [0, 100]]]], dtype=torch.uint8)
    # Pixel centres of four at -0.25, 0.25, 0.75, 1.25 of the two, clamped at the border
    assert resize(row, 4)[0, 0, 0].tolist() == [0, 25, 75, 100]
    # Halving with the filter: weights 3, 3, 1 over 7 at the border of [0, 80, 160, 240]
    ramp = torch.tensor([0.0, 80, 160, 240]).expand(1, 1, 4, 4)
    assert resize(ramp, 2)[0, 0, 0].tolist() == pytest.approx([400 / 7, 1280 / 7])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_resize_keeps_type_and_constants_in_every_chunk_and_is_free_at_the_same_size(dtype):
    images = torch.full((2500, 1, 6, 4), 7, dtype=dtype)
    images[2000:] = 200
    resized = resize(images, 5)
    assert (resized.shape, resized.dtype) == ((2500, 1, 5, 5), dtype)
    torch.testing.assert_close(resized[:2000], torch.full((2000, 1, 5, 5), 7, dtype=dtype))
    torch.testing.assert_close(resized[2000:], torch.full((500, 1, 5, 5), 200, dtype=dtype))
    assert resize(resized, 5) is resized
    with pytest.raises(ValueError, match="resolution must be >= 1"):
        resize(images, 0)
