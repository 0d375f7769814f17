"""A kernel: what a device runs after the runtime has fused and laid out the model's operators.

Two nodes with the same kind, attributes and tensor shapes are the same kernel and cost the same,
so this is the key under which latencies are stored, looked up and learned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Scalar = int | float | str
AttributeValue = Scalar | tuple[Scalar, ...]

BYTES_PER_ELEMENT = {
    "float": 4, "float16": 2, "bfloat16": 2, "double": 8, "int8": 1, "uint8": 1, "int16": 2,
    "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8, "bool": 1,
}  # fmt: skip
DEFAULT_BYTES_PER_ELEMENT = 4


@dataclass(frozen=True, slots=True)
class Tensor:
    """Element type, as the runtime names it, and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def n_elements(self) -> int:
        """Product of the dimensions; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Size in memory."""
        return self.n_elements * BYTES_PER_ELEMENT.get(self.dtype, DEFAULT_BYTES_PER_ELEMENT)


@dataclass(frozen=True)
class Kernel:
    """One fused operator with its attributes and the shapes of all its tensors.

    Attributes:
        kind: The runtime's name, with the domain if it is not ONNX's own: `Conv`,
            `com.microsoft.nchwc:Conv`.
        attributes: Sorted by name; a fused activation is among them.
        inputs: Activations and weights, in the kernel's order.
        outputs: What it writes.
    """

    kind: str
    attributes: tuple[tuple[str, AttributeValue], ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @cached_property
    def key(self) -> str:
        """Stable text that tells kernels apart; also their stored form."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    def to_dict(self) -> dict[str, Any]:
        """As plain data; `from_dict` is its inverse."""
        return {
            "kind": self.kind,
            "attributes": dict(self.attributes),
            "inputs": [[t.dtype, list(t.shape)] for t in self.inputs],
            "outputs": [[t.dtype, list(t.shape)] for t in self.outputs],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Kernel:
        """Rebuild what `to_dict` wrote."""
        return cls(
            kind=data["kind"],
            attributes=tuple(
                (name, tuple(value) if isinstance(value, list) else value)
                for name, value in sorted(data["attributes"].items())
            ),
            inputs=tuple(Tensor(dtype, tuple(shape)) for dtype, shape in data["inputs"]),
            outputs=tuple(Tensor(dtype, tuple(shape)) for dtype, shape in data["outputs"]),
        )

    @classmethod
    def from_key(cls, key: str) -> Kernel:
        """Rebuild a kernel from its `key`."""
        return cls.from_dict(json.loads(key))

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of one attribute, or `default`."""
        return dict(self.attributes).get(name, default)

    @property
    def activation(self) -> str | None:
        """The activation that the runtime fused into this kernel, if any."""
        activation: str | None = self.attribute("activation")
        return activation

    @property
    def n_bytes(self) -> int:
        """Bytes read and written if every tensor is touched once."""
        return sum(t.n_bytes for t in (*self.inputs, *self.outputs))

    def describe(self) -> str:
        """One line for people.

        Example:
            >>> x, w = Tensor("float", (1, 16, 8, 8)), Tensor("float", (32, 16, 1, 1))
            >>> y = Tensor("float", (1, 32, 8, 8))
            >>> Kernel("Conv", (("activation", "Relu"), ("group", 1)), (x, w), (y,)).describe()
            'Conv+Relu 1×16×8×8, 32×16×1×1 → 1×32×8×8'
        """

        def shapes(tensors: tuple[Tensor, ...]) -> str:
            return ", ".join(
                "×".join(map(str, t.shape)) or "scalar"
                for t in tensors
                if len(t.shape) != 1 or len(tensors) == 1
            )

        name = self.kind.rsplit(":", 1)[-1] + (f"+{self.activation}" if self.activation else "")
        return f"{name} {shapes(self.inputs)} → {shapes(self.outputs)}".replace("  ", " ")


def _conv_macs(kernel: Kernel, weight: int = 1) -> int:
    output, shape = kernel.outputs[0], kernel.inputs[weight].shape
    # (M, C/group, kH, kW): every output element needs C/group · kH · kW products. OpenVINO has one
    # dimension more for groups: (group, M/group, C/group, kH, kW).
    n_outer = 1 + max(0, len(shape) - len(output.shape))
    return output.n_elements * math.prod(shape[n_outer:])


def _quantized_conv_macs(kernel: Kernel) -> int:
    return _conv_macs(kernel, weight=3)  # behind the input's scale and zero point


def _conv_transpose_macs(kernel: Kernel) -> int:
    source, shape = kernel.inputs[0], kernel.inputs[1].shape
    n_outer = 1 + max(0, len(shape) - len(source.shape))
    return source.n_elements * math.prod(shape[n_outer:])


def _matmul_macs(kernel: Kernel) -> int:
    left = kernel.inputs[0].shape or (1,)
    inner = left[-2] if kernel.attribute("transA") and len(left) > 1 else left[-1]
    return kernel.outputs[0].n_elements * inner


def _gemm_macs(kernel: Kernel) -> int:
    rows, columns = kernel.inputs[0].shape
    return kernel.outputs[0].n_elements * (rows if kernel.attribute("transA") else columns)


def _recurrent_macs(kernel: Kernel) -> int:
    steps, batch = kernel.inputs[0].shape[:2]
    return steps * batch * (kernel.inputs[1].n_elements + kernel.inputs[2].n_elements)


def _openvino_recurrent_macs(kernel: Kernel) -> int:
    # The last three are weights of the input, weights of the state, bias; a cell has no steps.
    weights = sum(tensor.n_elements for tensor in kernel.inputs[-3:-1])
    return math.prod(kernel.inputs[0].shape[:-1]) * weights


def _openvino_subgraph_macs(kernel: Kernel) -> int:
    """Of a chain of operators in one loop; attention is one, its first product is not named."""
    inner, operators = kernel.attribute("inner"), kernel.attribute("operators", ())
    if inner is None:
        return 0
    queries = kernel.inputs[0].n_elements if "Softmax" in operators else 0
    return int((queries + kernel.outputs[0].n_elements) * inner)


def _attention_macs(kernel: Kernel) -> int:
    """Of queries, keys and values, each `(batch, length, width)` or with heads before length."""
    queries, keys, output = kernel.inputs[0], kernel.inputs[1], kernel.outputs[0]
    # Every element of the queries meets every key, and every one of the output every value.
    return (queries.n_elements + output.n_elements) * keys.shape[-2]


def _projected_attention_macs(kernel: Kernel) -> int:
    """Of an input `(batch, length, width)` and the packed weights of all three projections."""
    source, weight = kernel.inputs[0], kernel.inputs[1]
    rows, length = math.prod(source.shape[:-1]), source.shape[-2]
    return rows * weight.n_elements + 2 * kernel.outputs[0].n_elements * length


def _einsum_macs(kernel: Kernel) -> int:
    """Of all letters together, as if all operands were multiplied at once."""
    terms = str(kernel.attribute("equation", "")).replace(" ", "").split("->")[0].split(",")
    if len(terms) != len(kernel.inputs) or len(terms) < 2:
        return 0
    sizes: dict[str, int] = {}
    free = 1  # what dots stand for
    for term, tensor in zip(terms, kernel.inputs, strict=True):
        head, dots, tail = term.partition("...")
        if len(head) + len(tail) > len(tensor.shape):
            return 0
        inside = len(tensor.shape) - len(tail)
        if dots:
            free = max(free, math.prod(tensor.shape[len(head) : inside]))
        known = (*tensor.shape[: len(head)], *tensor.shape[inside:])
        for letter, size in zip(head + tail, known, strict=False):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return free * math.prod(sizes.values())


def _block_quantized_macs(kernel: Kernel) -> int:
    width = int(kernel.attribute("N", 0)) * int(kernel.attribute("K", 0))
    return math.prod(kernel.inputs[0].shape[:-1]) * width


# Kernels that run a graph of their own, which is not seen from outside.
HIDES_WORK = ("If", "Loop", "Scan")

MACS: dict[str, Callable[[Kernel], int]] = {
    "Conv": _conv_macs,
    "FusedConv": _conv_macs,
    "NhwcFusedConv": _conv_macs,
    "ConvInteger": _conv_macs,
    "QLinearConv": _quantized_conv_macs,
    "ConvTranspose": _conv_transpose_macs,
    "MatMul": _matmul_macs,
    "FusedMatMul": _matmul_macs,
    "QLinearMatMul": _matmul_macs,
    "MatMulInteger": _matmul_macs,
    "MatMulIntegerToFloat": _matmul_macs,
    "DynamicQuantizeMatMul": _matmul_macs,
    "Gemm": _gemm_macs,
    "FusedGemm": _gemm_macs,
    "QGemm": _gemm_macs,
    "MatMulNBits": _block_quantized_macs,
    "Einsum": _einsum_macs,
    "DynamicQuantizeLSTM": _recurrent_macs,
    "LSTM": _recurrent_macs,
    "GRU": _recurrent_macs,
    "RNN": _recurrent_macs,
    "Attention": _attention_macs,
    "MultiHeadAttention": _attention_macs,
    "com.microsoft:Attention": _projected_attention_macs,
    "com.microsoft:QAttention": _projected_attention_macs,
    # OpenVINO's
    "Convolution": _conv_macs,
    "Deconvolution": _conv_transpose_macs,
    "FullyConnected": _matmul_macs,
    "RNNSeq": _openvino_recurrent_macs,
    "RNNCell": _openvino_recurrent_macs,
    "Subgraph": _openvino_subgraph_macs,
    "ScaledDotProductAttention": _attention_macs,
}


def macs(kernel: Kernel) -> int:
    """Multiply-accumulates that the kernel executes, padding of the layout included.

    0 for kernels without products of matrices: their cost is in the bytes they move.
    """
    count = MACS.get(kernel.kind) or MACS.get(kernel.kind.rsplit(":", 1)[-1])
    return count(kernel) if count else 0
