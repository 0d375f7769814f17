"""Small networks made here: to calibrate a target with, and to tell how fast the machine is now."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from profilers.onnx_models import MAX_IR_VERSION, OnnxModel, make_model

OPSET = 17


def reference_model() -> OnnxModel:
    """A network of some ten microseconds whose data fill the first-level cache."""
    proto = conv_stack(np.random.default_rng(0), 1, n_layers=6, channels=32, size=12)
    return make_model(proto, name="reference")


def conv_stack(
    rng: np.random.Generator, batch: int, *, n_layers: int, channels: int, size: int
) -> onnx.ModelProto:
    """Convolutions of 1×1 and depthwise 3×3 in turns, a ReLU behind each, mean and classes."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    last = "x"

    def add(op: str, inputs: list[str], **attributes: Any) -> str:
        output = f"t{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes))
        return output

    def weight(*shape: int) -> str:
        name = f"w{len(weights)}"
        fan_in = int(np.prod(shape[1:]))
        values = rng.standard_normal(shape).astype(np.float32) * np.sqrt(2 / fan_in)
        weights.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
        return name

    for i in range(n_layers):
        if i % 2:
            kernel = weight(channels, 1, 3, 3)
            last = add("Conv", [last, kernel], group=channels, pads=[1, 1, 1, 1])
        else:
            last = add("Conv", [last, weight(channels, channels if i else 3, 1, 1)])
        last = add("Relu", [last])
    last = add("Flatten", [add("GlobalAveragePool", [last])])
    last = add("Gemm", [last, weight(10, channels)], transB=1)
    graph = helper.make_graph(
        nodes,
        "calibration",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [batch, 10])],
        weights,
    )
    return helper.make_model(
        graph, ir_version=MAX_IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )
