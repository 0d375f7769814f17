import json

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelNode
from profilers.memory import computed_peak_bytes, memory_timeline, process_peak_bytes
from profilers.onnx_models import make_model
from profilers.profiler import Profiler

FLOAT = TensorProto.FLOAT
ROW = (1, 64)  # 256 bytes, the least that the arena hands out


def node(kind, reads, writes, shape=ROW, **attributes):
    outputs = tuple(Tensor("float", shape) for _ in writes if _)
    kernel = Kernel(kind, tuple(sorted(attributes.items())), (Tensor("float", shape),), outputs)
    return KernelNode(f"{kind} {writes[0]}", kernel, tuple(reads), tuple(writes))


@pytest.fixture
def model(make_proto):
    """Reads `x`, gives back `y`; its own nodes play no part."""
    proto = make_proto(
        [helper.make_node("Abs", ["x"], ["y"])], {"x": (FLOAT, ROW)}, {"y": (FLOAT, ROW)}
    )
    return make_model(proto, name="toy")


class TestLifetimes:
    def test_a_tensor_is_freed_after_its_last_reader_and_the_output_never(self, model):
        nodes = [node("Abs", ["x"], ["a"]), node("Abs", ["a"], ["b"], (1, 128)),
                 node("Abs", ["b"], ["c"], (1, 192)), node("Abs", ["c"], ["y"])]  # fmt: skip
        # a; a and b; b and c; c and y
        assert memory_timeline(nodes, model) == (256, 768, 1280, 1024)
        assert computed_peak_bytes(nodes, model) == 1280

    def test_a_shortcut_lives_until_it_is_added(self, model):
        nodes = [node("Abs", ["x"], ["a"]), node("Abs", ["a"], ["b"]), node("Abs", ["b"], ["c"]),
                 node("Add", ["c", "a"], ["y"])]  # fmt: skip
        assert memory_timeline(nodes, model) == (256, 512, 768, 768)

    def test_inputs_and_weights_are_not_counted(self, model):
        nodes = [node("Gemm", ["x", "weight", ""], ["y"])]
        assert memory_timeline(nodes, model) == (256,)

    def test_a_view_shares_its_input_and_keeps_it_alive(self, model):
        nodes = [node("Abs", ["x"], ["a"]), node("Reshape", ["a", "shape"], ["b"], (64, 1)),
                 node("Abs", ["b"], ["y"])]  # fmt: skip
        assert memory_timeline(nodes, model) == (256, 256, 512)

    def test_a_view_of_an_input_takes_nothing(self, model):
        nodes = [node("Flatten", ["x"], ["a"]), node("Abs", ["a"], ["y"])]
        assert memory_timeline(nodes, model) == (0, 256)

    def test_an_activation_overwrites_what_is_not_read_again(self, model):
        head = node("Abs", ["x"], ["a"])
        again = [head, node("Relu", ["a"], ["b"]), node("Add", ["a", "b"], ["y"])]
        once = [head, node("Relu", ["a"], ["b"]), node("Abs", ["b"], ["y"])]
        assert memory_timeline(once, model) == (256, 256, 512)
        assert memory_timeline(again, model) == (256, 512, 768)

    def test_an_activation_never_overwrites_an_input_of_the_model(self, model):
        nodes = [node("Relu", ["x"], ["a"]), node("Abs", ["a"], ["y"])]
        assert memory_timeline(nodes, model) == (256, 512)

    def test_a_convolution_adds_to_its_fourth_input_in_place(self, model):
        nodes = [node("Abs", ["x"], ["a"]), node("Abs", ["a"], ["b"]),
                 node("com.microsoft.nchwc:Conv", ["b", "w", "bias", "a"], ["c"]),
                 node("Abs", ["c"], ["y"])]  # fmt: skip
        assert memory_timeline(nodes, model) == (256, 512, 512, 512)

    def test_a_dead_buffer_is_kept_for_a_later_tensor_of_its_shape(self, model):
        nodes = [node("Abs", ["x"], ["a"]), node("Abs", ["a"], ["b"], (1, 128)),
                 node("Abs", ["b"], ["c"], (1, 192)), node("Abs", ["c"], ["d"]),
                 node("Abs", ["d"], ["y"])]  # fmt: skip
        # `d` gets the buffer of `a`, which therefore is in use all along.
        assert memory_timeline(nodes, model) == (256, 768, 1536, 1024, 512)

    def test_a_dead_buffer_of_another_shape_is_not_taken(self, model):
        nodes = [node("Abs", ["x"], ["a"]), node("Abs", ["a"], ["b"], (1, 128)),
                 node("Abs", ["b"], ["c"], (64, 1)), node("Abs", ["c"], ["y"])]  # fmt: skip
        assert memory_timeline(nodes, model) == (256, 768, 768, 512)

    def test_what_nobody_reads_stays_to_the_end(self, model):
        nodes = [node("Split", ["x"], ["a", "unread"]), node("Abs", ["a"], ["b"], (1, 128)),
                 node("Abs", ["b"], ["y"])]  # fmt: skip
        assert memory_timeline(nodes, model) == (512, 1024, 1024)


class TestUnknown:
    def test_without_kernels_nothing_is_in_use(self, model):
        assert computed_peak_bytes([], model) == 0

    @pytest.mark.parametrize(
        "nodes",
        [
            [KernelNode("n", node("Abs", ["x"], ["y"]).kernel, (), ())],  # not in the graph
            [node("Abs", ["a"], ["y"]), node("Abs", ["x"], ["a"])],  # read before it is written
            [node("Abs", ["x"], ["y"]), node("Abs", ["x"], ["y"])],  # written twice
            [node("If", ["x"], ["y"])],
            [node("com.microsoft:QLinearConv", ["x"], ["y"])],
            [node("com.microsoft:Attention", ["x"], ["y"])],
        ],
    )
    def test_it_is_none(self, model, nodes):
        assert memory_timeline(nodes, model) is None
        assert computed_peak_bytes(nodes, model) is None

    def test_a_tensor_of_unknown_size_is_none(self, model):
        kernel = Kernel("Abs", (), (), (Tensor("string", ROW),))
        assert computed_peak_bytes([KernelNode("n", kernel, ("x",), ("y",))], model) is None
        without = Kernel("Abs", (), (), ())
        assert computed_peak_bytes([KernelNode("n", without, ("x",), ("y",))], model) is None


def counted_peak_bytes(model, feed, folder, threads):
    """By the runtime's own counters, in its first run, beyond the weights that it has packed."""
    options = ort.SessionOptions()
    options.enable_profiling, options.enable_mem_pattern = True, False
    options.intra_op_num_threads = threads
    options.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(
        model.proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    session.run(None, feed)
    with open(session.end_profiling()) as file:
        events = [event["args"] for event in json.load(file) if event["cat"] == "Node"]
    if "mem_in_use_peak" not in events[0]:
        pytest.skip("this ONNX Runtime does not count memory in its profile")
    before = int(events[0]["mem_bytes_in_use"]) - int(events[0]["mem_in_use_delta"])
    return int(events[-1]["mem_in_use_peak"]) - before


def weights(rng, **shapes):
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def recurrent(kind, batch, **attributes):
    gates = {"GRU": 3, "LSTM": 4}[kind] * 20
    n_ways = 2 if attributes.get("direction") == "bidirectional" else 1
    shapes = {"w": (n_ways, gates, 30), "r": (n_ways, gates, 20), "b": (n_ways, 2 * gates)}
    nodes = [helper.make_node(kind, ["a", "w", "r", "b"], ["y", "last"], hidden_size=20,
                              **attributes)]  # fmt: skip
    return nodes, (9, batch, 30), shapes


def convolution(batch, channels, filters, size, **attributes):
    kernel_size = attributes.get("kernel_shape", [3])
    group = attributes.get("group", 1)
    nodes = [helper.make_node("Conv", ["a", "w"], ["y"], **attributes)]
    return nodes, (batch, channels, size), {"w": (filters, channels // group, *kernel_size)}


def one_kernel(kind, shape, **attributes):
    return [helper.make_node(kind, ["a"], ["y"], **attributes)], shape, {}


MODELS = {
    "gru": recurrent("GRU", 3, linear_before_reset=1),
    "gru, reset first": recurrent("GRU", 1),
    "gru both ways": recurrent("GRU", 2, direction="bidirectional"),
    "lstm": recurrent("LSTM", 3),
    "lstm backwards": recurrent("LSTM", 2, direction="reverse"),
    "convolution": convolution(1, 12, 12, 100),
    "more filters than outputs": convolution(2, 12, 90, 30),
    "pointwise": convolution(1, 12, 12, 100, kernel_shape=[1]),
    "strided": convolution(1, 12, 12, 100, kernel_shape=[1], strides=[2]),
    "grouped": convolution(1, 12, 12, 100, group=3),
    "transposed": (
        [helper.make_node("ConvTranspose", ["a", "w"], ["y"], strides=[2, 2], group=2)],
        (2, 8, 6, 6),
        {"w": (8, 5, 3, 3)},
    ),
    "response normalization": one_kernel("LRN", (2, 6, 9, 9), size=3),
    "softmax over channels": one_kernel("Softmax", (2, 6, 9, 9), axis=1),
}


@pytest.mark.parametrize(
    ("name", "threads"), [*((name, 1) for name in MODELS), ("convolution", 2), ("grouped", 2)]
)
def test_what_kernels_take_beside_their_tensors_is_what_the_runtime_counts(
    make_proto, target, tmp_path, name, threads
):
    rng = np.random.default_rng(0)
    kernels, shape, weight_shapes = MODELS[name]
    outputs = dict.fromkeys(kernels[-1].output, (FLOAT, None))
    # Abs comes first: what is in use before a kernel that takes scratch memory shows in its event.
    proto = make_proto(
        [helper.make_node("Abs", ["x"], ["a"]), *kernels],
        {"x": (FLOAT, shape)}, outputs, weights(rng, **weight_shapes),
    )  # fmt: skip
    model = make_model(proto, name=name)
    feed = model.random_inputs(rng)
    nodes = Profiler(target).kernels(model)
    counted = counted_peak_bytes(model, feed, tmp_path, threads)
    assert computed_peak_bytes(nodes, model, threads=threads) == counted


@pytest.mark.parametrize("batch", [1, 3])
def test_a_network_takes_what_the_runtime_counts(make_proto, target, tmp_path, batch):
    rng = np.random.default_rng(0)
    layers = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1] * 4),
        helper.make_node("Add", ["c", "b"], ["d"]),
        helper.make_node("Sigmoid", ["d"], ["e"]),
        helper.make_node("Concat", ["e", "b"], ["f"], axis=1),
        helper.make_node("GlobalAveragePool", ["f"], ["g"]),
        helper.make_node("Flatten", ["g"], ["h"]),
        helper.make_node("Gemm", ["h", "w3"], ["y"]),
    ]
    proto = make_proto(
        layers, {"x": (FLOAT, (batch, 3, 20, 20))}, {"y": (FLOAT, (batch, 10))},
        weights(rng, w1=(16, 3, 3, 3), w2=(16, 16, 3, 3), w3=(32, 10)),
    )  # fmt: skip
    model = make_model(proto, name="net")
    feed = model.random_inputs(rng)
    nodes = Profiler(target).kernels(model)
    assert computed_peak_bytes(nodes, model) == counted_peak_bytes(model, feed, tmp_path, 1)


def test_a_process_has_held_more_than_a_large_array():
    array = np.ones(2**24)
    peak = process_peak_bytes()
    assert peak is None or peak > array.nbytes
