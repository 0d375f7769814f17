import json
import platform
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from profilers import devices, kit_script
from profilers.devices import Device, NoiseFloor, changes, noise_floor, this_device
from profilers.nvidia import Gpu
from profilers.timing import sample_latency

CPUINFO = """processor\t: 0
model name\t: Toy CPU 3000
flags\t\t: fpu sse4_2 avx avx2 fma amx_tile rdrand

processor\t: 1
model name\t: Another
"""


@pytest.fixture
def no_gpus(monkeypatch):
    monkeypatch.setattr(devices, "read_gpus", tuple)


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


def test_cpu_isa_caches_and_governor_are_read(fake_files, no_gpus):
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


def test_a_machine_that_tells_nothing_still_has_a_record(fake_files, no_gpus):
    device = this_device()
    assert device.cpu
    assert (device.isa, device.cache_bytes, device.governor) == ((), {}, None)


def test_arm_machines_list_features(fake_files, no_gpus):
    fake_files("/proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd asimddp sve\n")
    assert this_device().isa == ("asimd", "asimddp", "sve")


class TestMac:
    """On a Mac `platform.processor()` is `arm`, whichever it is."""

    @pytest.fixture
    def name(self, monkeypatch, fake_files, no_gpus):
        """Name of the CPU where `sysctl` is this program."""

        def found(sysctl, system="Darwin"):
            def run(command, **options):
                assert command == ["sysctl", "-n", "machdep.cpu.brand_string"]
                return really_run([sys.executable, "-c", sysctl], **options)

            really_run = subprocess.run
            with monkeypatch.context() as patch:
                patch.setattr(platform, "system", lambda: system)
                patch.setattr(platform, "processor", lambda: "arm")
                patch.setattr(devices.subprocess, "run", run)
                names = this_device().cpu, kit_script.device_record()["processor"]
            assert len(set(names)) == 1, "the script of kits names it differently"
            return names[0]

        return found

    def test_it_is_named_by_its_model(self, name):
        assert name("print('Apple M3')") == "Apple M3"

    def test_one_that_does_not_tell_is_an_arm(self, name):
        assert name("raise SystemExit(1)") == "arm"

    def test_other_systems_are_not_asked(self, name):
        assert name("print('Apple M3')", system="FreeBSD") == "arm"


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

    def test_it_stays_the_same_from_version_to_version(self, device):
        # Databases hold it: a change here makes every measurement one of another device.
        gpu = Gpu("Toy GPU", 1, "550", None, None, True)
        assert device.fingerprint == "5354a3d21e3c"
        assert replace(device, gpus=(gpu,)).fingerprint == "7e1852391fe1"

    def test_a_target_s_is_of_the_part_that_it_uses(self, device):
        one, two = (Gpu(f"Toy GPU {i}", 1, "550", None, None, True) for i in (1, 2))
        both, first = replace(device, gpus=(one, two)), replace(device, gpus=(one,))
        second = replace(device, gpus=(two, one))
        assert both.fingerprint_for(None) == device.fingerprint
        assert both.fingerprint_for("cuda") == first.fingerprint_for("cuda") == first.fingerprint
        assert second.fingerprint_for("cuda") != first.fingerprint

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


GPU = Gpu("Toy GPU", 8 * 2**30, "550", 1000, 1980, True, 700.0, 40, ("idle",), "shared", False)


class TestRecords:
    def test_a_record_read_from_json_is_the_device(self, device):
        full = replace(device, gpus=(GPU,), noise=NoiseFloor(0.01, 0.2))
        assert Device.from_dict(json.loads(json.dumps(full.to_dict()))) == full
        assert Device.from_dict(json.loads(json.dumps(device.to_dict()))) == device

    def test_a_record_of_an_older_version_lacks_fields_and_one_of_a_newer_has_more(self, device):
        old = device.to_dict()
        del old["noise"]
        old["gpus"] = [{name: asdict(GPU)[name] for name in (
            "name", "memory_bytes", "driver", "sm_clock_mhz", "max_sm_clock_mhz",
            "has_energy_counter",
        )}]  # fmt: skip
        gpu = Gpu("Toy GPU", 8 * 2**30, "550", 1000, 1980, True)
        assert Device.from_dict(old) == replace(device, gpus=(gpu,))
        new = device.to_dict() | {"colour": "green"}
        assert Device.from_dict(new) == device


class TestChanges:
    def test_nothing_changed_is_nothing_to_say(self, device):
        assert changes(device, device) == ()
        assert changes(json.loads(json.dumps(device.to_dict())), device) == ()

    def test_what_moves_from_moment_to_moment_is_left_out(self, device):
        before = replace(device, gpus=(GPU,))
        hot = replace(GPU, sm_clock_mhz=300, temperature_celsius=80, throttle_reasons=())
        now = replace(device, gpus=(hot,), noise=NoiseFloor(0.5, 0.9), memory_bytes=1)
        assert changes(before, now) == ()

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"governor": "powersave"}, "the CPU governor changed from performance to powersave"),
            ({"governor": None}, "the CPU governor changed from performance to not readable"),
            ({"os": "Linux 7"}, "the operating system changed from Linux 6 to Linux 7"),
            ({"has_rapl": True}, "the CPU energy counter changed from not there to there"),
            ({"runtimes": {"torch": "2.7"}}, "torch changed from 2.6 to 2.7"),
            ({"runtimes": {}}, "torch 2.6 is gone"),
            ({"runtimes": {"torch": "2.6", "openvino": "1"}}, "openvino 1 is new"),
        ],
    )
    def test_a_new_state_of_the_same_device_is_one_sentence(self, device, change, sentence):
        before = replace(device, runtimes={"torch": "2.6"})
        assert changes(before, replace(before, **change)) == (sentence,)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"driver": "560"}, "GPU 0: the driver changed from 550 to 560"),
            (
                {"power_limit_watts": 350.0},
                "GPU 0: the power limit in watts changed from 700.0 to 350.0",
            ),
            ({"has_mig": True}, "GPU 0: the partition (MIG) changed from not there to there"),
        ],
    )
    def test_settings_of_a_gpu_are_told(self, device, change, sentence):
        before = replace(device, gpus=(GPU,))
        assert changes(before, replace(device, gpus=(replace(GPU, **change),))) == (sentence,)

    def test_another_device_is_told_first_and_why(self, device):
        now = replace(device, cores=4, isa=(), cache_bytes={"L1": 1}, governor=None)
        first, *rest = changes(device, now)
        assert first == (
            f"this is another device: its fingerprint was {device.fingerprint} and is "
            f"{now.fingerprint}"
        )
        assert rest == [
            "the number of usable cores changed from 2 to 4",
            "the instruction sets changed from avx2 to none",
            "the caches changed from L1 32768 to L1 1",
            "the CPU governor changed from performance to not readable",
        ]

    def test_a_gpu_that_is_gone_makes_another_device(self, device):
        sentences = changes(replace(device, gpus=(GPU,)), device)
        assert sentences[1:] == ("the GPUs changed from Toy GPU to none",)
