"""From a network to ONNX, and the proof that both compute the same. The exporter is chosen here."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from hwnas.errors import ExportMismatchError, RunFolderError
from hwnas.networks import example, without_fast_paths
from hwnas.spaces.base import InputType
from profilers.errors import ModelError
from profilers.onnx_models import MAX_IR_VERSION

OPSET = 17
PARITY_ATOL = 1e-4
INPUT, OUTPUT = "input", "logits"
BATCH = 256
BATCH_AXIS = "batch"
TRACED_BATCH = 2  # of models for any batch: a tracer may take 1 for a constant


def to_onnx(
    module: nn.Module,
    examples: Sequence[torch.Tensor],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_batch: bool = False,
) -> onnx.ModelProto:
    """Export `module` for inputs of exactly the shapes of `examples`, but of any batch if asked.

    torch's TorchScript exporter: it takes milliseconds a block where the newer one takes a
    hundred times that, which decides whether a space can be costed in seconds. Where a torch no
    longer has it, the newer one is used.
    """
    module.eval()
    buffer = io.BytesIO()
    names = [*input_names, *output_names]
    axes = {name: {0: BATCH_AXIS} for name in names} if dynamic_batch else None
    with warnings.catch_warnings(), torch.no_grad(), without_fast_paths():
        warnings.simplefilter("ignore")  # it announces its retirement at every call
        try:
            torch.onnx.export(
                module, tuple(examples), buffer,  # type: ignore[arg-type]  # (it takes files too)
                dynamo=False, opset_version=OPSET, input_names=list(input_names),
                output_names=list(output_names), dynamic_axes=axes,
            )  # fmt: skip
        except (TypeError, ImportError, AttributeError):
            program = torch.onnx.export(
                module, tuple(examples), dynamo=True, opset_version=OPSET + 1, verbose=False,
                input_names=list(input_names), output_names=list(output_names), dynamic_axes=axes,
            )  # fmt: skip
            assert program is not None
            proto: onnx.ModelProto = program.model_proto
        else:
            proto = onnx.load_model_from_string(buffer.getvalue())
    proto.ir_version = min(proto.ir_version, MAX_IR_VERSION)
    return proto


def network_to_onnx(
    network: nn.Module,
    input_shape: Sequence[int],
    *,
    batch: int | None = 1,
    input_type: InputType = "float32",
) -> onnx.ModelProto:
    """Export a network for inputs `(batch, *input_shape)` of `input_type`.

    `batch` None: the model takes any, which may cost it some speed.
    """
    inputs = [example(tuple(input_shape), input_type, batch=batch or TRACED_BATCH)]
    return to_onnx(
        network, inputs, input_names=[INPUT], output_names=[OUTPUT], dynamic_batch=batch is None
    )


def save_onnx(proto: onnx.ModelProto, path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write the model with `metadata` as its properties, whole or not at all.

    Raises:
        RunFolderError: It cannot be written.
    """
    del proto.metadata_props[:]
    for key, value in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(proto.SerializeToString())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # its folder may be a file
            part.unlink(missing_ok=True)
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from None


def run_onnx(path: Path, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
    """Logits of ONNX Runtime, one row for each of the n `inputs`, `(n, *input_shape)`.

    A model with a fixed batch b is run on b inputs at a time, the last ones filled up with zeros.

    Raises:
        ModelError: ONNX Runtime cannot load the model, or cannot run it on such inputs.
    """
    try:
        return _run_onnx(path, inputs)
    except Exception as error:  # the runtime's exceptions share no other base
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"ONNX Runtime cannot run {path} on these inputs: {reason}") from error


def _run_onnx(path: Path, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    spec = session.get_inputs()[0]
    batch = spec.shape[0] if isinstance(spec.shape[0], int) else BATCH
    logits = []
    for start in range(0, len(inputs), batch):
        part = inputs[start : start + batch]
        if len(part) < batch and isinstance(spec.shape[0], int):
            filled = np.zeros((batch, *part.shape[1:]), part.dtype)
            filled[: len(part)] = part
            logits.append(session.run(None, {spec.name: filled})[0][: len(part)])
        else:
            logits.append(session.run(None, {spec.name: part})[0])
    return np.concatenate(logits)


def check_parity(
    path: Path, network: nn.Module, inputs: torch.Tensor, *, atol: float = PARITY_ATOL
) -> float:
    """Largest absolute difference between the ONNX model's logits and the network's.

    Raises:
        ExportMismatchError: It is above `atol`, or not a number; the file is removed, because a
            file that exists is a file that was checked.
    """
    network.eval()
    with torch.inference_mode():
        expected = network(inputs).numpy()
    actual = run_onnx(path, inputs.numpy())
    worst = float(np.abs(actual - expected).max()) if actual.shape == expected.shape else np.nan
    if not worst <= atol:  # also true for NaN
        path.unlink(missing_ok=True)
        raise ExportMismatchError(
            f"{path.name}: outputs of ONNX Runtime and PyTorch differ by up "
            f"to {worst:.3g} on {len(inputs)} real inputs, more than {atol=}"
        )
    return worst
