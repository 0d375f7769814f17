"""Data sets of images: scikit-learn's digits, IDX files, folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hwnas.data.folders import class_roots, list_files, subfolders
from hwnas.data.sizes import max_array_bytes
from hwnas.data.splits import DataSet, Split, cut, three_splits
from hwnas.errors import DataError
from profilers.limited import read_bytes

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
MIXED_SIZES_SIDE = 64  # pixels; images of a folder that differ in size are resized to this
MAX_FOLDER_BYTES = 4 * 2**30


def load_digits() -> DataSet:
    """1,797 handwritten digits of 8×8, part of scikit-learn."""
    from sklearn.datasets import load_digits as bundled

    bunch = bundled()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # they count to 16, not to 255
    whole = Split(torch.from_numpy(grey)[:, None], torch.from_numpy(bunch.target.astype(np.int64)))
    train, validation, test = cut(whole, 450, 450)
    return DataSet("digits", train, validation, test, tuple("0123456789"))


def load_fashion_mnist(folder: Path) -> DataSet:
    """70,000 images of 28×28 from four IDX files (Xiao et al., 2017)."""
    if not folder.is_dir():
        raise DataError(
            f"fashion-mnist: no folder {folder}; install it by `apt install "
            f"dataset-fashion-mnist`, or name the folder with its four IDX files by --data-path"
        )
    known, test = (
        Split(
            torch.from_numpy(_read_idx(folder / f"{part}-images-idx3-ubyte.gz", 3))[:, None],
            torch.from_numpy(_read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 1)).long(),
        )
        for part in ("train", "t10k")
    )
    for part, split in (("train", known), ("t10k", test)):
        if len(split.inputs) != len(split.labels):
            raise DataError(
                f"{folder}: {len(split.inputs)} images but {len(split.labels)} labels in the "
                f"files {part}-*; the files do not belong together"
            )
    train, validation = cut(known, len(known) // 10)
    return DataSet("fashion-mnist", train, validation, test, FASHION_MNIST_CLASSES)


def _read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes, gzipped or not: 0, 0, type 8, ndim, the sizes, then the values."""
    plain = path.with_suffix("")
    try:
        if plain.exists() and not path.exists():
            path = plain
        content = read_bytes(path, max_array_bytes())
    except FileNotFoundError:
        raise DataError(f"{path.parent} has no file {path.name}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}; get the file anew") from error
    header = 4 + 4 * ndim
    if len(content) < header or content[:4] != bytes((0, 0, 8, ndim)):
        raise DataError(
            f"{path} is no IDX file of {ndim}-dimensional bytes: expected it to begin with "
            f"{bytes((0, 0, 8, ndim)).hex(' ')}, got {content[:4].hex(' ')}"
        )
    shape = tuple(int(n) for n in np.frombuffer(content, dtype=">u4", count=ndim, offset=4))
    n_values = len(content) - header
    if int(np.prod(shape)) != n_values:
        raise DataError(
            f"{path} announces {'×'.join(map(str, shape))} bytes but holds {n_values:,}; "
            f"get the file anew"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape).copy()


def load_folder(name: str, folder: Path) -> DataSet:
    """Images in a folder for each class, or in such folders below `train` and `test`."""
    roots = class_roots(name, folder)
    class_names = tuple(p.name for p in subfolders(roots["train"]))
    files = {
        part: list_files(root, class_names, IMAGE_SUFFIXES, "images")
        for part, root in roots.items()
    }
    train, validation, test = three_splits(_decode(files, folder))
    return DataSet(name, train, validation, test, class_names)


def _decode(files: dict[str, list[tuple[Path, int]]], folder: Path) -> dict[str, Split]:
    """Decode to one square size, and to one channel if all images are grey."""
    from PIL import Image, ImageOps

    def opened(path: Path, read: Callable[[Image.Image], Any]) -> Any:
        try:
            with Image.open(path) as image:
                return read(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} cannot be decoded: {error}; repair or remove it") from error

    paths = [path for listed in files.values() for path, _ in listed]
    headers = {opened(path, lambda image: (image.size, image.mode)) for path in paths}
    sizes, modes = {size for size, _ in headers}, {mode for _, mode in headers}
    deep = {mode for mode in modes if mode.startswith(("I", "F"))}
    if deep:
        raise DataError(
            f"{folder} has images of more than 8 bits a channel (mode {', '.join(sorted(deep))}); "
            f"convert them to 8 bits"
        )
    mode = "L" if modes <= {"1", "L", "LA"} else "RGB"
    width, height = next(iter(sizes))
    side = width if len(sizes) == 1 and width == height else MIXED_SIZES_SIDE
    needed = len(paths) * side * side * len(mode)  # one byte for each letter of the mode
    if needed > MAX_FOLDER_BYTES:
        raise DataError(
            f"{folder}: {len(paths):,} images of {side}×{side} need {needed / 1e9:.1f} GB of "
            f"memory, more than {MAX_FOLDER_BYTES / 1e9:.1f} GB; shrink them first"
        )

    def pixels(image: Image.Image) -> NDArray[np.uint8]:
        upright = ImageOps.exif_transpose(image).convert(mode)
        return np.asarray(upright.resize((side, side), Image.Resampling.BILINEAR))

    splits = {}
    for part, listed in files.items():
        images = np.empty((len(listed), side, side, len(mode)), dtype=np.uint8)
        for row, (path, _) in zip(images, listed, strict=True):
            row[:] = opened(path, pixels).reshape(row.shape)
        labels = torch.tensor([label for _, label in listed], dtype=torch.int64)
        splits[part] = Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels)
    return splits
