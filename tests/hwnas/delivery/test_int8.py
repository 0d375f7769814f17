import logging
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from hwnas.data import DataSet, Preprocessing, Split
from hwnas.delivery import int8
from hwnas.delivery.int8 import RESORTS, SCHEMES, Scheme, int8_twins, why_no_int8
from hwnas.delivery.metadata import save_about
from hwnas.evaluation import about_examples
from hwnas.export import network_to_onnx, run_onnx
from hwnas.metrics import Scores
from profilers.errors import ModelError
from profilers.onnx_models import make_model
from profilers.profiler import Profiler
from profilers.targets import make_target


def operators(proto):
    return [node.op_type for node in proto.graph.node]


def weight_types(proto):
    """Element types of the weights of convolutions and products, in order."""
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    sources = {node.output[0]: node.input[0] for node in proto.graph.node}
    layers = [node for node in proto.graph.node if node.op_type in int8.LAYERS]
    names = [node.input[1] for node in layers]
    return [str(weights[sources.get(name, name)].dtype) for name in names]


def test_twins_of_a_trained_network_keep_its_accuracy_and_run_integer_kernels(run_folder, has_vnni):
    member = run_folder.front[1]
    path = run_folder.folder / member.onnx
    twins = int8_twins(path, run_folder.data, val_accuracy=member.val_accuracy)
    schemes = [twin.scheme for twin in twins]
    if has_vnni:
        assert schemes == list(SCHEMES[:2])  # its layers are all small
    else:  # of those, what does not overflow
        assert schemes and set(schemes) <= {*SCHEMES[:2], *RESORTS}
    assert member.val_accuracy > 0.8
    for twin in twins:
        assert twin.val_accuracy >= member.val_accuracy - int8.GOOD_DROP
        kernels = Profiler(make_target()).kernels(make_model(twin.proto, name="twin"))
        kinds = [node.kernel.kind for node in kernels]
        assert "com.microsoft:QLinearConv" in kinds, kinds
        types = weight_types(twin.proto)
        if not twin.scheme.kept:
            assert set(types) == {"int8"}
        elif twin.scheme == SCHEMES[1]:
            assert types[0] == "float32" and set(types[1:]) == {"int8"}


def test_weights_have_a_scale_for_each_output_channel(run_folder):
    path = run_folder.folder / run_folder.front[0].onnx
    proto = int8_twins(path, run_folder.data, val_accuracy=0.0)[0].proto
    arrays = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    dequantized = [n for n in proto.graph.node if n.op_type == "DequantizeLinear"]
    kernels = [n for n in dequantized if arrays.get(n.input[0], np.zeros(1)).ndim == 4]
    assert kernels
    for node in kernels:
        weight, scale, zero = (arrays[name] for name in node.input)
        assert scale.shape == (weight.shape[0],) and not zero.any()


def stripes(n, brightness):
    """Images along or across, brighter or darker."""
    lines = (torch.arange(8) % 4 < 2).float()
    labels = torch.arange(n) % 2
    along = (labels == 0).view(-1, 1, 1, 1)
    images = torch.where(along, lines.view(1, 1, 1, 8), lines.view(1, 1, 8, 1))
    return Split(images * brightness, labels)


@pytest.fixture
def striped(tmp_path):
    """Make data whose train is up to 1 and validation and test up to 100, and a model's file."""

    def make(*, batch=1):
        data = DataSet(
            "stripes", stripes(50, 1.0), stripes(20, 100.0), stripes(20, 100.0), ("a", "b")
        )
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten()]
        network = nn.Sequential(*layers, nn.LazyLinear(2))
        network(torch.zeros(1, 1, 8, 8))
        preprocessing = Preprocessing("image", (1, 8, 8), (0.0,), (1.0,))
        about = {"preprocessing": preprocessing.to_dict()} | about_examples(data)
        path = tmp_path / "stripes.onnx"
        save_about(network_to_onnx(network, (1, 8, 8), batch=batch), path, about)
        return data, path

    return make


@pytest.mark.parametrize("batch", [1, 3])
def test_ranges_come_from_the_training_split(striped, batch):
    data, path = striped(batch=batch)
    proto = int8_twins(path, data, val_accuracy=0.0)[0].proto
    first = next(node for node in proto.graph.node if node.op_type == "QuantizeLinear")
    arrays = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert first.input[0] == "input"
    assert arrays[first.input[1]] == pytest.approx(1 / 255)  # of validation it would be 100 / 255


def test_symmetric_activations_are_signed_around_zero(striped):
    data, path = striped()
    proto = int8_twins(path, data, val_accuracy=0.0, symmetric=True)[0].proto
    arrays = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    zeros = [arrays[n.input[2]] for n in proto.graph.node if n.op_type == "QuantizeLinear"]
    assert zeros and all(zero.dtype == np.int8 and zero == 0 for zero in zeros)


def scripted(monkeypatch, accuracies):
    """Let the schemes have these accuracies on validation, in turn."""
    left = iter(accuracies)

    def evaluate(path, data, *, split):
        assert split == "validation"
        accuracy = next(left)
        return Scores(accuracy, accuracy, accuracy, accuracy, n=1000)

    monkeypatch.setattr(int8, "evaluate_onnx", evaluate)
    return left


@pytest.mark.parametrize(
    ("accuracies", "kept"),
    [
        ([0.9, 0.9], SCHEMES[:2]),
        ([0.896, 0.6], SCHEMES[:1]),  # half a point is no loss
        ([0.6, 0.9], SCHEMES[1:2]),
        ([0.894, 0.6, 0.896], RESORTS[:1]),
        ([0.6, 0.6, 0.6, 0.6, 0.95], RESORTS[2:3]),
        ([0.1, 0.1, 0.1, 0.3, 0.1, 0.2, 0.1], RESORTS[1:2]),  # none is good: the best one
    ],
)
def test_other_schemes_are_tried_as_long_as_none_is_good(striped, monkeypatch, accuracies, kept):
    data, path = striped()
    left = scripted(monkeypatch, accuracies)
    twins = int8_twins(path, data, val_accuracy=0.9)
    assert [twin.scheme for twin in twins] == list(kept)
    assert next(left, None) is None


def test_a_scheme_that_fails_does_not_cost_the_others(striped, monkeypatch):
    quantize = int8._Quantizer.quantize

    def fail_by_entropy(self, scheme):
        if scheme.calibration == "entropy":
            raise ModelError("its range is infinite")
        return quantize(self, scheme)

    monkeypatch.setattr(int8._Quantizer, "quantize", fail_by_entropy)
    data, path = striped()
    scripted(monkeypatch, [0.6, 0.6, 0.896])
    (twin,) = int8_twins(path, data, val_accuracy=0.9)
    assert twin.scheme == RESORTS[1]


def test_a_scheme_whose_model_cannot_be_run_does_not_cost_the_others(striped, monkeypatch):
    scripted(monkeypatch, [0.896, 0.7])
    evaluate, failures = int8.evaluate_onnx, [ModelError("no kernel for that")]

    def fail_once(*given, **named):
        if failures:
            raise failures.pop()
        return evaluate(*given, **named)

    monkeypatch.setattr(int8, "evaluate_onnx", fail_once)
    data, path = striped()
    (twin,) = int8_twins(path, data, val_accuracy=0.9)
    assert twin.scheme == SCHEMES[1]


def test_the_layers_that_change_the_logits_most_stay_in_fp32(striped, monkeypatch):
    data, path = striped()
    changes = iter([0.1, 7.0, 0.2])
    monkeypatch.setattr(int8, "run_onnx", lambda path, inputs: (
        np.zeros(1) if path.name == "prepared.onnx" else np.full(1, next(changes))
    ))  # fmt: skip
    scripted(monkeypatch, [0.1] * 6 + [0.9])
    (twin,) = int8_twins(path, data, val_accuracy=0.9)
    assert twin.scheme == Scheme("minmax", "sensitive")
    assert weight_types(twin.proto) == ["int8", "float32", "int8"]


def test_schemes_are_said_in_words():
    assert [str(scheme) for scheme in (*SCHEMES, RESORTS[3])] == [
        "minmax ranges",
        "minmax ranges, first layer in fp32",
        "minmax ranges, all but large dense layers in fp32",
        "minmax ranges, 7-bit weights, first and last layer in fp32",
    ]


def test_a_model_that_cannot_be_quantized_is_one_error_and_the_log_as_before(striped, monkeypatch):
    from onnxruntime import quantization

    data, path = striped()

    def fail(*arguments, **options):
        logging.warning("noise")
        raise AttributeError("no\nsuch tensor")

    monkeypatch.setattr(quantization, "create_calibrator", fail)
    handlers = list(logging.root.handlers)
    with pytest.raises(ModelError, match="^stripes cannot be quantized: no such tensor$"):
        int8_twins(path, data, val_accuracy=0.9)
    assert logging.root.manager.disable == 0 and logging.root.handlers == handlers


def test_the_tools_print_nothing(striped, monkeypatch, capfd):
    data, path = striped()
    scripted(monkeypatch, [0.1] * 7)
    int8_twins(path, data, val_accuracy=0.9)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_a_target_without_int8_is_told_apart():
    target = make_target()
    assert why_no_int8(target) is None
    cuda = replace(target, runtime="onnxruntime-cuda")
    assert why_no_int8(cuda) == "onnxruntime-cuda computes in fp32 and fp16 only"


def test_a_twin_is_a_valid_model_and_leaves_its_parent_as_it_was(striped):
    data, path = striped()
    before = path.read_bytes()
    twin = int8_twins(path, data, val_accuracy=0.0)[0]
    assert path.read_bytes() == before
    onnx.checker.check_model(twin.proto)


def test_large_dense_layers_may_be_all_that_is_quantized(tmp_path):
    inputs = torch.randn((40, 8, 16), generator=torch.Generator().manual_seed(0))
    split = Split(inputs, torch.arange(40) % 2)
    data = DataSet("signals", split, split, split, ("a", "b"))
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv1d(8, 96, 9),  # 6,912 weights, but the first
        nn.ReLU(),
        nn.Conv1d(96, 96, 5, groups=8),  # 5,760, but each meets an eighth of the channels
        nn.Flatten(),
        nn.Linear(384, 32),  # 12,288
        nn.Linear(32, 2),
    )
    about = {"preprocessing": {"kind": "signal"}} | about_examples(data)
    save_about(network_to_onnx(network, (8, 16)), tmp_path / "m.onnx", about)
    twins = int8_twins(tmp_path / "m.onnx", data, val_accuracy=0.0)
    assert [twin.scheme for twin in twins] == list(SCHEMES)
    assert weight_types(twins[2].proto) == ["float32", "float32", "int8", "float32"]
    assert operators(twins[2].proto).count("QuantizeLinear") == 2  # around that layer


def test_a_mask_of_infinities_stays_in_fp32(tmp_path):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x):
            mask = torch.triu(torch.full((6, 6), -torch.inf), diagonal=1)
            weights = torch.softmax(self.first(x)[:, None] + mask, dim=-1)
            return self.last(weights.sum(dim=1))

    inputs = torch.randn((40, 5), generator=torch.Generator().manual_seed(0))
    split = Split(inputs, torch.arange(40) % 2)
    data = DataSet("rows", split, split, split, ("a", "b"))
    about = {"preprocessing": {"kind": "table"}} | about_examples(data)
    torch.manual_seed(0)
    save_about(network_to_onnx(Masked(), (5,)), tmp_path / "m.onnx", about)
    proto = int8_twins(tmp_path / "m.onnx", data, val_accuracy=0.0)[0].proto
    assert weight_types(proto) == ["int8", "int8"]
    assert np.isfinite(run_onnx(_saved(proto, tmp_path), inputs.numpy())).all()


def _saved(proto, folder):
    (folder / "twin.onnx").write_bytes(proto.SerializeToString())
    return folder / "twin.onnx"
