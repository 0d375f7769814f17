"""Runs whose strategy learns from the data before the first trial."""

import json
import time
from dataclasses import replace

import pytest
import torch

from hwnas import profiling
from hwnas.config import SearchConfig, read_config
from hwnas.front import verify
from hwnas.guides import folder as guide_folder
from hwnas.run import run_search
from hwnas.spaces import catalog
from hwnas.strategies import NEEDS_GUIDE
from predictors.files import save_predictor

CONFIG = SearchConfig(
    space="tiny", budgets=("latency_ms<=95%",), trials=3, finalists=2, search_epochs=0.25,
    final_epochs=0.5, networks=8, guide_epochs=1.0, workers=0,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _quick_and_tiny(make_tiny_space):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalog.SPACES, "tiny", make_tiny_space)
        patch.setitem(profiling.profile_space.__kwdefaults__, "seconds", 0.1)
        patch.setattr(verify, "SECONDS_PROFILE", 0.05)
        patch.setattr(verify, "SECONDS_LATENCY", 0.05)
        torch.set_num_threads(1)
        patch.setattr(torch, "set_num_threads", lambda n: None)
        yield


@pytest.fixture
def start(tmp_path, tiny_predictor):
    save_predictor(tiny_predictor, tmp_path / "predictor.npz")

    def call(**changes):
        return run_search(
            replace(CONFIG, **changes), tmp_path / "run", measurements=tmp_path / "m.db",
            predictor=tmp_path / "predictor.npz",
        )  # fmt: skip

    return call


@pytest.mark.parametrize(
    "strategy",
    ["spos", *(pytest.param(n, marks=pytest.mark.slow) for n in sorted(NEEDS_GUIDE - {"spos"}))],
)
def test_a_run_learns_its_guide_and_trains_what_that_proposes(start, tmp_path, strategy):
    result = start(strategy=strategy)
    assert result.is_complete
    guide = json.loads((tmp_path / "run" / "guide" / "guide.json").read_text())
    proposed = [list(c.genotype) for c in result.candidates if c.genotype is not None]
    assert proposed and guide["ranked"]
    assert read_config(tmp_path / "run" / "config.toml")["spent"]["guide_seconds"] > 0


def test_ctrl_c_while_the_guide_is_learned_keeps_the_run_and_it_goes_on(
    start, tmp_path, monkeypatch
):
    def stopped(name, lesson):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(guide_folder, "learn_guide", stopped)
        assert not start(strategy="spos").is_complete
    assert start(strategy="spos").is_complete


def test_the_time_that_a_guide_has_taken_is_noted_while_it_is_learned(start, tmp_path, monkeypatch):
    noted = []

    def slow(name, lesson):
        time.sleep(0.2)
        lesson.on_progress(0.5)
        noted.append(read_config(tmp_path / "run" / "config.toml")["spent"]["guide_seconds"])
        raise KeyboardInterrupt

    monkeypatch.setattr(guide_folder, "learn_guide", slow)
    start(strategy="spos")
    start(strategy="spos")
    assert noted[0] >= 0.2 and noted[1] >= noted[0] + 0.2
