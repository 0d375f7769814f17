"""The command line: what is printed, where, and the one message of each mistake."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from hwnas import __version__, cli, run
from hwnas.cli import output, profile
from hwnas.cli.output import parse_shapes
from hwnas.data import load_data
from hwnas.evaluators import training
from hwnas.front import verify
from hwnas.profiling import profile_space, untrained_model
from hwnas.spaces import catalog
from predictors.files import save_predictor
from profilers import overhead
from profilers.measurement import CALIBRATION_TAG
from profilers.onnx_models import MAX_IR_VERSION
from profilers.reference import conv_stack
from profilers.store import MeasurementStore
from profilers.targets import make_target

COMMANDS = ["device", "profile", "fit", "predict", "space", "search", "export", "evaluate",
            "report", "dashboard", "bench cost", "bench workers", "bench front",
            "bench strategies", "bench supernet", "bench baselines"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_predictor):
    """Models and a predictor to be used, and files that cannot be."""
    folder = tmp_path_factory.mktemp("cli")
    proto = conv_stack(np.random.default_rng(0), 1, n_layers=6, channels=16, size=8)
    onnx.save(proto, folder / "stack.onnx")
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(proto, folder / "dynamic.onnx")
    (folder / "text.onnx").write_text("this is no model")
    (folder / "file").write_text("")
    (folder / "garbage.npz").write_bytes(b"PK\x03\x04garbage")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.tex").write_text("")
    save_predictor(tiny_predictor, folder / "predictor.npz")
    return folder


@pytest.fixture
def hwnas(folder, monkeypatch, capsys, make_tiny_space):
    """Run the command line in the folder: `(exit code, stdout, stderr)`."""
    monkeypatch.setitem(catalog.SPACES, "tiny", make_tiny_space)
    monkeypatch.chdir(folder)

    def call(line):
        monkeypatch.setattr(sys, "argv", ["hwnas", *line.split()])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code, out, err

    return call


def test_every_command_has_a_help_with_an_example():
    for command in ["", *COMMANDS]:
        done = CliRunner().invoke(cli.app, [*command.split(), "--help"])
        assert done.exit_code == 0, command
        if command:
            assert "Example" in done.output, command
            assert f"hwnas {command}" in done.output, command


def test_the_installed_command_helps_and_says_its_version():
    command = str(Path(sys.executable).with_name("hwnas"))
    helped = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert all(name.split()[0] in helped.stdout for name in COMMANDS)
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == __version__
    module = [sys.executable, "-m", "hwnas", "--version"]
    said = subprocess.run(module, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == __version__


MISTAKES = {
    # command line: words of the message
    "bench strategies --strategies rando": "unknown strategy 'rando'",
    "profile text.onnx": "text.onnx is not a readable ONNX model",
    "profile missing.onnx": "cannot read missing.onnx: No such file",
    "profile dynamic.onnx": "dynamic shape 1×3×height×8; a latency needs a static one: give",
    "profile stack.onnx --target onnxruntme": "did you mean 'onnxruntime-cpu'",
    "profile stack.onnx --batch 4": "is a batch of 1, but the target has batch 4",
    "profile stack.onnx --precision fp16": "no precision 'fp16', only fp32, int8",
    "profile stack.onnx --shape y=1,3,8,8": "has no input 'y'",
    "profile stack.onnx --measurements garbage.npz": "garbage.npz",
    "profile space:mobil": "unknown space 'mobil'; did you mean 'mobile'",
    "fit --measurements missing.db": "there is no database missing.db; measure first",
    "predict stack.onnx --predictor garbage.npz": "garbage.npz is no predictor file",
    "predict stack.onnx --predictor missing.npz": "cannot read missing.npz",
    "predict text.onnx --predictor predictor.npz": "text.onnx is not a readable ONNX model",
    "predict dynamic.onnx --predictor predictor.npz": "dynamic shape",
    "search --out new --data digit": "unknown data set 'digit'; did you mean 'digits'",
    "search --out new --space mobil": "unknown space 'mobil'; did you mean 'mobile'",
    "search --out new --space tiny --predictor predictor.npz --strategy evolutoin":
        "unknown strategy 'evolutoin'; did you mean 'evolution'",
    "search --out new --target onnxruntime": "unknown target 'onnxruntime'; did you mean",
    "search --out new --budget latncy_ms<=5": "unknown budget metric 'latncy_ms'; did you mean",
    "search --out new --budget latency_ms>=5": "a budget is an upper limit",
    "search --out new --latency-ms five": "must be a plain number",
    "search --out new --precision int8": "a search cannot be for int8 on onnxruntime-cpu",
    "search --out new --trials 0": "trials must be at least 1, got 0",
    "search --out new --workers -1": "workers must be at least 0, got -1",
    "search --out new --evaluator trainin": "unknown evaluator 'trainin'; did you mean 'training'",
    "search --out new --data nomodule:load": "nomodule",
    "search --out new --data broken:load": "broken:load: ZeroDivisionError: division by zero",
    "search --out new --data folder:nowhere": "no folder nowhere",
    "search --out file": "file exists and is no run folder",
    "search --out foreign": "foreign exists and is no run folder",
    "search --out file/run": "cannot create file/run",
    "search --out slow --space tiny --predictor predictor.npz --latency-ms 1e-6":
        "no network of the space meets latency_ms <= 1e-06: the cheapest needs",
    "search --out none --space tiny --predictor predictor.npz --budget energy_mj<=1":
        "energy_mj",
    "export missing t000 --out x.onnx": "cannot read missing/config.toml",
    "evaluate stack.onnx": "images of 'digits' are 1×8×8: a model with one input batch×1×height",
    "evaluate text.onnx": "text.onnx is not a readable ONNX model",
    "evaluate stack.onnx --split train": "split must be one of validation, test, got 'train'",
    "report missing": "missing",
    "bench cost --space mobil": "unknown space 'mobil'",
}  # fmt: skip


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_message_and_exit_code_2(hwnas, folder, line):
    (folder / "broken.py").write_text("def load():\n    return 1 / 0\n")
    code, out, err = hwnas(line)
    assert code == 2, err
    assert out == ""
    messages = [text for text in err.splitlines() if text.startswith("error: ")]
    assert len(messages) == 1, err
    assert MISTAKES[line] in messages[0]
    assert "Traceback" not in err
    assert err.endswith(messages[0] + "\n")  # nothing comes after it


@pytest.mark.parametrize(
    "line", ["profile stack.onnx --shape nonsense", "profile", "search", "nonsense", "predict x",
             "profile stack.onnx --threads 0", "fit --level 2 --measurements x"],
)  # fmt: skip
def test_a_wrong_use_of_options_is_exit_code_2_too(hwnas, line):
    code, _, err = hwnas(line)
    assert code == 2
    assert "Traceback" not in err


def test_a_mistake_in_a_search_leaves_no_folder_behind(hwnas, folder):
    hwnas("search --out fresh --space mobil")
    assert not (folder / "fresh").exists()


def test_another_run_in_the_folder_is_refused(hwnas):
    line = "search --out run --space tiny --predictor predictor.npz --latency-ms 1e-6"
    assert hwnas(line)[0] == 2  # no network meets it, but the folder is now that run's
    code, _, err = hwnas(f"{line} --networks 9")
    assert code == 2
    assert "holds another run: networks is 80 there, 9 asked" in err


def test_debug_shows_where_an_error_comes_from(monkeypatch, folder):
    monkeypatch.setattr(sys, "argv", ["hwnas", "--debug", "profile", str(folder / "text.onnx")])
    with pytest.raises(Exception, match="is not a readable ONNX model"):
        cli.main()


def test_ctrl_c_says_that_nothing_is_lost(hwnas, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("profilers.onnx_models.load_model", interrupt)
    code, out, err = hwnas("profile stack.onnx")
    assert (code, out) == (130, "")
    assert err == "interrupted: what was done is kept, the same command goes on\n"


def test_predict_answers_with_an_interval_and_what_it_does_not_know(hwnas, tiny_predictor):
    code, out, _ = hwnas("predict stack.onnx --predictor predictor.npz --json")
    answer = json.loads(out)
    assert code == 0
    assert {"latency_ms", "low_ms", "high_ms", "known_share", "unknown_kernels"} <= set(answer)
    assert 0 < answer["low_ms"] < answer["latency_ms"] < answer["high_ms"]
    assert 0 <= answer["known_share"] <= 1
    assert answer["target"] == make_target().to_dict()
    for kernel in answer["unknown_kernels"]:
        assert set(kernel) == {"kernel", "predicted_ms"}
        assert kernel["predicted_ms"] > 0


def test_predict_knows_all_of_a_network_of_the_space(hwnas, folder, make_tiny_space):
    # Networks that the predictor was fitted on, so every kernel was seen.
    space = make_tiny_space((1, 8, 8), 10)
    genotype = tuple(space.canonical(space.sample(np.random.default_rng(0), 12))[0])
    onnx.save(untrained_model(space.architecture(genotype)).proto, folder / "tiny.onnx")
    code, out, _ = hwnas("predict tiny.onnx --predictor predictor.npz --json")
    answer = json.loads(out)
    assert code == 0
    assert (answer["known_share"], answer["unknown_kernels"]) == (1.0, [])


def test_predict_is_readable_too(hwnas):
    code, out, _ = hwnas("predict stack.onnx --predictor predictor.npz")
    assert code == 0
    assert "interval" in out
    assert " ms" in out


def test_evaluate_gives_the_scores(hwnas, folder):
    weights = np.random.default_rng(0).standard_normal((64, 10)).astype(np.float32)
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 1, 8, 8))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, 10))],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(graph, ir_version=MAX_IR_VERSION, opset_imports=opsets),
        folder / "linear.onnx",
    )
    code, out, _ = hwnas("evaluate linear.onnx --data digits --json")
    answer = json.loads(out)
    assert code == 0
    assert answer["test_accuracy"] == answer["accuracy"]
    assert (answer["n"], answer["split"]) == (len(load_data("digits").test), "test")


def test_device_is_plain_data(hwnas):
    code, out, _ = hwnas("device --seconds 0.1 --json")
    found = json.loads(out)
    assert code == 0
    assert found["cores"] >= 1
    assert {"onnxruntime-cpu", "torch-cpu"} <= set(found["targets"])
    assert found["noise"]["relative_spread"] >= 0


def test_profile_explains_the_latency_by_its_kernels(hwnas, monkeypatch):
    monkeypatch.setattr(overhead, "SECONDS_EACH", 0.1)
    code, out, err = hwnas("profile stack.onnx --seconds 0.2 --json --measurements m.db")
    found = json.loads(out)
    assert code == 0
    assert "calibrating" in err  # what takes long is said, and not on stdout
    assert {
        "model", "target", "latency_ms", "min_ms", "p50_ms", "p90_ms", "p99_ms", "n_samples",
        "contended_share", "warning", "peak_memory_bytes", "energy_mj", "kernel_sum_ms",
        "n_kernels", "overhead", "overhead_ms", "explained_ms", "explained_share", "kernels",
    } <= set(found)  # fmt: skip
    assert 0 < found["min_ms"] <= found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"]
    assert found["min_ms"] <= found["latency_ms"]
    assert found["energy_mj"] is None
    assert len(found["kernels"]) == found["n_kernels"] > 6
    assert found["kernel_sum_ms"] == pytest.approx(sum(k["latency_ms"] for k in found["kernels"]))
    assert found["explained_ms"] == pytest.approx(found["kernel_sum_ms"] + found["overhead_ms"])
    assert {
        "name",
        "operator",
        "activation",
        "latency_ms",
        "macs",
        "bytes",
        "inputs",
        "outputs",
    } <= (set(found["kernels"][0]))
    code, out, _ = hwnas("profile stack.onnx --seconds 0.2 --measurements m.db")
    with MeasurementStore(Path("m.db")) as store:
        calibrated = [m for m in store.networks() if CALIBRATION_TAG in m.tags]
    # Once, but for those that the machine disturbed.
    steady = [m.name for m in calibrated if m.samples.warning is None]
    assert len(steady) == len(set(steady)) <= overhead.N_CALIBRATION <= len(calibrated)
    assert len(calibrated) <= overhead.MAX_TRIES * overhead.N_CALIBRATION
    assert code == 0
    assert "of the latency" in out


IGNORED = {
    "profile stack.onnx --networks 3": ("--networks", "a model"),
    "profile stack.onnx --seed 0": ("--seed", "a model"),  # the default, but it was said
    "profile stack.onnx --data digits": ("--data", "a model"),
    "profile stack.onnx --data-path x": ("--data-path", "a model"),
    "profile stack.onnx --minutes 3": ("--minutes", "a model"),
    "profile space:tiny --shape x=1,2": ("--shape", "space:NAME"),
    "profile space:tiny --html x.html": ("--html", "space:NAME"),
    "profile stack.onnx --export-kit kit --html x.html": ("--html", "--export-kit of a model"),
    "profile space:tiny --export-kit kit --minutes 3": ("--minutes", "--export-kit of space:NAME"),
    "profile survey --data digits": ("--data", "survey"),
    "profile survey --shape x=1,2": ("--shape", "survey"),
    "profile survey --html x.html": ("--html", "survey"),
    "profile survey --export-kit kit --minutes 3": ("--minutes", "--export-kit of survey"),
    "profile stack.onnx --import kit": ("MODEL", "--import"),
    "profile --import kit --threads 2": ("--threads", "--import"),
    "profile --import kit --export-kit other": ("--export-kit", "--import"),
}


@pytest.mark.parametrize("line", IGNORED)
def test_an_option_that_would_be_ignored_is_refused(hwnas, line):
    option, what = IGNORED[line]
    code, out, err = hwnas(line)
    message = " ".join(err.replace("│", " ").split())
    assert (code, out) == (2, "")
    assert f"Invalid value for {option}: is not used by {what}: leave it out" in message


def test_every_option_of_profile_is_used_by_something():
    parameters = get_command(cli.app).commands["profile"].params
    assert set().union(*profile._READ_BY.values()) == {p.name for p in parameters} - {"help"}


class TestKits:
    def test_the_other_device_may_have_more_cores(self, hwnas, folder):
        code, out, err = hwnas("profile stack.onnx --export-kit many --threads 4096 --json")
        assert code == 0, err
        assert json.loads(out) == {"folder": "many", "n_models": 1}
        assert json.loads((folder / "many" / "kit.json").read_text())["threads"] == 4096

    def test_a_space_gives_networks_of_its_own_number_and_seed(self, hwnas, folder):
        options = "--networks 3 --seed 1 --seconds 0.5 --batch 2"
        code, _, err = hwnas(f"profile space:tiny --export-kit tiny-kit {options}")
        kit = json.loads((folder / "tiny-kit" / "kit.json").read_text())
        assert code == 0, err
        assert [model["batch"] for model in kit["models"]] == [2, 2, 2]
        assert kit["seconds"] == 0.5

    def test_a_survey_gives_its_first_networks(self, hwnas, folder):
        code, _, err = hwnas("profile survey --export-kit survey-kit --networks 2 --batch 2")
        kit = json.loads((folder / "survey-kit" / "kit.json").read_text())
        assert code == 0, err
        assert [model["batch"] for model in kit["models"]] == [2, 2]
        assert [model["tags"] for model in kit["models"]] == [{"family": "survey"}] * 2

    def test_another_runtime_is_refused(self, hwnas, folder):
        code, _, err = hwnas("profile stack.onnx --export-kit other --target torch-cpu")
        assert code == 2
        assert "a kit runs onnxruntime-cpu on the other device" in " ".join(err.split())
        assert not (folder / "other").exists()


def test_a_space_is_profiled_and_a_predictor_is_fitted(hwnas, folder):
    options = "--networks 8 --seconds 0.1 --json --measurements space.db"
    code, out, _ = hwnas(f"profile space:tiny {options}")
    assert code == 0
    assert json.loads(out)["n_networks"] == 8
    assert 0 < json.loads(out)["fastest_ms"] <= json.loads(out)["slowest_ms"]
    code, out, _ = hwnas("fit --measurements space.db --out fitted.npz --json")
    assert code == 0
    assert json.loads(out)["n_networks"] == 8
    assert {"mape", "within_10", "spearman"} <= set(json.loads(out)["held_out"])
    assert hwnas("predict stack.onnx --predictor fitted.npz --json")[0] == 0
    code, _, err = hwnas("fit --measurements space.db --threads 2")
    assert code == 2
    assert "holds no measurement of" in err


def test_random_networks_of_all_kinds_are_profiled(hwnas, folder):
    options = "--networks 3 --seconds 0.1 --seed 4 --measurements survey.db"
    code, out, err = hwnas(f"profile survey {options} --json")
    answer = json.loads(out)
    assert code == 0, err
    assert (answer["n_networks"], answer["n_measured_now"], answer["n_failed"]) == (3, 3, 0)
    assert 0 < answer["fastest_ms"] <= answer["median_ms"] <= answer["slowest_ms"]
    code, out, err = hwnas(f"profile survey {options}")
    assert code == 0, err
    assert "3 known before" in out
    assert "Next: hwnas fit --measurements survey.db" in out
    with MeasurementStore(folder / "survey.db") as store:
        assert [m.tags["family"] for m in store.networks()] == ["survey"] * 3


def test_too_few_networks_are_one_message(hwnas, folder, make_tiny_space):
    space = make_tiny_space((1, 8, 8), 10)
    with MeasurementStore(folder / "few.db") as store:
        profile_space(space, make_target(), store, n_networks=2, seconds=0.05)
    code, _, err = hwnas("fit --measurements few.db")
    assert code == 2
    assert "at least 8" in err


def test_shapes_are_read_in_both_spellings():
    assert parse_shapes(["x=1,3,8,8", "a=b=2x3"]) == {"x": (1, 3, 8, 8), "a=b": (2, 3)}
    assert parse_shapes(None) == {}


def test_the_command_line_and_the_library_keep_measurements_in_one_place():
    assert output.DEFAULT_MEASUREMENTS == run.DEFAULT_MEASUREMENTS


QUICK = (
    "search --space tiny --predictor predictor.npz --measurements quick.db --trials 2 "
    "--finalists 1 --search-epochs 0.1 --final-epochs 0.1 --workers 0 --json --out "
)


@pytest.fixture
def _quick(monkeypatch):
    monkeypatch.setattr(verify, "SECONDS_PROFILE", 0.05)
    monkeypatch.setattr(verify, "SECONDS_LATENCY", 0.05)


@pytest.mark.usefixtures("_quick")
def test_a_search_delivers_what_the_other_commands_take(hwnas, folder):
    code, out, err = hwnas(f"{QUICK}demo --budget params<=1e6")
    assert code == 0, err
    answer = json.loads(out)
    (member,) = answer["front"]
    assert answer["is_complete"]
    assert "budget params <= 1e+06" in err
    code, out, _ = hwnas(f"evaluate demo/{member['onnx']} --json")
    assert json.loads(out)["test_accuracy"] == member["test_accuracy"]
    code, out, _ = hwnas(f"export demo {member['name']} --batch 2 --out b2.onnx --json")
    assert code == 0
    assert json.loads(out)["parity_max_abs_error"] <= 1e-4
    code, _, err = hwnas("export demo t099 --out b2.onnx")
    assert code == 2
    assert "unknown network 't099'; did you mean" in err
    (folder / "demo" / "report.html").unlink()
    code, out, _ = hwnas("report demo --svg front.svg --json")
    assert code == 0
    assert all((folder / path).exists() for path in json.loads(out)["written"])
    config = tomllib.loads((folder / "demo" / "config.toml").read_text())
    assert config["reproduce"]["command"].startswith("hwnas search --space tiny")
    assert "'params<=1e6'" in config["reproduce"]["command"]  # quoted for a shell


@pytest.mark.usefixtures("_quick")
def test_an_interrupted_search_says_how_to_go_on(hwnas, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupt)
    code, out, err = hwnas(f"{QUICK}stopped")
    assert code == 130
    assert json.loads(out) == {"run": "stopped", "is_complete": False, "front": []}
    assert "what was done is kept in stopped; the same command goes on" in err
