import subprocess
import sys
import time

import pytest

from hwnas.config import read_config, write_config
from hwnas.errors import RunFolderError
from hwnas.run_folder import RunFolder

TABLES = {"search": {"seed": 1}, "run": {"data_fingerprint": "a"}, "versions": {"torch": "2.0"}}


def open_folder(path, tables=TABLES, *, has_trials=False):
    return RunFolder.open(path, tables, has_trials=lambda: has_trials)


def test_what_was_asked_and_spent_is_on_disk_and_adds_up_over_calls(tmp_path):
    for seconds in (100.0, 200.0):
        with open_folder(tmp_path / "run") as folder:
            folder.spent["search_seconds"] = folder.spent.get("search_seconds", 0.0) + 100.0
            with folder.spending("search_seconds"):
                pass
        tables = read_config(tmp_path / "run" / "config.toml")
        assert tables["search"] == {"seed": 1}
        assert tables["spent"]["search_seconds"] == pytest.approx(seconds, abs=1.0)


def test_time_that_was_saved_is_not_lost_by_a_kill(tmp_path):
    code = (
        "import os, sys, time; from pathlib import Path; from hwnas.run_folder import RunFolder\n"
        "tables = {'search': {}, 'run': {}}\n"
        "with RunFolder.open(Path(sys.argv[1]), tables, has_trials=lambda: False) as folder:\n"
        "    with folder.spending('search_seconds') as save:\n"
        "        time.sleep(0.2); save(); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert read_config(tmp_path / "config.toml")["spent"]["search_seconds"] >= 0.2
    with open_folder(tmp_path, {"search": {}, "run": {}}) as folder:  # its lock is free
        assert folder.spent["search_seconds"] >= 0.2


def test_a_second_search_is_refused_before_it_writes_anything(tmp_path):
    with open_folder(tmp_path):
        before = (tmp_path / "config.toml").read_bytes()
        with (
            pytest.raises(RunFolderError, match="another search is running on"),
            open_folder(tmp_path, TABLES | {"versions": {"torch": "3.0"}}),
        ):
            pytest.fail("both hold it")
        assert (tmp_path / "config.toml").read_bytes() == before
    with open_folder(tmp_path):
        pass


def test_a_search_that_came_between_our_look_and_our_lock_is_noticed(tmp_path):
    path = tmp_path / "run"
    looks = []

    def has_trials():
        looks.append(path.exists())
        if len(looks) == 2:  # the lock is held: somebody was here until a moment ago
            write_config(path, TABLES | {"search": {"seed": 2}})
        return len(looks) == 2

    with (
        pytest.raises(RunFolderError, match="seed is 2 there, 1 asked"),
        RunFolder.open(path, TABLES, has_trials=has_trials),
    ):
        pytest.fail("it is the other's")
    assert looks == [False, True]


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "config.toml.lock").mkdir()
    with (
        pytest.raises(RunFolderError, match=f"cannot write to {tmp_path}: Is a directory"),
        open_folder(tmp_path),
    ):
        pytest.fail("it is not held")
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunFolderError, match="cannot create .*run: Not a directory"),
        open_folder(tmp_path / "file" / "run"),
    ):
        pytest.fail("it is not held")


@pytest.mark.usefixtures("file_modes_hold")
def test_a_read_only_folder_is_one_message(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with (
            pytest.raises(RunFolderError, match=f"cannot write to {tmp_path}: Permission denied"),
            open_folder(tmp_path),
        ):
            pytest.fail("it is not held")
    finally:
        tmp_path.chmod(0o700)


def test_versions_that_changed_since_the_last_call_are_named(tmp_path):
    versions = {"hwnas": "0.1", "torch": "2.0"}
    with open_folder(tmp_path, TABLES | {"versions": versions}) as folder:
        assert folder.changed == []
    versions = {"hwnas": "0.2", "torch": "2.0", "onnx": "1.0"}
    with open_folder(tmp_path, TABLES | {"versions": versions}, has_trials=True) as folder:
        assert folder.changed == ["hwnas was 0.1, is 0.2"]


def test_a_wall_clock_that_jumps_changes_no_time_that_was_spent(tmp_path, monkeypatch):
    with open_folder(tmp_path) as folder:
        with folder.spending("search_seconds"):
            monkeypatch.setattr(time, "time", lambda: -1e9)
        assert 0 <= folder.spent["search_seconds"] < 100
