"""Run folders made of made-up numbers: whole ones, and one of a stranger who means harm."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import tomli_w

from hwnas.report.explanation import (
    ChoiceEffect,
    Explanation,
    KindTime,
    LayerTime,
    MemberTime,
    OptionShare,
    write_explanation,
)

CONFIG = {
    "search": {"data": "digits", "trials": 4, "seed": 0},
    "reproduce": {"command": "hwnas search --data digits"},
    "budget": {"latency_ms": 0.2, "fastest_ms": 0.05, "median_ms": 0.3, "slowest_ms": 1.0},
    "target": {"runtime": "onnxruntime", "version": "1.31.0", "device": "Toy CPU"},
    "versions": {"torch": "2.13.0"},
    "spent": {"search_seconds": 90.0, "train_seconds": 30.0, "n_trials": 4},
    "space": {"name": "toy", "size": 6, "choices": {"depth": [1, 2, 3], "kernel": [3, 5]}},
}


def network(name: str, latency_ms: float, accuracy: float, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "onnx": f"{name}.onnx",
        "val_accuracy": accuracy,
        "test_accuracy": accuracy - 0.01,
        "latency_ms": latency_ms,
        "predicted_latency_ms": latency_ms * 1.05,
        "predicted_low_ms": latency_ms * 0.98,
        "predicted_high_ms": latency_ms * 1.12,
        "peak_memory_bytes": 1_234_000,
        "params": 12_345,
        "macs": 1_234_567,
        "parity_max_abs_error": 2e-6,
        "meets_budget": True,
        "genotype": json.dumps([2, 1]),
        "kind": "searched",
        "verdict": "front",
    } | more


def trial(number: int, latency_ms: float, accuracy: float | None) -> dict[str, object]:
    return {
        "number": number,
        "state": "failed" if accuracy is None else "complete",
        "genotype": json.dumps([0, 1]),
        "val_accuracy": accuracy,
        "predicted_latency_ms": latency_ms,
        "predicted_low_ms": latency_ms * 0.9,
        "predicted_high_ms": latency_ms * 1.1,
        "failure": "" if accuracy is not None else "loss became NaN",
    }


TRIALS = [trial(0, 0.1, 0.86), trial(1, 0.15, 0.88), trial(2, 0.15, None), trial(3, 0.19, 0.87)]
NETWORKS = [
    network("fast", 0.10, 0.90),
    network("good", 0.19, 0.96),
    network("slow", 0.22, 0.97, verdict="over budget: measured 0.22 ms > 0.2 ms"),
    network("lenet", 0.38, 0.95, kind="baseline", verdict="baseline"),
]


def write_run(
    folder: Path,
    networks: Sequence[dict[str, object]] = NETWORKS,
    trials: Sequence[dict[str, object]] = TRIALS,
) -> Path:
    candidates = pd.DataFrame(networks)
    candidates.to_csv(folder / "candidates.csv", index=False)
    front = candidates[candidates["verdict"] == "front"].drop(columns=["kind", "verdict"])
    front.to_csv(folder / "front.csv", index=False)
    pd.DataFrame(trials).to_csv(folder / "trials.csv", index=False)
    (folder / "config.toml").write_text(tomli_w.dumps(CONFIG), encoding="utf-8")
    return folder


EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'"


def explanation_of(name: str) -> Explanation:
    """An explanation in which every text is `name`."""
    layers = tuple(LayerTime(name, name, name, 8, 9, ms, ((name, "b", name),)) for ms in (0.1, 0.3))
    options = (OptionShare(name, 0.25, 1.0, 0.1), OptionShare("b", 0.75, 0.0, 0.4))
    member = MemberTime(name, name, layers, (KindTime(name, 3, 0.4),), -0.01)
    return Explanation(1000, 100, (ChoiceEffect(name, 0.6, 0.8, 2, options),), (member, member))


@pytest.fixture(scope="session")
def runs() -> SimpleNamespace:
    """What run folders are made of."""
    return SimpleNamespace(
        network=network,
        trial=trial,
        write=write_run,
        explanation=explanation_of,
        networks=NETWORKS,
        trials=TRIALS,
        config=CONFIG,
        evil=EVIL,
    )


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path)


@pytest.fixture
def evil_folder(tmp_path: Path) -> Path:
    """A run folder in which every text that its owner controls is markup with a script."""
    more = {
        "onnx": "javascript:alert(3)",
        "genotype": EVIL,
        "int8_verdict": EVIL,
        "int8_onnx": EVIL,
    }
    write_run(tmp_path, [network(EVIL, 0.1, 0.9, **more)])
    trials = pd.DataFrame([*TRIALS, trial(4, 0.1, None) | {"failure": EVIL}])
    trials.to_csv(tmp_path / "trials.csv", index=False)
    config = {name: dict.fromkeys((EVIL, "device", "command"), EVIL) for name in CONFIG}
    config["space"]["choices"] = {EVIL: [EVIL, EVIL]}
    (tmp_path / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    write_explanation(tmp_path, explanation_of(EVIL))
    return tmp_path
