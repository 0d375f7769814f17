"""`hwnas predict`: which predictor answers, what the answer holds, and what is suggested."""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from hwnas import measure_unknown
from predictors import pretrained
from predictors.cost import CostPredictor
from predictors.energy import EnergyPredictor
from predictors.files import load_predictor, save_predictor
from profilers.onnx_models import load_model
from profilers.profiler import Profiler
from profilers.reference import conv_stack
from profilers.targets import make_target


@pytest.fixture
def stack(tmp_path):
    """Six convolutions on images of 16×16."""
    proto = conv_stack(np.random.default_rng(0), 1, n_layers=6, channels=24, size=16)
    onnx.save(proto, tmp_path / "stack.onnx")
    return tmp_path / "stack.onnx"


@pytest.fixture
def fitted(tmp_path, tiny_predictor):
    predictor = copy.copy(tiny_predictor)
    predictor.knows_others_ = True  # or every answer has a note
    save_predictor(predictor, tmp_path / "predictor.npz")
    return tmp_path / "predictor.npz"


@pytest.fixture
def shipped(tmp_path, monkeypatch, fitted):
    """Two that ship: of this machine, and of another device. The folder of those."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    here = load_predictor(fitted)
    save_predictor(here, folder / "here.npz")
    here.target_ = replace(here.target_, device="ffff00001111", device_name="Far CPU", threads=1)
    save_predictor(here, folder / "far.npz")
    monkeypatch.setattr(pretrained, "FOLDER", folder)
    return folder


def answer(hwnas, line):
    code, out, err = hwnas(f"predict {line} --json")
    assert code == 0, err
    return json.loads(out)


def test_an_answer_says_where_the_time_goes(hwnas, stack, fitted):
    found = answer(hwnas, "stack.onnx --predictor predictor.npz --suggest 0")
    n = len(Profiler(make_target()).kernels(load_model(stack)))
    assert found["n_kernels"] == n
    for what in ("blocks", "kinds"):
        assert sum(part["n_kernels"] for part in found[what]) == n
        assert sum(part["share"] for part in found[what]) == pytest.approx(1)
        assert sum(part["predicted_ms"] for part in found[what]) == pytest.approx(
            found["kernel_sum_ms"]
        )
        ms = [part["predicted_ms"] for part in found[what]]
        assert ms == sorted(ms, reverse=True)
    assert found["latency_ms"] == pytest.approx(found["kernel_sum_ms"] + found["overhead_ms"])
    assert found["peak_memory_bytes"] >= 24 * 16 * 16 * 4  # one image at the least
    assert (found["suggestions"], found["note"]) == ([], None)
    assert set(found["seconds"]) == {"load", "predict", "suggest"}


def test_energy_is_predicted_where_the_predictor_knows_it(hwnas, stack, fitted, tmp_path):
    assert answer(hwnas, "stack.onnx --predictor predictor.npz --suggest 0")["energy_mj"] is None
    energy = EnergyPredictor(level=0.9)
    energy.coef_ = np.array([12.0, 0.0, 0.0, 0.5])
    measured = np.linspace(1, 2, 40)
    energy.held_out_ = np.stack([measured * np.linspace(0.9, 1.1, 40), measured])
    energy.set_level(0.9)
    save_predictor(CostPredictor(load_predictor(fitted), energy), tmp_path / "energy.npz")
    line = "stack.onnx --predictor energy.npz --suggest 0"
    found = answer(hwnas, line)
    mj = found["energy_mj"]
    assert mj["expected"] == pytest.approx(12 * found["latency_ms"] + 0.5)
    assert mj["low"] < mj["expected"] < mj["high"]
    narrow = answer(hwnas, f"{line} --level 0.5")["energy_mj"]
    assert mj["low"] < narrow["low"] < narrow["high"] < mj["high"]
    code, out, _ = hwnas(f"predict {line} --html page.html")
    assert code == 0 and f"energy {mj['expected']:.4g} mJ, 90 % interval" in out
    assert "mJ</b>" in (tmp_path / "page.html").read_text()


def test_suggestions_are_models_that_can_be_measured(hwnas, stack, fitted, tmp_path):
    found = answer(hwnas, "stack.onnx --predictor predictor.npz --suggestions-folder faster")
    suggestions = found["suggestions"]
    assert 1 <= len(suggestions) <= 3
    for suggestion in suggestions:
        assert suggestion["before_ms"] == found["latency_ms"]
        saving_ms = suggestion["before_ms"] - suggestion["latency_ms"]
        assert suggestion["saving_ms"] == pytest.approx(saving_ms)
        again = answer(hwnas, f"{suggestion['model']} --predictor predictor.npz --suggest 0")
        assert again["latency_ms"] == pytest.approx(suggestion["latency_ms"])
    code, out, _ = hwnas("predict stack.onnx --predictor predictor.npz --suggest 1")
    assert code == 0
    assert "What would make it faster" in out and "Where the time goes, by kind" in out


def test_the_predictor_that_ships_for_this_machine_answers_if_none_is_named(hwnas, stack, shipped):
    by_default = answer(hwnas, "stack.onnx --suggest 0")
    by_name = answer(hwnas, "stack.onnx --suggest 0 --predictor here")
    for found in (by_default, by_name):
        assert found["target"] == make_target().to_dict()
        assert found["note"] is None
    assert by_default["latency_ms"] == by_name["latency_ms"]


def test_a_shipped_predictor_of_another_device_answers_and_says_so(hwnas, stack, shipped):
    found = answer(hwnas, "stack.onnx --suggest 0 --predictor far")
    assert found["target"]["device_name"] == "Far CPU"
    assert "another target than this machine" in found["note"] and "Far CPU" in found["note"]
    code, out, _ = hwnas("predict stack.onnx --suggest 0 --predictor far")
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("note: ")]


def test_a_level_of_ones_choice_makes_the_interval_wider_or_narrower(hwnas, stack, fitted):
    narrow, wide = (
        answer(hwnas, f"stack.onnx --predictor predictor.npz --suggest 0 --level {level}")
        for level in (0.5, 0.9)
    )
    assert (narrow["level"], wide["level"]) == (0.5, 0.9)
    assert narrow["latency_ms"] == wide["latency_ms"]
    assert wide["low_ms"] <= narrow["low_ms"] <= narrow["high_ms"] <= wide["high_ms"]
    assert wide["high_ms"] - wide["low_ms"] > narrow["high_ms"] - narrow["low_ms"]


def test_unknown_kernels_are_measured_and_the_answer_given_again(hwnas, stack, fitted, monkeypatch):
    calls = []

    def measure(model, kernels, predictor, profiler, *, seconds, store=None, progress=None):
        calls.append((model.name, len(kernels), profiler.target, seconds))
        better = load_predictor(fitted)
        better.correction_ = predictor.correction_
        better.level = 0.5
        return better

    monkeypatch.setattr(measure_unknown, "measure_unknown", measure)
    found = answer(
        hwnas, "stack.onnx --predictor predictor.npz --suggest 0 --measure --measure-seconds 7 "
        "--measurements m.db",
    )  # fmt: skip
    assert calls == [("stack", found["n_kernels"], make_target(), 7.0)]
    assert found["level"] == 0.5
    before = found["before_measuring"]
    assert before["high_ms"] - before["low_ms"] > found["high_ms"] - found["low_ms"]
    assert answer(hwnas, "stack.onnx --predictor predictor.npz --suggest 0")[
        "before_measuring"
    ] is None  # fmt: skip


def test_savings_are_shares_of_what_was_measured(hwnas, stack, fitted, monkeypatch):
    usual = answer(hwnas, "stack.onnx --predictor predictor.npz")

    def measure(model, kernels, predictor, profiler, **others):
        """All of this model's kernels take twice as long as predicted; of others nothing is new."""
        singly_ms = predictor.predict([[kernel] for kernel in kernels]).latency_ms
        return predictor.with_excerpt(dict(zip(kernels, (2 * singly_ms).tolist(), strict=True)))

    monkeypatch.setattr(measure_unknown, "measure_unknown", measure)
    found = answer(hwnas, "stack.onnx --predictor predictor.npz --measure --measurements m.db")
    assert found["latency_ms"] > 1.5 * usual["latency_ms"]
    assert [s["change"] for s in found["suggestions"]] == [
        s["change"] for s in usual["suggestions"]
    ]
    for again, before in zip(found["suggestions"], usual["suggestions"], strict=True):
        assert again["saving"] == pytest.approx(before["saving"])
        assert again["before_ms"] == found["latency_ms"]


def test_a_model_whose_first_axis_is_no_batch_is_predicted(hwnas, fitted, tmp_path):
    proto = conv_stack(np.random.default_rng(0), 5, n_layers=2, channels=8, size=8)
    onnx.save(proto, tmp_path / "five.onnx")
    found = answer(hwnas, "five.onnx --predictor predictor.npz --suggest 0")
    assert found["latency_ms"] > 0
    assert "the first axis of five is 5 long" in found["note"]
    code, _, err = hwnas("predict five.onnx --predictor predictor.npz --batch 5")
    assert code == 2 and "is a batch of 5, but the target has batch 1" in " ".join(err.split())


def test_intervals_that_rest_on_one_family_say_so(hwnas, stack, fitted, tmp_path):
    predictor = load_predictor(fitted)
    predictor.knows_others_ = False
    save_predictor(predictor, tmp_path / "one.npz")
    line = "stack.onnx --predictor one.npz --suggest 0"
    assert "networks of one kind were measured" in answer(hwnas, line)["note"]
    predictor.knows_others_ = True
    save_predictor(predictor, tmp_path / "several.npz")
    assert answer(hwnas, "stack.onnx --predictor several.npz --suggest 0")["note"] is None


def test_a_page_is_written_where_it_is_asked_for(hwnas, stack, fitted, tmp_path):
    code, out, err = hwnas(
        "predict stack.onnx --predictor predictor.npz --suggest 1 --html pages/stack.html --json"
    )
    assert code == 0 and json.loads(out)["n_kernels"]
    page = (tmp_path / "pages" / "stack.html").read_text()
    assert "stack is predicted to take" in page and "wrote pages/stack.html" in err


MISTAKES = {
    # command line: words of the message
    "predict text.onnx --predictor here": "text.onnx is not a readable ONNX model",
    "predict stack.onnx --predictor her": "did you mean 'here'",
    "predict stack.onnx --predictor far.npz": "cannot read far.npz",
    "predict stack.onnx --predictor text.onnx": "text.onnx is no predictor file",
    "predict stack.onnx --predictor cut.npz": "cut.npz is no predictor file",
    "predict stack.onnx --predictor pretrained/far.npz": "fitted on onnxruntime-cpu",
    "predict stack.onnx --predictor here --threads 2": "--threads 2 was asked for, but here is of",
    "predict stack.onnx --predictor here --target torch-cpu": "--target torch-cpu was asked for",
    "predict stack.onnx --target torch-cpu": "no predictor ships for torch-cpu",
    "predict stack.onnx --target onnxruntime-cp": "did you mean 'onnxruntime-cpu'",
    "predict stack.onnx --predictor here --family nonsense": "unknown family 'nonsense'",
    "predict stack.onnx --predictor here --suggestions-folder text.onnx/x": "cannot write",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_message_and_exit_code_2(hwnas, stack, shipped, tmp_path, line):
    (tmp_path / "text.onnx").write_text("this is no model")
    whole = (shipped / "here.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    code, out, err = hwnas(line)
    assert (code, out) == (2, "")
    messages = [text for text in err.splitlines() if text.startswith("error: ")]
    assert len(messages) == 1, err
    assert MISTAKES[line] in messages[0]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--predictor far --measure", "of another target than can be measured here"),
        ("--predictor here --level 1.5", "is not between 0 and 1"),
        ("--predictor here --suggest 0 --suggestions-folder x", "is not used with --suggest 0"),
    ],
)
def test_options_that_cannot_be_are_refused(hwnas, stack, shipped, options, words):
    code, out, err = hwnas(f"predict stack.onnx {options}")
    assert (code, out) == (2, "")
    assert words in " ".join(err.replace("│", " ").split())


def test_a_prediction_loads_no_torch_no_pandas_and_no_scikit_learn(stack, fitted):
    code = (
        "import sys; from hwnas.cli import main\n"
        f"sys.argv = ['hwnas', 'predict', {str(stack)!r}, '--predictor', {str(fitted)!r}, "
        "'--suggest', '0']\n"
        "try: main()\n"
        "except SystemExit as stopped: assert not stopped.code\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "pandas", "sklearn", "plotly", "optuna", "moocore"}
