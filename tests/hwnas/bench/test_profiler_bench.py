import signal
import subprocess
import sys

import pytest

from hwnas.bench.profiler import (
    BUSY_LOOP,
    LOAD_NETWORKS,
    _busy_loops,
    _spread,
    bench_load,
    bench_parts,
    bench_peers,
)
from hwnas.errors import ConfigError
from hwnas.families import FAMILIES
from hwnas.progress import Silent
from profilers.profiler import PATIENCE
from profilers.store import MeasurementStore
from profilers.targets import make_target

TINY = (("recurrent", 8), ("squeeze", 4))


@pytest.fixture(scope="module")
def target():
    return make_target()


def test_load_compares_each_network_with_itself(target):
    record = bench_load(target, n_repeats=1, seconds=0.1, progress=Silent(), networks=TINY)
    assert [row["network"] for row in record["networks"]] == ["recurrent-8", "squeeze-4"]
    assert record["limit_s"] == pytest.approx(PATIENCE * 0.1)
    assert record["longest_s"] == max(row["longest_s"] for row in record["networks"])
    differences = [
        abs(row["loaded_ms"][0] / row["quiet_ms"][0] - 1)
        for row in record["networks"]
        if not row["n_flagged"]
    ]
    assert len(differences) == 2 - record["n_networks_flagged"]
    if differences:
        assert record["largest_difference"] == max(differences)


def test_parts_judge_every_family_by_the_others_and_measure_nothing_twice(target, tmp_path):
    with MeasurementStore(tmp_path / "m.db") as store:
        first = bench_parts(target, n_networks=16, seconds=0.05, progress=Silent(), store=store)
        assert len(store.networks()) == 16
        again = bench_parts(target, n_networks=16, seconds=0.05, progress=Silent(), store=store)
        assert len(store.networks()) == 16
    assert again == first
    assert {row["family"] for row in first["networks"]} == set(FAMILIES)
    within = [abs(row["explained_share"] - 1) <= 0.1 for row in first["networks"]]
    assert first["latency_within_10_percent"] == sum(within) / 16


def test_peers_answer_as_often_as_we_do(target):
    record = bench_peers(target, n_repeats=4, seconds=0.05, progress=Silent(), networks=TINY[:1])
    (row,) = record["networks"]
    assert {len(answers) for answers in row["answers_ms"].values()} == {4}
    assert all(ms > 0 for answers in row["answers_ms"].values() for ms in answers)
    assert record["spread_over_ours"]["hwnas"] == 1


def test_spread_is_the_range_over_the_median():
    assert _spread([2.0, 4.0, 5.0]) == 0.75


def test_busy_loops_end_with_the_block():
    with _busy_loops(1) as loops:
        assert [loop.poll() for loop in loops] == [None]
    assert [loop.poll() for loop in loops] != [None]


def test_busy_loops_end_with_the_process_that_started_them():
    parent = (
        "import os, signal, subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', {BUSY_LOOP!r}, str(os.getpid())])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    # The loop holds this pipe too: the answer comes when both have ended.
    done = subprocess.run([sys.executable, "-c", parent], stdout=subprocess.PIPE, timeout=30)
    assert done.returncode == -signal.SIGKILL


def test_the_networks_are_of_known_families():
    assert {family for family, _ in LOAD_NETWORKS} <= set(FAMILIES)


def test_impossible_questions_are_refused(target):
    with pytest.raises(ConfigError, match="at least one repeat"):
        bench_load(target, n_repeats=0, seconds=1, progress=Silent())
    with pytest.raises(ConfigError, match="16 networks or more"):
        bench_parts(target, n_networks=8, seconds=1, progress=Silent(), store=None)
    with pytest.raises(ConfigError, match="four repeats"):
        bench_peers(target, n_repeats=3, seconds=1, progress=Silent())
