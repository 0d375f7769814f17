import math
import sys
from dataclasses import asdict
from types import ModuleType, SimpleNamespace

import pytest

from profilers import nvidia
from profilers.nvidia import (
    Gpu,
    decode_reasons,
    gpu_names,
    gpu_slowdown,
    read_gpus,
    total_energy_mj,
)

# What NVML answers for an idle H100, in NVML's own units.
H100 = {
    "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=85_520_809_984),
    "nvmlDeviceGetClockInfo": 345,
    "nvmlDeviceGetMaxClockInfo": 1980,
    "nvmlDeviceGetTotalEnergyConsumption": 2_400_123_456,
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetTemperature": 31,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x1,
    "nvmlDeviceGetComputeMode": 0,
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
}
AS_READ = Gpu(
    name="NVIDIA H100 80GB HBM3", memory_bytes=85_520_809_984, driver="550.54.15",
    sm_clock_mhz=345, max_sm_clock_mhz=1980, has_energy_counter=True, power_limit_watts=700.0,
    temperature_celsius=31, throttle_reasons=("idle",), compute_mode="shared", has_mig=False,
    compute_capability="9.0",
)  # fmt: skip


class FakeNvml(ModuleType):
    """`pynvml` of a machine with GPUs that answer as told; what is None raises."""

    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, *gpus, broken=()):
        super().__init__("pynvml")
        self.n_inits = 0
        self._gpus, self._broken = gpus, broken
        names = {name for gpu in gpus for name in gpu} | set(H100)
        for name in [*names, "nvmlDeviceGetCurrentClocksThrottleReasons"]:
            setattr(self, name, lambda handle, *rest, name=name: self._answer(handle, name))

    def _answer(self, handle, name):
        if handle.get(name) is None:
            raise self.NVMLError("Not Supported")
        return handle[name]

    def _check(self, name):
        if name in self._broken:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlInit(self):
        self._check("nvmlInit")
        self.n_inits += 1

    def nvmlDeviceGetCount(self):
        self._check("nvmlDeviceGetCount")
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index):
        self._check("nvmlDeviceGetHandleByIndex")
        if index >= len(self._gpus):
            raise self.NVMLError("Invalid Argument")
        return self._gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        for gpu in self._gpus:
            if gpu.get("uuid") == uuid:
                return gpu
        raise self.NVMLError("Not Found")

    def nvmlDeviceGetUUID(self, gpu):
        if "uuid" not in gpu:
            raise self.NVMLError("Not Supported")
        return gpu["uuid"]

    def nvmlSystemGetDriverVersion(self):
        return "550.54.15"


@pytest.fixture
def install_nvml(monkeypatch):
    """Let `import pynvml` find a fake, or fail for None; the library is opened anew."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(module):
        monkeypatch.setitem(sys.modules, "pynvml", module)
        monkeypatch.setattr(nvidia, "_best_clocks_mhz", {})
        nvidia._library.cache_clear()
        return module

    yield install
    nvidia._library.cache_clear()


class TestRecord:
    def test_an_h100_is_read_whole_and_in_our_units(self, install_nvml):
        install_nvml(FakeNvml(H100))
        assert read_gpus() == (AS_READ,)

    def test_what_cannot_be_read_is_none(self, install_nvml):
        install_nvml(FakeNvml({"nvmlDeviceGetName": "Toy"}))
        assert read_gpus() == (Gpu("Toy", None, "550.54.15", None, None, False),)
        assert set(asdict(read_gpus()[0]).values()) == {"Toy", "550.54.15", None, False}

    def test_a_gpu_without_a_name_is_unknown(self, install_nvml):
        install_nvml(FakeNvml({}))
        assert read_gpus()[0].name == "unknown"

    def test_old_drivers_know_the_reasons_by_another_name(self, install_nvml):
        old = H100 | {
            "nvmlDeviceGetCurrentClocksEventReasons": None,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x40,
        }
        install_nvml(FakeNvml(old))
        assert read_gpus()[0].throttle_reasons == ("thermal slowdown by hardware",)

    @pytest.mark.parametrize("mode", [7, None])
    def test_a_compute_mode_without_a_word_is_none(self, install_nvml, mode):
        install_nvml(FakeNvml(H100 | {"nvmlDeviceGetComputeMode": mode}))
        assert read_gpus()[0].compute_mode is None

    @pytest.mark.parametrize("broken", ["nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"])
    def test_gpus_that_cannot_be_opened_are_none(self, install_nvml, broken):
        install_nvml(FakeNvml(H100, broken=(broken,)))
        assert read_gpus() == ()

    @pytest.mark.parametrize("module", [None, FakeNvml(H100, broken=("nvmlInit",))])
    def test_without_library_or_driver_there_is_no_gpu(self, install_nvml, module):
        install_nvml(module)
        assert read_gpus() == ()
        assert gpu_slowdown() == 1.0
        assert total_energy_mj() is None

    def test_every_reason_has_a_word(self):
        assert decode_reasons(0) == ()
        assert decode_reasons(0x1FF) == tuple(nvidia.REASONS.values())


class TestStateWhileMeasuring:
    def test_the_library_is_opened_once(self, install_nvml):
        nvml = install_nvml(FakeNvml(H100))
        for _ in range(3):
            gpu_slowdown()
            total_energy_mj()
        assert nvml.n_inits == 1

    def test_a_lower_clock_than_before_is_a_slowdown(self, install_nvml):
        gpu = H100 | {"nvmlDeviceGetCurrentClocksEventReasons": 0x4}
        install_nvml(FakeNvml(gpu))
        found = []
        for clock_mhz in (1200, 1800, 1200, None, 0, 2010, 1800):
            gpu["nvmlDeviceGetClockInfo"] = clock_mhz
            found.append(gpu_slowdown())
        assert found == [1.0, 1.0, 1.5, 1.0, 1.0, 1.0, 2010 / 1800]

    @pytest.mark.parametrize("bits", [0x2, 0x4, 0x6])
    def test_a_gpu_of_locked_clocks_or_little_power_is_as_fast_as_it_gets(self, install_nvml, bits):
        slow = {"nvmlDeviceGetCurrentClocksEventReasons": bits, "nvmlDeviceGetClockInfo": 900}
        install_nvml(FakeNvml(H100 | slow))
        assert [gpu_slowdown() for _ in range(3)] == [1.0] * 3

    def test_each_gpu_is_compared_with_itself(self, install_nvml):
        slow = H100 | {"nvmlDeviceGetClockInfo": 900}
        install_nvml(FakeNvml(H100 | {"nvmlDeviceGetClockInfo": 1980}, slow))
        assert [gpu_slowdown(0), gpu_slowdown(1), gpu_slowdown(2)] == [1.0] * 3

    @pytest.mark.parametrize("bits", [0x8, 0x20, 0x40, 0x80, 0x44])
    def test_heat_and_power_brakes_make_a_timing_worthless(self, install_nvml, bits):
        hot = {"nvmlDeviceGetCurrentClocksEventReasons": bits, "nvmlDeviceGetClockInfo": 1980}
        install_nvml(FakeNvml(H100 | hot))
        assert gpu_slowdown() == math.inf

    def test_energy_is_in_millijoules_or_none(self, install_nvml):
        install_nvml(FakeNvml(H100, H100 | {"nvmlDeviceGetTotalEnergyConsumption": None}))
        assert total_energy_mj(0) == 2_400_123_456
        assert total_energy_mj(1) is None
        assert total_energy_mj(2) is None

    @pytest.mark.parametrize(
        ("visible", "energies_mj"),
        [
            ("1", [2, None]),
            ("1,0", [2, 1]),
            ("GPU-b, 0", [2, 1]),
            ("GPU-x", [None]),
            ("", [None]),
            ("1,-1,0", [2, None]),
        ],
    )
    def test_gpus_are_counted_as_cuda_counts_them(
        self, install_nvml, monkeypatch, visible, energies_mj
    ):
        one, two = (
            {
                "uuid": f"GPU-{letter}",
                "nvmlDeviceGetTotalEnergyConsumption": energy,
                "nvmlDeviceGetName": f"Toy {energy}",
            }
            for letter, energy in (("a", 1), ("b", 2))
        )
        install_nvml(FakeNvml(one, two))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [total_energy_mj(i) for i in range(len(energies_mj))] == energies_mj
        assert [gpu.name for gpu in read_gpus()] == [f"Toy {e}" for e in energies_mj if e]
        known = [
            name.strip() for name, e in zip(visible.split(","), energies_mj, strict=False) if e
        ]
        assert list(gpu_names()) == known

    def test_gpus_that_nothing_hides_are_named_by_what_slot_and_speed_do_not_change(
        self, install_nvml
    ):
        install_nvml(FakeNvml({"uuid": "GPU-a"}, {"uuid": "GPU-b"}))
        assert gpu_names() == ("GPU-a", "GPU-b")
        install_nvml(FakeNvml({}))
        assert gpu_names() == ()
        install_nvml(None)
        assert gpu_names() == ()
