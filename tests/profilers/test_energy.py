import itertools

import pytest

from profilers import energy
from profilers.energy import EnergyPerRun, NvmlCounter, RaplCounter, energy_counter, measure_energy
from profilers.errors import TargetError
from profilers.targets import Target


@pytest.fixture
def powercap(tmp_path):
    """A folder of counters as Linux shows them; `set_uj` moves one."""

    class Powercap:
        folder = tmp_path

        def add(self, domain, name, uj, range_uj=1_000_000):
            path = tmp_path / domain
            path.mkdir()
            (path / "name").write_text(f"{name}\n")
            (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
            self.set_uj(domain, uj)

        def set_uj(self, domain, uj):
            (tmp_path / domain / "energy_uj").write_text(f"{uj}\n")

    return Powercap()


class TestRapl:
    def test_packages_are_summed_and_what_is_below_or_around_them_is_not(self, powercap):
        powercap.add("intel-rapl:0", "package-0", 5_000)
        powercap.add("intel-rapl:1", "package-1", 900)
        powercap.add("intel-rapl:0:0", "dram", 70)
        powercap.add("intel-rapl:2", "psys", 8_000)
        counter = RaplCounter(powercap.folder)
        assert counter.read_mj() == 0
        powercap.set_uj("intel-rapl:0", 8_000)
        powercap.set_uj("intel-rapl:1", 1_400)
        powercap.set_uj("intel-rapl:0:0", 99_000)
        powercap.set_uj("intel-rapl:2", 99_000)
        assert counter.read_mj() == 3.5

    def test_a_counter_that_starts_again_goes_on(self, powercap):
        powercap.add("intel-rapl:0", "package-0", 990_000, range_uj=1_000_000)
        counter = RaplCounter(powercap.folder)
        powercap.set_uj("intel-rapl:0", 4_000)
        assert counter.read_mj() == 14
        powercap.set_uj("intel-rapl:0", 5_000)
        assert counter.read_mj() == 15

    def test_no_counter_is_an_error_that_says_where_it_was_looked_for(self, powercap):
        powercap.add("intel-rapl:0", "psys", 1)
        (powercap.folder / "intel-rapl:7").mkdir()  # without a name
        with pytest.raises(TargetError, match=f"no energy counter in {powercap.folder}"):
            RaplCounter(powercap.folder)

    @pytest.mark.parametrize("damage", ["unlink", "write"])
    def test_a_counter_that_cannot_be_read_is_an_error_that_says_what_to_do(self, powercap, damage):
        powercap.add("intel-rapl:0", "package-0", 1)
        path = powercap.folder / "intel-rapl:0" / "energy_uj"
        if damage == "unlink":
            path.unlink()
        else:
            path.write_text("")
        with pytest.raises(TargetError, match=r"chmod a\+r"):
            RaplCounter(powercap.folder)


class TestCounterOfATarget:
    def make_target(self, runtime):
        return Target(runtime, "1", "fp32", 1, 1, "0" * 12, "Toy")

    def test_a_cpu_has_the_packages_counter(self, powercap):
        powercap.add("intel-rapl:0", "package-0", 1)
        target = self.make_target("onnxruntime-cpu")
        assert isinstance(energy_counter(target, powercap=powercap.folder), RaplCounter)

    def test_a_gpu_has_its_own(self, monkeypatch):
        monkeypatch.setattr(energy, "total_energy_mj", lambda index: 7.0)
        counter = energy_counter(self.make_target("onnxruntime-cuda"))
        assert isinstance(counter, NvmlCounter)
        assert counter.read_mj() == 7.0

    def test_without_one_it_is_none(self, powercap, monkeypatch):
        monkeypatch.setattr(energy, "total_energy_mj", lambda index: None)
        assert energy_counter(self.make_target("onnxruntime-cuda")) is None
        target = self.make_target("onnxruntime-cpu")
        assert energy_counter(target, powercap=powercap.folder) is None


class FakeChip:
    """Uses `watts` of its own clock's time; its counter shows that only every `step_s`."""

    def __init__(self, watts=100.0, run_s=0.002, step_s=0.1):
        self.now_s = 0.0
        self.energy_mj = 0.0
        self.watts, self.run_s, self.step_s = watts, run_s, step_s
        self.shown_mj, self.next_step_s = 0.0, 0.037
        self.n_runs = 0

    def run(self):
        self.n_runs += 1
        self.now_s += self.run_s
        self.energy_mj += 1000 * self.watts * self.run_s

    def clock(self):
        return self.now_s

    def read_mj(self):
        self.now_s += 1e-6  # or a loop that only waits would never end
        if self.now_s >= self.next_step_s:
            self.shown_mj = self.energy_mj
            self.next_step_s += self.step_s
        return self.shown_mj


class TestMeasuring:
    def test_the_energy_of_a_run_is_the_power_times_its_time(self):
        chip = FakeChip(watts=100, run_s=0.002)
        found = measure_energy(chip.run, chip, seconds=5, repeats=5, clock=chip.clock)
        # 100 W for 2 ms are 200 mJ; a reading every 10 ms of a second is what may be off.
        assert found.energy_mj == pytest.approx(200, rel=0.01)
        assert found.relative_spread < 0.02
        assert 2500 <= found.n_runs < chip.n_runs

    def test_the_coarseness_of_the_counter_does_not_show(self):
        # Plainly read, 0.25 s of a counter that moves every 0.1 s are up to 40 % off.
        chip = FakeChip(step_s=0.1)
        found = measure_energy(chip.run, chip, seconds=1, repeats=4, clock=chip.clock)
        assert found.energy_mj == pytest.approx(200, rel=0.05)

    def test_a_run_longer_than_a_repeat_is_run_once_for_each(self):
        chip = FakeChip(watts=10, run_s=3.0)
        found = measure_energy(chip.run, chip, seconds=1, repeats=3, clock=chip.clock)
        assert found == EnergyPerRun(pytest.approx(30_000), pytest.approx(0), 3)

    def test_the_spread_is_from_the_lowest_to_the_highest_repeat(self):
        # A step at every reading: warm-up to a step, then repeats of one run at 1, 2 and 4 mJ.
        shown = itertools.accumulate([0, 5, 0, 1, 0, 2, 0, 4])
        readings = iter(shown)

        class Counter:
            def read_mj(self):
                return next(readings)

        seconds = itertools.count()
        found = measure_energy(
            lambda: None, Counter(), seconds=0.3, repeats=3, clock=lambda: next(seconds)
        )
        assert found == EnergyPerRun(2, 1.5, 3)

    def test_a_counter_that_stands_still_is_an_error(self):
        chip = FakeChip(step_s=1e9)
        chip.next_step_s = 1e9
        with pytest.raises(TargetError, match=r"stood still for 2\.0 s"):
            measure_energy(chip.run, chip, clock=chip.clock)

    @pytest.mark.parametrize("wrong", [{"seconds": 0}, {"repeats": 0}])
    def test_no_time_and_no_repeats_are_refused(self, wrong):
        chip = FakeChip()
        with pytest.raises(ValueError, match="must be above 0"):
            measure_energy(chip.run, chip, **wrong)
