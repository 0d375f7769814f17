import hashlib
import re
from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from profilers import onnx_models
from profilers.errors import ModelError
from profilers.onnx_models import MAX_IR_VERSION, check_batch, load_model, make_model
from profilers.reference import conv_stack


@pytest.fixture
def save(tmp_path):
    def save(proto, name="net.onnx"):
        path = tmp_path / name
        path.write_bytes(proto.SerializeToString())
        return path

    return save


def test_a_model_is_read_with_its_inputs(save, relu_proto):
    path = save(relu_proto((1, 3, 8, 8)))
    model = load_model(path)
    (spec,) = model.inputs
    assert (model.name, spec.name, spec.shape, spec.dtype) == ("net", "x", (1, 3, 8, 8), np.float32)
    assert model.digest == load_model(path).digest
    assert model.digest != load_model(save(relu_proto((1, 3, 8, 9)), "other.onnx")).digest


def test_two_shapes_of_one_open_file_are_two_models(save, relu_proto):
    path = save(relu_proto(("batch", 3, None)))
    models = [load_model(path, shapes={"x": shape}) for shape in ((1, 3, 8), (1, 3, 9), (2, 3, 8))]
    assert len({model.digest for model in models}) == 3
    assert load_model(path, shapes={"x": (1, 3, 8)}).digest == models[0].digest
    batched = save(relu_proto((None, 4)), "batched.onnx")
    assert load_model(batched, batch=1).digest != load_model(batched, batch=2).digest


def test_a_closed_model_is_known_by_its_bytes_whatever_is_asked(save, relu_proto):
    path = save(relu_proto((2, 3)))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_model(path).digest == digest
    assert load_model(path, batch=2, shapes={"x": (2, 3)}).digest == digest


def test_a_newer_ir_version_is_lowered_to_what_the_runtimes_read(save, relu_proto):
    proto = relu_proto()
    proto.ir_version = MAX_IR_VERSION + 2
    assert load_model(save(proto)).proto.ir_version == MAX_IR_VERSION


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it holds no graph"),
        (b"<!DOCTYPE html><html>404 Not Found</html>", "parsing message"),
        (b"PK\x03\x04 a zip", "parsing message"),
        (bytes(1000), "parsing message"),
    ],
)
def test_what_is_no_onnx_is_refused_with_its_size_and_what_to_do(tmp_path, content, reason):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load_model(path)
    message = str(caught.value)
    assert f"{path} is not a readable ONNX model ({len(content):,} bytes)" in message
    assert reason in message
    assert "Export it again" in message
    assert "\n" not in message


def test_a_truncated_download_is_refused(tmp_path):
    data = conv_stack(
        np.random.default_rng(0), 1, n_layers=2, channels=4, size=4
    ).SerializeToString()
    path = tmp_path / "net.onnx"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="download is complete"):
        load_model(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"cannot read .*missing\.onnx: No such file"):
        load_model(tmp_path / "missing.onnx")
    with pytest.raises(ModelError, match="cannot read .*: Is a directory"):
        load_model(tmp_path)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_but_nothing_else_happens(tmp_path, relu_proto, data):
    content = bytearray(relu_proto(("batch", 3, "height", 8)).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not content:
            break
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with suppress(ModelError):
        model = load_model(path, batch=2, shapes={"x": (1, 3, 8, 8)})
        model.random_inputs(np.random.default_rng(0))


@pytest.mark.parametrize("name", [b"inp\xff\xfet", b"dimens\xff\xfe"])
def test_names_that_are_no_text_do_no_harm(tmp_path, name):
    good = {b"inp\xff\xfet": b"input1", b"dimens\xff\xfe": b"dimensio"}[name]
    info = helper.make_tensor_value_info("input1", TensorProto.FLOAT, ["dimensio", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["input1"], ["y"])], "g", [info], [info])
    path = tmp_path / "net.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString().replace(good, name))
    with pytest.raises(ModelError):
        load_model(path)


class TestDynamicShapes:
    def test_an_open_batch_is_set_by_batch(self, relu_proto):
        model = make_model(relu_proto(("N", 3, 8, 8)), name="net", batch=4)
        assert model.inputs[0].shape == (4, 3, 8, 8)
        assert model.dimensions == {"N": 4}

    @pytest.mark.parametrize("batch_in_file", [0, -1])
    def test_a_batch_of_0_or_minus_1_in_the_file_is_open(self, relu_proto, batch_in_file):
        proto = relu_proto((1, 3))
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch_in_file
        assert make_model(proto, name="net", batch=4).inputs[0].shape == (4, 3)
        assert make_model(proto, name="net", shapes={"x": (5, 3)}).inputs[0].shape == (5, 3)
        with pytest.raises(ModelError, match=r"--shape x=1,3 \(or --batch N\)"):
            make_model(proto, name="net")

    def test_an_open_batch_alone_asks_for_shape_or_batch(self, relu_proto):
        message = (
            "input 'x' of net has the dynamic shape N×3×8×8; a latency needs a static one: "
            "give --shape x=1,3,8,8 (or --batch N)"
        )
        with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
            make_model(relu_proto(("N", 3, 8, 8)), name="net")

    def test_an_open_height_asks_for_the_shape_even_with_a_batch(self, relu_proto):
        with pytest.raises(ModelError, match=r"shape N×3×H×\?; .* --shape x=1,3,N,N$"):
            make_model(relu_proto(("N", 3, "H", None)), name="net", batch=4)

    def test_an_unknown_rank_asks_for_the_shape(self, relu_proto):
        proto = relu_proto()
        proto.graph.input[0].type.tensor_type.ClearField("shape")
        with pytest.raises(ModelError, match=r"dynamic shape unknown; .* --shape x=\.\.\."):
            make_model(proto, name="net")
        assert make_model(proto, name="net", shapes={"x": (2, 2)}).inputs[0].shape == (2, 2)

    def test_a_given_shape_closes_all_dimensions(self, relu_proto):
        model = make_model(relu_proto(("N", 3, "H", "W")), name="net", shapes={"x": (2, 3, 16, 24)})
        assert model.inputs[0].shape == (2, 3, 16, 24)
        assert model.dimensions == {"N": 2, "H": 16, "W": 24}

    @pytest.mark.parametrize("shape", [(1, 4, 8), (1, 4, 8, 8), (0, 3, 8, 8), (1, 3, -1, 8)])
    def test_a_given_shape_that_does_not_fit_is_refused(self, relu_proto, shape):
        with pytest.raises(ModelError, match=r"has shape N×3×H×W; the given shape .* does not fit"):
            make_model(relu_proto(("N", 3, "H", "W")), name="net", shapes={"x": shape})

    def test_a_shape_for_an_input_that_does_not_exist_names_those_that_do(self, relu_proto):
        with pytest.raises(ModelError, match="net has no input 'image'; its inputs are 'x'"):
            make_model(relu_proto(), name="net", shapes={"image": (1, 4)})


def test_another_batch_than_the_targets_is_refused(relu_proto):
    model = make_model(relu_proto((8, 3)), name="net")
    check_batch(model, 8)
    with pytest.raises(ModelError, match="is a batch of 8, but the target has batch 1: use a"):
        check_batch(model, 1)
    check_batch(make_model(relu_proto((8,)), name="net"), 1)  # a vector has no batch


def test_weights_among_the_inputs_need_no_feed(make_proto):
    proto = make_proto(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        {"x": (TensorProto.FLOAT, (1, 4)), "w": (TensorProto.FLOAT, (4,))},
        {"y": (TensorProto.FLOAT, (1, 4))},
        {"w": np.ones(4, dtype=np.float32)},
    )
    assert [spec.name for spec in make_model(proto, name="net").inputs] == ["x"]


def test_inputs_that_are_no_tensors_are_refused(relu_proto):
    proto = relu_proto()
    proto.graph.input[0].type.CopyFrom(
        helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, (1,)))
    )
    with pytest.raises(ModelError, match="'x' of net is no tensor"):
        make_model(proto, name="net")


@pytest.mark.parametrize("elem_type", [0, 99])
def test_an_unknown_element_type_is_refused(relu_proto, elem_type):
    proto = relu_proto()
    proto.graph.input[0].type.tensor_type.elem_type = elem_type
    with pytest.raises(ModelError, match=f"element type {elem_type}"):
        make_model(proto, name="net")


def test_every_node_gets_a_name_of_its_own(make_proto):
    names = ["", "a", "a", "Relu__0", "a__2", ""]
    proto = make_proto(
        [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"], name=n) for i, n in enumerate(names)],
        {"t0": (TensorProto.FLOAT, (1,))},
        {"t6": (TensorProto.FLOAT, (1,))},
    )
    found = [node.name for node in make_model(proto, name="net").proto.graph.node]
    assert len(set(found)) == 6
    assert "" not in found
    assert [found[i] for i in (1, 3, 4)] == ["a", "Relu__0", "a__2"]  # good names stay


def test_random_inputs_suit_their_types(make_proto):
    proto = make_proto(
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        {"table": (TensorProto.FLOAT16, (50, 2)), "ids": (TensorProto.INT64, (300,))},
        {"y": (TensorProto.FLOAT16, (300, 2))},
    )
    model = make_model(proto, name="net")
    feed = model.random_inputs(np.random.default_rng(0))
    assert {name: (a.dtype, a.shape) for name, a in feed.items()} == {
        "table": (np.float16, (50, 2)),
        "ids": (np.int64, (300,)),
    }
    assert set(feed["ids"].tolist()) == {0, 1}  # valid as ids, masks and lengths
    again = model.random_inputs(np.random.default_rng(0))
    assert all(np.array_equal(feed[name], again[name]) for name in feed)


class TestExternalData:
    @pytest.fixture
    def external(self, make_proto, save):
        def make(location):
            proto = make_proto(
                [helper.make_node("Add", ["x", "w"], ["y"])],
                {"x": (TensorProto.FLOAT, (1, 64))},
                {"y": (TensorProto.FLOAT, (1, 64))},
                {"w": np.full(64, 7, dtype=np.float32)},
            )
            weight = proto.graph.initializer[0]
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value=location)
            return save(proto)

        return make

    def test_weights_beside_the_model_are_read(self, external, tmp_path):
        (tmp_path / "weights.bin").write_bytes(np.full(64, 3, dtype="<f4").tobytes())
        model = load_model(external("weights.bin"))
        assert onnx.numpy_helper.to_array(model.proto.graph.initializer[0]).tolist() == [3] * 64

    @pytest.mark.parametrize("location", ["../secret.bin", "missing.bin", "sub/../../secret.bin"])
    def test_weights_outside_the_folder_or_missing_are_refused(self, external, tmp_path, location):
        (tmp_path.parent / "secret.bin").write_bytes(bytes(256))
        with pytest.raises(ModelError, match="is not a readable ONNX model"):
            load_model(external(location))

    def test_an_absolute_path_and_a_link_out_of_the_folder_are_refused(self, external, tmp_path):
        secret = tmp_path.parent / "secret.bin"
        secret.write_bytes(bytes(256))
        (tmp_path / "link.bin").symlink_to(secret)
        for location in (str(secret), "link.bin"):
            with pytest.raises(ModelError):
                load_model(external(location))

    def test_weights_that_many_tensors_name_are_counted_before_they_are_read(
        self, make_proto, save, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(onnx_models, "MAX_BYTES", 100_000)
        with (tmp_path / "weights.bin").open("wb") as file:
            file.truncate(60_000)
        weights = {name: np.full(15_000, 7, dtype=np.float32) for name in "uvw"}
        shape = (TensorProto.FLOAT, (1, 15_000))
        nodes = [helper.make_node("Sum", ["x", *weights], ["y"])]
        proto = make_proto(nodes, {"x": shape}, {"y": shape}, weights)
        for weight in proto.graph.initializer:
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value="weights.bin")
        with pytest.raises(ModelError, match="with its weights it has more than 100,000 bytes"):
            load_model(save(proto))

    def test_tensors_of_nodes_and_of_graphs_within_are_read_from_beside_the_model(
        self, make_proto, save, tmp_path
    ):
        (tmp_path / "weights.bin").write_bytes(np.full(4, 3, dtype="<f4").tobytes())

        def constant(name):
            node = helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(
                np.zeros(4, np.float32)
            ))  # fmt: skip
            value = node.attribute[0].t
            value.ClearField("raw_data")
            value.data_location = TensorProto.EXTERNAL
            value.external_data.add(key="location", value="weights.bin")
            return node

        output = helper.make_tensor_value_info("b", TensorProto.FLOAT, (4,))
        branch = helper.make_graph([constant("b")], "branch", [], [output])
        proto = make_proto(
            [
                helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch),
                constant("a"),
                helper.make_node("Add", ["a", "z"], ["y"]),
            ],
            {"c": (TensorProto.BOOL, ())},
            {"y": (TensorProto.FLOAT, (4,))},
            {},
        )
        graph = load_model(save(proto)).proto.graph
        inner = graph.node[0].attribute[0].g.node[0]
        for node in (graph.node[1], inner):
            assert onnx.numpy_helper.to_array(node.attribute[0].t).tolist() == [3] * 4
