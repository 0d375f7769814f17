"""The runtimes by name. Each is imported when it is used: none is needed by the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, cast

from profilers.errors import TargetError, unknown_name

if TYPE_CHECKING:
    from profilers.runtimes.base import Runtime
    from profilers.targets import Target


@dataclass(frozen=True)
class RuntimeSpec:
    """Where a runtime's code is and what it can do.

    Attributes:
        factory: `module:class`; called with the target.
        distributions: Packages of which one must be installed, the one to install first.
        precisions: Of weights and activations, fp32 first.
        provider: Execution provider of ONNX Runtime that must be listed, None for other runtimes.
        accelerator: Device that it needs beside the CPU: `cuda`, or None.
        works_in_caller: Whether the calling thread does the work, one thread being asked for; its
            CPU time says nothing otherwise.
        isa: Instruction sets, of which the CPU must have one, of precisions that would be emulated
            without (see `profilers.devices.ISA_FLAGS`); other precisions run on any CPU.
    """

    factory: str
    distributions: tuple[str, ...]
    precisions: tuple[str, ...] = ("fp32",)
    provider: str | None = None
    accelerator: str | None = None
    works_in_caller: bool = False
    isa: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


# Execution providers that send the model to a server: no device of one's own to measure.
_REMOTE = ("azure",)


def _onnx_runtime(
    provider: str, *distributions: str, precisions: tuple[str, ...], accelerator: str | None = None
) -> RuntimeSpec:
    return RuntimeSpec(
        "profilers.runtimes.onnx_runtime:OnnxRuntime",
        distributions,
        precisions,
        f"{provider}ExecutionProvider",
        accelerator,
        works_in_caller=provider == "CPU",
    )


def _torch(factory: str, accelerator: str | None = None) -> RuntimeSpec:
    return RuntimeSpec(
        f"profilers.runtimes.torch_{factory}",
        ("torch",),
        ("fp32", "fp16", "bf16") if accelerator else ("fp32", "bf16"),
        accelerator=accelerator,
        works_in_caller=accelerator is None,
        isa={} if accelerator else {"bf16": ("avx512_bf16", "amx_bf16", "bf16")},
    )


RUNTIMES = {
    "onnxruntime-cpu": _onnx_runtime(
        "CPU", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", precisions=("fp32", "int8")
    ),
    # No int8: its kernels for convolutions are fp32, with conversions around them.
    "onnxruntime-cuda": _onnx_runtime(
        "CUDA", "onnxruntime-gpu", precisions=("fp32", "fp16"), accelerator="cuda"
    ),
    "onnxruntime-tensorrt": _onnx_runtime(
        "Tensorrt", "onnxruntime-gpu", precisions=("fp32", "fp16", "int8"), accelerator="cuda"
    ),
    "onnxruntime-openvino": _onnx_runtime(
        "OpenVINO", "onnxruntime-openvino", precisions=("fp32", "int8")
    ),
    "onnxruntime-coreml": _onnx_runtime("CoreML", "onnxruntime", precisions=("fp32", "fp16")),
    "openvino-cpu": RuntimeSpec(
        "profilers.runtimes.openvino:OpenVino",
        ("openvino",),
        ("fp32", "bf16", "int8"),
        works_in_caller=True,
        isa={"bf16": ("avx512_bf16", "amx_bf16")},
    ),
    "torch-cpu": _torch("cpu:TorchCpu"),
    "torch-cpu-compile": _torch("cpu:TorchCpu"),
    "torch-cuda": _torch("cuda:TorchCuda", accelerator="cuda"),
    "torch-cuda-graph": _torch("cuda:TorchCuda", accelerator="cuda"),
    "torch-cuda-compile": _torch("cuda:TorchCuda", accelerator="cuda"),
}


def runtime_spec(name: str) -> RuntimeSpec:
    """The runtime of that name.

    Beside `RUNTIMES`, that is any execution provider that the installed ONNX Runtime lists, in
    fp32: `XnnpackExecutionProvider` is `onnxruntime-xnnpack`.

    Raises:
        TargetError: There is none.
    """
    if name in RUNTIMES:
        return RUNTIMES[name]
    provider = _listed_providers().get(name)
    if provider is None:
        raise TargetError(unknown_name("target", name, runtime_names()))
    return _onnx_runtime(provider, "onnxruntime", precisions=("fp32",))


def runtime_names() -> tuple[str, ...]:
    """All names that `runtime_spec` knows here."""
    return tuple(dict.fromkeys((*RUNTIMES, *_listed_providers())))


def _listed_providers() -> dict[str, str]:
    """Execution providers of the installed ONNX Runtime, by the names of their targets."""
    try:
        import onnxruntime
    except ImportError:
        return {}
    providers = [
        provider.removesuffix("ExecutionProvider")
        for provider in onnxruntime.get_available_providers()
    ]
    return {f"onnxruntime-{p.lower()}": p for p in providers if p.lower() not in _REMOTE}


def make_runtime(target: Target) -> Runtime:
    """The runtime that runs models on `target`."""
    module, name = runtime_spec(target.runtime).factory.split(":")
    return cast("Runtime", getattr(import_module(module), name)(target))
