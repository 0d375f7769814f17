"""From a trained model in a file of the user's own to a search around it."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from hwnas.data import load_data
from hwnas.evaluators.training import train_network
from hwnas.networks import Network
from hwnas.spaces.catalog import make_space
from hwnas.training import default_recipes, seeded, train

# The documentation shows this.
MY_MODEL = """\
from pathlib import Path
import torch
from torch import nn
from hwnas.around import space_around

class Residual(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(n, n, 3, padding=1, bias=False), nn.BatchNorm2d(n)
    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))

def model():
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2, bias=False), nn.BatchNorm2d(32), nn.ReLU(), Residual(32),
        nn.Conv2d(32, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), Residual(64),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

def space(input_shape, n_classes):
    trained = model()
    weights = torch.load(Path(__file__).with_name("trained.pt"), weights_only=True)
    trained.load_state_dict(weights)
    return space_around(trained, torch.zeros(1, *input_shape))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, with the model in `my_model.py`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(MY_MODEL)
    return tmp_path


def model_of(folder):
    names = {"__file__": str(folder / "my_model.py"), "__name__": "my_model"}
    exec(MY_MODEL, names)
    return names["model"]()


def trained(folder, epochs):
    """The model after so many epochs on digits, its weights beside it."""
    data = load_data("digits")
    with seeded(0):
        model = model_of(folder)
    if epochs:
        recipe = replace(default_recipes(data)[1], epochs=epochs)
        train(model, data, recipe, input_shape=data.input_shape, seed=0)
    torch.save(model.state_dict(), folder / "trained.pt")
    return data, model.eval()


def test_training_of_a_variant_begins_with_the_models_weights(folder):
    data, model = trained(folder, epochs=0)
    space = make_space("my_model.py:space", data.input_shape, data.n_classes)
    recipe = replace(default_recipes(data)[0], epochs=0.05, learning_rate=1e-9)
    genotype = (0,) * len(space.choices)
    network, _ = train_network(space.architecture(genotype), data, recipe, seed=0)
    own = Network(space.architecture(genotype)).state_dict()
    for name, value in network.state_dict().items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.allclose(value, own[name], atol=1e-6), name
    largest = tuple(n - 1 for n in space.n_options)
    x = torch.randn(3, *data.input_shape)
    assert torch.equal(Network(space.architecture(largest)).eval()(x), model(x))


@pytest.mark.slow
def test_a_short_training_from_the_models_weights_beats_one_from_new_weights(folder):
    data, _ = trained(folder, epochs=8)
    space = make_space("my_model.py:space", data.input_shape, data.n_classes)
    recipe = replace(default_recipes(data)[0], epochs=2)
    gains = []
    for row in space.sample(np.random.default_rng(0), 4).tolist():
        architecture = space.architecture(tuple(row))
        for seed in (0, 1):
            accuracies = []
            for is_new in (False, True):
                network = Network(architecture)
                if is_new:
                    with seeded(seed):
                        for module in network.modules():
                            getattr(module, "reset_parameters", lambda: None)()
                result = train(network, data, recipe, input_shape=data.input_shape, seed=seed)
                accuracies.append(result.validation.accuracy)
            gains.append(accuracies[0] - accuracies[1])
    assert np.mean(gains) > 0.01


@pytest.mark.slow
def test_a_search_around_a_model_delivers_models(folder):
    trained(folder, epochs=4)
    options = {
        "data": "digits", "space": "my_model.py:space", "out": "run", "trials": 3, "finalists": 2,
        "networks": 8, "search-epochs": 1, "final-epochs": 1, "measurements": "measurements.db",
    }  # fmt: skip
    command = [f"--{name}={value}" for name, value in options.items()]
    subprocess.run([sys.executable, "-m", "hwnas", "search", *command], check=True)
    front = pd.read_csv(folder / "run" / "front.csv")
    assert len(front) and all((folder / "run" / path).exists() for path in front["onnx"])
