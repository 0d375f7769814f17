"""Readers of what lies in the folders of searches, kits and data: see `fuzz_reader.py`."""

from __future__ import annotations

import dataclasses
import gzip
import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from fuzz_reader import Reader
from torch import nn

from hwnas.data import load_data
from hwnas.errors import RunFolderError
from hwnas.front.finalist_weights import load_weights, pack_network
from hwnas.front.journal import JOURNAL, FrontJournal
from hwnas.front.verify import Candidate
from hwnas.guides.folder import GUIDE, read_guide
from hwnas.networks import Network
from hwnas.record import Record
from hwnas.record_place import STUDY_NAME
from hwnas.report.explanation import (
    EXPLANATION,
    ChoiceEffect,
    Explanation,
    KindTime,
    LayerTime,
    MemberTime,
    OptionShare,
    write_explanation,
)
from hwnas.report.study import read_study
from hwnas.report.write import write_report
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.strategies.base import Trial
from hwnas.strategies.guide import Guide
from hwnas.supernet import Supernet, load_supernet, make_way, train_supernet
from hwnas.training import Recipe, seeded
from hwnas.transfer_tables import read_measured
from profilers.kit import write_kit
from profilers.kit_results import read_kit
from profilers.onnx_models import make_model
from profilers.reference import conv_stack


@dataclass(frozen=True)
class _Dense:
    width: int

    def build(self, in_shape):
        return nn.Sequential(nn.Linear(in_shape[0], self.width), nn.BatchNorm1d(self.width))


def _slot(number: int) -> Callable:
    return lambda chosen: _Dense(chosen["width"]) if number < chosen["depth"] else None


SPACE = SearchSpace(
    "toy",
    (Choice("depth", (1, 2, 3)), Choice("width", (3, 4))),
    lambda chosen: (4,),
    (*map(_slot, range(3)), lambda chosen: _Dense(3)),
)
TRIALS = [(0, 1), (1, 0), (2, 1), (2, 0)]


@cache
def _studies() -> list[bytes]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.db"
        with Record.open(path, SPACE, create=True) as record:
            for number, genotype in enumerate(TRIALS):
                trial = Trial(number, genotype, None, share=0.5 if number == 1 else 1.0)
                handle = record.start(trial, {"latency_ms": 1.5}, {"latency_ms <= 2": -0.5})
                if number == 2:
                    record.fail(handle, "ValueError: diverged")
                elif number != 3:
                    record.finish(handle, (0.25, 1.5), {"train_seconds": 3.5})
        return [path.read_bytes()]


def _read_study(path: Path) -> None:
    read_study(path, STUDY_NAME)
    for create in (False, True):
        with Record.open(path, SPACE, create=create) as record:
            record.trials(), record.interrupted(), record.results()


def _trials() -> list[bytes]:
    outcome = {"told": 0, "objectives": [0.25, 1.5], "failure": None, "result": {}}
    told = {"proposal": 0, "genotype": [0, 1], "share": 0.5, "predicted": {"latency_ms": 1.0}}
    return [json.dumps(told | {"outcome": outcome}).encode(), json.dumps(told).encode()]


def _read_trial(path: Path) -> None:
    """A record one trial of which has those attributes."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        told = {str(name): json.dumps(value) for name, value in told.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise RunFolderError("no attributes of a trial") from error
    path.write_bytes(_studies()[0])
    with closing(sqlite3.connect(path)) as study, study:
        study.execute("DELETE FROM trial_user_attributes WHERE trial_id = 1")
        study.executemany(
            "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (1, ?, ?)",
            [(name, value.encode("utf-8", "replace").decode()) for name, value in told.items()],
        )
    _read_study(path)


def _in_folder(files: Callable[[], Mapping[str, bytes]], read: Callable[[Path], object]) -> Reader:
    """A folder of good files but for one: the first byte says which, the rest is its content."""

    def damaged(path: Path) -> None:
        content, good = path.read_bytes(), files()
        if not content:
            raise RunFolderError("no file is named")
        folder = path.with_name("folder")
        of = {**good, sorted(good)[content[0] % len(good)]: content[1:]}
        for name, written in of.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(written)
        read(folder)

    def seeds() -> list[bytes]:
        good = files()
        return [bytes([i]) + good[name] for i, name in enumerate(sorted(good))]

    return Reader(damaged, seeds)


def _run() -> Mapping[str, bytes]:
    network = {
        "name": "t000", "onnx": "front/t000.onnx", "val_accuracy": 0.9, "test_accuracy": 0.8,
        "latency_ms": 0.2, "predicted_latency_ms": 0.19, "predicted_low_ms": 0.1,
        "predicted_high_ms": 0.3, "peak_memory_bytes": 1000, "params": 10, "macs": 20,
        "parity_max_abs_error": 1e-6, "meets_budget": True, "genotype": "[0, 1]",
        "kind": "searched", "verdict": "front",
    }  # fmt: skip
    baseline = network | {"name": "cnn", "genotype": "", "kind": "baseline", "verdict": "baseline"}
    trials = [
        {"number": i, "state": state, "share": 1.0, "genotype": "[0, 1]", "val_accuracy": 0.5,
         "predicted_latency_ms": 0.1 * i, "failure": "" if state == "complete" else "NaN"}
        for i, state in enumerate(["complete", "complete", "failed"])
    ]  # fmt: skip
    layer = LayerTime("Conv", "width=8", "8x8", 9, 99, 0.1, (("a", "b", "conv"),))
    member = MemberTime("t000", "1x8x8", (layer,), (KindTime("Conv", 1, 0.1),), 0.01)
    effect = ChoiceEffect("depth", 0.5, 0.6, 1, (OptionShare("1", 0.3, 1.0, 0.1),))
    with tempfile.TemporaryDirectory() as folder:
        write_explanation(Path(folder), Explanation(10, 5, (effect,), (member,)))
        explanation = (Path(folder) / EXPLANATION).read_bytes()
    form = {"name": "t000", "form": "int8", "onnx": "a.onnx", "val_accuracy": 0.9, "verdict": "-"}
    tables = {
        "front.csv": [network], "candidates.csv": [network, baseline], "trials.csv": trials,
        "forms.csv": [form],
    }  # fmt: skip
    texts = {name: pd.DataFrame(rows).to_csv(index=False) for name, rows in tables.items()}
    config = (
        '[search]\ndata = "digits"\ntrials = 3\n[budget]\nlatency_ms = 0.3\n'
        '[space]\nname = "toy"\n[space.choices]\ndepth = [1, 2]\nwidth = [8, 16]\n'
        '[spent]\nsearch_seconds = 9.0\n[target]\nruntime = "onnxruntime-cpu"\n'
    )
    return {name: text.encode() for name, text in texts.items()} | {
        "config.toml": config.encode(),
        EXPLANATION: explanation,
        "weights/t001.failed": b"the loss became NaN",
    }


@cache
def _kit() -> Mapping[str, bytes]:
    """What the script of a kit measured here."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "kit"
        proto = conv_stack(np.random.default_rng(0), 1, n_layers=1, channels=2, size=4)
        write_kit([make_model(proto, name="stack")], folder, seconds=0.02)
        kit = json.loads((folder / "kit.json").read_text(encoding="utf-8"))
        short = json.dumps(kit | {"round_ms": 1.0, "profiled_round_ms": 0.2})
        (folder / "kit.json").write_text(short, encoding="utf-8")
        subprocess.run([sys.executable, folder / "measure.py"], check=True, capture_output=True)
        files = [folder / "kit.json", *(folder / "results").rglob("*")]
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()
        }


def _guide() -> Mapping[str, bytes]:
    guide = Guide(((0, 1), (1, 0)), (0.1, 0.2), (((0.5, 0.25, 0.25), (0.5, 0.5)),))
    return {GUIDE: json.dumps(guide.to_json()).encode()}


def _read_guide(folder: Path) -> None:
    read_guide(folder / GUIDE, SPACE)


def _journal() -> Mapping[str, bytes]:
    numbers = (0.9, 0.8, 0.2, 0.19, 0.1, 0.3, 1000, 10, 20, 1e-6)
    candidate = Candidate("t000", "front/t000.onnx", *numbers, meets_budget=True, genotype=(0, 1))
    entry = {"candidate": dataclasses.asdict(candidate), "weights": "0", "model": "0"}
    return {JOURNAL: json.dumps([entry]).encode()}


def _read_journal(folder: Path) -> None:
    FrontJournal(folder)


def _idx() -> Mapping[str, bytes]:
    files = {}
    for part in ("train", "t10k"):
        images, labels = np.zeros((20, 4, 4), np.uint8), np.arange(20, dtype=np.uint8) % 10
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            files[f"{part}-{name}-ubyte.gz"] = gzip.compress(header + array.tobytes(), mtime=0)
    return files


def _weights() -> list[bytes]:
    architecture = SPACE.architecture(TRIALS[2])
    return [pack_network(Network(architecture), architecture)]


def _read_weights(path: Path) -> None:
    if load_weights(path, SPACE.architecture(TRIALS[2])) is None:
        raise RunFolderError("no weights")


@cache
def _supernets() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "supernet"
        _train(path)
        return [path.read_bytes()]


def _read_supernet(path: Path) -> None:
    """As the file of a supernet, and as the checkpoint of a training."""
    load_supernet(SPACE, path, data=load_data("iris").fingerprint)
    _train(path)


def _train(checkpoint: Path) -> None:
    way = make_way("single-path", SPACE, seed=0)
    recipe = Recipe(epochs=1, batch_size=32)
    with seeded(0):
        supernet = Supernet(SPACE)
    train_supernet(supernet, load_data("iris"), recipe, way, seed=0, checkpoint=checkpoint)


def _latencies() -> list[bytes]:
    return [b"row,latency_ms\n0,1.5\n3,2.5\n1,0.5\n7,\n"]


def _read_latencies(path: Path) -> None:
    read_measured(str(path), None, 10)


READERS: dict[str, Reader] = {
    "study": Reader(_read_study, _studies, ".db", is_slow=True),
    "trial": Reader(_read_trial, _trials, ".json", is_slow=True),
    "run": replace(_in_folder(_run, write_report), is_slow=True),
    "kit": _in_folder(_kit, read_kit),
    "guide": _in_folder(_guide, _read_guide),
    "journal": _in_folder(_journal, _read_journal),
    "idx": _in_folder(_idx, lambda folder: load_data("fashion-mnist", path=folder)),
    "weights": Reader(_read_weights, _weights, ".safetensors"),
    "supernet": Reader(_read_supernet, _supernets, ".safetensors"),
    "latencies": Reader(_read_latencies, _latencies, ".csv"),
}
