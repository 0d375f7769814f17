"""Memory that ONNX Runtime's CPU kernels take while they run, beside their inputs and outputs.

The figures were read off the runtime's own counters, kernel by kernel, with shapes varied.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from profilers.measurement import KernelNode

FLOAT_BYTES = 4
CONV_BYTES_PER_THREAD = 65_536  # of columns, multiplied with the filters stripe by stripe
MACS_PER_THREAD = 65_536  # a convolution with fewer is not split further

# Their scratch depends on choices that neither shapes nor attributes show.
UNKNOWN_SCRATCH = frozenset({
    "If", "Loop", "Scan", "Einsum", "QLinearConv", "QLinearMatMul", "QLinearConvTranspose",
    "QAttention", "MultiHeadAttention", "GroupQueryAttention", "MatMulNBits",
})  # fmt: skip

_BACKWARD = ("reverse", "bidirectional")

Scratch = tuple[int, ...]


def scratch_bytes(node: KernelNode, *, threads: int = 1) -> Scratch | None:
    """Sizes of the blocks that a kernel takes while it runs, in the order in which it takes them.

    None: not known. Kernels that take none, or only a few bytes, give an empty tuple.
    """
    kind = node.kernel.kind.removeprefix("com.microsoft:")
    # Not ONNX's operator of that name: it projects queries, keys and values too.
    if kind in UNKNOWN_SCRATCH or node.kernel.kind == "com.microsoft:Attention":
        return None
    rule = _RULES.get(kind)
    return rule(node, threads) if rule else ()


def _kernel_shape(node: KernelNode) -> tuple[int, ...]:
    kernel = node.kernel
    return tuple(kernel.attribute("kernel_shape", ())) or kernel.inputs[1].shape[2:]


def _is_pointwise(node: KernelNode) -> bool:
    """Whether the input is the matrix of columns as it is."""
    attribute = node.kernel.attribute
    return (
        math.prod(_kernel_shape(node)) == 1
        and all(stride == 1 for stride in attribute("strides", ()))
        and not any(attribute("pads", ()))
    )


def _columns(node: KernelNode) -> int:
    """Elements of the matrix of columns of one image and one group."""
    x, y = node.kernel.inputs[0], node.kernel.outputs[0]
    n_channels = x.shape[1] // int(node.kernel.attribute("group", 1))
    return n_channels * math.prod(_kernel_shape(node)) * math.prod(y.shape[2:])


def _conv(node: KernelNode, threads: int) -> Scratch:
    if _is_pointwise(node):
        return ()
    y, group = node.kernel.outputs[0], node.kernel.attribute("group", 1)
    n_filters, n_columns = y.shape[1] // group, _columns(node)
    if n_filters > math.prod(y.shape[2:]):
        return (n_columns * FLOAT_BYTES,)
    n_parts = y.shape[0] * group
    if n_parts == 1:
        n_parts = 1 + n_filters * n_columns // MACS_PER_THREAD
    return (min(threads, n_parts) * CONV_BYTES_PER_THREAD,)


def _conv_integer(node: KernelNode, threads: int) -> Scratch:
    return () if _is_pointwise(node) else (_columns(node),)


def _conv_transpose(node: KernelNode, threads: int) -> Scratch:
    x, y = node.kernel.inputs[0], node.kernel.outputs[0]
    n_filters = y.shape[1] // node.kernel.attribute("group", 1)
    n_rows = n_filters * math.prod(_kernel_shape(node))
    return (n_rows * math.prod(x.shape[2:]) * FLOAT_BYTES,)


def _is_given(names: tuple[str, ...], position: int) -> bool:
    return position < len(names) and bool(names[position])


def _gru(node: KernelNode, threads: int) -> Scratch:
    steps, batch, _ = node.kernel.inputs[0].shape
    hidden = node.kernel.attribute("hidden_size")
    state = batch * hidden * FLOAT_BYTES
    n_states = 2
    if _is_given(node.reads, 3):  # biases, one for each example
        n_states += 3
        if node.kernel.attribute("linear_before_reset", 0):
            n_states += 2
    one_way = (steps * batch * 3 * hidden * FLOAT_BYTES, *[state] * n_states, 4 * batch)
    return _recurrent(node, one_way, n_last_states=1)


def _lstm(node: KernelNode, threads: int) -> Scratch:
    steps, batch, _ = node.kernel.inputs[0].shape
    hidden = node.kernel.attribute("hidden_size")
    n_vectors = 6 if _is_given(node.reads, 3) else 2
    one_way = (
        steps * batch * 4 * hidden * FLOAT_BYTES,
        *[batch * hidden * FLOAT_BYTES] * 3,
        *[hidden * FLOAT_BYTES] * n_vectors,
        4 * batch,
    )
    return _recurrent(node, one_way, n_last_states=2)


def _dynamic_quantize_lstm(node: KernelNode, threads: int) -> Scratch:
    steps, batch, width = node.kernel.inputs[0].shape
    gates = batch * 4 * node.kernel.attribute("hidden_size")
    return (*_lstm(node, threads), steps * batch * width, gates * FLOAT_BYTES)


def _recurrent(node: KernelNode, one_way: Scratch, *, n_last_states: int) -> Scratch:
    """What both directions take, and the last states where they are not asked for."""
    steps, batch, width = node.kernel.inputs[0].shape
    hidden, direction = node.kernel.attribute("hidden_size"), node.kernel.attribute("direction")
    n_directions = 2 if direction == "bidirectional" else 1
    n_missing = sum(not _is_given(node.writes, 1 + i) for i in range(n_last_states))
    last_states = [n_directions * batch * hidden * FLOAT_BYTES] * n_missing
    per_step = steps * batch * FLOAT_BYTES
    reversed_ = (per_step * width, per_step * hidden) if direction in _BACKWARD else ()
    return (*last_states, *one_way * n_directions, *reversed_)


def _rnn(node: KernelNode, threads: int) -> Scratch:
    steps, batch, _ = node.kernel.inputs[0].shape
    return (steps * batch * node.kernel.attribute("hidden_size") * FLOAT_BYTES,)


def _lrn(node: KernelNode, threads: int) -> Scratch:
    x = node.kernel.inputs[0]
    n_padded = x.shape[1] + node.kernel.attribute("size") - 1
    return x.n_bytes, n_padded * math.prod(x.shape[2:]) * FLOAT_BYTES


def _softmax(node: KernelNode, threads: int) -> Scratch:
    x = node.kernel.inputs[0]
    if node.kernel.attribute("axis", -1) in (-1, len(x.shape) - 1):
        return ()
    return x.n_bytes, x.n_bytes  # transposed, and the result


def _bias_gelu(node: KernelNode, threads: int) -> Scratch:
    return (node.kernel.inputs[0].n_bytes,)


def _dynamic_quantize_matmul(node: KernelNode, threads: int) -> Scratch:
    return (node.kernel.inputs[0].n_elements,)  # in 8 bits


def _attention(node: KernelNode, threads: int) -> Scratch:
    q, k = node.kernel.inputs[:2]
    return (math.prod(q.shape[:-1]) * k.shape[-2] * FLOAT_BYTES,)


_RULES: dict[str, Callable[[KernelNode, int], Scratch]] = {
    "Conv": _conv,
    "FusedConv": _conv,
    "ConvInteger": _conv_integer,
    "ConvTranspose": _conv_transpose,
    "GRU": _gru,
    "LSTM": _lstm,
    "DynamicQuantizeLSTM": _dynamic_quantize_lstm,
    "RNN": _rnn,
    "LRN": _lrn,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "BiasGelu": _bias_gelu,
    "DynamicQuantizeMatMul": _dynamic_quantize_matmul,
    "Attention": _attention,
}
