"""Data sets of texts as word ids: files, and functions of Python's standard library.

A text is cut into lower-case words (runs of letters, digits and underscores; other characters but
white space each for themselves). Id 0 is padding, 1 a word that is not in the vocabulary, which
holds the words of train by falling frequency. Exported models carry the vocabulary.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from hwnas.data.folders import class_roots, list_files, subfolders
from hwnas.data.splits import (
    N_SPECIAL_IDS,
    DataSet,
    Split,
    class_names_of,
    class_numbers,
    three_splits,
)
from hwnas.data.tables import LABEL, labels_of, read_frames
from hwnas.errors import DataError
from profilers.limited import TEXT_BYTES, read_text

TEXT = "text"  # the column of a CSV file
PADDING, UNKNOWN = range(N_SPECIAL_IDS)
MAX_WORDS = 4094  # with padding and unknown words 4,096 ids
MIN_COUNT = 2  # a word that train has once says nothing about others
MIN_LENGTH, MAX_LENGTH, LENGTH_STEP = 8, 128, 8
COVERED_SHARE = 0.9  # of the training texts that are not cut
STANDARD_PACKAGES = ("asyncio", "email", "importlib", "multiprocessing", "unittest", "xml")
_WORD = re.compile(r"\w+|[^\w\s]")

Words = list[str]
Labelled = Sequence[tuple[str, str]]  # texts and their classes


def words_of(text: str) -> Words:
    """The words of a text.

    Example:
        >>> words_of("Don't panic: 42")
        ['don', "'", 't', 'panic', ':', '42']
    """
    return _WORD.findall(text.lower())


def vocabulary_of(texts: Sequence[Words]) -> tuple[str, ...]:
    """Words that occur at least twice, the most frequent first, at most 4,094."""
    counts = Counter(chain.from_iterable(texts))
    known = (word for word, count in counts.items() if count >= MIN_COUNT)
    return tuple(sorted(known, key=lambda word: (-counts[word], word))[:MAX_WORDS])


def length_of(texts: Sequence[Words]) -> int:
    """Words that nine tenths of the texts have at most: a multiple of 8, at most 128."""
    lengths = np.array([len(text) for text in texts])
    covered = int(np.ceil(np.quantile(lengths, COVERED_SHARE) / LENGTH_STEP)) * LENGTH_STEP
    return min(max(covered, MIN_LENGTH), MAX_LENGTH)


def encode(texts: Sequence[Words], vocabulary: Sequence[str], length: int) -> torch.Tensor:
    """Word ids of texts, cut or padded at the end.

    Args:
        texts: The words of n of them.
        vocabulary: The words that have an id of their own, in the order of the ids.
        length: Words of each text that are kept.
    Returns:
        `(n, length)`, int64.
    """
    number = {word: i for i, word in enumerate(vocabulary, start=N_SPECIAL_IDS)}
    ids = torch.full((len(texts), length), PADDING)
    for row, text in zip(ids, texts, strict=True):
        known = [number.get(word, UNKNOWN) for word in text[:length]]
        row[: len(known)] = torch.tensor(known, dtype=torch.int64)
    return ids


def load_text(name: str, path: Path) -> DataSet:
    """Texts in a folder for each class, or CSV files with the columns `text` and `label`.

    The folders of classes may stand below `train`, `test` and, optional, `validation`; in place of
    a CSV file there may be a folder of `train.csv`, `test.csv` and, optional, `validation.csv`.
    """
    if path.is_file() or (path.is_dir() and any(path.glob("*.csv"))):
        rows = _rows(name, path)
        return _data_set(name, rows, class_names_of([label for _, label in rows["train"]]))
    roots = class_roots(name, path)
    class_names = tuple(p.name for p in subfolders(roots["train"]))
    parts = {
        part: [
            (_read(file), class_names[label])
            for file, label in list_files(root, class_names, (".txt",), "texts")
        ]
        for part, root in roots.items()
    }
    return _data_set(name, parts, class_names)


def _rows(name: str, path: Path) -> Mapping[str, Labelled]:
    parts = {}
    for part, frame in read_frames(name, path).items():
        labels = labels_of(f"{name}, {part}", frame, LABEL, [TEXT], decides=part == "train")
        parts[part] = list(zip(frame[TEXT].fillna("").astype(str), labels, strict=True))
    return parts


def _read(file: Path) -> str:
    try:
        return read_text(file, TEXT_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as UTF-8: {error}; convert or remove it") from None


def load_standard_library() -> DataSet:
    """Functions and methods of six packages of the running Python: which package each is of.

    Real text that is everywhere; it changes with the version of Python.
    """
    name = "python-functions"
    root = Path(sysconfig.get_path("stdlib"))
    found: dict[str, str] = {}
    for package in STANDARD_PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            if not any("test" in part for part in file.relative_to(root / package).parts[:-1]):
                found.update((text, package) for text in _functions(_read(file)))
    missing = set(STANDARD_PACKAGES) - set(found.values())
    if missing:
        raise DataError(f"{name}: {root} has no sources of {', '.join(sorted(missing))}")
    return _data_set(name, {"train": list(found.items())}, STANDARD_PACKAGES)


def _functions(source: str) -> Iterator[str]:
    """Sources of the functions of a module and of the methods of its classes."""
    lines = source.splitlines()
    module = ast.parse(source)
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    for node in chain(module.body, *(of.body for of in classes)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield "\n".join(lines[node.lineno - 1 : node.end_lineno])


def _data_set(name: str, parts: Mapping[str, Labelled], class_names: tuple[str, ...]) -> DataSet:
    """Split what has no splits, and number words by what train holds."""
    texts = [words_of(text) for rows in parts.values() for text, _ in rows]
    numbered, start = {}, 0
    for part, rows in parts.items():
        labels = class_numbers(f"{name}, {part}", [label for _, label in rows], class_names)
        numbered[part] = Split(torch.arange(start, start + len(rows)), labels)
        start += len(rows)
    splits = three_splits(numbered)
    of_train = [texts[i] for i in splits[0].inputs]
    vocabulary, length = vocabulary_of(of_train), length_of(of_train)
    train, validation, test = (
        Split(encode([texts[i] for i in split.inputs], vocabulary, length), split.labels)
        for split in splits
    )
    return DataSet(name, train, validation, test, class_names, vocabulary)
