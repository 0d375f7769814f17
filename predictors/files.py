"""Predictor files: plain arrays and a JSON header. Nothing in them is executed.

Format, version 4: an NPZ (`archives.py`) whose array `header` holds UTF-8 JSON:

- `format`, `version`, `kind` (one of `KINDS`), `hwnas` (the version that wrote it);
- `target` and `training`: what `describe_predictor` tells without building the predictor;
- `predictor`: the kind's own data, which the other arrays belong to;
- `digest`: SHA-256 over all the rest, so that a file that was changed is told from one that was
  not. It is no signature: who can write a file can write its digest.

A further kind of predictor is a class with `to_data` and `from_data`, and a line in `KINDS`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from predictors import archives
from predictors.errors import PredictorFileError
from predictors.metrics import accuracy
from predictors.summary import PredictorSummary, TrainingSummary, read_target
from profilers.kernels import Kernel, Tensor
from profilers.targets import Target

if TYPE_CHECKING:
    from predictors.network_latency import NetworkLatencyPredictor

FORMAT, VERSION = "hwnas-predictor", 4
MAX_HEADER_BYTES = 64 * 2**20  # of 200,000 different kernels, which are 10,000 networks
MAX_DIGITS = 20
# By kind, where its class is: imported when a file is of that kind.
KINDS = {
    "network-latency": "predictors.network_latency:NetworkLatencyPredictor",
    "cost": "predictors.cost:CostPredictor",
    "transfer": "predictors.transfer:TransferPredictor",
}
DEFAULT_KIND = "network-latency"
# What a class reads besides its own kind: a cost predictor holds a latency predictor, and more.
_ALSO_READS = {"network-latency": ("cost",), "cost": ("network-latency",)}
_FEATURES = Tensor("float", (1, 8, 8, 8))
_NETWORK = (
    Kernel("Conv", (("group", 1),), (_FEATURES, Tensor("float", (8, 8, 3, 3))), (_FEATURES,)),
    Kernel("a kind that nobody has", (), (_FEATURES,), (_FEATURES,)),
)


class SavedPredictor(Protocol):
    """What a predictor needs for `save_predictor`.

    It may have `training_summary() -> TrainingSummary`; without, the summary is made of its
    `level` and of the attribute `held_out_`, its own or that of its attribute `latency`. Its
    attribute `target_`, if it has one, is its target.
    """

    @property
    def level(self) -> float:
        """Share of networks that its intervals are made for."""
        ...

    def to_data(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The learned state as JSON-able data and named arrays of finite numbers."""
        ...

    @classmethod
    def from_data(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild from `to_data`; any exception but `PredictorError` says that it cannot be."""
        ...


P = TypeVar("P", bound=SavedPredictor)


def save_predictor(
    predictor: SavedPredictor,
    path: Path,
    *,
    measured_between: tuple[float, float] | None = None,
) -> None:
    """Write the file whole or not at all.

    Args:
        predictor: Of a class in `KINDS`.
        path: Where to.
        measured_between: When what it learned from was measured, if known: first and last, in Unix
            seconds (`MeasurementStore.measured_between`).

    Raises:
        PredictorFileError: It cannot be written.
    """
    data, arrays = predictor.to_data()
    target: Target | None = getattr(predictor, "target_", None)
    training = _training(predictor).to_dict()
    if measured_between is not None:
        training["measured_between"] = list(measured_between)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "kind": _kind_of(type(predictor)),
        "hwnas": _hwnas_version(),
        "target": target.to_dict() if target else None,
        "training": training,
        "predictor": data,
    }
    arrays = {name: archives.plain_array(array) for name, array in arrays.items()}
    header["digest"] = _digest(header, arrays)
    text = np.frombuffer(json.dumps(header, allow_nan=False).encode(), dtype=np.uint8)
    content = archives.write_arrays({"header": text, **arrays})
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):  # also where its folder is a file
            part.unlink()
        raise PredictorFileError(f"cannot write {path}: {error.strerror or error}") from None


@overload
def load_predictor(path: Path) -> NetworkLatencyPredictor: ...
@overload
def load_predictor(path: Path, kind: type[P]) -> P: ...
def load_predictor(path: Path, kind: type[Any] | None = None) -> Any:
    """Read what `save_predictor` wrote.

    Args:
        path: The file.
        kind: Class of the predictor that is wanted, one of `KINDS`; None:
            `NetworkLatencyPredictor`, also of a file of a `CostPredictor`, which holds one.

    Raises:
        PredictorFileError: The file is missing, damaged, foreign, of a newer version, or holds
            another kind of predictor.
    """
    wanted = DEFAULT_KIND if kind is None else _kind_of(kind)
    header, arrays = _read(path)
    if header["kind"] not in (wanted, *_ALSO_READS.get(wanted, ())):
        raise PredictorFileError(
            f"{path} holds a predictor of kind {header['kind']!r}, and one of kind {wanted!r} is "
            f"needed: name another file (`hwnas predictor FILE` tells what one holds)"
        )
    try:
        predictor = predictor_class(wanted).from_data(header["predictor"], arrays)
        if wanted in _ALSO_READS:
            _try(getattr(predictor, "latency", predictor))
        return predictor
    except Exception as error:  # of any kind of predictor, of NumPy: they share no other base
        raise _damaged(path, error) from None


def describe_predictor(path: Path) -> PredictorSummary:
    """What a file says of its predictor, of whatever kind, without building it.

    Raises:
        PredictorFileError: As `load_predictor`.
    """
    header, _ = _read(path)
    try:
        target = header["target"]
        return PredictorSummary(
            kind=header["kind"],
            format_version=header["version"],
            hwnas_version=str(header["hwnas"])[:50],
            target=None if target is None else read_target(target),
            training=TrainingSummary.from_dict(header["training"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _damaged(path, error) from None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and arrays, whole and unchanged since they were written."""
    try:
        with path.open("rb") as file:
            content = file.read(archives.MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise PredictorFileError(f"cannot read {path}: {_reason(error)}") from None
    if len(content) > archives.MAX_FILE_BYTES:
        raise PredictorFileError(
            f"{path} is larger than {archives.MAX_FILE_BYTES:,} bytes; no predictor is"
        )
    try:
        arrays = archives.read_arrays(content)
        header = _header(arrays.pop("header"))
    except Exception as error:  # of zipfile, zlib, NumPy and JSON: they share no other base
        raise _damaged(path, error) from None
    version = header["version"]
    if version != VERSION:
        advice = (
            "update hwnas, or fit the predictor again"
            if version > VERSION
            else "fit it again: hwnas fit"
        )
        raise PredictorFileError(
            f"{path} has format version {version}, this hwnas reads {VERSION}: {advice}"
        )
    if header["kind"] not in KINDS:
        raise PredictorFileError(
            f"{path} holds a predictor of kind {str(header['kind'])[:50]!r}, which this hwnas does "
            f"not know (it knows {', '.join(KINDS)}): update hwnas"
        )
    try:
        is_unchanged = header.pop("digest") == _digest(header, arrays)
    except Exception as error:  # numbers that are not finite, nesting that is too deep
        raise _damaged(path, error) from None
    if not is_unchanged:
        raise PredictorFileError(
            f"{path} was changed after it was saved: its digest does not fit. Take another copy, "
            f"or fit it again: hwnas fit"
        )
    return header, arrays


def _header(text: NDArray[Any]) -> dict[str, Any]:
    if text.nbytes > MAX_HEADER_BYTES:
        raise ValueError(f"its header is longer than {MAX_HEADER_BYTES:,} bytes")
    header = json.loads(text.tobytes().decode(), parse_float=_bounded, parse_int=_whole)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError("its header does not say that it is a predictor")
    version = header["version"]
    if isinstance(version, bool) or not isinstance(version, int):
        raise ValueError("its version is no number")
    header["kind"] = str(header["kind"])
    return header


def _bounded(text: str) -> float:
    number = float(text)
    if not abs(number) <= archives.MAX_NUMBER:  # also true for NaN
        raise ValueError(f"it holds the number {text[:20]}, which no predictor has")
    return number


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"it holds the number {text[:20]}…, which no predictor has")
    return int(text)


def _try(predictor: Any) -> None:
    """Ask a latency predictor that was just built about a network, before anybody else does.

    Raises:
        ValueError: Its answer is no latency; or whatever its parts raise that do not fit.
    """
    answer = predictor.predict([_NETWORK])
    ends = np.concatenate([answer.low_ms, answer.latency_ms, answer.high_ms])
    if not (np.isfinite(ends).all() and (ends > 0).all()):
        raise ValueError("its predictions are no latencies")


def _digest(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of all that a file says."""
    digest = hashlib.sha256()
    digest.update(json.dumps(header, sort_keys=True, allow_nan=False).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _training(predictor: SavedPredictor) -> TrainingSummary:
    told = getattr(predictor, "training_summary", None)
    if told is not None:
        summary: TrainingSummary = told()
        return summary
    latency = getattr(predictor, "latency", predictor)
    held_out = getattr(latency, "held_out_", None)
    found = accuracy(*held_out) if held_out is not None and np.size(held_out) else None
    kernels = getattr(getattr(latency, "kernels_", None), "measured_", None)
    target: Target | None = getattr(predictor, "target_", None)
    return TrainingSummary(
        level=predictor.level,
        n_networks=found.n if found else None,
        n_kernels=len(kernels) if kernels is not None else None,
        held_out=found,
        devices=(target.device_name,) if target else (),
    )


def _kind_of(wanted: type[Any]) -> str:
    place = f"{wanted.__module__}:{wanted.__qualname__}"
    for kind, known in KINDS.items():
        if known == place:
            return kind
    raise TypeError(f"{place} is no kind of predictor that has files; add it to KINDS")


def predictor_class(kind: str) -> type[SavedPredictor]:
    """The class of a kind, for `load_predictor`; `describe_predictor` tells a file's kind.

    Raises:
        KeyError: There is no such kind.
    """
    module, _, name = KINDS[kind].partition(":")
    found: type[SavedPredictor] = getattr(importlib.import_module(module), name)
    return found


def _hwnas_version() -> str:
    try:
        return metadata.version("hwnas")
    except metadata.PackageNotFoundError:  # run from sources that were not installed
        return "unknown"


def _damaged(path: Path, error: Exception) -> PredictorFileError:
    return PredictorFileError(
        f"{path} is no predictor file of hwnas, or it is damaged ({type(error).__name__}: "
        f"{str(error)[:100]}). Fit it again: hwnas fit"
    )


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
