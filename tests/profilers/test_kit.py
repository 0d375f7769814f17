import ast
import gzip
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from profilers import kit_results, kit_script
from profilers.devices import this_device
from profilers.errors import ProfilerError
from profilers.kit import KitError, write_kit
from profilers.kit_results import add_results, read_kit
from profilers.memory import computed_peak_bytes
from profilers.onnx_models import load_model, make_model
from profilers.profiler import Profiler
from profilers.reference import conv_stack
from profilers.store import MeasurementStore
from profilers.targets import make_target
from profilers.timing import sample_latency

ALLOWED = {"numpy", "onnxruntime"}


def stack(n_layers):
    proto = conv_stack(np.random.default_rng(0), 1, n_layers=n_layers, channels=8, size=6)
    return make_model(proto, name=f"stack {n_layers}/é")


def edit_json(path, change):
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def run_script(folder, *arguments, python=sys.executable, **changes):
    return subprocess.run(
        [python, str(folder / "measure.py"), *arguments],
        capture_output=True, text=True, timeout=120, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A kit of two models that its own script measured, and of one that cannot be loaded."""
    folder = tmp_path_factory.mktemp("kit") / "kit"
    write_kit([stack(2), stack(4), stack(6)], folder, seconds=0.05, tags=[{"family": "a"}, {}, {}])
    edit_json(folder / "kit.json", lambda kit: kit.update(round_ms=2.0, profiled_round_ms=1.0))
    (folder / "models" / "002-stack-6-.onnx").write_bytes(b"no model")
    done = run_script(folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def kit(measured, tmp_path):
    """A copy of the measured kit, to be damaged."""
    return Path(shutil.copytree(measured[0], tmp_path / "kit"))


@pytest.fixture
def result(kit):
    return kit / "results" / "000-stack-2-" / "result.json"


class TestWriting:
    def test_dimensions_are_fixed_and_the_format_is_old(self, tmp_path, relu_proto):
        proto = relu_proto(("batch", "length"), TensorProto.FLOAT)
        model = make_model(proto, name="open", batch=2, shapes={"x": (2, 5)})
        write_kit([model], tmp_path / "kit")
        entry = json.loads((tmp_path / "kit" / "kit.json").read_text())["models"][0]
        written = onnx.load(tmp_path / "kit" / entry["file"])
        for value in (*written.graph.input, *written.graph.output):
            assert [d.dim_value for d in value.type.tensor_type.shape.dim] == [2, 5]
        assert written.ir_version == 8  # opset 17
        assert (entry["digest"], entry["batch"]) == (model.digest, 2)
        assert entry["inputs"] == [{"name": "x", "dtype": "float32", "shape": [2, 5]}]
        assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"

    def test_int8_models_are_written_quantized(self, tmp_path):
        write_kit([stack(2)], tmp_path / "kit", precision="int8")
        written = onnx.load(tmp_path / "kit" / "models" / "000-stack-2-.onnx")
        assert "DequantizeLinear" in {node.op_type for node in written.graph.node}

    def test_the_readme_has_three_lines(self, tmp_path):
        write_kit([stack(2)], tmp_path / "kit")
        assert len((tmp_path / "kit" / "README.txt").read_text().splitlines()) == 3

    def test_a_folder_that_holds_something_is_left_alone(self, tmp_path):
        (tmp_path / "mine").write_text("")
        with pytest.raises(KitError, match="is not empty"):
            write_kit([stack(2)], tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]
        with pytest.raises(KitError, match="cannot write the kit|is not empty"):
            write_kit([stack(2)], tmp_path / "mine" / "kit")

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left")])
    def test_what_is_interrupted_leaves_nothing_and_can_be_done_again(
        self, tmp_path, monkeypatch, error
    ):
        def fail(*_):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr("profilers.kit.reference_model", fail)
            with pytest.raises((KeyboardInterrupt, KitError)):
                write_kit([stack(2)], tmp_path / "kit")
        assert list(tmp_path.iterdir()) == []
        write_kit([stack(2)], tmp_path / "kit")
        assert [path.name for path in tmp_path.iterdir()] == ["kit"]

    def test_an_empty_folder_is_filled(self, tmp_path):
        (tmp_path / "kit").mkdir()
        write_kit([stack(2)], tmp_path / "kit")
        assert (tmp_path / "kit" / "measure.py").exists()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"models": []}, "one model at least"),
            ({"threads": 0}, "threads=0"),
            ({"seconds": float("nan")}, "seconds=nan"),
            ({"precision": "fp16"}, "unknown precision of a kit 'fp16'"),
        ],
    )
    def test_what_cannot_be_measured_is_refused(self, tmp_path, changes, message):
        arguments = {"models": [stack(2)]} | changes
        with pytest.raises(KitError, match=message):
            write_kit(arguments.pop("models"), tmp_path / "kit", **arguments)


class TestScript:
    def test_it_needs_only_onnxruntime_and_numpy_and_old_syntax(self):
        text = Path(kit_script.__file__).read_text(encoding="utf-8")
        tree = ast.parse(text, feature_version=(3, 8))
        names = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.partition(".")[0])
        assert names - set(sys.stdlib_module_names) == ALLOWED
        # So that annotations are not evaluated: `dict[str, int]` is newer than Python 3.8.
        assert "from __future__ import annotations" in text

    def test_its_samples_are_those_of_the_profiler(self):
        def fakes():
            ticks, switches = itertools.count(0, 1_234_567), itertools.count(0, 3)
            return {
                "clock_ns": lambda: next(ticks) ** 2,
                "cpu_clock_ns": lambda: next(ticks) * 7,
                "disturbances": lambda: (next(switches), next(switches) ** 2),
            }

        ours = sample_latency(lambda: None, n_samples=9, **fakes())
        theirs = kit_script.sample(lambda: None, 9, **fakes())
        taken = theirs | {"reference_ns": 30, "profiled_runs": 0}
        found = kit_results._samples([taken], usual_ns=30.0)
        for name in ("wall_ms", "cpu_ms", "switches", "faults", "chunk", "slowdown"):
            assert np.array_equal(getattr(found, name), getattr(ours, name)), name

    def test_it_tells_how_far_it_is_and_what_failed(self, measured):
        lines = measured[1].splitlines()
        assert [line[:5] for line in lines[:3]] == ["[1/3]", "[2/3]", "[3/3]"]
        assert all("min left" in line for line in lines[:3])
        assert "median" in lines[0] and "failed: InvalidProtobuf" in lines[2]

    def test_what_is_done_is_not_done_again_but_failures_are_on_demand(self, kit, result):
        before = result.stat().st_mtime_ns
        assert "[1/" not in run_script(kit).stdout
        retried = run_script(kit, "--retry").stdout.splitlines()
        assert len(retried) == 2 and retried[0].startswith("[1/1] stack 6/é")
        assert result.stat().st_mtime_ns == before

    def test_more_threads_than_cores_are_refused(self, kit):
        edit_json(kit / "kit.json", lambda value: value.update(threads=4096))
        done = run_script(kit)
        assert done.returncode == 2 and "4096 threads" in done.stdout

    def test_several_threads_are_watched_as_a_process(self, kit):
        if (os.cpu_count() or 1) < 2:
            pytest.skip("one core")
        change = {"threads": 2, "min_rounds": 2}
        edit_json(kit / "kit.json", lambda v: v.update(change, models=v["models"][:1]))
        shutil.rmtree(kit / "results")
        assert run_script(kit).returncode == 0
        found = read_kit(kit).measurements[0]
        assert found.target.threads == 2 and np.isnan(found.samples.cpu_ms).all()


class TestOneAtATime:
    """`measure_apart` and `main` with a process that does what the test says."""

    @pytest.fixture(autouse=True)
    def _here(self, kit, monkeypatch):
        shutil.rmtree(kit / "results")
        monkeypatch.setattr(kit_script, "HERE", kit)
        monkeypatch.setattr(kit_script, "RESULTS", kit / "results")
        monkeypatch.setattr(sys, "argv", ["measure.py"])
        self.results = kit / "results"

    def child(self, monkeypatch, tmp_path, code):
        path = tmp_path / "child.py"
        path.write_text(f"import os, sys, time\n{code}\n")
        monkeypatch.setattr(kit_script, "__file__", str(path))

    def test_a_crash_is_a_failure_of_that_model(self, monkeypatch, tmp_path):
        self.child(monkeypatch, tmp_path, f"os.kill(os.getpid(), {int(signal.SIGSEGV)})")
        assert kit_script.main() == 0
        found = json.loads((self.results / "000-stack-2-" / "result.json").read_text())
        assert found["failure"].startswith("ended by signal 11")
        assert len(list(self.results.iterdir())) == 3

    def test_a_model_that_hangs_is_a_failure(self, monkeypatch, tmp_path, kit):
        edit_json(kit / "kit.json", lambda value: value.update(limit_s=0.3))
        self.child(monkeypatch, tmp_path, "time.sleep(60)")
        model = {"id": "a", "name": "a", "digest": "d"}
        assert kit_script.measure_apart({"limit_s": 0.3}, model) == "failed: no result after 0.3 s"

    def test_a_full_disk_stops_and_blames_no_model(self, monkeypatch, tmp_path, capsys):
        code = f"print('No space left', file=sys.stderr); sys.exit({kit_script.STORAGE_FAILED})"
        self.child(monkeypatch, tmp_path, code)
        assert kit_script.main() == 1
        assert "stopped: No space left. What is done is kept" in capsys.readouterr().out
        assert not list(self.results.glob("*/result.json"))[1:]

    def test_what_was_done_before_ctrl_c_is_kept(self, monkeypatch, capsys):
        calls = []

        def run(command, **_):
            calls.append(command[-1])
            if len(calls) == 2:
                raise KeyboardInterrupt
            (self.results / f"{command[-1]}.part" / "result.json").write_text("{}")
            return subprocess.CompletedProcess(command, 0, b"fine", b"")

        monkeypatch.setattr(kit_script.subprocess, "run", run)
        assert kit_script.main() == 130
        assert [path.parent.name for path in self.results.glob("*/result.json")] == ["000-stack-2-"]
        assert kit_script.main() == 0
        assert calls == ["000-stack-2-", "001-stack-4-", "001-stack-4-", "002-stack-6-"]
        assert "stopped: what is done is kept" in capsys.readouterr().out


class TestReading:
    def test_results_are_measurements_of_the_models(self, kit):
        found = read_kit(kit)
        assert [m.name for m in found.measurements] == ["stack 2/é", "stack 4/é"]
        first, model = found.measurements[0], stack(2)
        assert first.digest == model.digest and first.tags == {"family": "a"}
        expected = Profiler(make_target()).kernels(model)
        assert [run.kernel for run in first.kernels] == [node.kernel for node in expected]
        assert first.latency_ms > 0 and first.kernel_sum_ms > 0 and first.peak_memory_bytes
        assert first.computed_peak_memory_bytes == computed_peak_bytes(expected, model)
        assert first.kernels[0].n_samples > 0
        assert len(first.samples.chunk_slowdowns) >= 6

    def test_the_device_is_the_one_that_the_toolkit_would_see(self, kit):
        found = read_kit(kit)
        here = replace(this_device(), gpus=())
        assert found.device.fingerprint == here.fingerprint
        assert found.measurements[0].target == replace(make_target(), device=here.fingerprint)
        assert found.device.memory_bytes == here.memory_bytes

    def test_failures_and_missing_results_are_told(self, kit, result):
        shutil.rmtree(result.parent)
        found = read_kit(kit)
        (failure,) = found.failures
        assert (found.n_missing, failure.name) == (1, "stack 6/é")
        assert failure.reason.startswith("InvalidProtobuf")

    def test_importing_twice_adds_nothing(self, kit):
        with MeasurementStore(":memory:") as store:
            found = read_kit(kit)
            assert add_results(found, store) == list(found.measurements)
            assert add_results(read_kit(kit), store) == []
            assert len(store.networks()) == 2
            assert len(store.failures(found.failures[0].target)) == 1

    def test_moments_are_slow_against_the_whole_kit(self, kit, result):
        def ten_times_slower(value):
            for taken in value["rounds"]:
                taken["reference_ns"] *= 10

        edit_json(result, ten_times_slower)
        slow, usual = read_kit(kit).measurements
        assert slow.samples.slowdown.min() > 2 and slow.samples.warning is not None
        assert np.median(usual.samples.slowdown) < 2

    def test_a_board_with_an_arm_cpu_is_called_by_its_name(self, result):
        record = json.loads(result.read_text())["device"] | {
            "cpuinfo": {"Features": ["fp asimd asimddp"], "CPU part": ["0xd0b"], "model name": []},
            "board": "Raspberry Pi 5 Model B Rev 1.0",
            "architecture": "aarch64",
            "caches": [["1", "Data", "64K"], ["1", "Instruction", "64K"], ["2", "Unified", "512K"]],
        }
        found = kit_results._device(record, "1.20")
        assert found.cpu == "Raspberry Pi 5 Model B Rev 1.0"
        assert found.isa == ("asimd", "asimddp")
        assert found.cache_bytes == {"L1": 65536, "L2": 524288}


def _cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def _first_round(**changes):
    return lambda result: result["rounds"][0].update(changes)


class TestRefusedResults:
    @pytest.mark.parametrize(
        "change",
        [
            _first_round(wall_ns=[]),
            _first_round(cpu_ns=[1]),
            _first_round(faults="many"),
            _first_round(wall_ns=[-1, -1]),
            _first_round(switches=[[1], [2]]),
            _first_round(reference_ns=0),
            _first_round(reference_ns="x"),
            _first_round(profiled_runs=77),
            _first_round(profiled_runs=-1),
            _first_round(profiled_runs=10**12),
            lambda result: result.update(rounds=[]),
            lambda result: result.update(rounds={"a": 1}),
            lambda result: result.update(digest="of another model"),
            lambda result: result.update(format=99),
            lambda result: result.update(device=None),
            lambda result: result["device"].update(cores="many"),
            lambda result: result["device"].update(caches=[["1"]]),
        ],
    )
    def test_a_changed_result(self, kit, result, change):
        edit_json(result, change)
        with pytest.raises(KitError, match=rf"{kit}.*is damaged"):
            read_kit(kit)

    @pytest.mark.parametrize("name", ["result.json", "profile.json.gz", "optimized.onnx"])
    @pytest.mark.parametrize("damage", [_cut, lambda path: path.write_bytes(b"\xff" * 99)])
    def test_a_damaged_file(self, kit, result, name, damage):
        damage(result.with_name(name))
        with pytest.raises(ProfilerError, match=str(result.parent)):
            read_kit(kit)

    @pytest.mark.parametrize("events", ['{"a": 1}', "[1]", '[{"name": "a_kernel_time"}]', "7"])
    def test_a_profile_that_is_none(self, kit, result, events):
        result.with_name("profile.json.gz").write_bytes(gzip.compress(events.encode()))
        with pytest.raises(KitError, match=r"profile\.json\.gz is damaged"):
            read_kit(kit)

    def test_a_file_that_unpacks_to_too_much(self, kit, result, monkeypatch):
        monkeypatch.setattr(kit_results, "MAX_PROFILE_BYTES", 10_000)
        result.with_name("profile.json.gz").write_bytes(gzip.compress(b" " * 10_000_000))
        with pytest.raises(KitError, match="more than the 10,000 bytes"):
            read_kit(kit)

    def test_endless_nesting(self, kit, result):
        result.write_text("[" * 200_000)
        with pytest.raises(KitError, match="is damaged"):
            read_kit(kit)

    def test_results_of_two_devices(self, kit, result):
        edit_json(result, lambda value: value["device"].update(cores=64))
        with pytest.raises(KitError, match=r"\(64 cores\).*a copy of the kit of its own"):
            read_kit(kit)

    def test_a_kit_that_points_elsewhere(self, kit):
        edit_json(kit / "kit.json", lambda value: value["models"][0].update(id="../../etc"))
        with pytest.raises(KitError, match="no plain name"):
            read_kit(kit)

    def test_no_kit_a_newer_kit_and_one_without_results(self, tmp_path, kit):
        with pytest.raises(KitError, match=r"cannot read .*kit\.json"):
            read_kit(tmp_path)
        (tmp_path / "kit.json").write_text("[]")
        with pytest.raises(KitError, match="no kit that hwnas wrote"):
            read_kit(tmp_path)
        shutil.rmtree(kit / "results")
        with pytest.raises(KitError, match=r"run `python measure\.py` there"):
            read_kit(kit)
        edit_json(kit / "kit.json", lambda value: value.update(format=2))
        with pytest.raises(KitError, match="update hwnas"):
            read_kit(kit)


@pytest.mark.slow
def test_a_bare_environment_measures_what_the_profiler_does(tmp_path):
    """With nothing but NumPy and ONNX Runtime to import, and no toolkit."""
    bare = tmp_path / "bare"
    venv.create(bare, with_pip=False)
    site = next((bare / "lib").glob("python*")) / "site-packages"
    for package in (np, onnxruntime):
        for path in Path(package.__file__).parents[1].glob(f"{package.__name__}*"):
            (site / path.name).symlink_to(path)
    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    models = [
        stack(8), stack(24), stack(48), load_model(light / "light_squeezenet.onnx"),
    ]  # fmt: skip
    write_kit(models, tmp_path / "kit", seconds=2.0)
    done = run_script(tmp_path / "kit", python=str(bare / "bin" / "python"), cwd="/", env={})
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_kit(tmp_path / "kit")
    assert not found.failures and not found.n_missing
    profiler = Profiler(make_target())
    for model, measurement in zip(models, found.measurements, strict=True):
        here = profiler.profile(model, seconds=2.0)
        assert [run.kernel for run in measurement.kernels] == [run.kernel for run in here.kernels]
        assert measurement.peak_memory_bytes == here.peak_memory_bytes
        assert 0.5 < measurement.latency_ms / here.latency_ms < 2  # the machine may be busy
