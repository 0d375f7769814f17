from dataclasses import replace

import numpy as np
import onnx
import pytest

from hwnas.delivery.half import fp16_twin, why_no_bf16, why_no_fp16
from hwnas.evaluation import inputs_for
from hwnas.export import run_onnx
from profilers.onnx_models import load_model
from profilers.targets import make_target


def test_an_fp16_model_has_half_the_weights_and_nearly_the_same_logits(run_folder, tmp_path):
    path = run_folder.folder / run_folder.front[1].onnx
    examples = run_folder.data.validation.inputs[:20]
    inputs = inputs_for(load_model(path), run_folder.data, examples).numpy()
    twin = fp16_twin(path)
    (tmp_path / "half.onnx").write_bytes(twin.SerializeToString())
    difference = np.abs(run_onnx(tmp_path / "half.onnx", inputs) - run_onnx(path, inputs)).max()
    assert 0 < difference < 0.1
    types = {tensor.data_type for tensor in twin.graph.initializer}
    assert onnx.TensorProto.FLOAT16 in types and onnx.TensorProto.FLOAT not in types


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        ("onnxruntime-cuda", None),
        ("onnxruntime-cpu", "onnxruntime-cpu computes in fp32 and int8 only"),
        ("openvino-cpu", "openvino-cpu takes its precision as a setting, not from the file"),
    ],
)
def test_whether_a_target_takes_such_files_is_said(runtime, reason):
    assert why_no_fp16(replace(make_target(), runtime=runtime)) == reason


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        ("openvino-cpu", None),
        ("torch-cuda", None),
        ("onnxruntime-cuda", "onnxruntime-cuda takes its precision from the file"),
    ],
)
def test_whether_bf16_is_a_setting_of_the_runtime_is_said(runtime, reason):
    assert why_no_bf16(replace(make_target(), runtime=runtime)) == reason
