import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from hwnas.data import DataSet, Preprocessing, Split
from hwnas.delivery.raw_input import with_raw_input
from hwnas.export import run_onnx


def prepared_by_the_model(tmp_path, preprocessing, data, *, batch=1):
    """What a model that hands on its input gets behind the preprocessing."""
    shape = [batch, *preprocessing.input_shape]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    proto = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    raw = with_raw_input(proto, preprocessing, data.input_shape, data.train.inputs.dtype)
    onnx.checker.check_model(raw, full_check=True)
    assert [node.op_type for node in proto.graph.node] == ["Identity"], "the given model changed"
    (tmp_path / "m.onnx").write_bytes(raw.SerializeToString())
    return run_onnx(tmp_path / "m.onnx", data.train.inputs.numpy())


def data_of(inputs):
    split = Split(inputs, torch.arange(len(inputs)) % 2)
    return DataSet("made", split, split, split, ("a", "b"))


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(8, 12), (4, 6), (5, 7), (16, 12), (1, 1)])
@pytest.mark.parametrize("batch", [1, "n"])
def test_bytes_of_images_are_resized_and_standardised_as_in_training(tmp_path, size, batch):
    data = data_of((128 + 50 * noise(40, 3, 8, 12)).clamp(0, 255).to(torch.uint8))
    preprocessing = Preprocessing.of(data, (3, *size))
    found = prepared_by_the_model(tmp_path, preprocessing, data, batch=batch)
    expected = preprocessing.apply(data.train.inputs).numpy()
    assert found.shape == expected.shape == (40, 3, *size)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (5, 3)])
def test_images_of_floats_are_not_rounded(tmp_path, size):
    data = data_of(3 * noise(20, 1, 8, 8))
    preprocessing = Preprocessing.of(data, (1, *size))
    found = prepared_by_the_model(tmp_path, preprocessing, data)
    expected = preprocessing.apply(data.train.inputs).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 30), (5,)])
def test_signals_and_rows_far_from_zero_keep_their_digits(tmp_path, shape):
    data = data_of(1e6 + noise(20, *shape))
    preprocessing = Preprocessing.of(data, shape)
    found = prepared_by_the_model(tmp_path, preprocessing, data)
    expected = preprocessing.apply(data.train.inputs).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert expected.std() == pytest.approx(1, abs=0.1)


def test_token_ids_need_none(tmp_path):
    data = data_of(torch.arange(40).reshape(8, 5))
    with pytest.raises(ValueError, match="takes token ids as they are"):
        prepared_by_the_model(tmp_path, Preprocessing.of(data, (5,)), data)
