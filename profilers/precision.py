"""A model in another precision, by the tools that ship with ONNX Runtime.

What is wanted is a model that costs what a carefully converted one costs, not one that is accurate:
the ranges of an int8 model come from random inputs, and no latency depends on them.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from numpy.typing import NDArray

from profilers.errors import ModelError
from profilers.onnx_models import OnnxModel, make_model

N_CALIBRATION_RUNS = 2
FIRST_IR_VERSION_WITH_FREE_WEIGHTS = 4
FIRST_OPSET_PER_CHANNEL = 13
MAX_BYTES = 2**31 - 1  # of a message of Protocol Buffers, and so of a model without external data


def convert(model: OnnxModel, precision: str, *, symmetric: bool = False) -> OnnxModel:
    """Make a model that computes in `precision`; its inputs and outputs stay as they are.

    fp16 models have casts at their ends; int8 models are statically quantized, with one scale per
    output channel of the weights (per tensor before opset 13) and pairs of QuantizeLinear and
    DequantizeLinear, which every runtime fuses in its own way. Operators without a kernel for
    the precision stay in fp32.

    Args:
        model: In fp32, or already in int8; it is not changed.
        precision: `fp32` (the model itself), `fp16` or `int8`.
        symmetric: Quantize activations to signed numbers with 0 as 0, as GPUs need it.

    Returns:
        A model of the same name and digest, with all symbolic dimensions replaced by their sizes.

    Raises:
        ModelError: The model is larger than 2 GB, or cannot be converted.
    """
    if precision == "fp32" or (precision == "int8" and _is_quantized(model.proto)):
        return model
    converters = {"fp16": _to_fp16, "int8": _to_int8}
    if precision not in converters:
        raise ValueError(f"precision must be fp32, fp16 or int8, got {precision!r}")
    n_bytes = _n_bytes(model.proto)
    if n_bytes > MAX_BYTES:
        raise ModelError(
            f"{model.name} has {n_bytes / 1e9:.1f} GB, and models of more than 2 GB cannot be "
            f"converted to {precision}: measure it in fp32, or give a model that is {precision} "
            f"already"
        )
    static = replace(model, proto=_with_static_inputs(model), dimensions={})
    try:
        with quiet():
            proto = converters[precision](static, symmetric)
    except Exception as error:  # the tools share no base class for what they cannot handle
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"{model.name} cannot be converted to {precision}: {reason}") from None
    return make_model(proto, name=model.name, digest=model.digest)


class Converter:
    """Converts to one precision and remembers the last models, which are loaded more than once."""

    def __init__(self, precision: str, *, symmetric: bool = False, n_remembered: int = 2) -> None:
        self._precision = precision
        self._symmetric = symmetric
        self._n_remembered = n_remembered
        self._converted: dict[tuple[object, ...], OnnxModel] = {}

    def __call__(self, model: OnnxModel) -> OnnxModel:
        """See `convert`."""
        if self._precision == "fp32":
            return model
        # One file can be loaded with several shapes, which the digest does not tell apart.
        key = (model.digest, model.inputs)
        if key not in self._converted:
            converted = convert(model, self._precision, symmetric=self._symmetric)
            while len(self._converted) >= self._n_remembered:
                del self._converted[next(iter(self._converted))]
            self._converted[key] = converted
        return self._converted[key]


def _is_quantized(proto: onnx.ModelProto) -> bool:
    return any("QuantizeLinear" in n.op_type or "QLinear" in n.op_type for n in proto.graph.node)


def _n_bytes(proto: onnx.ModelProto) -> int:
    try:
        return int(proto.ByteSize())
    except EncodeError:  # what is too large has no size
        return MAX_BYTES + 1


def _with_static_inputs(model: OnnxModel) -> onnx.ModelProto:
    """A copy with the sizes of all inputs, so that shape inference knows all tensors."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    shapes = {spec.name: spec.shape for spec in model.inputs}
    # Old files list weights among the inputs; a tool that folds a weight away leaves its input.
    inputs = [value for value in proto.graph.input if value.name in shapes]
    proto.ir_version = max(proto.ir_version, FIRST_IR_VERSION_WITH_FREE_WEIGHTS)
    for value in inputs:
        shape = value.type.tensor_type.shape
        shape.Clear()
        for size in shapes[value.name]:
            shape.dim.add().dim_value = size
    kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in inputs]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    for value in proto.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in model.dimensions:
                dim.dim_value = model.dimensions[dim.dim_param]
    return proto


def _to_fp16(model: OnnxModel, symmetric: bool) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    proto: onnx.ModelProto = convert_float_to_float16(model.proto, keep_io_types=True)
    return proto


def _to_int8(model: OnnxModel, symmetric: bool) -> onnx.ModelProto:
    from onnxruntime import quantization

    signed, unsigned = quantization.QuantType.QInt8, quantization.QuantType.QUInt8
    with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
        source, prepared, quantized = (Path(folder) / f"{i}.onnx" for i in range(3))
        onnx.save_model(model.proto, source)
        # Folds what can be folded, and infers the shapes: the inputs are static.
        quantization.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(quantized),
            _RandomInputs(model),
            per_channel=_opset(model.proto) >= FIRST_OPSET_PER_CHANNEL,
            activation_type=signed if symmetric else unsigned,
            weight_type=signed,
            extra_options={"ActivationSymmetric": symmetric},
        )
        return onnx.load_model(quantized)


def _opset(proto: onnx.ModelProto) -> int:
    return max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=1)


class _RandomInputs:
    """Inputs for the calibration, one at a time, then None."""

    def __init__(self, model: OnnxModel) -> None:
        rng = np.random.default_rng(0)
        self._feeds = iter([model.random_inputs(rng) for _ in range(N_CALIBRATION_RUNS)])

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        """The next input."""
        return next(self._feeds, None)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the tools from writing to the log and from warning; what matters is raised."""
    disabled_before = logging.root.manager.disable
    handler = logging.NullHandler()
    logging.root.addHandler(handler)  # the first message without any would add one for good
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled_before)
        logging.root.removeHandler(handler)
