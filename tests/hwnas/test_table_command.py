import json
from dataclasses import replace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from hwnas.cli.tables import table
from profilers import read_measurements
from profilers.devices import Device
from profilers.errors import StoreError
from profilers.measurement import NetworkMeasurement
from profilers.store import MeasurementStore
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
    ones, zeros = np.ones(10), np.zeros(10, dtype=np.int64)
    samples = LatencySamples(ones, ones, zeros, zeros, zeros, ones)
    with MeasurementStore(path) as store:
        for name, device in (
            ("a", QUIET), ("b", replace(QUIET, governor="performance")), ("c", BIG),
        ):  # fmt: skip
            target = Target("toy", "1", "fp32", 1, 1, device.fingerprint, device.cpu)
            store.add(NetworkMeasurement(name, name, target, samples, (), None), device)
    return path


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
