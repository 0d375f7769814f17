"""Preprocessing as part of the model: stored examples in, such as bytes of an image, logits out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hwnas.data import Preprocessing
from hwnas.data.scaling import resize
from hwnas.spaces.architecture import Shape

WHITE = 255.0
_PREFIX = "preprocessing/"
# An operator of ONNX with its inputs in order: a constant, or None for what comes before it.
_Step = tuple[str, tuple[NDArray[np.float32] | None, ...]]


def with_raw_input(
    proto: onnx.ModelProto, preprocessing: Preprocessing, shape: Shape, dtype: torch.dtype
) -> onnx.ModelProto:
    """Put `preprocessing` in front of a model, whose input becomes examples as data sets hold them.

    Args:
        proto: A model of one float32 input `(batch, *preprocessing.input_shape)`; not changed.
        preprocessing: Of images, signals or tables.
        shape: Of one example as it is stored.
        dtype: `torch.uint8` (images only) or `torch.float32`.

    Returns:
        A model of one input of the same name, `(batch, *shape)` of `dtype`.

    Raises:
        ValueError: The examples are tokens: their ids are what the model takes already.
    """
    if preprocessing.kind == "tokens":
        raise ValueError("the model takes token ids as they are; no operator of ONNX cuts a text")
    raw = onnx.ModelProto()
    raw.CopyFrom(proto)
    graph = raw.graph
    spec = graph.input[0]
    is_bytes = dtype == torch.uint8
    at = spec.name
    nodes = []
    if is_bytes:
        nodes.append(helper.make_node("Cast", [at], [f"{_PREFIX}Cast"], to=TensorProto.FLOAT))
        at = f"{_PREFIX}Cast"
    for i, (operator, inputs) in enumerate(_steps(preprocessing, shape, is_bytes=is_bytes)):
        names = []
        for j, values in enumerate(inputs):
            names.append(at if values is None else f"{_PREFIX}{operator}_{i}_{j}")
            if values is not None:
                graph.initializer.append(numpy_helper.from_array(values, names[-1]))
        at = f"{_PREFIX}{operator}_{i}"
        nodes.append(helper.make_node(operator, names, [at]))
    for node in graph.node:
        node.input[:] = [at if name == spec.name else name for name in node.input]
    own = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *own])
    batch = spec.type.tensor_type.shape.dim[0]
    sizes = [batch.dim_param or batch.dim_value, *shape]
    element = TensorProto.UINT8 if is_bytes else TensorProto.FLOAT
    spec.CopyFrom(helper.make_tensor_value_info(spec.name, element, sizes))
    return raw


def _steps(preprocessing: Preprocessing, shape: Shape, *, is_bytes: bool) -> Iterator[_Step]:
    """What `Preprocessing.apply` does, as operators on floats."""
    if shape != preprocessing.input_shape:
        (height, width), (to_height, to_width) = shape[1:], preprocessing.input_shape[1:]
        yield "MatMul", (None, np.ascontiguousarray(_resizing(width, to_width).T))
        yield "MatMul", (_resizing(height, to_height), None)
        if is_bytes:
            yield "Round", (None,)  # half to even, as torch does
            yield "Clip", (None, np.array(0, np.float32), np.array(WHITE, np.float32))
    scale = WHITE if is_bytes else 1.0
    along = (-1, *[1] * (len(shape) - 1))
    # First the difference: a feature's mean may be far larger than its deviation.
    yield "Sub", (None, np.array(preprocessing.mean, np.float32).reshape(along) * np.float32(scale))
    yield "Div", (None, np.array(preprocessing.std, np.float32).reshape(along) * np.float32(scale))


def _resizing(size: int, to: int) -> NDArray[np.float32]:
    """The matrix `(to, size)` by which `Preprocessing.resize` resizes one axis; it is linear."""
    unit = torch.eye(size).reshape(1, 1, size, size)
    matrix: NDArray[np.float32] = resize(unit, to, size)[0, 0].numpy()
    return matrix
