import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

from hwnas import export
from hwnas.errors import ExportMismatchError, RunFolderError
from hwnas.export import check_parity, network_to_onnx, run_onnx, save_onnx
from hwnas.networks import Network
from profilers.errors import ModelError
from profilers.onnx_models import MAX_IR_VERSION, load_model


@pytest.fixture(scope="module")
def network(make_tiny_space):
    space = make_tiny_space((1, 8, 8), 10)
    torch.manual_seed(0)
    network = Network(space.architecture((0, 2, 1, 1, 0, 1)))
    network(torch.randn(64, 1, 8, 8))  # so that the statistics of batch norm are not 0 and 1
    return network.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def saved(network, path, *, batch=1, metadata=None):
    save_onnx(network_to_onnx(network, (1, 8, 8), batch=batch), path, metadata=metadata or {})
    return path


def test_the_exported_network_computes_the_same(network, images, tmp_path):
    path = saved(network, tmp_path / "n.onnx")
    worst = check_parity(path, network, images)
    assert 0 <= worst <= 1e-4 and path.exists()
    with torch.inference_mode():
        expected = network(images).numpy()
    assert worst == float(np.abs(run_onnx(path, images.numpy()) - expected).max())


def test_a_fixed_batch_fills_up_the_last_images(network, images, tmp_path):
    one, three = (saved(network, tmp_path / f"b{b}.onnx", batch=b) for b in (1, 3))
    logits = run_onnx(three, images.numpy())
    assert logits.shape == (10, 10)
    np.testing.assert_allclose(logits, run_onnx(one, images.numpy()), rtol=0, atol=1e-5)
    assert load_model(three).inputs[0].shape == (3, 1, 8, 8)


def test_a_model_for_dynamic_batch_takes_all_images_at_once(network, images, tmp_path, monkeypatch):
    proto = network_to_onnx(network, (1, 8, 8), batch=None)
    for value in (*proto.graph.input, *proto.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    save_onnx(proto, tmp_path / "any.onnx", metadata={})
    monkeypatch.setattr(export, "BATCH", 4)  # 10 images: 4, 4, 2
    expected = run_onnx(saved(network, tmp_path / "one.onnx"), images.numpy())
    np.testing.assert_allclose(
        run_onnx(tmp_path / "any.onnx", images.numpy()), expected, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_a_model_that_computes_something_else_is_removed(network, images, tmp_path, value):
    path = saved(network, tmp_path / "n.onnx")
    parameter = next(network.parameters())
    before = parameter.detach().clone()
    try:
        with torch.no_grad():
            parameter += value
        with pytest.raises(ExportMismatchError, match=r"n\.onnx: outputs .* 10 real inputs"):
            check_parity(path, network, images)
    finally:
        with torch.no_grad():
            parameter.copy_(before)
    assert not path.exists()


def test_a_model_with_other_outputs_is_removed(network, images, tmp_path):
    path = saved(network, tmp_path / "n.onnx")
    with pytest.raises(ExportMismatchError):
        check_parity(path, torch.nn.Sequential(network, torch.nn.Linear(10, 9)), images)
    assert not path.exists()


def test_metadata_comes_back_and_replaces_what_was_there(network, tmp_path):
    proto = network_to_onnx(network, (1, 8, 8))
    text = json.dumps({"genotype": [1, 2], "ö": "≤"})
    for metadata in ({"old": "1"}, {"hwnas": text}):
        save_onnx(proto, tmp_path / "n.onnx", metadata=metadata)
    found = onnx.load(tmp_path / "n.onnx").metadata_props
    assert {entry.key: entry.value for entry in found} == {"hwnas": text}


def test_the_file_is_one_that_the_runtime_and_the_checker_accept(network, tmp_path):
    path = saved(network, tmp_path / "deep" / "folder" / "n.onnx")
    model = load_model(path)
    assert model.proto.ir_version <= MAX_IR_VERSION
    assert [(i.name, i.shape) for i in model.inputs] == [("input", (1, 1, 8, 8))]
    assert [output.name for output in model.proto.graph.output] == ["logits"]
    onnx.checker.check_model(model.proto)
    assert list(path.parent.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(network, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot write .*file.n\.onnx: "):
        saved(network, tmp_path / "file" / "n.onnx")


def test_images_of_a_wrong_shape_are_one_message(network, tmp_path):
    path = saved(network, tmp_path / "n.onnx")
    with pytest.raises(ModelError, match=r"cannot run .*n\.onnx on these inputs"):
        run_onnx(path, np.zeros((2, 3, 8, 8), np.float32))


class Recurrent(nn.Module):
    """Vectors of tokens, then a recurrent layer of some kind, and the class from its mean."""

    def __init__(self, kind, **options):
        super().__init__()
        self.tokens = nn.Embedding(20, 8)
        self.cell = kind(8, 6, batch_first=True, **options)
        self.classify = nn.LazyLinear(3)

    def forward(self, ids):
        return self.classify(self.cell(self.tokens(ids))[0].mean(dim=1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(20, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.classify = nn.Linear(8, 3)

    def forward(self, ids):
        x = self.layer(self.tokens(ids))
        x = x + functional.scaled_dot_product_attention(x, x, x, is_causal=True)
        return self.classify(x[:, -1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Recurrent(nn.LSTM),
        lambda: Recurrent(nn.LSTM, bidirectional=True, num_layers=2),
        lambda: Recurrent(nn.GRU),
        lambda: Recurrent(nn.RNN),
        Encoder,
    ],
)
@pytest.mark.parametrize("batch", [1, 3, None])
def test_networks_of_token_ids_compute_the_same(make, batch, tmp_path):
    torch.manual_seed(0)
    network = make()
    ids = torch.randint(0, 20, (5, 7))
    network(ids)
    proto = network_to_onnx(network, (7,), batch=batch, input_type="int64")
    save_onnx(proto, tmp_path / "n.onnx", metadata={})
    assert load_model(tmp_path / "n.onnx", batch=1).inputs[0].dtype == np.int64
    for n in (1, len(ids)):
        assert check_parity(tmp_path / "n.onnx", network, ids[:n]) <= 1e-4


@pytest.mark.parametrize("shape", [(2, 40), (7,)])
def test_networks_on_signals_and_tables_compute_the_same(shape, tmp_path):
    torch.manual_seed(0)
    layers = {2: nn.Conv1d(2, 4, 3, dilation=4), 1: nn.BatchNorm1d(7)}
    network = nn.Sequential(layers[len(shape)], nn.GELU(), nn.Flatten(), nn.LazyLinear(3))
    examples = torch.randn(5, *shape)
    network(examples)
    save_onnx(network_to_onnx(network, shape, batch=2), tmp_path / "n.onnx", metadata={})
    assert check_parity(tmp_path / "n.onnx", network, examples) <= 1e-4
