"""Where data sets come from: scikit-learn, IDX files, folders of images, a user's function."""

from __future__ import annotations

import gzip
import importlib
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hwnas.data.splits import DataSet, Split, check_split, cut, held_out
from hwnas.errors import DataError, unknown_name

KNOWN_NAMES = ("digits", "fashion-mnist", "folder:PATH", "module:function")
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
MIXED_SIZES_SIDE = 64  # pixels; images of a folder that differ in size are resized to this
MAX_FOLDER_BYTES = 4 * 2**30


def load_data(name: str, *, path: Path | None = None) -> DataSet:
    """Load a data set by name.

    Args:
        name: One of:

            - `digits`: 1,797 images of 8×8, part of scikit-learn; 897 train, 450 validation,
              450 test.
            - `fashion-mnist`: 70,000 images of 28×28 from the four IDX files in `path`, by default
              where Debian's package `dataset-fashion-mnist` puts them. The official test images;
              the last tenth of the training images in stratified order is validation.
            - `folder:PATH`, or `folder` and `path`: `PATH/CLASS/*.png` (or JPEG and others), split
              70/15/15; or the same below `PATH/train`, `PATH/test` and, optional, `PATH/val` or
              `PATH/validation`. Resized to one square size: their own if all have it, else 64.
            - `module:function`: a function that returns (train, test) or (train, validation,
              test), each a torch `Dataset` of (image, label) or a pair of arrays (images
              `(n, C, H, W)` or `(n, H, W)`, labels `(n,)`). Each item is read once, so random
              transforms in a `Dataset` are frozen. The current directory is importable.
        path: Folder with the files, for the sources that read files.
    Raises:
        DataError: If the data cannot be found, read or used.
    """
    kind, _, argument = name.partition(":")
    if path is not None and name not in ("fashion-mnist", "folder"):
        raise DataError(f"data set {name!r} takes no data path, got {path}; leave the path out")
    if name == "digits":
        return _load_digits()
    if name == "fashion-mnist":
        return _load_fashion_mnist(path or FASHION_MNIST_FOLDER)
    if kind == "folder":
        folder = Path(argument).expanduser() if argument else path
        if folder is None:
            raise DataError("data set 'folder' needs a path: folder:PATH")
        return _load_folder(name, folder)
    if kind and argument:
        return _load_function(name, kind, argument)
    raise DataError(unknown_name("data set", name, KNOWN_NAMES))


def _load_digits() -> DataSet:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # they count to 16, not to 255
    whole = Split(torch.from_numpy(grey)[:, None], torch.from_numpy(bunch.target.astype(np.int64)))
    train, validation, test = cut(whole, 450, 450)
    return DataSet("digits", train, validation, test, tuple("0123456789"))


def _load_fashion_mnist(folder: Path) -> DataSet:
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
        if len(split.images) != len(split.labels):
            raise DataError(
                f"{folder}: {len(split.images)} images but {len(split.labels)} labels in the "
                f"files {part}-*; the files do not belong together"
            )
    train, validation = cut(known, len(known) // 10)
    return DataSet("fashion-mnist", train, validation, test, FASHION_MNIST_CLASSES)


def _read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes, gzipped or not: 0, 0, type 8, ndim, the sizes, then the values."""
    plain = path.with_suffix("")
    try:
        if plain.exists() and not path.exists():
            path, content = plain, plain.read_bytes()
        else:
            content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path.parent} has no file {path.name}") from None
    except (OSError, EOFError, zlib.error) as error:
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


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _load_folder(name: str, folder: Path) -> DataSet:
    if not folder.is_dir():
        raise DataError(f"{name}: no folder {folder}; it must hold a folder for each class")
    top = {p.name: p for p in _subfolders(folder)}
    parts = {
        part: top[alias]
        for part, alias in (
            *(("train", "train"), ("test", "test")),
            *(("validation", "val"), ("validation", "validation")),
        )
        if alias in top and _subfolders(top[alias])  # a class may be called `train` too
    }
    if parts and not {"train", "test"} <= parts.keys():
        raise DataError(
            f"{folder} has folders of classes in {', '.join(sorted(parts))}, but both train and "
            f"test are needed; add the missing one, or put the classes right into {folder}"
        )
    roots = parts or {"train": folder}
    class_names = tuple(p.name for p in _subfolders(roots["train"]))
    files = {part: _list_images(root, class_names) for part, root in roots.items()}
    splits = _decode(files, folder)
    n = held_out(splits["train"])
    if not parts:
        train, validation, test = cut(splits["train"], n, n)
    elif "validation" not in parts:
        (train, validation), test = cut(splits["train"], n), splits["test"]
    else:
        train, validation, test = splits["train"], splits["validation"], splits["test"]
    return DataSet(name, train, validation, test, class_names)


def _list_images(root: Path, class_names: tuple[str, ...]) -> list[tuple[Path, int]]:
    """The image files below `root` with their labels, in a fixed order."""
    extra = {p.name for p in _subfolders(root)} - set(class_names)
    if extra:
        raise DataError(f"{root} has classes that train has not: {', '.join(sorted(extra))}")
    files = [
        (path, label)
        for label, class_name in enumerate(class_names)
        if (root / class_name).is_dir()
        for path in sorted((root / class_name).iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if not files:
        raise DataError(
            f"{root} has no images: expected CLASS/*.png there (or "
            f"{', '.join(sorted(IMAGE_SUFFIXES - {'.png'}))})"
        )
    return files


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


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()  # the module may have been written a moment ago
    try:
        yield
    finally:
        sys.path.remove(here)


def _load_function(name: str, module_name: str, function_name: str) -> DataSet:
    with _current_directory_importable():
        try:
            function = getattr(importlib.import_module(module_name), function_name, None)
            if not callable(function):
                raise DataError(f"{name}: module {module_name!r} has no function {function_name!r}")
            returned = function()
            if not isinstance(returned, (tuple, list)) or len(returned) not in (2, 3):
                raise DataError(
                    f"{name}: must return (train, test) or (train, validation, test), "
                    f"got {_describe(returned)}"
                )
            splits = [_to_split(f"{name}, part {i}", part) for i, part in enumerate(returned)]
        except DataError:
            raise
        except ModuleNotFoundError as error:
            raise DataError(
                f"{name}: {error}; looked in {Path.cwd()} and in the installed packages"
            ) from error
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise DataError(
                f"{name}: {type(error).__name__}: {error} ({last.filename}:{last.lineno})"
            ) from error
    names = getattr(returned[0], "classes", None)  # torchvision's data sets have it
    if names is None:
        names = range(int(splits[0].labels.max()) + 1)
    if len(splits) == 2:
        splits[:1] = cut(splits[0], held_out(splits[0]))
    train, validation, test = splits
    return DataSet(name, train, validation, test, tuple(map(str, names)))


def _describe(value: object) -> str:
    length = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    return f"{type(value).__name__}{length}"


def _to_split(where: str, part: Any) -> Split:
    """Read a pair of arrays, or every item of a torch `Dataset`."""
    if isinstance(part, (tuple, list)) and len(part) == 2:
        images, labels = part
    elif hasattr(part, "__getitem__") and hasattr(part, "__len__"):
        items = [part[i] for i in range(len(part))]
        images = [_pixels(image) for image, _ in items]
        labels = [int(label) for _, label in items]
        shapes = sorted({image.shape for image in images})
        if len(shapes) != 1:
            raise DataError(f"{where}: needs images of one shape, got {shapes[:5] or 'no image'}")
    else:
        raise DataError(
            f"{where}: expected a torch Dataset of (image, label) with a length, or a pair of "
            f"arrays (images, labels), got {_describe(part)}"
        )
    # Copies in C order: what the function returned may be read-only, or change later.
    pixels, targets = np.array(images, order="C"), np.array(labels, order="C")
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    if pixels.ndim == 4 and pixels.shape[3] in (1, 3) and pixels.shape[1] not in (1, 3):
        raise DataError(
            f"{where}: images of shape {pixels.shape} look like (n, H, W, C); return "
            f"(n, C, H, W), that is images.transpose(0, 3, 1, 2)"
        )
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = pixels.astype(np.float32, copy=False)
    elif pixels.dtype != np.uint8:
        raise DataError(f"{where}: images must be uint8 or floats, got {pixels.dtype}")
    if not np.issubdtype(targets.dtype, np.integer):
        raise DataError(f"{where}: labels must be integers, got {targets.dtype}")
    split = Split(torch.from_numpy(pixels), torch.from_numpy(targets.astype(np.int64, copy=False)))
    check_split(where, split)
    return split


def _pixels(image: Any) -> NDArray[Any]:
    """An item's image as `(C, H, W)` or `(H, W)`; Pillow's come channels last."""
    array = np.asarray(image)
    return np.moveaxis(array, 2, 0) if hasattr(image, "getbands") and array.ndim == 3 else array
