"""Predictor files: one NPZ of plain arrays and a JSON header. Nothing in them is executed.

Format, version 1: the array `header` holds UTF-8 JSON with `format`, `version`, `kind` and the
predictor's data; the other arrays are numbers.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.errors import PredictorFileError
from predictors.network_latency import NetworkLatencyPredictor

FORMAT, VERSION, KIND = "hwnas-predictor", 1, "network-latency"
MAX_BYTES = 512 * 2**20


def save_predictor(predictor: NetworkLatencyPredictor, path: Path) -> None:
    """Write the file whole or not at all.

    Raises:
        PredictorFileError: It cannot be written.
    """
    data, arrays = predictor.to_data()
    header = {"format": FORMAT, "version": VERSION, "kind": KIND, "predictor": data}
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez_compressed(buffer, header=text, **arrays)  # type: ignore[arg-type]  # (by name)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(buffer.getvalue())
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):  # also where its folder is a file
            part.unlink()
        raise PredictorFileError(f"cannot write {path}: {error.strerror or error}") from None


def load_predictor(path: Path) -> NetworkLatencyPredictor:
    """Read what `save_predictor` wrote.

    Raises:
        PredictorFileError: The file is missing, damaged, foreign, or of a newer version.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PredictorFileError(f"{path} is larger than {MAX_BYTES:,} bytes; no predictor is")
        with zipfile.ZipFile(path) as archive:  # sizes are declared: refuse a bomb unopened
            if sum(item.file_size for item in archive.infolist()) > MAX_BYTES:
                raise PredictorFileError(f"{path} unpacks to more than {MAX_BYTES:,} bytes")
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, NDArray[Any]] = {name: archive[name] for name in archive.files}
        header = json.loads(arrays.pop("header").tobytes().decode())
        if header["format"] != FORMAT or header["kind"] != KIND:
            raise ValueError("it is of another kind")
        version = int(header["version"])
        if version > VERSION:
            raise PredictorFileError(
                f"{path} has format version {version}, this hwnas reads up to "
                f"{VERSION}: update hwnas, or fit the predictor again"
            )
        return NetworkLatencyPredictor.from_data(header["predictor"], arrays)
    except OSError as error:
        raise PredictorFileError(f"cannot read {path}: {error.strerror or error}") from None
    except PredictorFileError:
        raise
    except Exception as error:  # of zipfile, zlib, NumPy and JSON: they share no other base
        raise PredictorFileError(
            f"{path} is no predictor file of hwnas, or it is damaged ({type(error).__name__}: "
            f"{str(error)[:100]}). Fit it again: hwnas fit"
        ) from None
