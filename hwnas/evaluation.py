"""What an exported model is worth on data: ONNX Runtime, not PyTorch, on a named split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hwnas.data import DataSet, Split, normalise, resize
from hwnas.errors import DataError
from hwnas.export import run_onnx
from hwnas.metrics import Scores, score
from profilers.errors import ModelError
from profilers.onnx_models import OnnxModel, load_model

METADATA_KEY = "hwnas"
SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Preprocessing:
    """What is done to images of the data before the model sees them.

    Attributes:
        resolution: They are resized to this many pixels, square, bilinear.
        mean: Per channel, after scaling to [0, 1].
        std: Per channel.
    """

    resolution: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, split: Split) -> torch.Tensor:
        """Images as the model takes them, `(n, c, resolution, resolution)` float32."""
        return normalise(resize(split.images, self.resolution), self.mean, self.std)


def read_metadata(model: OnnxModel) -> dict[str, Any]:
    """What `hwnas` wrote into the model; empty for a model from elsewhere."""
    texts = {entry.key: entry.value for entry in model.proto.metadata_props}
    try:
        found = json.loads(texts.get(METADATA_KEY, "{}"))
    except json.JSONDecodeError:
        found = {}
    return found if isinstance(found, dict) else {}


def preprocessing_of(model: OnnxModel, data: DataSet) -> Preprocessing:
    """As the model's metadata says; for a model from elsewhere, its input size and the data's mean.

    Raises:
        DataError: The model does not take images of this data.
    """
    shape = model.inputs[0].shape if len(model.inputs) == 1 else ()
    if len(shape) != 4 or shape[2] != shape[3] or shape[1] != data.input_shape[0]:
        takes = "; ".join(f"{i.name!r} {'×'.join(map(str, i.shape))}" for i in model.inputs)
        raise DataError(
            f"{model.name} takes {takes}, but images of {data.name!r} are batches of "
            f"{data.input_shape[0]} channels, square: a model with one input "
            f"batch×{data.input_shape[0]}×size×size is needed"
        )
    stated = read_metadata(model).get("preprocessing", {})
    try:
        mean = tuple(float(value) for value in stated.get("mean", data.mean))
        std = tuple(float(value) for value in stated.get("std", data.std))
        is_usable = len(mean) == len(std) == shape[1] and all(value > 0 for value in std)
    except (AttributeError, TypeError, ValueError):
        is_usable = False
    if not is_usable:
        raise ModelError(
            f"{model.name}: its metadata states a preprocessing that is none for "
            f"{shape[1]} channels: {str(stated)[:100]}; export it again"
        )
    return Preprocessing(resolution=int(shape[2]), mean=mean, std=std)


def evaluate_onnx(
    path: Path,
    data: DataSet,
    *,
    split: str = "test",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Scores:
    """Scores of the model at `path` on a split of the data; `shapes` as `load_model` takes them.

    Raises:
        ModelError: It is no model that can be run, or gives no class scores.
        DataError: It does not take images of this data, or the split is unknown.
    """
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    model = load_model(path, batch=1, shapes=shapes)
    chosen: Split = getattr(data, split)
    images = preprocessing_of(model, data).apply(chosen)
    logits = run_onnx(path, images.numpy())
    if logits.ndim != 2 or logits.shape[1] != data.n_classes:
        raise ModelError(
            f"{path.name} gives outputs of shape {logits.shape}, but {data.name!r} has "
            f"{data.n_classes} classes: n×{data.n_classes} is needed"
        )
    return score(chosen.labels.numpy(), logits.argmax(axis=1))
