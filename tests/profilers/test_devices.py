import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from profilers import devices
from profilers.devices import Gpu, noise_floor, this_device
from profilers.timing import sample_latency

CPUINFO = """processor\t: 0
model name\t: Toy CPU 3000
flags\t\t: fpu sse4_2 avx avx2 fma amx_tile rdrand

processor\t: 1
model name\t: Another
"""


class FakeNvml(ModuleType):
    """`pynvml` of a machine with one GPU; `broken` names functions that raise."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self, broken=()):
        super().__init__("pynvml")
        self.is_open = False
        answers = {
            "nvmlInit": lambda: setattr(self, "is_open", True),
            "nvmlShutdown": lambda: setattr(self, "is_open", False),
            "nvmlDeviceGetCount": lambda: 1,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlSystemGetDriverVersion": lambda: "550.1",
            "nvmlDeviceGetName": lambda handle: "Toy GPU",
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=8 * 2**30),
            "nvmlDeviceGetClockInfo": lambda handle, kind: 1200,
            "nvmlDeviceGetMaxClockInfo": lambda handle, kind: 1800,
            "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 12345,
        }
        for name, answer in answers.items():
            setattr(self, name, self._fail if name in broken else answer)

    def _fail(self, *arguments):
        raise self.NVMLError("Not Supported")


@pytest.fixture
def install_nvml(monkeypatch):
    def install(module):
        monkeypatch.setitem(sys.modules, "pynvml", module)
        return module

    return install


@pytest.fixture
def fake_files(monkeypatch, tmp_path):
    """Absolute paths below `/proc` and `/sys` lead into a folder."""

    def write(path, text):
        file = tmp_path / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    monkeypatch.setattr(devices, "Path", lambda path: tmp_path / path.lstrip("/"))
    return write


def test_the_record_of_this_machine_is_complete():
    device = this_device()
    assert device.cpu
    assert device.cores >= 1
    assert "onnxruntime" in device.runtimes or "onnxruntime-gpu" in device.runtimes
    assert this_device().fingerprint == device.fingerprint
    assert device.to_dict()["fingerprint"] == device.fingerprint


def test_cpu_isa_caches_and_governor_are_read(fake_files, install_nvml):
    install_nvml(None)
    fake_files("/proc/cpuinfo", CPUINFO)
    cpu = "/sys/devices/system/cpu/cpu0"
    fake_files(f"{cpu}/cpufreq/scaling_governor", "powersave\n")
    sizes = {"index0": ("1", "Data", "48K"), "index1": ("1", "Instruction", "32K"),
             "index2": ("2", "Unified", "2M"), "index3": ("3", "Unified", "strange")}  # fmt: skip
    for index, texts in sizes.items():
        for name, text in zip(("level", "type", "size"), texts, strict=True):
            fake_files(f"{cpu}/cache/{index}/{name}", f"{text}\n")
    fake_files(f"{cpu}/cache/index4/level", "4\n")  # the rest cannot be read
    device = this_device()
    assert device.cpu == "Toy CPU 3000"
    assert device.isa == ("sse4_2", "avx", "avx2", "fma", "amx_tile")
    assert device.cache_bytes == {"L1": 48 * 2**10, "L2": 2 * 2**20}
    assert device.governor == "powersave"
    assert device.gpus == ()


def test_a_machine_that_tells_nothing_still_has_a_record(fake_files, install_nvml):
    install_nvml(None)
    device = this_device()
    assert device.cpu
    assert (device.isa, device.cache_bytes, device.governor) == ((), {}, None)


def test_arm_machines_list_features(fake_files, install_nvml):
    install_nvml(None)
    fake_files("/proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd asimddp sve\n")
    assert this_device().isa == ("asimd", "asimddp", "sve")


class TestGpus:
    def test_one_gpu(self, install_nvml):
        nvml = install_nvml(FakeNvml())
        assert devices._gpus() == (Gpu("Toy GPU", 8 * 2**30, "550.1", 1200, 1800, True),)
        assert not nvml.is_open

    def test_what_cannot_be_read_is_none(self, install_nvml):
        install_nvml(
            FakeNvml(
                broken=(
                    "nvmlDeviceGetMemoryInfo",
                    "nvmlDeviceGetClockInfo",
                    "nvmlDeviceGetMaxClockInfo",
                    "nvmlDeviceGetTotalEnergyConsumption",
                )
            )
        )
        assert devices._gpus() == (Gpu("Toy GPU", None, "550.1", None, None, False),)

    @pytest.mark.parametrize("broken", ["nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"])
    def test_a_gpu_that_cannot_be_opened_is_none_and_the_library_is_closed(
        self, install_nvml, broken
    ):
        nvml = install_nvml(FakeNvml(broken=(broken,)))
        assert devices._gpus() == ()
        assert not nvml.is_open

    def test_no_driver_and_no_library_are_no_gpu(self, install_nvml):
        install_nvml(FakeNvml(broken=("nvmlInit",)))
        assert devices._gpus() == ()
        install_nvml(None)  # import raises ImportError
        assert devices._gpus() == ()


class TestFingerprint:
    @pytest.mark.parametrize(
        "change",
        [
            {"governor": "powersave"},
            {"runtimes": {"onnxruntime": "9.9"}},
            {"os": "Linux 7"},
            {"memory_bytes": None},
        ],
    )
    def test_what_may_change_on_one_device_does_not_change_it(self, device, change):
        assert replace(device, **change).fingerprint == device.fingerprint

    @pytest.mark.parametrize(
        "change",
        [
            {"cpu": "Other"},
            {"cores": 4},
            {"isa": ("avx2", "avx512f")},
            {"cache_bytes": {"L1": 49152}},
            {"gpus": (Gpu("Toy GPU", None, "1", None, None, False),)},
        ],
    )
    def test_what_changes_latencies_changes_it(self, device, change):
        assert replace(device, **change).fingerprint != device.fingerprint

    def test_a_new_driver_is_the_same_gpu(self, device):
        old, new = (
            replace(device, gpus=(Gpu("Toy GPU", 1, driver, None, None, True),))
            for driver in ("550", "560")
        )
        assert old.fingerprint == new.fingerprint


def test_the_noise_floor_is_a_spread_and_a_share(monkeypatch):
    calls = []

    def counted(run, *, n_samples):
        calls.append(n_samples)
        return sample_latency(run, n_samples=n_samples)

    monkeypatch.setattr(devices, "sample_latency", counted)
    floor = noise_floor(seconds=0.02)
    assert floor.relative_spread >= 0
    assert 0 <= floor.contended_share <= 1
    assert len(calls) >= 1
