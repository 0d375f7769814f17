import logging
import tempfile

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from profilers import precision
from profilers.errors import ModelError
from profilers.kernels import macs
from profilers.onnx_models import make_model
from profilers.precision import Converter, convert
from profilers.profiler import Profiler
from profilers.reference import conv_stack
from profilers.targets import make_target

FLOAT, INT8 = TensorProto.FLOAT, TensorProto.INT8


@pytest.fixture
def stack():
    proto = conv_stack(np.random.default_rng(0), 1, n_layers=4, channels=8, size=8)
    return make_model(proto, name="stack")


def run(model, feed):
    session = ort.InferenceSession(model.proto.SerializeToString())
    return session.run(None, feed)[0]


@pytest.mark.parametrize(("to", "tolerance"), [("fp16", 0.01), ("int8", 0.1)])
def test_a_converted_model_computes_nearly_the_same_from_the_same_inputs(
    stack, to, tolerance, has_vnni
):
    if to == "int8" and not has_vnni:
        tolerance = 0.5
    before = stack.proto.SerializeToString()
    converted = convert(stack, to)
    assert (converted.name, converted.digest) == (stack.name, stack.digest)
    assert converted.inputs == stack.inputs
    feed = stack.random_inputs(np.random.default_rng(0))  # one that int8 was calibrated with
    expected, found = run(stack, feed), run(converted, feed)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < tolerance * np.abs(expected).max()
    assert stack.proto.SerializeToString() == before


def test_fp32_is_the_model_itself(stack):
    assert convert(stack, "fp32") is stack
    assert Converter("fp32")(stack) is stack


def test_a_model_that_is_int8_already_stays_as_it_is(stack):
    quantized = convert(stack, "int8")
    assert convert(quantized, "int8") is quantized is not stack


def test_weights_of_fp16_take_half_the_bytes(stack):
    converted = convert(stack, "fp16")
    kinds = {tensor.data_type for tensor in converted.proto.graph.initializer if tensor.dims}
    assert kinds == {TensorProto.FLOAT16}


def test_int8_has_a_scale_for_every_output_channel(stack):
    converted = convert(stack, "int8")
    weights = [t for t in converted.proto.graph.initializer if len(t.dims) == 4]
    assert {t.data_type for t in weights} == {INT8}
    scales = {t.name: tuple(t.dims) for t in converted.proto.graph.initializer}
    assert [scales[t.name.replace("quantized", "scale")] for t in weights] == [(8,)] * 4


def test_old_operator_sets_get_one_scale_for_a_tensor(stack):
    proto = helper.make_model(
        stack.proto.graph, ir_version=7, opset_imports=[helper.make_opsetid("", 11)]
    )
    converted = convert(make_model(proto, name="old"), "int8")
    assert any(t.data_type == INT8 for t in converted.proto.graph.initializer)


def test_symmetric_activations_are_signed(stack):
    def kinds(model):
        points = [n.input[2] for n in model.proto.graph.node if n.op_type == "QuantizeLinear"]
        return {t.data_type for t in model.proto.graph.initializer if t.name in points}

    assert kinds(convert(stack, "int8")) == {TensorProto.UINT8}
    assert kinds(convert(stack, "int8", symmetric=True)) == {INT8}


@pytest.mark.parametrize("to", ["fp16", "int8"])
def test_symbolic_dimensions_become_their_sizes(make_proto, to):
    proto = make_proto(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": (FLOAT, ("N", 4))},
        {"y": (FLOAT, ("N", 2))},
        {"w": np.ones((4, 2), dtype=np.float32)},
    )
    model = make_model(proto, name="net", batch=3)
    converted = convert(model, to)
    assert converted.dimensions == {}
    feed = model.random_inputs(np.random.default_rng(0))
    assert run(converted, feed).shape == (3, 2)
    assert model.dimensions == {"N": 3}


@pytest.mark.parametrize("to", ["fp16", "int8"])
def test_nothing_is_left_behind(stack, to, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handlers, disabled = list(logging.root.handlers), logging.root.manager.disable
    convert(stack, to)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert logging.root.handlers == handlers
    assert logging.root.manager.disable == disabled


def test_models_beyond_two_gigabytes_are_refused(stack, monkeypatch):
    monkeypatch.setattr(precision, "MAX_BYTES", 100)
    with pytest.raises(ModelError, match=r"^stack has .* GB, .*more than 2 GB cannot be converted"):
        convert(stack, "int8")


def test_a_model_that_cannot_be_converted_is_one_clear_error(make_proto):
    proto = make_proto(
        [helper.make_node("NoSuchOperator", ["x"], ["y"])],
        {"x": (FLOAT, (1, 4))},
        {"y": (FLOAT, (1, 4))},
    )
    with pytest.raises(ModelError, match="^bad cannot be converted to int8: ") as caught:
        convert(make_model(proto, name="bad"), "int8")
    assert "\n" not in str(caught.value)


def test_an_unknown_precision_is_a_mistake_of_the_caller(stack):
    with pytest.raises(ValueError, match="fp32, fp16 or int8, got 'bf16'"):
        convert(stack, "bf16")


def test_a_converter_remembers_the_last_models_by_digest_and_shapes(make_proto, monkeypatch):
    calls = []

    def counted(model, to, *, symmetric):
        calls.append((model.digest, model.inputs[0].shape))
        return model

    def net(batch, value):
        proto = make_proto(
            [helper.make_node("Mul", ["x", "w"], ["y"])],
            {"x": (FLOAT, ("N", 4))},
            {"y": (FLOAT, ("N", 4))},
            {"w": np.float32(value)},
        )
        return make_model(proto, name="net", batch=batch)

    monkeypatch.setattr(precision, "convert", counted)
    converter = Converter("int8", n_remembered=2)
    for model in (net(1, 1), net(2, 1), net(1, 1), net(2, 1)):  # one digest, two shapes
        converter(model)
    assert len(calls) == 2
    for model in (net(1, 2), net(2, 1), net(1, 1)):  # the third forgets the first, which comes back
        converter(model)
    assert len(calls) == 4


def test_int8_kernels_have_the_products_of_fp32_and_a_measurement(stack):
    """Convolutions of 1×1 and 3×3 and a Gemm, on integers."""
    profiler = Profiler(make_target(precision="int8"))
    kernels = {node.kernel for node in profiler.kernels(stack)}
    assert {"com.microsoft:QLinearConv", "com.microsoft:QGemm"} <= {k.kind for k in kernels}
    # 8·8 outputs: 3 channels to 8, depthwise 3×3, 8 to 8, depthwise; then 8 to 10 classes
    by_hand = 64 * (8 * 3 + 8 * 9 + 8 * 8 + 8 * 9) + 8 * 10
    assert sum(macs(node.kernel) for node in profiler.kernels(stack)) == by_hand
    measurement = profiler.profile(stack, seconds=0.02)
    assert measurement.digest == stack.digest
    assert {run.kernel for run in measurement.kernels} == kernels


def test_weights_that_an_old_file_lists_among_its_inputs_may_be_folded_away(make_proto):
    # IR version 3: every initialiser is an input as well; the shape's is folded into a constant.
    proto = make_proto(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["weight"]),
            helper.make_node("Conv", ["x", "weight"], ["y"], kernel_shape=[1, 1]),
        ],
        {"x": (TensorProto.FLOAT, (1, 3, 4, 4)), "shape": (TensorProto.INT64, (4,))},
        {"y": (TensorProto.FLOAT, (1, 2, 4, 4))},
        {"shape": np.array([2, 3, 1, 1])},
    )
    proto.ir_version = 3
    converted = convert(make_model(proto, name="old"), "int8")
    assert [value.name for value in converted.proto.graph.input] == ["x"]
