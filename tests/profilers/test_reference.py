import numpy as np
import onnx

from profilers.reference import conv_stack, reference_model


def test_a_stack_is_valid_onnx_with_the_layers_asked_for():
    proto = conv_stack(np.random.default_rng(0), 2, n_layers=5, channels=8, size=6)
    onnx.checker.check_model(proto, full_check=True)
    operators = [node.op_type for node in proto.graph.node]
    assert operators == ["Conv", "Relu"] * 5 + ["GlobalAveragePool", "Flatten", "Gemm"]
    groups = [
        next((a.i for a in node.attribute if a.name == "group"), 1)
        for node in proto.graph.node
        if node.op_type == "Conv"
    ]
    assert groups == [1, 8, 1, 8, 1]  # 1×1 and depthwise in turns


def test_the_reference_is_the_same_every_time():
    assert reference_model().digest == reference_model().digest
    assert reference_model().inputs[0].shape == (1, 3, 12, 12)
