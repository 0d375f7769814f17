"""What PyTorch's runtimes share: models on a device, threads, compiling and what it made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from profilers.errors import ModelError
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelNode
from profilers.onnx_models import OnnxModel
from profilers.onnx_torch import TorchModel, dtype_name, to_torch
from profilers.runtimes.base import Feed, KernelTrace, Outputs
from profilers.runtimes.torch_trace import CompiledKernel
from profilers.targets import Target

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Loaded:
    """A model on a device with its inputs in place.

    Attributes:
        model: The ONNX model.
        torch_model: Made of it.
        inputs: On the device, cast to the target's precision.
        failure: How a message about a run that fails begins.
    """

    model: OnnxModel
    torch_model: TorchModel
    inputs: tuple[torch.Tensor, ...]
    failure: str

    def call(self) -> tuple[torch.Tensor, ...]:
        """One inference, node by node."""
        outputs: tuple[torch.Tensor, ...] = self.torch_model.module(*self.inputs)
        return outputs


def load(model: OnnxModel, feed: Feed, target: Target, device: str) -> Loaded:
    """Put a model and its inputs on a device.

    Raises:
        ModelError: The model has an operator that PyTorch has not.
    """
    torch_model = to_torch(model, DTYPES[target.precision])
    torch_model.module.to(device)
    failure = f"PyTorch {target.version} cannot run {model.name}"
    return Loaded(model, torch_model, placed(torch_model, feed, device), failure)


def placed(torch_model: TorchModel, feed: Feed, device: str) -> tuple[torch.Tensor, ...]:
    """Inputs on the device, in the types that the model takes there."""
    return tuple(
        torch.from_numpy(np.array(feed[name])).to(device, dtype)
        for name, dtype in zip(torch_model.input_names, torch_model.input_dtypes, strict=True)
    )


def outputs(model: OnnxModel, feeds: Iterable[Feed], target: Target, device: str) -> list[Outputs]:
    """What a model computes of each of the inputs, node by node, in the target's precision.

    Raises:
        ModelError: PyTorch cannot run it.
    """
    loaded: Loaded | None = None
    found = []
    with torch.inference_mode():
        for feed in feeds:
            if loaded is None:
                loaded = load(model, feed, target, device)
            else:
                loaded = replace(loaded, inputs=placed(loaded.torch_model, feed, device))
            with running(loaded.failure):
                found.append(tuple(tensor.float().cpu().numpy() for tensor in loaded.call()))
    return found


@contextmanager
def running(failure: str) -> Iterator[None]:
    """Turn what PyTorch raises into one clear message."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # kernels, the compiler and the driver raise many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{failure}: {reason[:300]}") from error


@contextmanager
def n_threads(n: int) -> Iterator[None]:
    """PyTorch's threads within one kernel, for a while; the number is the whole process's."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compiled(
    loaded: Loaded, options: Mapping[str, Any] | None = None
) -> Callable[[], tuple[torch.Tensor, ...]]:
    """The model compiled by Inductor, as one graph where Dynamo can take it whole."""
    module = loaded.torch_model.module
    settings: dict[str, Any] = {"dynamic": False, "options": dict(options) if options else None}
    whole = torch.compile(module, fullgraph=True, **settings)
    try:
        whole(*loaded.inputs)
        call = whole
    except torch._dynamo.exc.Unsupported:
        call = torch.compile(module, **settings)
        call(*loaded.inputs)
    return lambda: call(*loaded.inputs)


def compiled_nodes(
    loaded: Loaded, outputs: Sequence[torch.Tensor], kernels: Sequence[CompiledKernel]
) -> tuple[KernelNode, ...]:
    """The kernels of a compiled model, or one for the whole model if the trace tells of none.

    Which kernel reads what another wrote is not recorded: they are told as a chain in running
    order, of which the first has the model's inputs and the last its outputs. A kernel of which no
    tensor is known bears the model's digest: it is the same as itself only.
    """
    kernels = kernels or (CompiledKernel("graph", (), (), 0.0),)
    nodes: list[KernelNode] = []
    for i, kernel in enumerate(kernels):
        attributes = kernel.attributes
        if not kernel.inputs:
            attributes = (*attributes, ("model", loaded.model.digest[:12]), ("position", i))
        is_first, is_last = i == 0, i == len(kernels) - 1
        inputs = kernel.inputs
        given = tuple(_tensor(tensor) for tensor in loaded.inputs)
        if is_first and inputs[: len(given)] != given:
            inputs = (*given, *(tensor for tensor in inputs if tensor not in given))
        nodes.append(KernelNode(
            f"{i}:{kernel.name}",
            Kernel(
                f"inductor:{kernel.name}",
                attributes,
                inputs,
                tuple(_tensor(tensor) for tensor in outputs) if is_last else (),
            ),
            loaded.torch_model.input_names if is_first else nodes[-1].writes,
            loaded.torch_model.output_names if is_last else (f"{i}:{kernel.name}",),
        ))  # fmt: skip
    return tuple(nodes)


class CompiledRecording:
    """The kernels of a compiled model and their times, run by run."""

    def __init__(self, loaded: Loaded, outputs: Sequence[torch.Tensor]) -> None:
        self._loaded, self._outputs = loaded, tuple(outputs)
        self._nodes: tuple[KernelNode, ...] = ()
        self._rows: list[list[float]] = []

    def add(self, kernels: Sequence[CompiledKernel], run_us: float) -> None:
        """Keep the times of a run; `run_us`, of the whole, where the trace tells of no kernel.

        Raises:
            ModelError: The run had other kernels than those before.
        """
        nodes = compiled_nodes(self._loaded, self._outputs, kernels)
        if self._rows and [n.name for n in nodes] != [n.name for n in self._nodes]:
            raise ModelError(
                f"{self._loaded.failure}: its {len(nodes)} compiled kernels are not the "
                f"{len(self._nodes)} of the runs before; use the target without '-compile'"
            )
        self._nodes = self._nodes or nodes
        self._rows.append([kernel.duration_us for kernel in kernels] or [run_us])

    def trace(self, peak_memory_bytes: int | None) -> KernelTrace:
        """What all runs showed."""
        return KernelTrace(self._nodes, np.array(self._rows), peak_memory_bytes=peak_memory_bytes)


def _tensor(tensor: torch.Tensor) -> Tensor:
    return Tensor(dtype_name(tensor.dtype), tuple(tensor.shape))
