"""A kernel as numbers: what the physics says it costs, and what a learner may correct that by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from profilers.kernels import Kernel, Tensor, macs

FloatArray = NDArray[np.float64]

FEATURES = (
    "log_macs", "log_input_bytes", "log_weight_bytes", "log_output_bytes", "log_in_channels",
    "log_out_channels", "log_out_positions", "log_kernel_area", "stride", "log_channels_per_group",
    "is_depthwise", "activation", "n_inputs", "log_macs_per_byte", "log_out_width",
    "in_misalignment", "out_misalignment", "log_in_padding", "log_out_padding", "log_set_padding",
)  # fmt: skip
# By how much a feature must differ for two kernels to be rather unlike.
_UNLIKE = {
    "log_macs": 5.6, "log_input_bytes": 5.6, "log_weight_bytes": 5.6, "log_output_bytes": 5.6,
    "log_in_channels": 2.8, "log_out_channels": 2.8, "log_out_positions": 4.2,
    "log_kernel_area": 2.8, "stride": 2.0, "n_inputs": 2.8, "log_channels_per_group": 4.2,
    "log_out_width": 5.6, "in_misalignment": 11.0, "out_misalignment": 11.0,
    "log_in_padding": 1.4, "log_out_padding": 1.4, "log_set_padding": 1.0, "activation": 5.6,
}  # fmt: skip
# Vector units take channels by the block, and convolutions several blocks of outputs at a time.
BLOCK, SET = 16, 64
_BLOCKED = "com.microsoft.nchwc:"
# Of ONNX Runtime too, for all other layouts: they lay the windows out as columns of a matrix, and
# multiply group by group.
_BY_COLUMNS = ("Conv", "com.microsoft:FusedConv", "QLinearConv")
_UNLIKE_COLUMNS = [FEATURES.index(name) for name in _UNLIKE]
_UNLIKE_SCALES = np.array(list(_UNLIKE.values()))
# What scaled features are: a predictor holds where this is the same.
SCALING = [[name, scale] for name, scale in _UNLIKE.items()]
N_SCALED = len(_UNLIKE) + 1
# Costs of activations differ by their arithmetic; 0 is none, an unlisted one counts as the dearest.
_ACTIVATIONS = {None: 0, "Relu": 1, "Clip": 1, "LeakyRelu": 1, "HardSigmoid": 2, "HardSwish": 3,
                "Sigmoid": 4, "Tanh": 5}  # fmt: skip
_OTHER_ACTIVATION = 6
# Among the inputs; before it, quantized kernels have the scale and zero point of the first. All
# others have their weights second; of attention those may be keys, which were just computed.
_WEIGHT_POSITIONS = {
    "QLinearConv": (3,), "QGemm": (3,), "QLinearMatMul": (3,),
    "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2), "RNNSeq": (-3, -2), "RNNCell": (-3, -2),
    "Attention": (), "com.microsoft:Attention": (1,), "MultiHeadAttention": (),
    "ScaledDotProductAttention": (),
}  # fmt: skip
# They read as much of their first input as they write.
_PICKING = ("Gather", "GatherElements", "GatherND", "Slice")
_NOTHING = Tensor("float", (0,))


def work(kernels: Sequence[Kernel]) -> FloatArray:
    """The terms of a roofline: launches, MACs with padding of channels, bytes moved; `(n, 3)`.

    A kernel is one launch, unless it multiplies one group of channels after the other.

    Reference:
        Williams, Waterman, Patterson, Roofline, CACM 52(4), 2009.
    """
    return np.array([_work(kernel) for kernel in kernels], dtype=np.float64).reshape(-1, 3)


@lru_cache(maxsize=65536)  # a predictor is fitted several times on the same kernels
def _work(kernel: Kernel) -> tuple[float, float, float]:
    n_macs = float(macs(kernel))
    if n_macs and kernel.kind.startswith(_BLOCKED):
        in_channels, out_channels = kernel.inputs[0].shape[1], kernel.outputs[0].shape[1]
        n_macs *= _padding(out_channels, BLOCK)
        if in_channels >= BLOCK and int(kernel.attribute("group", 1)) == 1:
            n_macs *= _padding(in_channels, BLOCK)
    n_launches, n_bytes = 1.0, float(moved_bytes(kernel))
    if n_macs and kernel.kind in _BY_COLUMNS and not _is_depthwise(kernel):
        n_launches = float(max(1, kernel.attribute("group", 1)))
        n_bytes += 2 * _column_bytes(kernel)  # written, and read
    return n_launches, n_macs, n_bytes


def _column_bytes(kernel: Kernel) -> float:
    """Bytes of the windows of all positions; 0 where a window is one position."""
    area, source = math.prod(_window(kernel)), kernel.inputs[0]
    if area == 1 or not source.n_elements:
        return 0.0
    positions = kernel.outputs[0].n_elements / max(1, _channels(kernel, kernel.outputs[0]))
    bytes_each = source.n_bytes / source.n_elements
    return area * positions * _channels(kernel, source) * bytes_each


def _padding(n: int, block: int) -> float:
    """By how much `n` grows where it is rounded up to whole blocks."""
    return max(1, -(-n // block)) * block / max(1, n)


def weight_bytes(kernel: Kernel) -> int:
    """Bytes of the weights that the kernel multiplies with; 0 where it multiplies nothing.

    Both sides of a product that has batches on both are activations.

    Example:
        >>> x, w = Tensor("float", (4, 16, 64)), Tensor("float", (64, 32))
        >>> weight_bytes(Kernel("MatMul", (), (x, w), (Tensor("float", (4, 16, 32)),)))
        8192
    """
    return sum(weight.n_bytes for weight in _weights(kernel))


def _weights(kernel: Kernel) -> tuple[Tensor, ...]:
    if not macs(kernel) or is_batched_product(kernel):
        return ()
    return tuple(kernel.inputs[i] for i in _weight_positions(kernel) if i < len(kernel.inputs))


def _weight_positions(kernel: Kernel) -> tuple[int, ...]:
    name = kernel.kind.rsplit(":", 1)[-1]
    return _WEIGHT_POSITIONS.get(kernel.kind, _WEIGHT_POSITIONS.get(name, (1,)))


def is_batched_product(kernel: Kernel) -> bool:
    """Whether it multiplies many pairs of matrices, as attention does."""
    if not kernel.kind.endswith("MatMul"):
        return False
    sides = [tensor.shape for tensor in kernel.inputs if len(tensor.shape) > 1]
    return len(sides) > 1 and all(math.prod(shape[:-2]) > 1 for shape in sides[:2])


def read_bytes(kernel: Kernel) -> int:
    """Bytes of the inputs that it reads, without those of its weights."""
    sizes = [tensor.n_bytes for tensor in kernel.inputs]
    if kernel.kind in _PICKING and sizes and kernel.outputs:
        sizes[0] = min(sizes[0], kernel.outputs[0].n_bytes)
    return sum(sizes) - weight_bytes(kernel)


def moved_bytes(kernel: Kernel) -> int:
    """Bytes read and written if every tensor that it needs is touched once."""
    written = sum(tensor.n_bytes for tensor in kernel.outputs)
    return read_bytes(kernel) + weight_bytes(kernel) + written


def kernel_features(kernels: Sequence[Kernel]) -> FloatArray:
    """The columns of `FEATURES` for each kernel, `(n, d)`."""
    return np.array([_features(kernel) for kernel in kernels], dtype=np.float64).reshape(
        len(kernels), len(FEATURES)
    )


def scaled_features(kernels: Sequence[Kernel]) -> FloatArray:
    """Features in which a distance of 1 is much; the last column is the activation, `(n, d)`."""
    x = kernel_features(kernels)
    return np.column_stack(
        [x[:, _UNLIKE_COLUMNS] / _UNLIKE_SCALES, x[:, FEATURES.index("activation")]]
    )


def group(kernel: Kernel) -> str:
    """Kernels of one group run the same code, more or less.

    That is the kind; of convolutions, also how they are grouped (depthwise ones have code of their
    own; in blocked layouts all others are computed alike), and whether inputs lie in order; of
    products, whether they are many; of transpositions, whether whole rows are moved.

    Example:
        >>> x, w = Tensor("float", (1, 16, 8, 8)), Tensor("float", (32, 16, 1, 1))
        >>> group(Kernel("Conv", (), (x, w), (x,)))
        'Conv/pointwise'
    """
    if kernel.attribute("strided", 0):  # of PyTorch, where a transposed tensor is a view
        return f"{kernel.kind}/strided"
    if is_batched_product(kernel):
        return f"{kernel.kind}/batched"
    order = kernel.attribute("perm", ())
    if kernel.kind == "Transpose" and order and order[-1] == len(order) - 1:
        return "Transpose/rows"
    if not _is_convolution(kernel):
        return kernel.kind
    is_blocked = kernel.kind.startswith(_BLOCKED)
    if _is_depthwise(kernel):
        return f"{kernel.kind}/depthwise"
    if _is_grouped(kernel) and not is_blocked:
        return f"{kernel.kind}/grouped"
    name = "pointwise" if math.prod(_window(kernel)) == 1 else "spatial"
    # Images of few channels are not in a blocked layout: another kernel.
    is_thin = is_blocked and kernel.inputs[0].shape[1] < BLOCK
    return f"{kernel.kind}/{'thin' if is_thin else name}"


def _channels(kernel: Kernel, tensor: Tensor) -> int:
    """Channels of images and signals; of all else, and of matrices, the length of a row."""
    if len(tensor.shape) < 2:
        return tensor.n_elements
    is_image = _is_convolution(kernel) or (len(tensor.shape) == 4 and not macs(kernel))
    return tensor.shape[1 if is_image and not kernel.attribute("channels_last", 0) else -1]


def _misalignment(n: int) -> int:
    """0 for whole blocks, 1 for halves of a block, 2 for quarters, 3 for all else."""
    return next((i for i in range(3) if n % (BLOCK >> i) == 0), 3)


def _is_convolution(kernel: Kernel) -> bool:
    return "conv" in kernel.kind.rsplit(":", 1)[-1].lower() and len(kernel.inputs) > 1


def _is_grouped(kernel: Kernel) -> bool:
    return int(kernel.attribute("group", 1)) > 1 or _has_group_dimension(kernel)


def _is_depthwise(kernel: Kernel) -> bool:
    """Whether every group has one channel."""
    position, *_ = _weight_positions(kernel) or (1,)
    if not _is_grouped(kernel) or len(kernel.inputs) <= position:
        return False
    shape = kernel.inputs[position].shape
    axis = 2 if _has_group_dimension(kernel) else 1
    return len(shape) > axis and shape[axis] == 1


def _has_group_dimension(kernel: Kernel) -> bool:
    """OpenVINO's weights of grouped convolutions have a dimension more than their input."""
    return len(kernel.inputs[1].shape) > len(kernel.inputs[0].shape)


def _window(kernel: Kernel) -> tuple[int, ...]:
    declared: tuple[int, ...] = kernel.attribute("kernel_shape", ())
    position, *_ = _weight_positions(kernel) or (1,)
    if declared or len(kernel.inputs) <= position:
        return declared
    return kernel.inputs[position].shape[2:]


@lru_cache(maxsize=65536)  # a predictor is fitted several times on the same kernels
def _features(kernel: Kernel) -> tuple[float, ...]:
    n_macs = macs(kernel)
    # Sequences are no tensors: a kernel that only handles those shows neither inputs nor outputs.
    source, *_ = (*kernel.inputs, *kernel.outputs, _NOTHING)
    target = kernel.outputs[0] if kernel.outputs else source
    of_weights = weight_bytes(kernel)
    n_groups = int(kernel.attribute("group", 1))
    window = _window(kernel) if n_macs else kernel.attribute("kernel_shape", ())
    strides = kernel.attribute("strides", ()) or (1,)
    in_channels, out_channels = _channels(kernel, source), _channels(kernel, target)
    is_blocked = n_macs and kernel.kind.startswith(_BLOCKED)
    return (
        math.log1p(n_macs),
        math.log1p(read_bytes(kernel)),
        math.log1p(of_weights),
        math.log1p(sum(t.n_bytes for t in kernel.outputs)),
        math.log1p(in_channels),
        math.log1p(out_channels),
        math.log1p(target.n_elements / max(1, out_channels)),
        math.log1p(math.prod(window)),
        float(strides[0]),
        math.log1p(in_channels / max(1, n_groups)),
        float(n_groups > 1 and n_groups == in_channels),
        float(_ACTIVATIONS.get(kernel.activation, _OTHER_ACTIVATION)),
        float(len(kernel.inputs)),
        math.log1p(n_macs / max(1, moved_bytes(kernel))),
        math.log1p(target.shape[-1] if target.shape else 1),
        float(_misalignment(in_channels)),
        float(_misalignment(out_channels)),
        math.log(_padding(in_channels, BLOCK)) if is_blocked else 0.0,
        math.log(_padding(out_channels, BLOCK)) if is_blocked else 0.0,
        math.log(_padding(-(-out_channels // BLOCK) * BLOCK, SET)) if is_blocked else 0.0,
    )
