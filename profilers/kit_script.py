"""Measure the models of this kit. Needs Python 3.8, onnxruntime and numpy, nothing else.

    python measure.py            measure what has no result yet; Ctrl-C keeps what is done
    python measure.py --retry    try again what failed, too

What is measured, and how long, is in `kit.json`; results go to `results/`, a folder for each model.
"""

# This file is copied into kits as `measure.py`: it imports nothing of this project.
from __future__ import annotations

import argparse
import glob
import gzip
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

try:  # not on Windows
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
RESULT_FORMAT = 1
NS_WAITED = 20000  # of any thread in the queue for a core; less is the scheduler's own work
STORAGE_FAILED = 3  # exit status: the disk is at fault, not the model
CPU_LINES = (
    "model name", "flags", "Features", "CPU implementer", "CPU architecture", "CPU variant",
    "CPU part", "CPU revision", "Hardware", "Model",
)  # fmt: skip


def main() -> int:
    """Measure all models, each in a process of its own, or the one that is named."""
    parser = argparse.ArgumentParser(description="Measure the models of this kit.")
    parser.add_argument("--retry", action="store_true", help="try again what failed, too")
    parser.add_argument("--one", metavar="ID", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    kit = json.loads((HERE / "kit.json").read_text(encoding="utf-8"))
    if arguments.one:
        return in_process(kit, next(m for m in kit["models"] if m["id"] == arguments.one))
    if kit["threads"] > n_cores():
        print(f"this kit asks for {kit['threads']} threads, but there are {n_cores()} cores")
        return 2
    try:
        measure_all(kit, arguments.retry)
    except KeyboardInterrupt:
        print("\nstopped: what is done is kept; the same command goes on")
        return 130
    except OSError as error:
        print(f"stopped: {error}. What is done is kept; the same command goes on")
        return 1
    return 0


def measure_all(kit: dict[str, Any], retry: bool) -> None:
    """Measure what has no result yet; a model that fails is a result as well."""
    todo = [m for m in kit["models"] if not is_done(RESULTS / m["id"], retry)]
    start = time.monotonic()
    for i, model in enumerate(todo):
        each_s = (time.monotonic() - start) / i if i else kit["seconds"] + 1.0
        left = f"about {each_s * (len(todo) - i) / 60 + 0.5:.0f} min left"
        print(f"[{i + 1}/{len(todo)}] {model['name']} ({left})", end=" ", flush=True)
        print(measure_apart(kit, model), flush=True)
    print(f"{len(kit['models'])} models have a result: copy the folder {HERE} back")


def is_done(folder: Path, retry: bool) -> bool:
    """Whether there is a result that is to be kept."""
    path = folder / "result.json"
    if not path.exists():
        return False
    return not retry or "failure" not in json.loads(path.read_text(encoding="utf-8"))


def measure_apart(kit: dict[str, Any], model: dict[str, Any]) -> str:
    """Measure a model in a process of its own, which may crash; one line about what came."""
    part, folder = RESULTS / (model["id"] + ".part"), RESULTS / model["id"]
    shutil.rmtree(part, ignore_errors=True)  # of a run that was stopped
    part.mkdir(parents=True)
    command = [sys.executable, str(Path(__file__).resolve()), "--one", model["id"]]
    reason = None
    try:
        done = subprocess.run(command, capture_output=True, timeout=kit["limit_s"])
        told = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        if done.returncode == STORAGE_FAILED:
            raise OSError(told[-1])
        if done.returncode in (-2, 130):
            raise KeyboardInterrupt
        if done.returncode < 0:
            reason = f"ended by signal {-done.returncode} (9: often out of memory)"
        elif done.returncode:
            reason = told[-1][:500]
    except subprocess.TimeoutExpired:
        reason = f"no result after {kit['limit_s']:g} s"
    if reason is not None:
        shutil.rmtree(part)
        part.mkdir()
        write_json(part / "result.json", header(model, failure=reason))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)  # whole or not at all
    return "failed: " + reason if reason else done.stdout.decode("utf-8", "replace").strip()


def in_process(kit: dict[str, Any], model: dict[str, Any]) -> int:
    """Measure one model here; the exit status says whose fault a failure is."""
    try:
        print(measure(kit, model, RESULTS / (model["id"] + ".part")))
    except OSError as error:
        print(error, file=sys.stderr)
        return STORAGE_FAILED
    except Exception as error:  # whatever the runtime raises: its errors share no base
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def measure(kit: dict[str, Any], model: dict[str, Any], part: Path) -> str:
    """Take samples end to end and profiled, in turns, and write them to the folder `part`."""
    part.mkdir(parents=True, exist_ok=True)
    before = device_state()
    reference = load(kit, kit["reference"])[1]
    plain = load(kit, model)[1]
    session, profiled = load(kit, model, profile_to=part)
    warm_up(kit, reference)
    once_ns = min(warm_up(kit, plain), warm_up(kit, profiled))
    n_plain = max(2, round(kit["round_ms"] * 1e6 / once_ns))
    n_profiled = max(1, round(kit["profiled_round_ms"] * 1e6 / once_ns))
    watch = thread_disturbances if kit["threads"] == 1 else process_disturbances
    rounds: list[dict[str, Any]] = []
    n_events = 0
    start = time.perf_counter()
    while not is_enough(kit, rounds, time.perf_counter() - start):
        taken: dict[str, Any] = {
            "reference_ns": min(sample(reference, kit["reference_samples"])["wall_ns"])
        }
        plain()  # the profiled runs have taken its place in the caches
        taken.update(sample(plain, n_plain, disturbances=watch))
        if kit["threads"] > 1 or os.name == "nt":  # one thread's time says little; too coarse
            taken["cpu_ns"] = None
        taken["profiled_runs"] = n_profiled if n_events < kit["max_profile_events"] else 0
        for _ in range(taken["profiled_runs"]):
            profiled()
        n_events += taken["profiled_runs"] * model["n_nodes"]
        rounds.append(taken)
    compress(Path(session.end_profiling()), part / "profile.json.gz")
    if (part / "weights.bin").exists():
        (part / "weights.bin").unlink()
    states = {"before": before, "after": device_state()}
    result = header(model, rounds=rounds, states=states)
    write_json(part / "result.json", result)
    wall_ms = sorted(ns / 1e6 for taken in rounds for ns in taken["wall_ns"])
    return f"median {wall_ms[len(wall_ms) // 2]:.4g} ms, fastest {wall_ms[0]:.4g} ms"


def header(model: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What every result holds, and more."""
    said = {
        "format": RESULT_FORMAT,
        "id": model["id"],
        "digest": model["digest"],
        "created_at": time.time(),
    }
    return dict(said, onnxruntime=ort.__version__, device=device_record(), **more)


def load(
    kit: dict[str, Any], model: dict[str, Any], profile_to: Path | None = None
) -> tuple[ort.InferenceSession, Callable[[], object]]:
    """A session, and a function that runs it once on inputs that are the same every time."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = kit["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what matters is raised
    if profile_to is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_to / "profile")
        options.enable_mem_pattern = False  # so that the arena is asked for every tensor
        options.optimized_model_filepath = str(profile_to / "optimized.onnx")
        entry = "session.optimized_model_external_initializers_"  # keeps the weights out
        options.add_session_config_entry(entry + "file_name", "weights.bin")
        options.add_session_config_entry(entry + "min_size_in_bytes", "1024")
    path = str(HERE / model["file"])
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rng = np.random.default_rng(0)
    feed = {}
    for spec in model["inputs"]:
        if spec["dtype"].startswith("float"):
            values = rng.standard_normal(spec["shape"])
        else:  # token ids, masks, lengths: 0 and 1 are valid for all
            values = rng.integers(0, 2, spec["shape"])
        feed[spec["name"]] = values.astype(spec["dtype"])
    return session, lambda: session.run(names, feed)


def warm_up(kit: dict[str, Any], run: Callable[[], object]) -> int:
    """Run a few times; nanoseconds of the fastest run."""
    return max(min(sample(run, kit["warmup"])["wall_ns"]), 1000)


def is_enough(kit: dict[str, Any], rounds: list[dict[str, Any]], elapsed_s: float) -> bool:
    """Whether the time is over; rounds in which the machine was slow ask for some more of it."""
    if elapsed_s < kit["seconds"] or len(rounds) < kit["min_rounds"]:
        return False
    references = sorted(taken["reference_ns"] for taken in rounds)
    usual_ns = references[len(references) // 10]
    n_steady = sum(ns <= kit["slow_reference"] * usual_ns for ns in references)
    has_time = elapsed_s <= kit["patience"] * kit["seconds"]
    return n_steady >= kit["min_rounds"] or not has_time


def thread_disturbances() -> tuple[int, int]:
    """Involuntary context switches and page faults of the calling thread so far."""
    return usage("RUSAGE_THREAD")


def process_disturbances() -> tuple[int, int]:
    """The same of all threads of this process; waiting in the queue for a core counts as well."""
    queued_ns = 0
    for path in glob.glob("/proc/self/task/*/schedstat"):
        fields = read(path).split()
        queued_ns += int(fields[1]) if len(fields) > 1 else 0
    switches, faults = usage("RUSAGE_SELF")
    return switches + queued_ns // NS_WAITED, faults


def usage(of: str) -> tuple[int, int]:
    """Counters of the operating system; 0 where it has none."""
    if resource is None or not hasattr(resource, of):
        return 0, 0
    found = resource.getrusage(getattr(resource, of))
    return found.ru_nivcsw, found.ru_minflt + found.ru_majflt


def sample(
    run: Callable[[], object],
    n_samples: int,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    cpu_clock_ns: Callable[[], int] = time.thread_time_ns,
    disturbances: Callable[[], tuple[int, int]] = thread_disturbances,
) -> dict[str, list[int]]:
    """Time `run` `n_samples` times, one sample a call, with what disturbed each."""
    taken: dict[str, list[int]] = {"wall_ns": [], "cpu_ns": [], "switches": [], "faults": []}
    for _ in range(n_samples):
        switches, faults = disturbances()
        cpu_start = cpu_clock_ns()
        start = clock_ns()
        run()
        taken["wall_ns"].append(clock_ns() - start)
        taken["cpu_ns"].append(cpu_clock_ns() - cpu_start)
        switches_after, faults_after = disturbances()
        taken["switches"].append(switches_after - switches)
        taken["faults"].append(faults_after - faults)
    return taken


def n_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def device_record() -> dict[str, Any]:
    """What this device is, as its system tells it; no serial number and no name of its owner."""
    lines = [line.partition(":") for line in read("/proc/cpuinfo").splitlines()]
    cpuinfo: dict[str, list[str]] = {name: [] for name in CPU_LINES}  # cores may differ
    for key, value in [(key.strip(), value.strip()) for key, _, value in lines]:
        if value not in cpuinfo.get(key, [value]):
            cpuinfo[key].append(value)
    cache = "/sys/devices/system/cpu/cpu0/cache/index*"
    try:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        memory_bytes = None
    return {
        "cpuinfo": cpuinfo,
        "board": read("/proc/device-tree/model").rstrip("\0"),
        "processor": mac_cpu() or platform.processor(),
        "architecture": platform.machine(),
        "cores": n_cores(),
        "caches": [
            [read(os.path.join(index, name)) for name in ("level", "type", "size")]
            for index in sorted(glob.glob(cache))
        ],
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "max_khz": read("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"),
        "memory_bytes": memory_bytes,
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "providers": ort.get_available_providers(),
    }


def mac_cpu() -> str:
    """The CPU's model on a Mac, whose processor is only `arm`; empty elsewhere."""
    if platform.system() != "Darwin":
        return ""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace").strip()


def device_state() -> dict[str, Any]:
    """What changes while the device works: temperatures, clock, throttling, load."""
    zones = sorted(glob.glob("/sys/class/thermal/thermal_zone*"))
    return {
        "temperatures": {
            read(zone + "/type") + " " + zone[-1]: read(zone + "/temp") for zone in zones
        },
        "khz": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"),
        "throttled": read("/sys/devices/platform/soc/soc:firmware/get_throttled"),  # Raspberry Pi
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def read(path: str) -> str:
    """Text of a file of the system; empty where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def write_json(path: Path, value: object) -> None:
    """Write plain data; the folder is put in its place when all is written."""
    path.write_text(json.dumps(value, separators=(",", ":")), encoding="utf-8")


def compress(source: Path, to: Path) -> None:
    """Replace a file by a compressed one."""
    with source.open("rb") as plain, gzip.open(str(to), "wb", compresslevel=6) as packed:
        shutil.copyfileobj(plain, packed)
    source.unlink()


if __name__ == "__main__":
    sys.exit(main())
