import dataclasses
from importlib import metadata

import onnxruntime
import pytest

from profilers import targets
from profilers.devices import Gpu
from profilers.errors import TargetError
from profilers.runtimes import catalog
from profilers.runtimes.catalog import RuntimeSpec
from profilers.targets import Target, available_precisions, available_targets, make_target


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
        ({"runtime": "onnxruntim-cpu"}, r"unknown target .*did you mean 'onnxruntime-cpu'\?"),
        ({"precision": "fp23"}, r"unknown precision 'fp23'; did you mean 'fp32'\?"),
        ({"precision": "fp16"}, "'onnxruntime-cpu' has no precision 'fp16', only fp32, int8"),
        ({"threads": 0}, "threads and batch must be at least 1, got threads=0, batch=1"),
        ({"batch": -1}, "got threads=1, batch=-1"),
        ({"threads": 3}, "threads=3 asked for, but this machine has 2 cores"),
    ],
)
def test_what_cannot_be_is_refused(two_cores, options, message):
    with pytest.raises(TargetError, match=message):
        make_target(**options)


def test_a_runtime_that_is_not_installed_says_how_to_install_it(two_cores, monkeypatch):
    spec = RuntimeSpec("nowhere:Toy", ("hwnas-no-such-package", "hwnas-nor-this"))
    monkeypatch.setitem(catalog.RUNTIMES, "toy", spec)
    with pytest.raises(TargetError, match="pip install hwnas-no-such-package"):
        make_target("toy")
    assert "toy" not in available_targets()
    assert available_precisions("toy") == ()


@pytest.fixture
def listed(monkeypatch):
    """Make ONNX Runtime list these execution providers."""

    def version(distribution):
        if distribution != "onnxruntime":
            raise metadata.PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)

    def lists(*providers):
        names = [f"{provider}ExecutionProvider" for provider in providers]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)

    return lists


class TestExecutionProviders:
    def test_one_that_needs_another_package(self, two_cores, listed):
        listed("CPU")
        with pytest.raises(TargetError) as caught:
            make_target("onnxruntime-openvino")
        assert "needs OpenVINOExecutionProvider" in str(caught.value)
        assert "it lists CPUExecutionProvider" in str(caught.value)
        assert str(caught.value).endswith(
            "pip uninstall onnxruntime, then pip install onnxruntime-openvino"
        )

    def test_one_that_other_systems_have(self, two_cores, listed):
        listed("CPU")
        with pytest.raises(TargetError, match="on other systems only, use another target$"):
            make_target("onnxruntime-coreml")

    def test_one_without_a_line_in_the_catalog(self, two_cores, listed):
        listed("Xnnpack", "CPU")
        assert make_target("onnxruntime-xnnpack").version == onnxruntime.__version__
        assert "onnxruntime-xnnpack" in available_targets()
        assert available_precisions("onnxruntime-xnnpack") == ("fp32",)

    def test_a_remote_one_is_no_device(self, two_cores, listed):
        listed("Azure", "CPU")
        assert not any("azure" in name for name in available_targets())
        with pytest.raises(TargetError, match="unknown target 'onnxruntime-azure'"):
            make_target("onnxruntime-azure")

    def test_cuda_without_a_gpu_is_told_before_any_package(self, two_cores, listed):
        listed("CPU")
        with pytest.raises(TargetError, match="needs an NVIDIA GPU, and NVML shows none here"):
            make_target("onnxruntime-cuda")

    def test_cuda_with_a_gpu_is_named_after_it(self, monkeypatch, device, listed):
        gpu = Gpu("Toy GPU", 2**30, "1.0", 1000, 1000, True)
        monkeypatch.setattr(targets, "_device", lambda: dataclasses.replace(device, gpus=(gpu,)))
        listed("CPU")
        with pytest.raises(TargetError, match="then pip install onnxruntime-gpu$"):
            make_target("onnxruntime-cuda")
        listed("CUDA", "CPU")
        assert make_target("onnxruntime-cuda", precision="fp16").device_name == "Toy GPU"

    def test_of_two_gpus_the_first_visible_one_is_the_target(self, monkeypatch, device, listed):
        listed("CUDA", "CPU")
        one, two = (Gpu(f"Toy GPU {i}", 2**30, "1.0", 1000, 1000, True) for i in (1, 2))
        found, on_cpu = [], []
        for gpus in ((one, two), (one,), (two, one)):
            here = dataclasses.replace(device, gpus=gpus)
            monkeypatch.setattr(targets, "_device", lambda here=here: here)
            found.append(make_target("onnxruntime-cuda"))
            on_cpu.append(make_target("onnxruntime-cpu").device)
        assert found[0] == found[1]
        assert found[2].device_name == "Toy GPU 2"
        assert found[2].key != found[0].key
        assert set(on_cpu) == {device.fingerprint}


def test_a_precision_is_offered_only_where_the_cpu_computes_in_it(monkeypatch, device):
    spec = RuntimeSpec("nowhere:Toy", ("numpy",), ("fp32", "bf16"), isa={"bf16": ("amx_bf16",)})
    monkeypatch.setitem(catalog.RUNTIMES, "toy", spec)
    monkeypatch.setattr(targets, "_device", lambda: device)
    message = "computes in bf16 only on a CPU with amx_bf16, and Toy CPU has none of them"
    with pytest.raises(TargetError, match=message):
        make_target("toy", precision="bf16")
    assert available_precisions("toy") == ("fp32",)
    newer = dataclasses.replace(device, isa=("avx2", "amx_bf16"))
    monkeypatch.setattr(targets, "_device", lambda: newer)
    assert make_target("toy", precision="bf16").precision == "bf16"
    assert available_precisions("toy") == ("fp32", "bf16")
