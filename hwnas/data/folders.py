"""Folders that hold a folder for each class, or such folders for each split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hwnas.errors import DataError

# Names of folders and files that hold a split.
PARTS = {"train": "train", "test": "test", "val": "validation", "validation": "validation"}


def check_parts(where: Path, found: set[str], what: str) -> None:
    """Make sure that a source with splits of its own has both train and test.

    Raises:
        DataError: One is missing.
    """
    if not {"train", "test"} <= found:
        there = f"{what} in {', '.join(sorted(found))}" if found else f"no {what}"
        raise DataError(
            f"{where} has {there}, but both train and test are needed; add what is missing, or "
            f"bring one set that is split here"
        )


def subfolders(folder: Path) -> list[Path]:
    """The folders in it but for hidden ones, by name."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def class_roots(name: str, folder: Path) -> dict[str, Path]:
    """For each split that the folder has, the folder of its classes; only `train`: it has none.

    Raises:
        DataError: There is no such folder, or train or test is missing.
    """
    if not folder.is_dir():
        raise DataError(f"{name}: no folder {folder}; it must hold a folder for each class")
    roots = {
        PARTS[path.name]: path
        for path in subfolders(folder)
        if path.name in PARTS and subfolders(path)  # a class may be called `train` too
    }
    if roots:
        check_parts(folder, set(roots), "folders of classes")
    return roots or {"train": folder}


def list_files(
    root: Path, class_names: Sequence[str], suffixes: Sequence[str], what: str
) -> list[tuple[Path, int]]:
    """The files of those suffixes below `root` with their class's number, in a fixed order.

    Raises:
        DataError: There are none, or `root` has a folder that is none of the classes.
    """
    extra = {p.name for p in subfolders(root)} - set(class_names)
    if extra:
        raise DataError(f"{root} has classes that train has not: {', '.join(sorted(extra))}")
    files = [
        (path, label)
        for label, class_name in enumerate(class_names)
        if (root / class_name).is_dir()
        for path in sorted((root / class_name).iterdir())
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    ]
    if not files:
        others = f" (or {', '.join(suffixes[1:])})" if suffixes[1:] else ""
        raise DataError(f"{root} has no {what}: expected CLASS/*{suffixes[0]} there{others}")
    return files
