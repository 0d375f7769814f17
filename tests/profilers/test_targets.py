import dataclasses

import pytest

from profilers import targets
from profilers.errors import TargetError
from profilers.targets import Target, make_target


@pytest.fixture
def two_cores(monkeypatch, device):
    monkeypatch.setattr(targets, "_device", lambda: device)


def test_the_target_carries_the_device_and_the_version(two_cores, device):
    target = make_target("onnxruntime-cpu", threads=2, batch=8)
    assert target.device == device.fingerprint
    assert target.device_name == "Toy CPU (2 cores)"
    assert target.version
    assert target.key == (
        f"onnxruntime-cpu-{target.version}/fp32/threads=2/batch=8/{device.fingerprint}"
    )
    assert target.describe().endswith("fp32, 2 threads, batch 8, Toy CPU (2 cores)")
    assert "1 thread," in make_target().describe()


def test_plain_data_and_back(target):
    assert Target.from_dict(target.to_dict()) == target
    assert Target.from_dict(target.to_dict() | {"a field of tomorrow": 1}) == target


@pytest.mark.parametrize(
    "change",
    [{"runtime": "x"}, {"version": "2"}, {"precision": "int8"}, {"threads": 2}, {"batch": 2},
     {"device": "f" * 12}],
)  # fmt: skip
def test_every_part_of_a_target_is_in_its_key(target, change):
    assert dataclasses.replace(target, **change).key != target.key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "onnxruntime-cuda"}, r"unknown target .*did you mean 'onnxruntime-cpu'\?"),
        ({"precision": "fp23"}, r"unknown precision 'fp23'; did you mean 'fp32'\?"),
        ({"threads": 0}, "threads and batch must be at least 1, got threads=0, batch=1"),
        ({"batch": -1}, "got threads=1, batch=-1"),
        ({"threads": 3}, "threads=3 asked for, but this machine has 2 cores"),
    ],
)
def test_what_cannot_be_is_refused(two_cores, options, message):
    with pytest.raises(TargetError, match=message):
        make_target(**options)


def test_a_runtime_that_is_not_installed_says_how_to_install_it(two_cores, monkeypatch):
    monkeypatch.setitem(targets.RUNTIMES, "toy-runtime", "hwnas-no-such-package")
    with pytest.raises(TargetError, match="pip install hwnas-no-such-package"):
        make_target("toy-runtime")
