import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from hwnas.data import load_data
from hwnas.data.images import FASHION_MNIST_FOLDER
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


def test_digits_are_split_as_documented_in_proportion_and_always_alike():
    data, again = load_data("digits"), load_data("digits")
    splits = (data.train, data.validation, data.test)
    assert [len(split) for split in splits] == [897, 450, 450]
    assert data.fingerprint == again.fingerprint == "0ad259733d331a5e"
    assert data.input_shape == (1, 8, 8)
    assert data.train.inputs.max() == 255
    for split in splits:  # 1797 digits, 174 to 183 of each
        counts = torch.bincount(split.labels) / len(split)
        assert counts.min() > 0.09
        assert counts.max() < 0.11
    rows = [tuple(image.flatten().tolist()) for split in splits for image in split.inputs]
    assert len(rows) == 1797
    assert len(set(rows)) == 1797  # no image is in two splits


def test_fashion_mnist_keeps_the_official_test_and_takes_validation_off_train(idx_folder):
    data = load_data("fashion-mnist", path=idx_folder)
    numbers = data.train.inputs[:, 0, 0, 0].tolist() + data.validation.inputs[:, 0, 0, 0].tolist()
    assert sorted(numbers) == list(range(100))
    assert torch.bincount(data.validation.labels).tolist() == [1] * 10
    assert data.test.inputs[:, 0, 0, 0].tolist() == list(range(20))
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
    assert data.train.inputs[:, 0, 0, 0].max() == data.train.inputs.max()


def test_folder_splits_are_kept_and_validation_is_optional(tmp_path):
    write_images(tmp_path / "train", n=20, mode="RGB")
    write_images(tmp_path / "test", n=4, mode="RGB")
    data = load_data(f"folder:{tmp_path}")
    assert [len(s) for s in (data.train, data.validation, data.test)] == [34, 6, 8]
    assert data.input_shape == (3, 6, 6)
    assert sorted(set(data.test.inputs[:, 0, 0, 0].tolist())) == [0, 1, 2, 3, 10, 11, 12, 13]
    assert data.test.inputs[:, 2].unique().tolist() == [200]


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
