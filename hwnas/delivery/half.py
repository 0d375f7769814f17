"""Forms of 16 bits: fp16 is another file, bf16 a setting of the runtime that runs the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hwnas.data import DataSet, Split
from hwnas.evaluation import inputs_for
from hwnas.metrics import score
from profilers.isolation import AnyProfiler
from profilers.onnx_models import OnnxModel, load_model
from profilers.precision import convert
from profilers.runtimes.catalog import runtime_spec
from profilers.targets import Target

N_SITTINGS = 2  # of each precision, in turns


def why_no_fp16(target: Target) -> str | None:
    """None where models of fp16 are of use on `target`; else the reason, for people."""
    spec = runtime_spec(target.runtime)
    if spec.provider is None:
        return f"{target.runtime} takes its precision as a setting, not from the file"
    return _why_not(target, "fp16")


def why_no_bf16(target: Target) -> str | None:
    """None where the runtime of `target` may be told to compute in bf16; else why not, for people.

    Whether its processor can is another question, see `profilers.targets.make_target`.
    """
    spec = runtime_spec(target.runtime)
    if spec.provider is not None:
        return f"{target.runtime} takes its precision from the file"
    return _why_not(target, "bf16")


def _why_not(target: Target, precision: str) -> str | None:
    precisions = runtime_spec(target.runtime).precisions
    if precision in precisions:
        return None
    return f"{target.runtime} computes in {' and '.join(precisions)} only"


def fp16_twin(path: Path) -> onnx.ModelProto:
    """The model at `path` in fp16.

    Raises:
        ModelError: It cannot be converted.
    """
    return convert(load_model(path, batch=1), "fp16").proto


def bf16_figures(
    model: OnnxModel,
    data: DataSet,
    fp32: AnyProfiler,
    bf16: AnyProfiler,
    *,
    expected: NDArray[np.float32],
    seconds: float,
) -> dict[str, Any]:
    """Accuracy, difference and latency of a model computed in bf16, as fields of a `Form`.

    Args:
        model: In fp32, for batches of the target's size.
        data: That it was trained on.
        fp32: Measures on the target in fp32.
        bf16: Measures there in bf16.
        expected: Logits of fp32 for the first examples of the validation split.
        seconds: Of measuring in each precision.

    Raises:
        ModelError: The target cannot run it in bf16.
    """

    def logits(split: Split) -> NDArray[np.generic]:
        return bf16.outputs(model, inputs_for(model, data, split.inputs).numpy())

    def accuracy(split: Split, found: NDArray[np.generic]) -> float:
        return score(split.labels.numpy(), found.argmax(axis=1)).accuracy

    on_validation = logits(data.validation)
    timed = [
        [
            profiler.latency([model], seconds=seconds / N_SITTINGS)[0].latency_ms
            for profiler in (fp32, bf16)
        ]
        for _ in range(N_SITTINGS)
    ]
    beside_ms, latency_ms = np.mean(timed, axis=0)
    return {
        "val_accuracy": accuracy(data.validation, on_validation),
        "test_accuracy": accuracy(data.test, logits(data.test)),
        "max_abs_error": float(np.abs(np.float32(on_validation[: len(expected)]) - expected).max()),
        "latency_ms": float(latency_ms),
        "fp32_latency_ms": float(beside_ms),
    }
