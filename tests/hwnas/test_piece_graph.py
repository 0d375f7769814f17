import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from hwnas.networks import look_trained
from hwnas.piece_graph import fold_norms

NORM = [f"w{i}" for i in range(4)]


def graph(nodes, outputs):
    shape = (1, 4, 8, 8)
    weights = [helper.make_tensor("k", TensorProto.FLOAT, (4, 4, 1, 1), [0.5] * 16)]
    weights += [helper.make_tensor(name, TensorProto.FLOAT, (4,), [1.5] * 4) for name in NORM]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", *outputs)]
    made = [helper.make_node(kind, inputs, [output]) for kind, inputs, output in nodes]
    return helper.make_graph(made, "pieces", values[:1], values[1:], weights)


def kinds(found):
    model = helper.make_model(found, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model, full_check=True)
    return [node.op_type for node in found.node]


def test_a_norm_behind_a_convolution_is_a_part_of_it():
    found = graph(
        [
            ("Conv", ["x", "k"], "a"),
            ("Identity", ["w1"], "bias"),
            ("BatchNormalization", ["a", "w0", "bias", "w2", "w3"], "b"),
            ("Relu", ["b"], "y"),
        ],
        ["y"],
    )
    fold_norms(found)
    assert kinds(found) == ["Conv", "Relu"]
    assert list(found.node[0].input) == ["x", "k", "w1"] and found.node[0].output[0] == "b"
    assert {weight.name for weight in found.initializer} == {"k", "w1"}


def test_a_convolution_that_something_else_reads_keeps_its_norm_apart():
    nodes = [("Conv", ["x", "k"], "a"), ("BatchNormalization", ["a", *NORM], "y")]
    for more, outputs in (([("Relu", ["a"], "z")], ["y", "z"]), ([], ["y", "a"])):
        found = graph([*nodes, *more], outputs)
        fold_norms(found)
        assert "BatchNormalization" in kinds(found)


def test_a_norm_behind_something_else_stays():
    found = graph([("Relu", ["x"], "a"), ("BatchNormalization", ["a", *NORM], "y")], ["y"])
    fold_norms(found)
    assert kinds(found) == ["Relu", "BatchNormalization"]


def test_new_weights_that_are_all_alike_look_trained_and_others_stay():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LayerNorm(4))
    nn.init.zeros_(network[0].bias)
    before = network[0].weight.clone()
    look_trained(network)
    for tensor in [*network[1:].parameters(), network[0].bias, network[1].running_mean]:
        assert len(tensor.unique()) == len(tensor)
    assert torch.equal(network[0].weight, before)
    assert (network[1].running_var > 0).all() and network[1].num_batches_tracked == 0
