"""Evaluations that end in all the ways there are; workers import them from here."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

from hwnas.executors.progress import report

N_STARTS_FILE = "starts.txt"


def number(trial):
    return trial.number


def pid(trial):
    return os.getpid()


def visible_gpus(trial):
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def prints_and_reports(trial):
    print("words on standard output")
    report(0.25)
    report(1.0)
    return "fine"


def raises(trial):
    raise ValueError("no such layer")


def lacks_memory(trial):
    raise MemoryError


def hangs(trial):
    time.sleep(1000)


def takes_memory(trial):
    held = []
    while True:
        held.append(bytearray(10_000_000))


def is_killed(trial):
    os.kill(os.getpid(), 9)


def crashes(trial):
    ctypes.string_at(0)


def exits(trial):
    print("going now", file=sys.stderr)
    sys.stderr.flush()
    os._exit(3)


def returns_what_cannot_travel(trial):
    return lambda: None


def threads(trial):
    return os.environ["OMP_NUM_THREADS"]


def starts_a_child_and_hangs(trial):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    Path("child.pid").write_text(str(child.pid))
    time.sleep(1000)


def crashes_beside_a_fork(trial):
    child = os.fork()
    if child == 0:
        time.sleep(1000)
    Path("child.pid").write_text(str(child))
    ctypes.string_at(0)


def note_start():
    with open(N_STARTS_FILE, "a") as file:
        file.write(f"{os.getpid()}\n")


def cannot_start():
    raise ValueError("the data are gone")
