import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from hwnas.data import load_data
from hwnas.errors import DataError
from hwnas.evaluation import METADATA_KEY, evaluate_onnx, preprocessing_of, read_metadata
from hwnas.metrics import score
from profilers.errors import ModelError
from profilers.onnx_models import load_model


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def linear_model(path, *, shape=(1, 1, 8, 8), n_classes=10, metadata=None, op="Flatten"):
    """Logits = pixels · W, exported by somebody else: the first layer is `op`."""
    features = int(np.prod([size for size in shape[1:] if isinstance(size, int)]))
    w = np.random.default_rng(0).standard_normal((features, n_classes)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(w, "w")],
    )
    proto = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    if metadata is not None:
        entry = proto.metadata_props.add()
        entry.key, entry.value = METADATA_KEY, metadata
    path.write_bytes(proto.SerializeToString())
    return w


@pytest.mark.parametrize("split", ["validation", "test"])
def test_scores_are_those_of_the_logits_computed_by_hand(digits, tmp_path, split):
    about = {"preprocessing": {"resolution": 8, "mean": [0.25], "std": [0.5]}}
    w = linear_model(tmp_path / "m.onnx", metadata=json.dumps(about))
    chosen = getattr(digits, split)
    pixels = (chosen.images.numpy().reshape(len(chosen), 64).astype(np.float64) / 255 - 0.25) / 0.5
    expected = score(chosen.labels.numpy(), (pixels @ w).argmax(axis=1))
    found = evaluate_onnx(tmp_path / "m.onnx", digits, split=split)
    assert found == expected and found.n == 450


def test_a_model_from_elsewhere_is_given_the_mean_of_the_data(digits, tmp_path):
    linear_model(tmp_path / "m.onnx")
    model = load_model(tmp_path / "m.onnx")
    assert read_metadata(model) == {}
    preprocessing = preprocessing_of(model, digits)
    assert (preprocessing.resolution, preprocessing.mean, preprocessing.std) == (
        8, digits.mean, digits.std,
    )  # fmt: skip
    images = preprocessing.apply(digits.train)
    assert images.dtype == torch.float32 and abs(float(images.mean())) < 1e-3
    assert abs(float(images.std()) - 1) < 1e-3


def test_images_are_resized_to_what_the_model_takes(digits, tmp_path):
    linear_model(tmp_path / "m.onnx", shape=("n", 1, 12, 12))
    preprocessing = preprocessing_of(load_model(tmp_path / "m.onnx", batch=1), digits)
    assert preprocessing.apply(digits.test).shape == (450, 1, 12, 12)
    assert evaluate_onnx(tmp_path / "m.onnx", digits).n == 450


@pytest.mark.parametrize("text", ["no json", "[1]", "7"])
def test_metadata_that_is_not_ours_is_left_alone(digits, tmp_path, text):
    linear_model(tmp_path / "m.onnx", metadata=text)
    assert read_metadata(load_model(tmp_path / "m.onnx")) == {}
    assert evaluate_onnx(tmp_path / "m.onnx", digits).n == 450


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 1, 8, 9), (1, 64)])
def test_a_model_that_takes_no_such_images_is_refused(digits, tmp_path, shape):
    linear_model(tmp_path / "m.onnx", shape=shape)
    takes = "×".join(map(str, shape))
    with pytest.raises(DataError, match=f"m takes 'x' {takes}, but images of 'digits' are"):
        evaluate_onnx(tmp_path / "m.onnx", digits)


def test_a_model_with_other_classes_is_refused(digits, tmp_path):
    linear_model(tmp_path / "m.onnx", n_classes=7)
    with pytest.raises(ModelError, match=r"shape \(450, 7\), but 'digits' has 10 classes"):
        evaluate_onnx(tmp_path / "m.onnx", digits)


def test_a_model_that_the_runtime_refuses_is_one_message(digits, tmp_path):
    linear_model(tmp_path / "m.onnx", op="NoSuchOperator")
    with pytest.raises(ModelError, match=r"cannot run .*m\.onnx.*NoSuchOperator"):
        evaluate_onnx(tmp_path / "m.onnx", digits)


def test_preprocessing_for_other_channels_is_one_message(digits, tmp_path):
    about = {"preprocessing": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}}
    linear_model(tmp_path / "m.onnx", metadata=json.dumps(about))
    with pytest.raises(ModelError, match="none for 1 channels"):
        evaluate_onnx(tmp_path / "m.onnx", digits)


@pytest.mark.parametrize("split", ["train", "tset", "name"])
def test_an_unknown_split_is_refused(digits, tmp_path, split):
    with pytest.raises(DataError, match=f"one of validation, test, got '{split}'"):
        evaluate_onnx(tmp_path / "m.onnx", digits, split=split)


def test_a_missing_file_is_refused(digits, tmp_path):
    with pytest.raises(ModelError, match=r"cannot read .*m\.onnx"):
        evaluate_onnx(tmp_path / "m.onnx", digits)
