"""The runtimes by name. Each is imported when it is used: none is needed by the others."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from profilers.runtimes.base import Runtime
    from profilers.targets import Target


@dataclass(frozen=True)
class RuntimeSpec:
    """Where a runtime's code is and what it can do.

    Attributes:
        factory: `module:class`; called with the target.
        distributions: Packages of which one must be installed; its version is the target's.
        precisions: Of weights and activations, fp32 first.
        provider: Execution provider of ONNX Runtime that must be listed, None for other runtimes.
        accelerator: Device that it needs beside the CPU: `cuda`, or None.
    """

    factory: str
    distributions: tuple[str, ...]
    precisions: tuple[str, ...] = ("fp32",)
    provider: str | None = None
    accelerator: str | None = None


def _onnx_runtime(
    provider: str, *distributions: str, precisions: tuple[str, ...], accelerator: str | None = None
) -> RuntimeSpec:
    return RuntimeSpec(
        "profilers.runtimes.onnx_runtime:OnnxRuntime",
        distributions,
        precisions,
        f"{provider}ExecutionProvider",
        accelerator,
    )


RUNTIMES = {
    "onnxruntime-cpu": _onnx_runtime(
        "CPU", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", precisions=("fp32", "int8")
    ),
    "onnxruntime-cuda": _onnx_runtime(
        "CUDA", "onnxruntime-gpu", precisions=("fp32", "fp16", "int8"), accelerator="cuda"
    ),
    "onnxruntime-tensorrt": _onnx_runtime(
        "Tensorrt", "onnxruntime-gpu", precisions=("fp32", "fp16", "int8"), accelerator="cuda"
    ),
    "onnxruntime-openvino": _onnx_runtime(
        "OpenVINO", "onnxruntime-openvino", precisions=("fp32", "fp16", "int8")
    ),
    "onnxruntime-coreml": _onnx_runtime("CoreML", "onnxruntime", precisions=("fp32", "fp16")),
}


def make_runtime(target: Target) -> Runtime:
    """The runtime that runs models on `target`."""
    module, name = RUNTIMES[target.runtime].factory.split(":")
    return cast("Runtime", getattr(import_module(module), name)(target))
