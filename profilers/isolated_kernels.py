"""Measure kernels that no run has shown, in a made-up network that treats them like a real one.

A kernel repeated alone is faster than in a network, where its weights and its code have left the
nearest caches since the last run and its input has just been written. So kernels take turns here:
several different ones, several copies of each with weights of their own, more weights in all than
the second-level cache holds, and before every copy a cheap operator that writes its input.

All this is about the caches of a CPU and in single precision: on a GPU, or in another precision,
nothing is measured so (`can_isolate`).

The runtime decides what runs: only a copy that its profile shows as exactly the kernel that was
asked for counts. What cannot be built so is not measured, and never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from profilers.devices import this_device
from profilers.errors import ModelError
from profilers.isolation import AnyProfiler
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelLatency
from profilers.onnx_models import MAX_IR_VERSION, OnnxModel, make_model
from profilers.targets import Target

SECONDS_PER_MODEL = 0.4
KERNELS_PER_MODEL = 6
MIN_COPIES, MAX_COPIES = 4, 12
DEFAULT_L2_BYTES = 2**20
WEIGHT_SCALE = 0.01  # outputs feed the next input: they must not grow without end
_OPSET = 17
# Kinds, without their domain, whose inputs behind the first are weights, as far as listed.
_WEIGHTS = {
    "Conv": (1, 2), "FusedConv": (1, 2), "NhwcFusedConv": (1, 2), "ConvTranspose": (1, 2),
    "Gemm": (1, 2), "FusedGemm": (1, 2), "MatMul": (1,), "FusedMatMul": (1,),
    "BatchNormalization": (1, 2, 3, 4), "LayerNormalization": (1, 2), "BiasGelu": (1,),
}  # fmt: skip
_PRODUCTS = ("Gemm", "FusedGemm", "MatMul", "FusedMatMul")
# Runtimes on the CPU whose kernels are named as ONNX operators, so that they can be asked for.
_ISOLATING = ("onnxruntime-cpu",)
_SHAPE, _TRANSPOSED = "shape", "transB"


class _CannotBuild(Exception):
    """The kernel says too little of itself to be built."""


def can_isolate(target: Target) -> bool:
    """Whether kernels of `target` can be measured outside of networks at all.

    Example:
        >>> from profilers.targets import make_target
        >>> can_isolate(make_target("onnxruntime-cpu"))
        True
        >>> can_isolate(make_target("onnxruntime-cpu", precision="int8"))
        False
    """
    return target.precision == "fp32" and target.runtime in _ISOLATING


def measure_isolated(
    kernels: Sequence[Kernel], profiler: AnyProfiler, *, seconds: float = SECONDS_PER_MODEL
) -> list[KernelLatency | None]:
    """Latency of every kernel outside of any network, the median over its copies.

    Args:
        kernels: Distinct ones, at best `KERNELS_PER_MODEL` that take similar times.
        profiler: Of the target on which the kernels were seen.
        seconds: For all of them.

    Returns:
        One for each kernel, None where the runtime does not run exactly that kernel: it cannot be
        built from what is known of it, or the runtime makes something else of it. All None where
        `can_isolate` says no: ask it first, this says nothing of the kernels.
    """
    if not can_isolate(profiler.target):
        return [None] * len(kernels)
    found: dict[str, KernelLatency] = {}
    model = isolated_model(kernels)
    if model is not None:
        try:
            runs = profiler.profile(model, seconds=seconds).kernels
        except ModelError:
            if len(kernels) > 1:  # one of them is to blame
                alone = (measure_isolated([k], profiler, seconds=seconds) for k in kernels)
                return [answer for (answer,) in alone]
            runs = ()
        for kernel in kernels:
            copies = [run for run in runs if run.kernel == kernel]
            if copies:
                found[kernel.key] = KernelLatency(
                    kernel.kind,
                    kernel,
                    float(np.median([run.latency_ms for run in copies])),
                    min(run.n_samples for run in copies),
                )
    return [found.get(kernel.key) for kernel in kernels]


def isolated_model(kernels: Sequence[Kernel]) -> OnnxModel | None:
    """The made-up network of those of the `kernels` that can be built; None if none can."""
    parts: list[_Part] = []
    for kernel in kernels:
        try:
            parts.append(_Part(kernel, len(parts)))
        except _CannotBuild:
            continue
    if not parts:
        return None
    weight_bytes = sum(t.n_bytes for part in parts for t in part.weights.values())
    l2_bytes = this_device().cache_bytes.get("L2", DEFAULT_L2_BYTES)
    n_copies = math.ceil(l2_bytes / max(weight_bytes, 1))
    n_copies = min(max(n_copies, MIN_COPIES), MAX_COPIES)
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights = [numpy_helper.from_array(np.array([1]), _SHAPE)]
    for rank in {len(part.kernel.outputs[0].shape) for part in parts}:
        for name, value in (("from", 0), ("to", 1)):
            weights.append(numpy_helper.from_array(np.full(rank, value), f"{name}{rank}"))
    weights.append(numpy_helper.from_array(np.zeros(1, np.float32), "first"))
    last = "first"
    for copy in range(n_copies):
        for part in parts:
            last = part.add(nodes, weights, copy, last, rng)
    inputs = [
        helper.make_tensor_value_info(f"x{part.number}_{i}", TensorProto.FLOAT, tensor.shape)
        for part in parts
        for i, tensor in part.activations.items()
    ]
    output = helper.make_tensor_value_info(last, TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, "isolated", inputs, [output], weights)
    domains = {part.domain for part in parts} - {""}
    proto = helper.make_model(
        graph,
        ir_version=MAX_IR_VERSION,
        opset_imports=[
            helper.make_opsetid("", _OPSET),
            *(helper.make_opsetid(domain, 1) for domain in sorted(domains)),
        ],
    )
    return make_model(proto, name=f"isolated-{parts[0].op}-{len(parts)}")


class _Part:
    """One kernel of the network: how it is called, and which of its inputs are weights."""

    def __init__(self, kernel: Kernel, number: int) -> None:
        self.kernel, self.number = kernel, number
        self.domain, _, self.op = kernel.kind.rpartition(":")
        inputs = _with_packed_weight(kernel, self.op)
        if not inputs or not kernel.outputs or not kernel.outputs[0].shape:
            raise _CannotBuild
        is_weight = _WEIGHTS.get(self.op, ())
        self.weights = {i: t for i, t in enumerate(inputs) if i in is_weight}
        self.activations = {
            i: t for i, t in enumerate(inputs) if i not in is_weight and t.dtype == "float"
        }
        self.shapes = [i for i, t in enumerate(inputs) if i > 0 and t.dtype == "int64"]
        # Positions and sizes decide what runs, and their values are not known, but of Reshape.
        if self.shapes and self.op != "Reshape":
            raise _CannotBuild
        tensors = (*inputs, kernel.outputs[0])
        if any(t.dtype != "float" for i, t in enumerate(tensors) if i not in self.shapes):
            raise _CannotBuild
        self.n_inputs = len(inputs)
        try:
            self.attributes = [helper.make_attribute(k, v) for k, v in kernel.attributes]
        except (ValueError, TypeError):  # an empty list has no type
            raise _CannotBuild from None

    def add(
        self,
        nodes: list[onnx.NodeProto],
        weights: list[onnx.TensorProto],
        copy: int,
        last: str,
        rng: np.random.Generator,
    ) -> str:
        """Add one copy behind the tensor `last`, one value; returns such a tensor of its own."""
        name = f"{self.number}_{copy}"
        reads = []
        for i in range(self.n_inputs):
            read = f"in{name}_{i}"
            reads.append(read)
            if i in self.weights:
                values: NDArray[np.float32] | NDArray[np.int64] = (
                    rng.standard_normal(self.weights[i].shape) * WEIGHT_SCALE
                ).astype(np.float32)
                weights.append(numpy_helper.from_array(values, read))
            elif i in self.shapes:
                values = np.array(self.kernel.outputs[0].shape, np.int64)
                weights.append(numpy_helper.from_array(values, read))
            else:  # waits for what was before, or the runtime would write all inputs first
                nodes.append(helper.make_node("Sub", [f"x{self.number}_{i}", last], [read]))
        outputs = [f"out{name}_{i}" for i in range(len(self.kernel.outputs))]
        node = helper.make_node(self.op, reads, outputs, domain=self.domain)
        node.attribute.extend(self.attributes)
        nodes.append(node)
        rank = len(self.kernel.outputs[0].shape)
        some, one = f"some{name}", f"one{name}"
        nodes.append(helper.make_node("Slice", [outputs[0], f"from{rank}", f"to{rank}"], [some]))
        nodes.append(helper.make_node("Reshape", [some, _SHAPE], [one]))
        return one


def _with_packed_weight(kernel: Kernel, op: str) -> list[Tensor]:
    """The inputs, with the matrix that a runtime packed away and no longer shows."""
    inputs = list(kernel.inputs)
    is_shown = len(inputs) > 1 and len(inputs[1].shape) >= 2
    if op not in _PRODUCTS or is_shown or not inputs or not kernel.outputs:
        return inputs
    if not inputs[0].shape or not kernel.outputs[0].shape:
        return inputs
    is_left_turned = bool(kernel.attribute("transA", 0))
    sizes = inputs[0].shape[0 if is_left_turned else -1], kernel.outputs[0].shape[-1]
    shape = sizes[::-1] if kernel.attribute(_TRANSPOSED, 0) else sizes
    return [inputs[0], Tensor(inputs[0].dtype, shape), *inputs[1:]]
