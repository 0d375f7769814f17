import os
import subprocess
import sys

import pytest
import torch

from hwnas.data import load_data
from hwnas.errors import ConfigError
from hwnas.training import Recipe, batches, distributed, several_processes, train

SCRIPT = """
import sys
import torch
from torch import nn
from hwnas.data import load_data
from hwnas.training import Recipe, distributed, seeded, several_processes, train


def network(*norms):
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), *norms, nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
        )


RECIPE = Recipe(epochs=0.5, learning_rate=1e-3)
if __name__ == "__main__":
    with several_processes() as device:
        found = {}
        for name, norms in (("plain", []), ("norm", [nn.BatchNorm2d(8)])):
            trained = network(*norms).to(device)
            result = train(trained, load_data("digits"), RECIPE, input_shape=(1, 8, 8), seed=3)
            found[name] = trained.state_dict()
            found[f"{name}_loss"] = result.final_loss
        torch.save(found, f"{sys.argv[1]}/{distributed.rank()}.pt")
"""


@pytest.fixture
def as_process(monkeypatch):
    """Make this process one of several, as far as `distributed` can tell."""

    def set_to(own, n):
        monkeypatch.setattr(distributed, "n_processes", lambda: n)
        monkeypatch.setattr(distributed, "rank", lambda: own)

    return set_to


def test_processes_that_torchrun_has_not_started_are_refused(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node"), several_processes():
        pass


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="3 processes, but 2 GPUs"), several_processes():
        pass


def test_the_shares_of_all_processes_are_the_whole_batch(make_data, as_process):
    data, recipe = make_data(), Recipe(1, 16, mixup=0.2, max_shift=0.2)

    def first_batch():
        stream = batches(data.train, recipe, data, seed=1, device=torch.device("cpu"))
        return next(distributed.share_of(stream, recipe.batch_size))

    whole, whole_labels = first_batch()
    shares = []
    for own in range(2):
        as_process(own, 2)
        shares.append(first_batch())
    inputs, labels = (torch.stack(both, dim=1).flatten(0, 1) for both in zip(*shares, strict=True))
    assert torch.equal(inputs, whole)
    assert torch.equal(labels, whole_labels)


def test_a_share_that_is_too_small_for_batch_norm_is_refused(as_process):
    as_process(0, 4)
    with pytest.raises(ConfigError, match="at least 8"):
        distributed.share_of(iter(()), 7)
    as_process(0, 3)
    with pytest.raises(ConfigError, match="must be a multiple of 3"):
        distributed.share_of(iter(()), 64)


@pytest.mark.slow  # three processes that import torch
def test_two_processes_train_what_one_would(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*run, str(script), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{i}.pt", weights_only=True) for i in range(2))
    for name in ("plain", "norm"):
        assert first[f"{name}_loss"] == second[f"{name}_loss"]
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key])
    names: dict[str, object] = {}
    exec(SCRIPT, names)
    alone = names["network"]()
    result = train(alone, load_data("digits"), names["RECIPE"], input_shape=(1, 8, 8), seed=3)
    assert first["plain_loss"] == pytest.approx(result.final_loss, rel=1e-3)
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(first["plain"][key], value, rtol=0, atol=1e-4)
