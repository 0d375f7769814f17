import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from hwnas.data import DataSet, Preprocessing, Split, load_data
from hwnas.errors import DataError
from hwnas.evaluation import (
    METADATA_KEY,
    about_examples,
    evaluate_onnx,
    inputs_for,
    preprocessing_of,
    read_metadata,
)
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
    about = {"preprocessing": {"kind": "image", "mean": [0.25], "std": [0.5]}}
    w = linear_model(tmp_path / "m.onnx", metadata=json.dumps(about))
    chosen = getattr(digits, split)
    pixels = (chosen.inputs.numpy().reshape(len(chosen), 64).astype(np.float64) / 255 - 0.25) / 0.5
    expected = score(chosen.labels.numpy(), (pixels @ w).argmax(axis=1))
    found = evaluate_onnx(tmp_path / "m.onnx", digits, split=split)
    assert found == expected and found.n == 450


def test_a_model_from_elsewhere_is_given_the_mean_of_the_data(digits, tmp_path):
    linear_model(tmp_path / "m.onnx")
    model = load_model(tmp_path / "m.onnx")
    assert read_metadata(model) == {}
    preprocessing = preprocessing_of(model, digits)
    assert preprocessing == Preprocessing("image", (1, 8, 8), digits.mean, digits.std)
    images = preprocessing.apply(digits.train.inputs)
    assert images.dtype == torch.float32 and abs(float(images.mean())) < 1e-3
    assert abs(float(images.std()) - 1) < 1e-3


def test_images_are_resized_to_what_the_model_takes(digits, tmp_path):
    linear_model(tmp_path / "m.onnx", shape=("n", 1, 12, 12))
    preprocessing = preprocessing_of(load_model(tmp_path / "m.onnx", batch=1), digits)
    assert preprocessing.apply(digits.test.inputs).shape == (450, 1, 12, 12)
    assert evaluate_onnx(tmp_path / "m.onnx", digits).n == 450


@pytest.mark.parametrize("text", ["no json", "[1]", "7"])
def test_metadata_that_is_not_ours_is_left_alone(digits, tmp_path, text):
    linear_model(tmp_path / "m.onnx", metadata=text)
    assert read_metadata(load_model(tmp_path / "m.onnx")) == {}
    assert evaluate_onnx(tmp_path / "m.onnx", digits).n == 450


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 1, 64), (1, 64)])
def test_a_model_that_takes_no_such_images_is_refused(digits, tmp_path, shape):
    linear_model(tmp_path / "m.onnx", shape=shape)
    takes = "×".join(map(str, shape))
    with pytest.raises(
        DataError, match=f"m takes 'x' {takes} float32, but images of 'digits' are 1×8"
    ):
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
    with pytest.raises(
        ModelError, match="cannot be done to images of .digits. .not for 1 channels"
    ):
        evaluate_onnx(tmp_path / "m.onnx", digits)


@pytest.mark.parametrize("split", ["train", "tset", "name"])
def test_an_unknown_split_is_refused(digits, tmp_path, split):
    with pytest.raises(DataError, match=f"one of validation, test, got '{split}'"):
        evaluate_onnx(tmp_path / "m.onnx", digits, split=split)


def test_a_missing_file_is_refused(digits, tmp_path):
    with pytest.raises(ModelError, match=r"cannot read .*m\.onnx"):
        evaluate_onnx(tmp_path / "m.onnx", digits)


def embedding_model(path, *, words=None, ids=9, n_classes=2):
    """Logits = the sum of the rows of a table that token ids `(n, 5)` name."""
    table = np.random.default_rng(0).standard_normal((ids, n_classes)).astype(np.float32)
    axes = onnx.numpy_helper.from_array(np.array([1]), "axes")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["rows"]),
         helper.make_node("ReduceSum", ["rows", "axes"], ["y"], keepdims=0)],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, (1, 5))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(table, "table"), axes],
    )  # fmt: skip
    proto = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    if words is not None:
        entry = proto.metadata_props.add()
        entry.key = METADATA_KEY
        entry.value = json.dumps({"preprocessing": {"kind": "tokens", "words": words}})
    path.write_bytes(proto.SerializeToString())
    return table


@pytest.fixture
def texts():
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, 9, (30, 5)))
    split = Split(ids, torch.arange(30) % 2)
    return DataSet("texts", split, split, split, ("a", "b"), tuple("pqrstuv"))


def test_a_model_of_token_ids_is_given_integers(texts, tmp_path):
    table = embedding_model(tmp_path / "m.onnx", words=list("pqrstuv"))
    logits = table[texts.test.inputs.numpy()].sum(axis=1)
    expected = score(texts.test.labels.numpy(), logits.argmax(axis=1))
    assert evaluate_onnx(tmp_path / "m.onnx", texts) == expected


def test_a_model_that_knows_other_words_is_refused(texts, tmp_path):
    embedding_model(tmp_path / "m.onnx", words=list("pqr"))
    with pytest.raises(DataError, match="knows 3 words, others than the 7 of 'texts'"):
        evaluate_onnx(tmp_path / "m.onnx", texts)


def test_numbers_are_not_given_to_a_model_of_token_ids(texts, tmp_path):
    embedding_model(tmp_path / "m.onnx")
    wine = load_data("wine")
    with pytest.raises(
        DataError, match="takes 'ids' 1×5 int64, but rows of 'wine' are 13: .*float"
    ):
        evaluate_onnx(tmp_path / "m.onnx", wine)
    linear_model(tmp_path / "f.onnx", shape=(1, 5))
    with pytest.raises(DataError, match="1×5 float32, but token sequences of 'texts' are 5.*integ"):
        evaluate_onnx(tmp_path / "f.onnx", texts)


def test_a_table_is_standardised_by_what_the_model_says(tmp_path):
    wine = load_data("wine")
    mean, std = [1.0] * 13, [2.0] * 13
    about = {"preprocessing": {"kind": "table", "mean": mean, "std": std}}
    w = linear_model(
        tmp_path / "m.onnx", shape=(1, 13), n_classes=3, metadata=json.dumps(about), op="Identity"
    )
    logits = (wine.test.inputs.numpy() - 1) / 2 @ w
    expected = score(wine.test.labels.numpy(), logits.argmax(axis=1))
    assert evaluate_onnx(tmp_path / "m.onnx", wine) == expected


def raw_model(path, *, shape, element=TensorProto.UINT8):
    """Logits = stored pixels · W: a model with its preprocessing inside."""
    w = linear_model(path, shape=shape, metadata=json.dumps({"input": "raw"}), op="Cast")
    proto = onnx.load(path)
    proto.graph.input[0].type.tensor_type.elem_type = element
    proto.graph.node[0].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    flat = helper.make_node("Flatten", ["f"], ["flat"])
    proto.graph.node.insert(1, flat)
    proto.graph.node[2].input[0] = "flat"
    path.write_bytes(proto.SerializeToString())
    return w


@pytest.mark.parametrize("batch", [1, 7, "n"])
def test_a_model_with_its_preprocessing_inside_is_given_what_is_stored(digits, tmp_path, batch):
    w = raw_model(tmp_path / "m.onnx", shape=(batch, 1, 8, 8))
    pixels = digits.test.inputs.numpy().reshape(450, 64).astype(np.float32)
    expected = score(digits.test.labels.numpy(), (pixels @ w).argmax(axis=1))
    assert evaluate_onnx(tmp_path / "m.onnx", digits) == expected
    model = load_model(tmp_path / "m.onnx", batch=1)
    assert inputs_for(model, digits, digits.test.inputs) is digits.test.inputs


@pytest.mark.parametrize(
    ("shape", "element", "takes"),
    [
        ((1, 1, 9, 9), TensorProto.UINT8, "1×1×9×9 uint8"),
        ((1, 1, 8, 8), TensorProto.FLOAT, "1×1×8×8 float32"),
    ],
)
def test_a_model_of_other_stored_examples_is_refused(digits, tmp_path, shape, element, takes):
    raw_model(tmp_path / "m.onnx", shape=shape, element=element)
    with pytest.raises(DataError, match=f"stored, 'x' {takes}, but images of 'digits' are 1×8×8 u"):
        evaluate_onnx(tmp_path / "m.onnx", digits)


def test_what_examples_are_is_written_into_models(digits, texts):
    assert about_examples(digits) == {
        "example": {"shape": [1, 8, 8], "type": "uint8"}, "input": "prepared"
    }  # fmt: skip
    assert about_examples(texts)["example"] == {"shape": [5], "type": "int64"}
