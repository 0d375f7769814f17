"""Measure on a device that has no toolkit: write models and a script that measures them there.

A kit is a folder: `measure.py`, `kit.json`, `README.txt`, `models/`, and `results/`, a folder for
each model, once the script has run there; `kit_results.py` reads them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import EncodeError

from profilers import kit_script
from profilers.errors import ProfilerError, unknown_name
from profilers.onnx_models import OnnxModel
from profilers.precision import convert
from profilers.profiler import (
    MIN_ROUNDS,
    N_WARMUP,
    PATIENCE,
    PROFILED_ROUND_MS,
    REFERENCE_SAMPLES,
    ROUND_MS,
)
from profilers.reference import reference_model
from profilers.runtimes.catalog import RUNTIMES
from profilers.targets import DEFAULT_RUNTIME
from profilers.timing import SLOW_REFERENCE

KIT_FORMAT = 1
SECONDS_PER_MODEL = 3.0
MAX_PROFILE_EVENTS = 20_000  # some 15 MB of JSON to write: such devices are small
TIME_LIMIT_S = 900.0  # beside the time that is asked for: loading and warming up
OLD_IR_VERSION = 8  # read by every runtime since 2021
_README = """\
1. On the device: pip install onnxruntime numpy (Python 3.8 or newer), and copy this folder there.
2. python measure.py - about {minutes:.0f} min; Ctrl-C keeps what is done, the same command goes on.
3. Copy the folder back, and read it in with: hwnas profile --import FOLDER
"""


class KitError(ProfilerError):
    """A kit cannot be written, or what came back cannot be read."""


def write_kit(
    models: Sequence[OnnxModel],
    folder: Path,
    *,
    threads: int = 1,
    precision: str = "fp32",
    seconds: float = SECONDS_PER_MODEL,
    tags: Sequence[Mapping[str, str]] | None = None,
) -> None:
    """Write a folder that measures `models` on any device with Python, ONNX Runtime and NumPy.

    The folder is there when all of it is: an error or Ctrl-C leaves nothing.

    Args:
        models: What to measure; the device's own runtime optimizes them.
        folder: A new one, or an empty one.
        threads: Threads within one kernel.
        precision: What the models, which are in fp32, are converted to: `fp32` or `int8`.
        seconds: For each model; while the device is slow it may take four times that.
        tags: What is known of each model, if anything; it comes back with the measurement.

    Raises:
        KitError: The folder holds something already, or cannot be written.
        ModelError: A model cannot be converted to the precision.
    """
    if not models:
        raise KitError("a kit needs one model at least, got none")
    if threads < 1 or not seconds > 0:
        raise KitError(f"threads must be at least 1 and seconds > 0, got {threads=}, {seconds=}")
    precisions = RUNTIMES[DEFAULT_RUNTIME].precisions
    if precision not in precisions:
        raise KitError(unknown_name("precision of a kit", precision, precisions))
    all_tags = tags or [{}] * len(models)
    folder = folder.absolute()
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise KitError(f"{folder} is not empty: name a new folder for the kit")
        (part / "models").mkdir(parents=True)
        entries = [
            _write_model(part, f"{i:03}-{_slug(model.name)}", convert(model, precision))
            | {"batch": model.batch, "tags": dict(of_model)}
            for i, (model, of_model) in enumerate(zip(models, all_tags, strict=True))
        ]
        kit = {
            "format": KIT_FORMAT,
            "runtime": DEFAULT_RUNTIME,
            "precision": precision,
            "threads": threads,
            "seconds": seconds,
            "limit_s": TIME_LIMIT_S + PATIENCE * seconds,
            "warmup": N_WARMUP,
            "round_ms": ROUND_MS,
            "profiled_round_ms": PROFILED_ROUND_MS,
            "min_rounds": MIN_ROUNDS,
            "patience": PATIENCE,
            "slow_reference": SLOW_REFERENCE,
            "reference_samples": REFERENCE_SAMPLES,
            "max_profile_events": MAX_PROFILE_EVENTS,
            "reference": _write_model(part, "reference", reference_model()),
            "models": entries,
        }
        (part / "kit.json").write_text(json.dumps(kit, indent=1), encoding="utf-8")
        shutil.copyfile(kit_script.__file__, part / "measure.py")
        minutes = max(1.0, len(models) * (seconds + 1) / 60)
        (part / "README.txt").write_text(_README.format(minutes=minutes), encoding="utf-8")
        if folder.exists():  # not every system renames to a folder that is there
            folder.rmdir()
        part.rename(folder)
    except OSError as error:
        raise KitError(f"cannot write the kit {folder}: {error}") from None
    finally:  # there is nothing to remove where all went well
        shutil.rmtree(part, ignore_errors=True)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:60]


def _write_model(folder: Path, key: str, model: OnnxModel) -> dict[str, Any]:
    """Write a model with its input shapes fixed; what the script must know of it."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    shapes = {spec.name: spec.shape for spec in model.inputs}
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        dims = value.type.tensor_type.shape.dim
        for dim in dims:
            if dim.dim_param in model.dimensions:
                dim.dim_value = model.dimensions[dim.dim_param]
        if value.name in shapes:
            del dims[:]
            for size in shapes[value.name]:
                dims.add().dim_value = size
    # The device's runtime may be older than this one.
    needed = onnx.helper.find_min_ir_version_for(proto.opset_import, ignore_unknown=True)
    proto.ir_version = min(proto.ir_version, max(needed, OLD_IR_VERSION))
    file = f"models/{key}.onnx"
    try:
        (folder / file).write_bytes(proto.SerializeToString())
    except (EncodeError, ValueError):
        raise KitError(f"{model.name} is too large for one ONNX file (2 GB)") from None
    return {
        "id": key,
        "file": file,
        "name": model.name,
        "digest": model.digest,
        "n_nodes": max(1, len(proto.graph.node)),
        "inputs": [
            {"name": spec.name, "dtype": spec.dtype.name, "shape": list(spec.shape)}
            for spec in model.inputs
        ],
    }
