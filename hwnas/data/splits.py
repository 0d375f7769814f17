"""What a data set is in memory: fixed splits of images and labels, and what is done to images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from hwnas.errors import DataError

SPLIT_SEED = 0
HELD_OUT_SHARE = 0.15  # validation, and test, of a source that does not bring its own
STD_FLOOR = 1 / 255  # a channel that varies less than one grey level is constant
CHUNK = 1024  # images that are converted to floats at a time


@dataclass(frozen=True, eq=False)
class Split:
    """Images `(n, C, H, W)`, uint8 or float32, and labels `(n,)`, int64, in memory of the CPU."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> Split:
        """The rows `index`, copied."""
        rows = torch.from_numpy(index)
        return Split(self.images[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class DataSet:
    """Three splits of images of one shape, labelled 0 to K-1.

    Two data sets compare equal only if they are the same object; compare the `fingerprint`.

    Raises:
        DataError: If a split is empty or its shape, type or labels cannot be used.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            where, split = f"{self.name}, {part}", getattr(self, part)
            check_split(where, split)
            if split.images.shape[1:] != self.train.images.shape[1:]:
                raise DataError(
                    f"{where}: images are {tuple(split.images.shape[1:])} but those of train are "
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
                f"{self.name}: every class needs a training image, labels must be 0 to K-1; "
                f"none for class {', '.join(absent)}"
            )
        if self.n_classes < 2:
            raise DataError(f"{self.name}: needs at least 2 classes, got {self.class_names}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """`(channels, height, width)` of the images as they are stored."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        images = self.train.images
        total = torch.zeros(images.shape[1], dtype=torch.float64)
        squares = torch.zeros_like(total)
        for chunk in torch.split(images, CHUNK):
            values = _unit_scale(chunk).double()
            total += values.sum(dim=(0, 2, 3))
            squares += values.square().sum(dim=(0, 2, 3))
        count = images.numel() / images.shape[1]
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=STD_FLOOR)
        return tuple(mean.tolist()), tuple(std.tolist())

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel over train, uint8 scaled to [0, 1]."""
        return self._moments[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel over train, uint8 scaled to [0, 1], floored."""
        return self._moments[1]

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of all images, labels and class names: a run notices that data changed."""
        digest = hashlib.sha256("\n".join(self.class_names).encode())
        for split in (self.train, self.validation, self.test):
            for tensor in (split.images, split.labels):
                digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:16]


def check_split(where: str, split: Split) -> None:
    """Raise DataError, beginning with `where`, if a network cannot be trained on the split."""
    images, labels = split.images, split.labels
    if images.ndim != 4 or images.dtype not in (torch.uint8, torch.float32):
        raise DataError(
            f"{where}: images must be (n, C, H, W), uint8 or floats, "
            f"got {tuple(images.shape)}, {images.dtype}"
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{where}: labels must be ({len(images)},), integers, one an image, "
            f"got {tuple(labels.shape)}, {labels.dtype}"
        )
    if not images.numel():
        raise DataError(f"{where}: no images, got shape {tuple(images.shape)}")
    if images.is_floating_point() and not images.isfinite().all():
        bad = int((~images.flatten(1).isfinite().all(dim=1)).nonzero()[0])
        raise DataError(f"{where}: image {bad} has NaN or infinite values")
    if int(labels.min()) < 0:
        raise DataError(f"{where}: labels must be >= 0, got {int(labels.min())}")


def _unit_scale(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def normalise(
    images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> torch.Tensor:
    """Scale uint8 to [0, 1], then subtract `mean` and divide by `std`, per channel.

    Args:
        images: `(n, C, H, W)`, uint8 or float32.
        mean: `C` values.
        std: `C` values, all > 0.
    Returns:
        `(n, C, H, W)`, float32, on the same device.
    """
    shape = (1, -1, 1, 1)
    centre = torch.tensor(mean, device=images.device).view(shape)
    return (_unit_scale(images) - centre) / torch.tensor(std, device=images.device).view(shape)


def resize(images: torch.Tensor, resolution: int) -> torch.Tensor:
    """Resize to squares, bilinear, with a low-pass filter where it shrinks.

    Args:
        images: `(n, C, H, W)`, uint8 or float32.
        resolution: Pixels a side.
    Returns:
        `(n, C, resolution, resolution)`, the same type (uint8 rounded half to even); the very
        same tensor if it has that size already.
    """
    if resolution < 1:
        raise ValueError(f"resolution must be >= 1 pixel, got {resolution}")
    if images.shape[2:] == (resolution, resolution):
        return images
    resized = images.new_empty((*images.shape[:2], resolution, resolution))
    for source, target in zip(torch.split(images, CHUNK), torch.split(resized, CHUNK), strict=True):
        # In floats: the integer kernels round differently from one CPU to the next.
        values = functional.interpolate(
            source.float(),
            size=(resolution, resolution),
            mode="bilinear",
            align_corners=False,
            antialias=True,  # where it enlarges, the filter is plain bilinear
        )
        target.copy_(values if images.is_floating_point() else values.round_().clamp_(0, 255))
    return resized


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
            f"{len(split)} images are too few to split off {' and '.join(map(str, n_last))} "
            f"for validation and test; bring more images"
        )
    return [split.take(index) for index in np.split(stratified_order(split.labels), stops)]


def held_out(split: Split) -> int:
    """How many images to split off for validation, or for test."""
    return round(HELD_OUT_SHARE * len(split))
