import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from hwnas.cli.tables import table
from profilers import read_measurements
from profilers.devices import Device
from profilers.errors import StoreError
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.nvidia import Gpu
from profilers.store import MeasurementStore
from profilers.tables import load_isolated
from profilers.targets import Target
from profilers.timing import LatencySamples

APP = typer.Typer()
APP.command()(table)
QUIET = Device("Toy", "x86_64", 2, (), {}, "powersave", None, (), "Linux 6", {}, False)
BIG = replace(QUIET, cores=64)


@pytest.fixture
def database(tmp_path):
    """Two networks of one device, whose governor changed in between, and one of another."""
    path = tmp_path / "m.db"
    with MeasurementStore(path) as store:
        for name, device in (
            ("a", QUIET), ("b", replace(QUIET, governor="performance")), ("c", BIG),
        ):  # fmt: skip
            target = Target("toy", "1", "fp32", 1, 1, device.fingerprint, device.cpu)
            store.add(NetworkMeasurement(name, name, target, samples(), (), None), device)
    return path


def samples():
    ones, zeros = np.ones(10), np.zeros(10, dtype=np.int64)
    return LatencySamples(ones, ones, zeros, zeros, zeros, ones)


def run(*arguments):
    return CliRunner().invoke(APP, [str(argument) for argument in arguments])


def test_one_device_becomes_a_folder_with_its_newest_state(database, tmp_path):
    folder = tmp_path / "data" / "toy"
    done = run(
        folder, "--measurements", database, "--device", QUIET.fingerprint, "--how", "At night.",
        "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["n_networks"] == 2
    assert list(read_measurements(folder)["name"]) == ["a", "b"]
    readme = (folder / "README.md").read_text()
    assert "At night." in readme and "governor: performance" in readme
    with MeasurementStore(database) as store:
        (first_s, last_s), *_ = [store.measured_between(t) for t in store_targets(store)]
    days = {f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}" for moment in (first_s, last_s)}
    assert f"- measured: {' to '.join(sorted(days))}\n" in readme


def store_targets(store):
    return list(dict.fromkeys(m.target for m in store.networks()))


def test_kernels_measured_alone_are_written_of_the_chosen_device(database, tmp_path):
    x = Tensor("float", (1, 4))
    relu = Kernel("Relu", (), (x,), (x,))
    with MeasurementStore(database) as store:
        quiet, big = store_targets(store)
        store.add_isolated(quiet, [KernelLatency("Relu", relu, 0.5, 9)])
        store.add_isolated(big, [KernelLatency("Relu", relu, 0.25, 9)])
    done = run(tmp_path / "toy", "--measurements", database, "--device", quiet.device)
    assert done.exit_code == 0, done.output
    assert load_isolated(tmp_path / "toy") == {relu: KernelLatency("Relu", relu, 0.5, 9)}


@pytest.mark.parametrize("accelerator", [None, "cuda"])
def test_the_record_of_a_machine_with_gpus_is_that_of_its_targets(tmp_path, accelerator):
    gpus = tuple(Gpu(f"Toy GPU {i}", 1, "550", None, None, True) for i in (1, 2))
    device = replace(QUIET, gpus=gpus)
    target = Target("toy", "1", "fp32", 1, 1, device.fingerprint_for(accelerator), "Toy")
    with MeasurementStore(tmp_path / "m.db") as store:
        store.add(NetworkMeasurement("a", "a", target, samples(), (), None), device)
    done = run(tmp_path / "toy", "--measurements", tmp_path / "m.db")
    assert done.exit_code == 0, done.output
    assert "governor: powersave" in (tmp_path / "toy" / "README.md").read_text()


def test_a_database_without_networks_says_so(tmp_path):
    MeasurementStore(tmp_path / "m.db").close()
    done = run(tmp_path / "toy", "--measurements", tmp_path / "m.db")
    assert "no measurements to write" in str(done.exception)


def test_several_devices_are_not_mixed(database, tmp_path):
    done = run(tmp_path / "toy", "--measurements", database)
    assert isinstance(done.exception, StoreError)
    assert QUIET.fingerprint in str(done.exception) and BIG.fingerprint in str(done.exception)
    assert not (tmp_path / "toy").exists()


def test_a_device_or_a_database_that_is_not_there(database, tmp_path):
    done = run(tmp_path / "toy", "--measurements", database, "--device", "nobody")
    assert str(done.exception).startswith("unknown device 'nobody'")
    done = run(tmp_path / "toy", "--measurements", tmp_path / "no.db")
    assert "there is no measurement database" in str(done.exception)
    assert not (tmp_path / "no.db").exists()
