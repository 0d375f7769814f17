"""Models put together from layers are those that torch's exporter makes."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional

from hwnas import layer_export
from hwnas.blocks import ClassifierHead, InvertedResidual
from hwnas.export import to_onnx
from hwnas.layer_export import Sheet
from hwnas.networks import count
from profilers.onnx_models import make_model
from profilers.profiler import Profiler
from profilers.targets import make_target


class Sums(nn.Module):
    """Calls on the input itself, with weights that are no layer's."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(5, 8))
        self.mix = nn.Linear(8, 8)

    def forward(self, x):
        first, second = functional.gelu(self.mix(x) + self.shift).chunk(2, dim=-1)
        y = torch.cat([first * 0.5, second, x[:, :, :3]], dim=-1)
        return y.transpose(1, 2).flatten(1) + y.mean(dim=(1, 2)).unsqueeze(1)


class Odd(nn.Module):
    """Asks its input for what only a tensor knows."""

    def forward(self, x):
        return x.relu() if x.sum() > 1e9 else x.exp()


class Recurrent(nn.Module):
    def __init__(self, gives_state=False):
        super().__init__()
        self.layer = nn.LSTM(8, 4, batch_first=True)
        self.gives_state = gives_state

    def forward(self, x):
        y, state = self.layer(x)
        return state[0] * 2 if self.gives_state else y * 2


class InPlace(nn.Module):
    """Adds to its result the input as the first layer has left it."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3))

    def forward(self, x):
        x = x * 1.5
        return self.body(x) + x


MODULES = {
    "bottleneck": (InvertedResidual(16, 3, 1, 2, True, "hard_swish").build((16, 6, 6)), (16, 6, 6)),
    "head": (ClassifierHead(16, 5, "relu").build((16, 6, 6)), (16, 6, 6)),
    "sums": (Sums(), (5, 8)),
    "recurrent": (Recurrent(), (5, 8)),
}


def sheet_of(module, shape, *, batch=2):
    sheet = Sheet(batch)
    y, n_macs = sheet.run(module.eval(), [sheet.input("x", shape)])
    sheet.output("y", y)
    return sheet, n_macs


def run(proto, x):
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("name", ["bottleneck", "head", "sums", "recurrent"])
def test_a_sheet_has_the_kernels_that_torchs_exporter_leads_to(name):
    module, shape = MODULES[name]
    sheet, n_macs = sheet_of(module, shape)
    example = torch.zeros((2, *shape))
    whole = to_onnx(module, [example], input_names=["x"], output_names=["y"])
    profiler = Profiler(make_target(batch=2))
    found, expected = (
        sorted(node.kernel.key for node in profiler.kernels(make_model(proto, name="net")))
        for proto in (sheet.model(), whole)
    )
    assert found == expected
    onnx.checker.check_model(sheet.model())
    assert n_macs is not None


def test_a_sheet_computes_what_the_module_does(monkeypatch):
    # With layers of its own: others of the same shapes have other weights.
    monkeypatch.setattr(layer_export, "_LAYERS", {})
    for name in ("sums", "head"):
        module, shape = MODULES[name]
        sheet, _ = sheet_of(module, shape)
        x = torch.randn((2, *shape))
        with torch.no_grad():
            expected = module.eval()(x).numpy()
        np.testing.assert_allclose(run(sheet.model(), x.numpy()), expected, atol=1e-5)


@pytest.mark.parametrize("block", [InvertedResidual(16, 5, 2, 3, True, "relu"),
                                   ClassifierHead(16, 5, "relu")])  # fmt: skip
def test_macs_of_a_sheet_are_those_of_one_example(block):
    shape = (16, 6, 6)
    _, n_macs = sheet_of(block.build(shape), shape, batch=3)
    assert n_macs == count(block, shape).macs


def test_macs_of_a_recurrent_layer_are_counted():
    # Five steps of two examples are ten; a step takes four gates of 4 from 8 inputs and 4 states.
    _, n_macs = sheet_of(*MODULES["recurrent"], batch=2)
    assert n_macs == 5 * 4 * 4 * (8 + 4)


def test_a_layer_is_exported_once_for_all_sheets(monkeypatch):
    monkeypatch.setattr(layer_export, "_LAYERS", {})
    module = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)))
    exported = []
    monkeypatch.setattr(
        layer_export, "to_onnx", lambda *a, **k: exported.append(a) or to_onnx(*a, **k)
    )
    for _ in range(2):
        sheet, _ = sheet_of(module, (8, 6, 6))
        assert [node.op_type for node in sheet.model().graph.node] == ["Conv"] * 3
    assert len(exported) == 1


def test_a_module_that_symbols_cannot_follow_is_exported_whole():
    for module, shape in ((Odd(), (3,)), (InPlace(), (3,)), (Recurrent(True), (5, 8))):
        sheet, n_macs = sheet_of(module, shape)
        assert n_macs is None
        x = torch.randn((2, *shape))
        with torch.no_grad():
            expected = module(x).numpy()
        np.testing.assert_allclose(run(sheet.model(), x.numpy()), expected, atol=1e-5)


def test_what_no_output_needs_is_left_out():
    sheet = Sheet(1)
    x = sheet.input("x", (4,))
    torch.cat([x, x], dim=1)
    sheet.output("y", functional.relu(x))
    assert [node.op_type for node in sheet.model().graph.node] == ["Relu"]


def test_an_output_may_be_an_input_or_another_output():
    sheet = Sheet(1)
    x = sheet.input("x", (3,))
    y = functional.relu(x)
    for name, symbol in {"a": x, "b": y, "c": y}.items():
        sheet.output(name, symbol)
    session = ort.InferenceSession(
        sheet.model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    given = np.array([[-1, 0, 2]], np.float32)
    found = session.run(["a", "b", "c"], {"x": given})
    assert [values.tolist() for values in found] == [[[-1, 0, 2]], [[0, 0, 2]], [[0, 0, 2]]]
