"""What delivered models say of themselves."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx

from hwnas import __version__
from hwnas.data import DataSet
from hwnas.delivery.forms import Form
from hwnas.evaluation import METADATA_KEY, about_examples, read_metadata
from hwnas.export import save_onnx
from hwnas.front.verify import Candidate
from profilers.onnx_models import load_model

# What holds for the fp32 form only.
OF_FP32 = ("accuracy", "bf16", "latency_ms", "parity_max_abs_error", "peak_memory_bytes")
PACKAGES = ("onnx", "onnxruntime", "torch", "numpy")


def read_about(path: Path) -> dict[str, Any]:
    """What `hwnas` wrote into the model at `path`.

    Raises:
        ModelError: It cannot be read.
    """
    return read_metadata(load_model(path, batch=1))


def save_about(proto: onnx.ModelProto, path: Path, about: dict[str, Any]) -> None:
    """Write the model with `about` as what it says of itself, whole or not at all."""
    save_onnx(proto, path, metadata={METADATA_KEY: json.dumps(about)})


def graph_digest(proto: onnx.ModelProto) -> str:
    """Of what the model computes, whatever it says of itself."""
    return hashlib.sha256(proto.graph.SerializeToString(deterministic=True)).hexdigest()[:16]


def about_member(candidate: Candidate, data: DataSet) -> dict[str, Any]:
    """What is known of a network only when the front is judged."""
    return about_examples(data) | {
        "form": "fp32",
        "started_from": candidate.parent,
        "accuracy": _accuracy(candidate.val_accuracy, candidate.test_accuracy, data),
        "latency_ms": {
            "measured": candidate.latency_ms,
            "measured_low": candidate.measured_low_ms,
            "measured_high": candidate.measured_high_ms,
            "predicted": candidate.predicted_latency_ms,
            "predicted_low": candidate.predicted_low_ms,
            "predicted_high": candidate.predicted_high_ms,
        },
        "params": candidate.params,
        "macs": candidate.macs,
        "peak_memory_bytes": candidate.peak_memory_bytes,
        "parity_max_abs_error": candidate.parity_max_abs_error,
        "versions": {"hwnas": __version__, "python": platform.python_version()}
        | {name: metadata.version(name) for name in PACKAGES},
    }


def about_form(form: Form, data: DataSet) -> dict[str, Any]:
    """What is known of a form only when it was scored and measured."""
    assert form.val_accuracy is not None
    assert form.test_accuracy is not None
    return {
        "accuracy": _accuracy(form.val_accuracy, form.test_accuracy, data),
        "latency_ms": {
            "measured": form.latency_ms,
            "measured_low": form.low_ms,
            "measured_high": form.high_ms,
            "fp32": form.fp32_latency_ms,
        },
        "max_abs_error": form.max_abs_error,
    }


def figures_of(about: dict[str, Any]) -> dict[str, Any]:
    """What `about_form` wrote, as fields of a `Form`, and how it was made."""
    found = {"how": about.get("how", "")}
    if "accuracy" in about:
        accuracy, ms = about["accuracy"], about["latency_ms"]
        found |= {
            "val_accuracy": accuracy["validation"],
            "test_accuracy": accuracy["test"],
            "latency_ms": ms["measured"],
            "low_ms": ms["measured_low"],
            "high_ms": ms["measured_high"],
            "fp32_latency_ms": ms["fp32"],
            "max_abs_error": about["max_abs_error"],
        }
    return found


def _accuracy(val_accuracy: float, test_accuracy: float, data: DataSet) -> dict[str, Any]:
    """Accuracies, with the number of examples behind them."""
    return {
        "validation": val_accuracy,
        "test": test_accuracy,
        "n_train": len(data.train),
        "n_validation": len(data.validation),
        "n_test": len(data.test),
    }
