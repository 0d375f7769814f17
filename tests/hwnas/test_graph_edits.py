"""Edits of graphs: what they change, what they leave, and that the result runs."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas.channel_edits import channel_groups, with_channels
from hwnas.graph_edits import (
    EDITS,
    Costs,
    aligned_channels,
    cheaper_activations,
    costs_by_tensor,
    fewer_channels,
    narrower_hidden,
    narrower_layer,
    separable_convolution,
    smaller_input,
    without_block,
    without_squeeze_excite,
)
from hwnas.onnx_graph import Graph
from profilers.onnx_models import MAX_IR_VERSION, make_model

FREE = Costs({}, 16)


class Builder:
    """A model node by node; `add` names what it writes after its number."""

    def __init__(self, *shape, seed=0):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights, self.shape = [], [], shape

    def weight(self, *shape, value=None):
        name = f"w{len(self.weights)}"
        array = self.rng.standard_normal(shape) * 0.2 if value is None else np.array(value)
        dtype = np.int64 if value is not None and array.dtype.kind == "i" else np.float32
        self.weights.append(numpy_helper.from_array(array.astype(dtype), name))
        return name

    def add(self, op, *inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"n{name}", **attributes))
        return name

    def conv(self, source, channels_in, channels_out, size=3, *, group=1, stride=1):
        weight = self.weight(channels_out, channels_in // group, size, size)
        return self.add(
            "Conv", source, weight, self.weight(channels_out), group=group,
            kernel_shape=[size, size], strides=[stride, stride], pads=[size // 2] * 4,
        )  # fmt: skip

    def model(self, output, *shape):
        graph = helper.make_graph(
            self.nodes, "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)], self.weights,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", 20)]
        proto = helper.make_model(graph, ir_version=MAX_IR_VERSION, opset_imports=opsets)
        onnx.checker.check_model(proto, full_check=True)
        return make_model(proto, name="toy")


def small_net(activation="HardSwish", *, widths=(10, 24), size=32):
    """Stem, depthwise, pointwise with a squeeze-and-excite, two residual blocks, head."""
    a, b = widths
    net = Builder(1, 3, size, size)
    here = net.add(activation, net.conv("x", 3, a))
    here = net.add("Relu", net.conv(here, a, a, group=a))
    here = net.conv(here, a, b, 1)
    small = net.conv(net.add("GlobalAveragePool", here), b, 8, 1)
    here = net.add("Mul", here, net.add("Sigmoid", net.conv(net.add("Relu", small), 8, b, 1)))
    for _ in range(2):
        branch = net.add("Relu", net.conv(here, b, 32, 3))
        here = net.add("Add", net.conv(branch, 32, b, 1), here)
    flat = net.add("Flatten", net.add("GlobalAveragePool", here))
    return net.model(net.add("Gemm", flat, net.weight(b, 5), net.weight(5)), 1, 5)


def encoder(gelu="erf"):
    """A residual block of two products with an activation between, on a sequence."""
    net = Builder(1, 7, 32)
    here = "x"
    for _ in range(2):
        hidden = net.add("Add", net.weight(64), net.add("MatMul", here, net.weight(32, 64)))
        if gelu == "erf":
            scaled = net.add("Div", hidden, net.weight(value=np.float32(2**0.5)))
            inner = net.add("Add", net.add("Erf", scaled), net.weight(value=np.float32(1)))
            hidden = net.add(
                "Mul", net.add("Mul", hidden, inner), net.weight(value=np.float32(0.5))
            )
        else:
            hidden = net.add("Gelu", hidden)
        here = net.add("Add", net.add("MatMul", hidden, net.weight(64, 32)), here)
    return net.model(net.add("Identity", here), 1, 7, 32)


def run(model, seed=0):
    session = ort.InferenceSession(
        model.proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (output,) = session.run(None, model.random_inputs(np.random.default_rng(seed)))
    return output


def ops(model):
    return [node.op_type for node in model.proto.graph.node]


def convolutions(model):
    shapes = {t.name: tuple(t.dims) for t in model.proto.graph.initializer}
    return [shapes[n.input[1]] for n in model.proto.graph.node if n.op_type == "Conv"]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.parametrize("make", [small_net, encoder])
def test_an_edited_model_runs_and_the_model_itself_stays_as_it_is(edit, make):
    model = make()
    before = model.proto.SerializeToString()
    found = edit(model, FREE)
    assert model.proto.SerializeToString() == before
    if found is not None:
        assert run(found.model).shape == run(model).shape
        assert found.model.digest != model.digest
        assert found.model.name == f"toy-{found.kind}"
        assert found.what


def test_filling_channels_up_changes_no_output():
    model = small_net()
    found = aligned_channels(model, FREE)
    assert not found.needs_training
    np.testing.assert_allclose(run(found.model), run(model), rtol=1e-4, atol=1e-5)
    # 10 and 24 channels become 16 and 32; the 8 between become 16.
    assert convolutions(found.model) == [
        (16, 3, 3, 3), (16, 1, 3, 3), (32, 16, 1, 1), (16, 32, 1, 1), (32, 16, 1, 1),
        (32, 32, 3, 3), (32, 32, 1, 1), (32, 32, 3, 3), (32, 32, 1, 1),
    ]  # fmt: skip


def test_rounding_down_drops_at_most_a_quarter_of_the_channels():
    found = fewer_channels(small_net(widths=(20, 42)), FREE)
    # 20 to 16 and 42 to 32 are allowed; 8 cannot become 0.
    assert convolutions(found.model)[:4] == [
        (16, 3, 3, 3), (16, 1, 3, 3), (32, 16, 1, 1), (8, 32, 1, 1)
    ]  # fmt: skip
    assert fewer_channels(small_net(widths=(24, 24)), FREE) is None  # to 16 is a third


def test_the_layer_that_costs_most_becomes_narrower():
    model = small_net(widths=(48, 64))
    # The stem's activation writes t1: its kernel is the dear one.
    found = narrower_layer(model, Costs({"t1": 9.0, "t4": 1.0}, 16))
    assert "32 channels instead of 48" in found.what
    assert convolutions(found.model)[:3] == [(32, 3, 3, 3), (32, 1, 3, 3), (64, 32, 1, 1)]
    assert narrower_layer(model, FREE) is None  # nothing costs anything


def test_channels_that_somebody_else_counts_on_are_left_alone():
    net = Builder(1, 3, 8, 8)
    here = net.conv("x", 3, 10)
    turned = net.add("Transpose", here, perm=[0, 2, 3, 1])
    model = net.model(turned, 1, 8, 8, 10)
    assert channel_groups(Graph(model)) == []
    shared = Builder(1, 10, 8, 8)
    weight = shared.weight(10, 10, 1, 1)
    here = shared.add("Conv", shared.add("Conv", "x", weight), weight)
    model = shared.model(shared.add("GlobalAveragePool", here), 1, 10, 1, 1)
    assert channel_groups(Graph(model)) == []


def test_vectors_have_no_channels_to_change():
    build = Builder(8)
    total = build.add("Add", build.add("Mul", "x", build.weight(1)), build.weight(8))
    model = build.model(build.add("Add", total, "x"), 8)
    assert channel_groups(Graph(model)) == []
    for edit in EDITS:
        assert edit(model, FREE) is None


def test_what_has_no_known_shape_is_left_alone():
    build = Builder(1, 4, 6, 6)
    image = build.conv("x", 4, 8)
    rows = build.add("NonZero", build.add("GlobalAveragePool", image))
    counted = build.add("Mul", build.add("Cast", rows, to=TensorProto.FLOAT), build.weight(4, 1))
    model = build.model(build.add("ReduceSum", counted, keepdims=0))
    assert all(len(group.makers) <= 1 for group in channel_groups(Graph(model)))


def test_a_reshape_to_fixed_channels_follows_them():
    net = Builder(1, 3, 8, 8)
    pooled = net.add("GlobalAveragePool", net.conv("x", 3, 10))
    flat = net.add("Reshape", pooled, net.weight(value=[1, 10]))
    model = net.model(net.add("MatMul", flat, net.weight(10, 4)), 1, 4)
    found = aligned_channels(model, FREE)
    np.testing.assert_allclose(run(found.model), run(model), rtol=1e-4, atol=1e-5)


def test_channels_can_be_set_to_any_number():
    graph = Graph(small_net())
    (first, *_) = channel_groups(graph)
    assert first.size == 10 and len(first.makers) == 1 and len(first.depthwise) == 1
    with_channels(graph, {0: 7})
    assert run(graph.finished("seven")).shape == (1, 5)


@pytest.mark.parametrize("activation", ["HardSwish", "Mish", "Gelu", "Softplus"])
def test_dear_activations_become_relu(activation):
    found = cheaper_activations(small_net(activation), FREE)
    assert found.what == f"replace 1 {activation} by Relu"
    assert activation not in ops(found.model)


def test_a_silu_and_a_gelu_in_parts_are_recognised():
    net = Builder(1, 3, 8, 8)
    here = net.conv("x", 3, 4)
    here = net.add("Mul", net.add("Sigmoid", here), here)
    found = cheaper_activations(net.model(here, 1, 4, 8, 8), FREE)
    assert (found.what, ops(found.model)) == ("replace 1 SiLU by Relu", ["Conv", "Relu"])
    found = cheaper_activations(encoder(), FREE)
    assert found.what == "replace 2 Gelu by Relu"
    one = ["MatMul", "Add", "Relu", "MatMul", "Add"]
    assert ops(found.model) == [*one, *one, "Identity"]
    assert cheaper_activations(encoder("whole"), FREE).what == "replace 2 Gelu by Relu"


def test_a_sigmoid_that_is_no_activation_stays():
    model = small_net("Relu")  # it has a Sigmoid, of the squeeze-and-excite
    assert cheaper_activations(model, FREE) is None


def test_squeeze_and_excite_goes_with_all_that_only_it_needs():
    found = without_squeeze_excite(small_net(), FREE)
    assert "Sigmoid" not in ops(found.model) and "Mul" not in ops(found.model)
    assert ops(found.model).count("GlobalAveragePool") == 1  # that of the head
    assert without_squeeze_excite(encoder(), FREE) is None


def test_the_dearest_convolutions_become_separable():
    found = separable_convolution(small_net(), FREE)
    assert found.what.startswith("make the 2 convolutions 3×3 of 24 to 32 channels depthwise")
    shapes = convolutions(found.model)
    assert shapes.count((24, 1, 3, 3)) == shapes.count((32, 24, 1, 1)) == 2
    assert (32, 24, 3, 3) not in shapes
    assert separable_convolution(encoder(), FREE) is None


def test_images_become_smaller_where_any_size_will_do():
    found = smaller_input(small_net(size=64), FREE)
    assert found.model.inputs[0].shape == (1, 3, 56, 56)
    fixed = Builder(1, 3, 32, 32)
    flat = fixed.add("Flatten", fixed.conv("x", 3, 4))
    model = fixed.model(fixed.add("Gemm", flat, fixed.weight(4096, 5)), 1, 5)
    assert smaller_input(model, FREE) is None
    dense = Builder(1, 3, 32, 32)  # its output is as large as its input
    assert smaller_input(dense.model(dense.conv("x", 3, 4), 1, 4, 32, 32), FREE) is None


def test_one_of_several_residual_blocks_is_left_out():
    model = small_net()
    adds = [n.output[0] for n in model.proto.graph.node if n.op_type == "Add"]
    dear = Costs({adds[0]: 5.0, adds[1]: 1.0}, 16)
    found = without_block(model, dear)
    assert found.what == "leave out one of the 2 residual blocks at 1×24×32×32"
    assert [n.output[0] for n in found.model.proto.graph.node if n.op_type == "Add"] == adds[1:]
    assert len(convolutions(found.model)) == len(convolutions(model)) - 2


def test_without_residual_blocks_one_of_several_equal_convolutions_is_left_out():
    net = Builder(1, 8, 16, 16)
    here = "x"
    for _ in range(3):
        here = net.add("Relu", net.conv(here, 8, 8))
    model = net.model(net.add("GlobalAveragePool", here), 1, 8, 1, 1)
    found = without_block(model, FREE)
    assert found.what == "leave out one of the 3 convolutions at 1×8×16×16"
    assert len(convolutions(found.model)) == 2


def test_a_hidden_layer_becomes_narrower():
    found = narrower_hidden(encoder(), FREE)
    assert found.what == "give the dearest hidden layer 48 units instead of 64"
    sizes = sorted(tuple(t.dims) for t in found.model.proto.graph.initializer if len(t.dims) == 2)
    assert sizes == [(32, 48), (32, 64), (48, 32), (64, 32)]
    assert narrower_hidden(small_net(), FREE) is None


def test_weights_that_are_constant_nodes_are_weights_too():
    net = Builder(1, 3, 8, 8)
    shape = net.weight(value=[10, 3, 1, 1])
    weight = net.add("ConstantOfShape", shape, value=numpy_helper.from_array(np.ones(1, "f4")))
    here = net.add("GlobalAveragePool", net.add("Conv", "x", weight))
    flat = net.add("Flatten", here)
    model = net.model(net.add("MatMul", flat, net.weight(10, 4)), 1, 4)
    found = aligned_channels(model, FREE)
    assert convolutions(found.model) == [(16, 3, 1, 1)]
    np.testing.assert_allclose(run(found.model), run(model), rtol=1e-4, atol=1e-5)


def test_costs_are_of_the_tensors_that_kernels_write():
    found = costs_by_tensor([("conv_nchwc", ["reorder_1"], 2.0), ("relu", ["y", ""], 1.0)])
    assert found == {"conv": 2.0, "reorder_1": 2.0, "relu": 1.0, "y": 1.0, "": 1.0}
