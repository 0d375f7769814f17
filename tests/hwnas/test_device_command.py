import json
from dataclasses import asdict, replace

import pytest
import typer
from typer.testing import CliRunner

from hwnas.cli.device import device
from profilers import devices
from profilers.devices import Device, NoiseFloor
from profilers.nvidia import Gpu

GPU = Gpu("Toy GPU", 80 * 2**30, "550.54", 345, 1980, True, 700.0, 31, ("idle",), "shared", False,
          "9.0")  # fmt: skip
MACHINE = Device("Toy CPU", "x86_64", 2, ("avx2",), {"L1": 2**15}, "performance", 2**33, (GPU,),
                 "Linux 6", {"onnxruntime": "1.31"}, True)  # fmt: skip


@pytest.fixture
def show(monkeypatch):
    """What the command prints for a machine."""

    def run(machine, *arguments):
        monkeypatch.setattr(devices, "this_device", lambda: machine)
        monkeypatch.setattr(devices, "noise_floor", lambda seconds: NoiseFloor(0.01, seconds))
        app = typer.Typer()
        app.command()(device)
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_json_is_the_record_that_is_stored_and_the_targets(show):
    record = json.loads(show(MACHINE, "--json", "--seconds", "0.25"))
    assert "onnxruntime-cpu" in record.pop("targets")
    assert record.pop("target_fingerprints") == {
        "cpu": replace(MACHINE, gpus=()).fingerprint, "cuda": MACHINE.fingerprint,
    }  # fmt: skip
    assert record["fingerprint"] == MACHINE.fingerprint
    assert Device.from_dict(record).gpus == (GPU,)
    assert record["noise"] == asdict(NoiseFloor(0.01, 0.25))


def test_the_table_shows_the_gpu_and_its_state(show):
    text = show(MACHINE, "--seconds", "0.25")
    for part in (
        "Toy GPU, 80.0 GiB, compute capability 9.0, driver 550.54",
        "345 of 1980 MHz, held by: idle",
        "31 °C, power limit 700 W, shared use, not parted (MIG)",
        "counted (NVML)", "counted (RAPL)", "L1 32 KiB", "performance", "8.0 GiB",
        "spread 1.0 %, 25 % of samples disturbed", MACHINE.fingerprint,
    ):  # fmt: skip
        assert part in text


def test_the_fingerprints_are_those_of_the_targets(show):
    second = replace(GPU, name="Toy GPU 2")
    text = show(replace(MACHINE, gpus=(GPU, second)), "--seconds", "0.25")
    assert text.count(MACHINE.fingerprint) == 1
    assert text.count(replace(MACHINE, gpus=()).fingerprint) == 1
    assert text.count("fingerprint") == 2


def test_what_a_machine_does_not_tell_is_named_so(show):
    silent = Device("CPU", "arm64", 1, (), {}, None, None, (), "Linux", {}, False)
    text = show(silent)
    assert "not readable" in text and "no readable counter" in text
    bare = Gpu("Old GPU", None, "390", None, None, False)
    text = show(Device("CPU", "arm64", 1, (), {}, None, None, (bare,), "Linux", {}, False))
    assert "Old GPU, driver 390" in text and "no counter" in text
