"""A run folder with two trained networks on its front, and a profiler that makes up latencies."""

import shutil
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest
import torch
from torch import nn

from hwnas.data import DataSet, Preprocessing, Split, load_data
from hwnas.delivery import deliver, int8
from hwnas.delivery.metadata import save_about
from hwnas.evaluation import about_examples, evaluate_onnx
from hwnas.evaluators.training import train_network
from hwnas.export import network_to_onnx
from hwnas.front.verify import FRONT, Candidate, Trained, export_candidate
from hwnas.training import Recipe
from profilers.errors import ModelError
from profilers.targets import make_target
from profilers.timing import LatencySamples


@dataclass
class RunFolder:
    """What `deliver_forms` is called with."""

    folder: Path
    data: DataSet
    front: list[Candidate]
    trained: list[Trained]


@pytest.fixture(scope="session")
def digits():
    return load_data("digits")


@pytest.fixture(scope="session")
def trained_once(make_tiny_space, digits, tmp_path_factory):
    space = make_tiny_space(digits.input_shape, digits.n_classes)
    folder = tmp_path_factory.mktemp("trained")
    front, trained = [], []
    for name, genotype, epochs in (("t000", (0,) * 6, 2), ("t001", (1,) * 6, 6)):
        architecture = space.architecture(genotype)
        network, _ = train_network(architecture, digits, Recipe(epochs, 32), seed=0)
        trained.append(Trained(name, network, architecture, genotype))
        front.append(_candidate(trained[-1], digits, folder))
    values = {field.name: [getattr(c, field.name) for c in front] for field in fields(Candidate)}
    for table in ("front.csv", "candidates.csv"):
        pd.DataFrame(values).to_csv(folder / table, index=False)
    return RunFolder(folder, digits, front, trained)


def _candidate(trained, data, folder):
    path = folder / FRONT / f"{trained.name}.onnx"
    parity = export_candidate(trained, data, make_target(), path)
    return Candidate(
        name=trained.name, onnx=f"{FRONT}/{path.name}",
        val_accuracy=evaluate_onnx(path, data, split="validation").accuracy,
        test_accuracy=evaluate_onnx(path, data).accuracy,
        latency_ms=0.02, predicted_latency_ms=0.021, predicted_low_ms=0.019,
        predicted_high_ms=0.024, peak_memory_bytes=4000, params=1234, macs=56789,
        parity_max_abs_error=parity, meets_budget=True, genotype=trained.genotype,
        measured_low_ms=0.0195, measured_high_ms=0.0205, verdict=FRONT,
    )  # fmt: skip


@pytest.fixture
def run_folder(trained_once, tmp_path):
    """A copy of its own of the run."""
    folder = tmp_path / "run"
    shutil.copytree(trained_once.folder, folder)
    return RunFolder(folder, trained_once.data, trained_once.front, trained_once.trained)


@pytest.fixture
def made_up_latencies(monkeypatch):
    """Latencies by the name of the model: those of `latencies`, else 0.02 ms; None: it cannot run.

    Quantized networks are also known as `int8`, those that are computed in bf16 as `bf16`. Logits
    in bf16 are those of ONNX Runtime, one of 1024 of them wrong.
    """
    latencies = {}

    class Profiler:
        def __init__(self, target, *, references_ms=()):
            self.precision = target.precision

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def latency(self, models, *, seconds, on_round=None):
            return [self.samples(model) for model in models]

        def outputs(self, model, inputs):
            assert self.precision == "bf16"
            session = ort.InferenceSession(model.proto.SerializeToString())
            name = session.get_inputs()[0].name
            logits = np.concatenate([session.run(None, {name: x[None]})[0] for x in inputs])
            logits[0, 0] += 1 / 1024
            return logits

        def samples(self, model):
            operators = {node.op_type for node in model.proto.graph.node}
            default = latencies.get("int8", 0.02) if "QuantizeLinear" in operators else 0.02
            ms = latencies.get(model.name, default)
            ms = latencies.get(self.precision, ms)
            if ms is None:
                raise ModelError(f"{model.name} cannot run")
            wall_ms, zeros = np.full(16, ms), np.zeros(16, np.int64)
            return LatencySamples(wall_ms, wall_ms, zeros, zeros, zeros, np.ones(16))

    monkeypatch.setattr(deliver, "IsolatedProfiler", Profiler)
    monkeypatch.setattr(int8, "N_CALIBRATION", 64)
    return latencies


def other_data(kind):
    """Two classes of signals, rows or tokens that a straight line tells apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    sign = 2.0 * labels - 1
    words = ()
    if kind == "signal":
        inputs = torch.randn((64, 2, 16), generator=generator) + sign[:, None, None]
    elif kind == "table":
        inputs = 1000 + torch.randn((64, 5), generator=generator) + 2 * sign[:, None]
    else:
        inputs = torch.randint(0, 4, (64, 12), generator=generator) + 4 * labels[:, None]
        words = ("good", "fine", "bad", "poor", ".", "so")
    split = Split(inputs, labels)
    return DataSet(kind, split, split, split, ("no", "yes"), words)


@dataclass(frozen=True)
class Linear:
    """Classes from a linear map of what tokens stand for, or of all numbers."""

    vocabulary: int | None

    def build(self, in_shape):
        if self.vocabulary is not None:
            layers = [nn.Embedding(self.vocabulary, 4), nn.Flatten()]
            return nn.Sequential(*layers, nn.Linear(4 * in_shape[0], 2))
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(in_shape)), 2))


@pytest.fixture
def make_model(tmp_path):
    """Export a linear model of some kind of data: its file, its data and what it computes."""

    def make(kind):
        data = load_data("digits") if kind == "image" else other_data(kind)
        shape = (1, 4, 6) if kind == "image" else data.input_shape
        block = Linear(data.vocabulary)
        torch.manual_seed(0)
        network = block.build(shape).eval()
        if kind == "image":
            network[1] = nn.Linear(24, 10)
        preprocessing = Preprocessing.of(data, shape)
        about = {
            "classes": data.class_names,
            "preprocessing": preprocessing.to_dict(),
            "target": make_target().to_dict(),
        }
        proto = network_to_onnx(
            network, shape, input_type="int64" if kind == "tokens" else "float32"
        )
        save_about(proto, tmp_path / f"{kind}.onnx", about | about_examples(data))
        return tmp_path / f"{kind}.onnx", data, preprocessing, network

    return make
