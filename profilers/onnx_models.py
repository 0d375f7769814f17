"""Read ONNX models from strangers, and make inputs for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx.external_data_helper import (
    ExternalDataInfo,
    load_external_data_for_tensor,
    uses_external_data,
)

from profilers.errors import ModelError
from profilers.kernels import AttributeValue
from profilers.limited import read_bytes

# The newest that the runtimes in `targets.py` read; `onnx` itself may write newer ones.
MAX_IR_VERSION = 11
MAX_BYTES = 2**31 - 1  # with its weights: runtimes are given it as one protobuf


@dataclass(frozen=True)
class InputSpec:
    """Name, element type and static shape of one input of a model."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class OnnxModel:
    """A checked model with static input shapes.

    Attributes:
        name: File name without its ending.
        proto: The model; every node has a name of its own.
        inputs: What a run must be given, initialisers left out.
        digest: Tells models apart: hash of the bytes and, where the file leaves shapes of inputs
            open, of the shapes given.
        dimensions: Values for the symbolic dimensions of the inputs, by their name.
    """

    name: str
    proto: onnx.ModelProto
    inputs: tuple[InputSpec, ...]
    digest: str
    dimensions: Mapping[str, int]

    @property
    def batch(self) -> int:
        """Examples in one run, by the first dimension of the first input; 1 where it has none."""
        first = self.inputs[0].shape if self.inputs else ()
        return first[0] if len(first) > 1 else 1

    def random_inputs(self, rng: np.random.Generator) -> dict[str, NDArray[np.generic]]:
        """Standard normal floats and small integers of the right shapes, by input name."""
        feed: dict[str, NDArray[np.generic]] = {}
        for spec in self.inputs:
            if np.issubdtype(spec.dtype, np.floating):
                feed[spec.name] = rng.standard_normal(spec.shape).astype(spec.dtype)
            else:  # token ids, masks, lengths: 0 and 1 are valid for all
                feed[spec.name] = rng.integers(0, 2, spec.shape).astype(spec.dtype)
        return feed


def load_model(
    path: Path, *, batch: int | None = None, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> OnnxModel:
    """Read and check an ONNX file.

    Args:
        path: The file.
        batch: Value of a symbolic first dimension; None: such a dimension needs `shapes`.
        shapes: Shapes of inputs by name, where the file leaves them open.

    Raises:
        ModelError: The file is missing, no ONNX, not valid, or its shapes stay open.
    """
    try:
        data = read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        proto = onnx.load_model_from_string(data)
        if not proto.graph.node and not proto.graph.output:
            raise DecodeError("it holds no graph")
        _load_weights(proto, path.parent, len(data))
        return make_model(
            proto,
            name=path.stem,
            digest=hashlib.sha256(data).hexdigest(),
            batch=batch,
            shapes=shapes,
        )
    # TypeError: a name that is no UTF-8 is read as bytes.
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path} is not a readable ONNX model ({len(data):,} bytes): {reason}. "
            f"Export it again, or check that the download is complete."
        ) from None


def _load_weights(proto: onnx.ModelProto, folder: Path, n_bytes: int) -> None:
    """Read the weights that lie in other files.

    Args:
        proto: The model; they are put into it.
        folder: Of the model; ONNX's own reader refuses files outside of it.
        n_bytes: Of the model without them.

    Raises:
        ValueError, OSError, onnx.checker.ValidationError: They are not there, outside of the
            folder, or with them the model has more than `MAX_BYTES`.
    """
    graphs = [proto.graph, *proto.functions]
    for tensor in (tensor for graph in graphs for tensor in _tensors(graph)):
        if not uses_external_data(tensor):
            continue
        place = ExternalDataInfo(tensor)
        start, n_there = place.offset or 0, (folder / place.location).stat().st_size
        length = n_there - start if place.length is None else place.length
        if start < 0 or length < 0 or start + length > n_there:
            raise ValueError(f"{place.location} does not hold all of the weights {tensor.name!r}")
        # Before it is read: many tensors may name the same large file.
        n_bytes += length
        if n_bytes > MAX_BYTES:
            raise ValueError(f"with its weights it has more than {MAX_BYTES:,} bytes")
        load_external_data_for_tensor(tensor, str(folder))
        # Older versions of `onnx` leave it to be said that they are here now.
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _tensors(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    """The tensors that a graph holds, and the graphs in it."""
    if isinstance(graph, onnx.GraphProto):
        yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def make_model(
    proto: onnx.ModelProto,
    *,
    name: str,
    digest: str | None = None,
    batch: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> OnnxModel:
    """Check a model that is already in memory; see `load_model`."""
    shapes = dict(shapes or {})
    digest = digest or hashlib.sha256(proto.SerializeToString()).hexdigest()
    proto.ir_version = min(proto.ir_version, MAX_IR_VERSION)
    weights = {tensor.name for tensor in proto.graph.initializer}
    weights |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    dimensions: dict[str, int] = {}
    inputs = []
    is_open = False
    for value in proto.graph.input:
        if value.name in weights:
            continue
        if not value.type.HasField("tensor_type"):
            raise ModelError(
                f"input {value.name!r} of {name} is no tensor; only tensors are supported"
            )
        given = shapes.pop(value.name, None)
        shape = _static_shape(name, value, batch, given, dimensions)
        is_open |= _is_open(value)
        try:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        except KeyError as error:
            raise ModelError(
                f"input {value.name!r} of {name} has the element type {error}, which is no type "
                f"of ONNX"
            ) from None
        inputs.append(InputSpec(value.name, np.dtype(dtype), shape))
    if shapes:
        raise ModelError(
            f"{name} has no input {sorted(shapes)[0]!r}; its inputs are "
            f"{', '.join(repr(spec.name) for spec in inputs)}"
        )
    if is_open:
        given_shapes = [(spec.name, spec.shape) for spec in inputs]
        digest = hashlib.sha256(f"{digest}{given_shapes!r}".encode()).hexdigest()
    _name_nodes(proto)
    return OnnxModel(name, proto, tuple(inputs), digest, dimensions)


def _is_open(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return not tensor.HasField("shape") or any(d.dim_value < 1 for d in tensor.shape.dim)


def _static_shape(
    model: str,
    value: onnx.ValueInfoProto,
    batch: int | None,
    given: tuple[int, ...] | None,
    dimensions: dict[str, int],
) -> tuple[int, ...]:
    tensor = value.type.tensor_type
    dims = list(tensor.shape.dim)
    text = "×".join(
        d.dim_param or (str(d.dim_value) if d.HasField("dim_value") else "?") for d in dims
    )
    if given is not None:
        fits = (not tensor.HasField("shape")) or (
            len(given) == len(dims)
            and all(
                d.dim_value == size or d.dim_value < 1  # 0 and -1 are meant as "any"
                for d, size in zip(dims, given, strict=True)
            )
        )
        if not fits or any(size < 1 for size in given):
            raise ModelError(
                f"input {value.name!r} of {model} has shape {text}; the given shape "
                f"{'×'.join(map(str, given))} does not fit it"
            )
        shape = given
    else:
        open_dims = [d for d in dims if d.dim_value < 1]
        is_batch = batch is not None and open_dims == dims[:1]
        if (open_dims and not is_batch) or not tensor.HasField("shape"):
            batch_hint = " (or --batch N)" if open_dims == dims[:1] else ""
            example = ",".join(
                str(d.dim_value) if d.dim_value > 0 else "1" if i == 0 else "N"
                for i, d in enumerate(dims)
            )
            raise ModelError(
                f"input {value.name!r} of {model} has the dynamic shape {text or 'unknown'}; a "
                f"latency needs a static one: give --shape {value.name}={example or '...'}"
                f"{batch_hint}"
            )
        shape = tuple(int(d.dim_value if d.dim_value > 0 else batch or 1) for d in dims)
    for dim, size in zip(dims, shape, strict=False):
        if dim.dim_param:
            dimensions[dim.dim_param] = size
    return shape


def check_batch(model: OnnxModel, batch: int) -> None:
    """Make sure that one run of `model` is `batch` examples.

    Raises:
        ModelError: The model has another batch fixed.
    """
    if model.batch != batch:
        raise ModelError(
            f"one run of {model.name} is a batch of {model.batch}, but the target has batch "
            f"{batch}: use a target of that batch, or export the model again"
        )


def _name_nodes(proto: onnx.ModelProto) -> None:
    """Give every node a name of its own: the runtime's profile knows nodes by name only."""
    taken = {node.name for node in proto.graph.node}
    seen: set[str] = set()
    for i, node in enumerate(proto.graph.node):
        if not node.name or node.name in seen:
            name = f"{node.name or node.op_type}__{i}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)
        seen.add(node.name)


def node_attributes(node: onnx.NodeProto) -> tuple[tuple[str, AttributeValue], ...]:
    """A node's attributes by name; tensors are left out, their size is in the shapes.

    Graphs are told apart by sixteen hexadecimal digits of what they say.
    """
    found: list[tuple[str, AttributeValue]] = []
    for attribute in sorted(node.attribute, key=lambda a: a.name):
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            found.append((attribute.name, value.decode("utf-8", "replace")))
        elif isinstance(value, int | float):
            found.append((attribute.name, value))
        elif isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value):
            found.append((attribute.name, tuple(value)))
        elif isinstance(value, onnx.GraphProto):
            said = value.SerializeToString(deterministic=True)
            found.append((attribute.name, hashlib.sha256(said).hexdigest()[:16]))
    return tuple(found)
