"""What is done to examples before a network sees them; exported models carry it along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch

from hwnas.data.kinds import EXAMPLES, Kind
from hwnas.data.scaling import normalise, resize
from hwnas.data.splits import DataSet, Split
from hwnas.errors import DataError
from hwnas.spaces.architecture import Shape, shape_text


@dataclass(frozen=True)
class Preprocessing:
    """From examples as a data set stores them to what a network takes.

    Images are resized; images, signals and tables are standardised by channel or feature, bytes
    scaled to [0, 1] before; token ids stay as they are.

    Attributes:
        kind: Of the examples.
        input_shape: What the network takes, without the batch.
        mean: Of each channel or feature over train; empty for tokens.
        std: Of each channel or feature over train, all above 0; empty for tokens.
        words: What token ids stand for, see `DataSet`; empty for other kinds.
    """

    kind: Kind
    input_shape: Shape
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    words: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: DataSet, input_shape: Shape) -> Preprocessing:
        """For a network that takes `input_shape`, with the moments of the data's train split.

        Raises:
            DataError: Such a network cannot be given the data's examples.
        """
        own = data.input_shape
        is_image = data.kind == "image"
        fits = (
            len(input_shape) == 3 and input_shape[0] == own[0] if is_image else input_shape == own
        )
        if not fits:
            needed = f"{own[0]}×height×width" if is_image else shape_text(own)
            raise DataError(
                f"a network for {shape_text(input_shape)} cannot take the {EXAMPLES[data.kind]} of "
                f"{data.name!r}, {shape_text(own)}: one for {needed} is wanted"
            )
        return cls(data.kind, input_shape, data.mean, data.std, data.words)

    def resize(self, inputs: torch.Tensor) -> torch.Tensor:
        """Stored examples at the network's size, the same type; only images change."""
        if self.kind != "image":
            return inputs
        return resize(inputs, self.input_shape[1], self.input_shape[2])

    def normalise(self, inputs: torch.Tensor) -> torch.Tensor:
        """Standardise examples of the network's size: float32; token ids are returned as given."""
        return normalise(inputs, self.mean, self.std) if self.mean else inputs

    def apply(self, inputs: torch.Tensor) -> torch.Tensor:
        """Stored examples `(n, ...)` as the network takes them, `(n, *input_shape)`."""
        return self.normalise(self.resize(inputs))

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON; what is empty is left out."""
        return {name: value for name, value in asdict(self).items() if value != ()}

    def stated(self, table: Mapping[str, Any]) -> Preprocessing:
        """The one that `table`, of `to_dict`, states; what it leaves out is as here.

        Raises:
            ValueError: It states one for another kind of data, or moments that cannot be used.
        """
        mean = tuple(float(value) for value in table.get("mean", self.mean))
        std = tuple(float(value) for value in table.get("std", self.std))
        is_usable = len(mean) == len(std) == len(self.mean) and all(0 < s < torch.inf for s in std)
        if not is_usable or table.get("kind", self.kind) != self.kind:
            raise ValueError(f"not for {len(self.mean)} channels or features of {self.kind} data")
        words = tuple(map(str, table.get("words", self.words)))
        return Preprocessing(self.kind, self.input_shape, mean, std, words)


@lru_cache(maxsize=4)
def resized(data: DataSet, input_shape: Shape) -> tuple[Split, Split]:
    """Train and validation at a network's size, kept for the next network that has it.

    Raises:
        DataError: A network for `input_shape` cannot be given the data's examples.
    """
    preprocessing = Preprocessing.of(data, input_shape)
    train, validation = (
        Split(preprocessing.resize(split.inputs), split.labels)
        for split in (data.train, data.validation)
    )
    return train, validation
