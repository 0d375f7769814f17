"""What a data set is in memory: fixed splits of labelled examples of one kind and shape."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from hwnas.data.kinds import EXAMPLES, SHAPES, WHAT_IS_NEEDED, Kind, kind_of
from hwnas.data.scaling import moments
from hwnas.errors import DataError
from hwnas.spaces.architecture import Shape, shape_text

SPLIT_SEED = 0
HELD_OUT_SHARE = 0.15  # validation, and test, of a source that does not bring its own
N_SPECIAL_IDS = 2  # of words: 0 is padding, 1 stands for every word that train does not know


@dataclass(frozen=True, eq=False)
class Split:
    """Examples along the first axis of `inputs`, and labels `(n,)`, int64, in memory of the CPU.

    `inputs` are images `(n, channels, height, width)`, uint8 or float32; signals
    `(n, channels, length)`, float32; rows of a table `(n, features)`, float32; or token ids
    `(n, length)`, int64.
    """

    inputs: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> Split:
        """The rows `index`, copied."""
        rows = torch.from_numpy(index)
        return Split(self.inputs[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class DataSet:
    """Three splits of examples of one kind and shape, labelled 0 to K-1.

    Two data sets compare equal only if they are the same object; compare the `fingerprint`.

    Attributes:
        words: Of token ids that stand for words: that of id i is `words[i - 2]`, id 0 is padding
            and 1 every other word. Empty: the ids stand for something else.

    Raises:
        DataError: If a split is empty or its shape, type or labels cannot be used.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            where, split = f"{self.name}, {part}", getattr(self, part)
            kind = check_split(where, split)
            shape = tuple(split.inputs.shape[1:])
            if kind != self.kind or shape != self.input_shape:
                raise DataError(
                    f"{where}: {EXAMPLES[kind]} are {shape} but {EXAMPLES[self.kind]} of train are "
                    f"{self.input_shape}; they must have one shape"
                )
            if int(split.labels.max()) >= self.n_classes:
                raise DataError(
                    f"{where}: labels must be in 0 to {self.n_classes - 1} (the classes of "
                    f"train), got {int(split.labels.max())}"
                )
        present = set(self.train.labels.tolist())
        absent = [name for i, name in enumerate(self.class_names) if i not in present]
        if absent:
            raise DataError(
                f"{self.name}: every class needs an example in train, labels must be 0 to K-1; "
                f"none for class {', '.join(absent)}"
            )
        if self.n_classes < 2:
            raise DataError(f"{self.name}: needs at least 2 classes, got {self.class_names}")

    @property
    def kind(self) -> Kind:
        """What the examples are: `image`, `signal`, `table` or `tokens`."""
        kind = kind_of(self.train.inputs)
        assert kind is not None, "checked on construction"
        return kind

    @property
    def input_shape(self) -> Shape:
        """Shape of one example as it is stored, such as `(channels, height, width)`."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @cached_property
    def vocabulary(self) -> int | None:
        """Token ids are below it; None: the examples are no tokens."""
        if self.kind != "tokens":
            return None
        if self.words:
            return len(self.words) + N_SPECIAL_IDS
        return 1 + max(int(s.inputs.max()) for s in (self.train, self.validation, self.test))

    @cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return moments(self.train.inputs, self.kind)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel or feature over train, uint8 scaled to [0, 1]; of tokens none."""
        return self._moments[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each over train, uint8 scaled to [0, 1], above 0; see `moments`."""
        return self._moments[1]

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of all examples, labels and names: a run notices that data changed."""
        digest = hashlib.sha256("\n".join((*self.class_names, *self.words)).encode())
        for split in (self.train, self.validation, self.test):
            for tensor in (split.inputs, split.labels):
                digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def describe(self) -> str:
        """Such as `1,797 images of 1×8×8 in 10 classes`."""
        n = len(self.train) + len(self.validation) + len(self.test)
        shape = shape_text(self.input_shape)
        return f"{n:,} {EXAMPLES[self.kind]} of {shape} in {self.n_classes} classes"


def check_split(where: str, split: Split) -> Kind:
    """The kind of the split's examples.

    Raises:
        DataError: Beginning with `where`: no network can be trained on the split.
    """
    inputs, labels = split.inputs, split.labels
    kind = kind_of(inputs)
    if kind is None:
        raise DataError(
            f"{where}: expected {WHAT_IS_NEEDED}; got {tuple(inputs.shape)}, {inputs.dtype}"
        )
    if labels.dtype != torch.int64 or labels.shape != inputs.shape[:1]:
        raise DataError(
            f"{where}: labels must be ({len(inputs)},), integers, one for each example, "
            f"got {tuple(labels.shape)}, {labels.dtype}"
        )
    if not inputs.numel():
        raise DataError(f"{where}: no {EXAMPLES[kind]}, got {SHAPES[kind]} = {tuple(inputs.shape)}")
    if inputs.is_floating_point() and not inputs.isfinite().all():
        bad = int((~inputs.flatten(1).isfinite().all(dim=1)).nonzero()[0])
        raise DataError(f"{where}: {EXAMPLES[kind]}[{bad}] has NaN or infinite values")
    if kind == "tokens" and int(inputs.min()) < 0:
        raise DataError(f"{where}: token ids must be >= 0, got {int(inputs.min())}")
    if int(labels.min()) < 0:
        raise DataError(f"{where}: labels must be >= 0, got {int(labels.min())}")
    return kind


def stratified_order(labels: torch.Tensor, *, seed: int = SPLIT_SEED) -> NDArray[np.int64]:
    """A fixed permutation of which every contiguous part holds the classes in proportion.

    Each class is shuffled and then spread evenly over the positions.

    Returns:
        `(n,)` indices into `labels`.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    classes = labels.numpy()[shuffled]
    place = np.empty(len(classes))
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled[np.argsort(place, kind="stable")]


def cut(split: Split, *n_last: int) -> list[Split]:
    """Cut parts of the given sizes off the end of the stratified order; what is left is first."""
    stops = len(split) - np.cumsum(n_last[::-1])[::-1]
    if stops[0] < 1 or min(n_last) < 1:
        raise DataError(
            f"{len(split)} examples are too few to split off {' and '.join(map(str, n_last))} "
            f"for validation and test; bring more of them"
        )
    return [split.take(index) for index in np.split(stratified_order(split.labels), stops)]


def three_splits(parts: Mapping[str, Split]) -> tuple[Split, Split, Split]:
    """Train, validation and test from what a source brings.

    Args:
        parts: `train`, with `test` or without, with `validation` or without: 15 % of train are
            split off for each that is missing, classes in proportion, always the same ones.
    """
    missing = [part for part in ("validation", "test") if part not in parts]
    train, *new = parts["train"], *()
    if missing:
        n = round(HELD_OUT_SHARE * len(train))
        train, *new = cut(train, *[n] * len(missing))
    found = {**parts, **dict(zip(missing, new, strict=True))}
    return train, found["validation"], found["test"]


def class_names_of(labels: Sequence[str]) -> tuple[str, ...]:
    """The distinct labels in order: by value if all are whole numbers, else by name."""
    distinct = set(labels)
    try:
        return tuple(sorted(distinct, key=int))
    except ValueError:
        return tuple(sorted(distinct))


def class_numbers(where: str, labels: Sequence[str], class_names: Sequence[str]) -> torch.Tensor:
    """The position of each label among the classes, `(n,)` int64.

    Raises:
        DataError: Beginning with `where`: a label is none of the classes, which are those of train.
    """
    number = {name: i for i, name in enumerate(class_names)}
    extra = sorted(set(labels) - number.keys())
    if extra:
        raise DataError(f"{where} has classes that train has not: {', '.join(extra)}")
    return torch.tensor([number[label] for label in labels], dtype=torch.int64)
