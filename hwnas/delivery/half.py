"""fp16 twins: weights and activations of 16 bits, inputs and outputs as before."""

from __future__ import annotations

from pathlib import Path

import onnx

from profilers.onnx_models import load_model
from profilers.precision import convert
from profilers.runtimes.catalog import runtime_spec
from profilers.targets import Target


def why_no_fp16(target: Target) -> str | None:
    """None where models of fp16 are of use on `target`; else the reason, for people."""
    spec = runtime_spec(target.runtime)
    if spec.provider is None:
        return f"{target.runtime} takes its precision as a setting, not from the file"
    if "fp16" not in spec.precisions:
        return f"{target.runtime} computes in {' and '.join(spec.precisions)} only"
    return None


def fp16_twin(path: Path) -> onnx.ModelProto:
    """The model at `path` in fp16.

    Raises:
        ModelError: It cannot be converted.
    """
    return convert(load_model(path, batch=1), "fp16").proto
