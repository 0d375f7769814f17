"""What an exported model is worth on data: ONNX Runtime, not PyTorch, on a named split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwnas.data import DataSet, Preprocessing, Split
from hwnas.data.kinds import EXAMPLES
from hwnas.errors import DataError
from hwnas.export import run_onnx
from hwnas.metrics import Scores, score
from hwnas.spaces.architecture import Shape, shape_text
from profilers.errors import ModelError
from profilers.onnx_models import OnnxModel, load_model

METADATA_KEY = "hwnas"
# In the metadata: whether the model takes prepared examples, or raw ones, as data sets hold them.
INPUT_KEY, PREPARED, RAW = "input", "prepared", "raw"
SPLITS = ("validation", "test")


def read_metadata(model: OnnxModel) -> dict[str, Any]:
    """What `hwnas` wrote into the model; empty for a model from elsewhere."""
    texts = {entry.key: entry.value for entry in model.proto.metadata_props}
    try:
        found = json.loads(texts.get(METADATA_KEY, "{}"))
    except (ValueError, RecursionError):  # no UTF-8, no JSON, or nested without end
        found = {}
    return found if isinstance(found, dict) else {}


def about_examples(data: DataSet) -> dict[str, Any]:
    """For the metadata of a model: what examples are before anything is done to them."""
    dtype = str(data.train.inputs.dtype).removeprefix("torch.")
    return {"example": {"shape": list(data.input_shape), "type": dtype}, INPUT_KEY: PREPARED}


def inputs_for(model: OnnxModel, data: DataSet, examples: torch.Tensor) -> torch.Tensor:
    """Stored examples `(n, ...)` of the data as the model takes them.

    Raises:
        DataError: The model does not take examples of this data.
        ModelError: Its metadata states a preprocessing that cannot be.
    """
    if read_metadata(model).get(INPUT_KEY) != RAW:
        return preprocessing_of(model, data).apply(examples)
    taken = [(spec.shape[1:], str(spec.dtype)) for spec in model.inputs]
    stored = tuple(examples.shape[1:]), str(examples.dtype).removeprefix("torch.")
    if taken != [stored]:
        raise DataError(
            f"{model.name} takes examples as they were stored, {_takes(model)}, but "
            f"{EXAMPLES[data.kind]} of {data.name!r} are {shape_text(stored[0])} {stored[1]}: "
            f"evaluate it on the data it was trained on"
        )
    return examples


def preprocessing_of(model: OnnxModel, data: DataSet) -> Preprocessing:
    """As the model's metadata says; for a model from elsewhere, its input size and the data's mean.

    Raises:
        DataError: The model does not take examples of this data.
        ModelError: Its metadata states a preprocessing that cannot be.
    """
    try:
        preprocessing = Preprocessing.of(data, _input_shape(model, data))
    except DataError:
        raise DataError(_refusal(model, data)) from None
    stated = read_metadata(model).get("preprocessing", {})
    try:
        found = preprocessing.stated(stated)
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{model.name}: its metadata states a preprocessing that cannot be done to "
            f"{EXAMPLES[data.kind]} of {data.name!r} ({error}): {str(stated)[:100]}; export it "
            f"again"
        ) from None
    if found.words != data.words:
        raise DataError(
            f"{model.name} knows {len(found.words)} words, others than the {len(data.words)} of "
            f"{data.name!r}, so that their ids differ: evaluate it on the data it was trained on"
        )
    return found


def _input_shape(model: OnnxModel, data: DataSet) -> Shape:
    """The shape of one example as the model takes it; empty where it takes no such batches."""
    if len(model.inputs) != 1:
        return ()
    spec = model.inputs[0]
    takes_integers = np.issubdtype(spec.dtype, np.integer)
    return tuple(spec.shape[1:]) if takes_integers == (data.kind == "tokens") else ()


def _takes(model: OnnxModel) -> str:
    return "; ".join(f"{i.name!r} {shape_text(i.shape)} {i.dtype}" for i in model.inputs)


def _refusal(model: OnnxModel, data: DataSet) -> str:
    own = data.input_shape
    text, values = shape_text(own), "integers" if data.kind == "tokens" else "floats"
    if data.kind == "image":
        text = f"{own[0]}×height×width"
    return (
        f"{model.name} takes {_takes(model)}, but {EXAMPLES[data.kind]} of {data.name!r} are "
        f"{shape_text(own)}: a model with one input batch×{text} of {values} is needed"
    )


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
        DataError: It does not take examples of this data, or the split is unknown.
    """
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    model = load_model(path, batch=1, shapes=shapes)
    chosen: Split = getattr(data, split)
    inputs = inputs_for(model, data, chosen.inputs)
    logits = run_onnx(path, inputs.numpy())
    if logits.ndim != 2 or logits.shape[1] != data.n_classes:
        raise ModelError(
            f"{path.name} gives outputs of shape {logits.shape}, but {data.name!r} has "
            f"{data.n_classes} classes: n×{data.n_classes} is needed"
        )
    return score(chosen.labels.numpy(), logits.argmax(axis=1))
