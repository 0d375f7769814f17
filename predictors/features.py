"""A kernel as numbers: what the physics says it costs, and what a learner may correct that by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from profilers.kernels import Kernel, Tensor, macs

FloatArray = NDArray[np.float64]

FEATURES = (
    "log_macs", "log_input_bytes", "log_weight_bytes", "log_output_bytes", "log_in_channels",
    "log_out_channels", "log_out_positions", "log_kernel_area", "stride", "log_channels_per_group",
    "is_depthwise", "activation", "n_inputs", "log_macs_per_byte",
)  # fmt: skip
# The columns that say whether a kernel lies inside what was measured of its kind.
EXTENT = tuple(
    FEATURES.index(name)
    for name in ("log_macs", "log_input_bytes", "log_weight_bytes", "log_output_bytes")
)
# Costs of activations differ by their arithmetic; 0 is none, an unlisted one counts as the dearest.
_ACTIVATIONS = {None: 0, "Relu": 1, "Clip": 1, "LeakyRelu": 1, "HardSigmoid": 2, "HardSwish": 3,
                "Sigmoid": 4, "Tanh": 5}  # fmt: skip
_OTHER_ACTIVATION = 6
# Among the inputs; before it, quantized kernels have the scale and zero point of the first.
_WEIGHT_POSITION = {"QLinearConv": 3, "QGemm": 3, "QLinearMatMul": 3}
_NOTHING = Tensor("float", (0,))


def work(kernels: Sequence[Kernel]) -> FloatArray:
    """The terms of a roofline: launch (1), MACs, bytes moved; `(n, 3)`.

    Reference:
        Williams, Waterman, Patterson, Roofline, CACM 52(4), 2009.
    """
    return np.array([[1.0, macs(k), k.n_bytes] for k in kernels], dtype=np.float64).reshape(-1, 3)


def kernel_features(kernels: Sequence[Kernel]) -> FloatArray:
    """The columns of `FEATURES` for each kernel, `(n, d)`."""
    return np.array([_features(kernel) for kernel in kernels], dtype=np.float64).reshape(
        len(kernels), len(FEATURES)
    )


def _features(kernel: Kernel) -> list[float]:
    n_macs = macs(kernel)
    # Sequences are no tensors: a kernel that only handles those shows neither inputs nor outputs.
    source, *_ = (*kernel.inputs, *kernel.outputs, _NOTHING)
    target = kernel.outputs[0] if kernel.outputs else source
    position = _WEIGHT_POSITION.get(kernel.kind.rsplit(":", 1)[-1], 1)
    weight = kernel.inputs[position] if n_macs and len(kernel.inputs) > position else None
    group = int(kernel.attribute("group", 1))
    window = kernel.attribute("kernel_shape", ()) or (
        weight.shape[2:] if weight and len(weight.shape) > 2 else ()
    )
    strides = kernel.attribute("strides", ()) or (1,)
    axis = -1 if kernel.attribute("channels_last", 0) else 1
    in_channels = source.shape[axis] if len(source.shape) > 1 else source.n_elements
    out_channels = target.shape[axis] if len(target.shape) > 1 else target.n_elements
    n_bytes = kernel.n_bytes
    return [
        math.log1p(n_macs),
        math.log1p(sum(t.n_bytes for t in kernel.inputs) - (weight.n_bytes if weight else 0)),
        math.log1p(weight.n_bytes if weight else 0),
        math.log1p(sum(t.n_bytes for t in kernel.outputs)),
        math.log1p(in_channels),
        math.log1p(out_channels),
        math.log1p(target.n_elements / max(1, out_channels)),
        math.log1p(math.prod(window)),
        float(strides[0]),
        math.log1p(in_channels / max(1, group)),
        float(group > 1 and group == in_channels),
        float(_ACTIVATIONS.get(kernel.activation, _OTHER_ACTIVATION)),
        float(len(kernel.inputs)),
        math.log1p(n_macs / max(1, n_bytes)),
    ]
