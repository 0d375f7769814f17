"""Where data sets come from, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from hwnas.data.arrays import load_function, load_npz
from hwnas.data.images import FASHION_MNIST_FOLDER, load_digits, load_fashion_mnist, load_folder
from hwnas.data.signals import load_melodies
from hwnas.data.splits import DataSet
from hwnas.data.tables import load_bundled, load_csv
from hwnas.data.text import load_standard_library, load_text
from hwnas.errors import DataError, unknown_name
from hwnas.user_code import is_reference

FASHION_MNIST = "fashion-mnist"
_BUNDLED: dict[str, Callable[[], DataSet]] = {
    "digits": load_digits,
    "melodies": load_melodies,
    "python-functions": load_standard_library,
    **{name: partial(load_bundled, name) for name in ("breast-cancer", "wine", "iris")},
}
_FILES: dict[str, Callable[[str, Path], DataSet]] = {
    "folder": load_folder,
    "csv": load_csv,
    "npz": load_npz,
    "text": load_text,
}
KNOWN_NAMES = (
    *(*_BUNDLED, FASHION_MNIST),
    *(f"{name}:PATH" for name in _FILES),
    *("module:function", "FILE.py:function"),
)


def load_data(name: str, *, path: Path | None = None) -> DataSet:
    """Load a data set by name.

    Args:
        name: Images are

            - `digits`: 1,797 images of 8×8, part of scikit-learn; 897 train, 450 validation,
              450 test.
            - `fashion-mnist`: 70,000 images of 28×28 from the four IDX files in `path`, by default
              where Debian's package `dataset-fashion-mnist` puts them. The official test images;
              the last tenth of the training images in stratified order is validation.
            - `folder:PATH`, or `folder` and `path`: `PATH/CLASS/*.png` (or JPEG and others).
              Resized to one square size: their own if all have it, else 64.

            tables are

            - `breast-cancer` (569 rows of 30 features), `wine` (178 of 13), `iris` (150 of 4):
              parts of scikit-learn.
            - `csv:PATH`: a header, a column `label` (else the last is the class), numbers.

            signals are

            - `melodies`: 4,000 of 512 samples, generated: three notes, each low or high, in noise.

            texts, as word ids, are

            - `python-functions`: the sources of functions of six packages of Python's standard
              library; which package is it? Real text, which changes with the version of Python.
            - `text:PATH`: `PATH/CLASS/*.txt`, or a CSV file with the columns `text` and `label`.

            and any of these are

            - `npz:PATH`: arrays `inputs` and `labels`, see `to_inputs` for the shapes.
            - `module:function` or `FILE.py:function`: a function that returns (train, test) or
              (train, validation, test), each a torch `Dataset` of (input, label) or a pair of
              arrays as in an NPZ file; or a `DataSet`. Each item is read once, so random
              transforms in a `Dataset` are frozen. The current directory is importable.

            A file is split 70/15/15, classes in proportion, always the same way. A folder may
            hold the splits: `train`, `test` and, optional, `validation`, as folders, as CSV files,
            or as arrays `train_inputs`, `train_labels`, ...
        path: Folder or file, for the sources that read files.
    Raises:
        DataError: If the data cannot be found, read or used.
    """
    kind, _, argument = name.partition(":")
    if path is not None and name not in (FASHION_MNIST, *_FILES):
        raise DataError(f"data set {name!r} takes no data path, got {path}; leave the path out")
    if name in _BUNDLED:
        return _BUNDLED[name]()
    if name == FASHION_MNIST:
        return load_fashion_mnist(path or FASHION_MNIST_FOLDER)
    if kind in _FILES:
        given = Path(argument).expanduser() if argument else path
        if given is None:
            raise DataError(f"data set {kind!r} needs a path: {kind}:PATH")
        return _FILES[kind](name, given)
    if is_reference(name):
        return load_function(name)
    raise DataError(unknown_name("data set", name, KNOWN_NAMES))


def names_code(name: str) -> bool:
    """Whether loading a data set of that name would run a function that it names."""
    return name.partition(":")[0] not in _FILES and is_reference(name)
