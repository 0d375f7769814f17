"""Whole searches on a real Ray cluster, with the study in a real PostgreSQL database."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import optuna
import pandas as pd
import pytest

from hwnas.executors.errors import ExecutorError
from hwnas.executors.ray_cluster import RayCluster
from profilers.store import MeasurementStore
from profilers.targets import make_target

DRIVER = Path(__file__).with_name("driver.py")
GIVEN = Path(__file__).with_name("given.py")
ROOT = Path(__file__).parents[2]
STUDY = "on-a-cluster"
N_TRIALS = 12
TIMEOUT_S = 900.0  # machines may be busy


@contextmanager
def process(folder, *arguments, **variables):
    """A Python process in `folder`, which is killed if the test fails."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with (folder / "stderr.txt").open("a") as errors:
        begun = subprocess.Popen(
            [sys.executable, *map(str, arguments)], cwd=folder, stdout=subprocess.PIPE, text=True,
            stderr=errors, env=os.environ | {"PYTHONPATH": path} | variables,
        )  # fmt: skip
    try:
        yield begun
    finally:
        begun.kill()
        begun.communicate()


def wait_for(condition):
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def started(folder):
    """Numbers of the trials that were started in that folder, and the processes that did."""
    path = folder / "started.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [tuple(map(int, line.split())) for line in lines]


def rows(url, study=STUDY):
    """All rows of the study, those of interrupted starts too."""
    storage = optuna.storages.RDBStorage(url)
    try:
        return optuna.load_study(study_name=study, storage=storage).trials
    finally:
        storage.engine.dispose()


def outcomes(url):
    return [row.user_attrs["outcome"] for row in rows(url) if "outcome" in row.user_attrs]


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_search_goes_on_when_a_node_dies(ray_cluster, extra_node, database, tmp_path):
    seconds = tmp_path / "seconds.txt"
    seconds.write_text("600")
    with process(tmp_path, DRIVER, ray_cluster.address, database, N_TRIALS) as driver:
        wait_for(lambda: len(started(tmp_path)) == 3)  # one on each node
        ray_cluster.kill(extra_node)
        wait_for(lambda: not all(is_running(pid) for _, pid in started(tmp_path)))
        wait_for(lambda: "left the cluster" in (tmp_path / "stderr.txt").read_text())
        seconds.write_text("0.2")
        out, _ = driver.communicate(timeout=TIMEOUT_S)
    assert out == "done\n"  # and nothing of what Ray has to say
    assert f"node {extra_node.node_id[:8]} at " in (tmp_path / "stderr.txt").read_text()
    found = rows(database)
    assert sorted(row.user_attrs["proposal"] for row in found) == list(range(N_TRIALS))
    assert {row.state.name for row in found} == {"COMPLETE"}
    nodes = {row.user_attrs["outcome"]["result"]["node"] for row in found}
    assert nodes == {ray_cluster.head, ray_cluster.target}
    again = [n for n, count in Counter(n for n, _ in started(tmp_path)).items() if count > 1]
    assert len(started(tmp_path)) == N_TRIALS + 1 and len(again) == 1


def test_a_killed_driver_loses_no_trial_and_runs_none_twice(ray_cluster, database, tmp_path):
    seconds = tmp_path / "seconds.txt"
    seconds.write_text("0.2")
    arguments = (DRIVER, ray_cluster.address, database, N_TRIALS)
    with process(tmp_path, *arguments) as driver:
        wait_for(lambda: len(started(tmp_path)) >= 4)
        seconds.write_text("600")
        wait_for(lambda: len(started(tmp_path)) - len(outcomes(database)) == 2)
        time.sleep(1.0)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    before = {outcome["told"]: outcome for outcome in outcomes(database)}
    n_started = len(started(tmp_path))
    assert len(before) == n_started - 2
    wait_for(lambda: not any(is_running(pid) for _, pid in started(tmp_path)))
    seconds.write_text("0.2")
    with process(tmp_path, *arguments) as driver:
        assert driver.communicate(timeout=TIMEOUT_S)[0] == "done\n"
    found = [row for row in rows(database) if "outcome" in row.user_attrs]
    assert sorted(row.user_attrs["proposal"] for row in found) == list(range(N_TRIALS))
    after = {row.user_attrs["outcome"]["told"]: row.user_attrs["outcome"] for row in found}
    assert before.items() <= after.items() and sorted(after) == list(range(N_TRIALS))
    counts = Counter(number for number, _ in started(tmp_path))
    assert sorted(counts) == list(range(N_TRIALS))
    assert sorted(counts.values()) == [1] * (N_TRIALS - 2) + [2, 2]  # those that were cut off


def test_a_database_that_goes_away_ends_the_search_which_then_goes_on(
    ray_cluster, database, postgres, tmp_path
):
    seconds = tmp_path / "seconds.txt"
    seconds.write_text("0.2")
    arguments = (DRIVER, ray_cluster.address, database, N_TRIALS)
    with process(tmp_path, *arguments) as driver:
        wait_for(lambda: len(started(tmp_path)) >= 4)
        postgres.stop()
        driver.wait(timeout=TIMEOUT_S)
    assert driver.returncode != 0
    assert "RunFolderError: cannot write the record" in (tmp_path / "stderr.txt").read_text()
    postgres.start()
    n_before = len(outcomes(database))
    with process(tmp_path, *arguments) as driver:
        assert driver.communicate(timeout=TIMEOUT_S)[0] == "done\n"
    found = [row for row in rows(database) if "outcome" in row.user_attrs]
    assert sorted(row.user_attrs["proposal"] for row in found) == list(range(N_TRIALS))
    assert n_before >= 1


def test_a_whole_search_measures_on_the_target_and_trains_everywhere(
    ray_cluster, database, tmp_path
):
    command = (
        *("-m", "hwnas", "search", "--executor", "ray", "--data", "digits", "--trials", "4"),
        *(
            "--space",
            f"{GIVEN}:small",
            "--strategy",
            "random",
            "--budget",
            "params<=1e7",
            "--search-epochs",
            "0.1",
        ),
        *("--finalists", "2", "--final-epochs", "0.2", "--networks", "8"),
        *("--out", "run", "--measurements", "m.db", "--json"),
    )
    environment = {"HWNAS_STORAGE": database, "RAY_ADDRESS": ray_cluster.address}
    with process(tmp_path, *command, **environment) as driver:
        out, _ = driver.communicate(timeout=TIMEOUT_S)
    assert driver.returncode == 0, (tmp_path / "stderr.txt").read_text()
    run = tmp_path / "run"
    assert json.loads(out)["is_complete"] and len(pd.read_csv(run / "front.csv")) >= 1
    forms = pd.read_csv(run / "forms.csv")
    assert set(forms["form"]) == {"int8"} and (forms["latency_ms"] > 0).all()
    assert not (run / "study.db").exists()
    text = (run / "config.toml").read_text()
    study = next(line for line in text.splitlines() if line.startswith("study ="))
    found = rows(database, study.split('"')[1])
    assert len(found) == 4 and {row.state.name for row in found} == {"COMPLETE"}
    nodes = {row.user_attrs["outcome"]["result"]["node"] for row in found}
    assert nodes == {ray_cluster.head, ray_cluster.target}
    secret = "from-the-tests"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    with MeasurementStore(tmp_path / "m.db") as store:
        measured = store.networks(make_target("onnxruntime-cpu"))
    assert len(measured) >= 8 + 2
    assert {measurement.tags["node"] for measurement in measured} == {ray_cluster.target}


def test_a_cluster_that_is_not_there_is_one_clear_message():
    with pytest.raises(
        ExecutorError, match=r"cannot join the Ray cluster at 127.0.0.1:1: .* Check"
    ):
        RayCluster("127.0.0.1:1")
