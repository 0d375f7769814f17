"""What reads files from strangers: each reader, and small files that it takes."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import fuzz_run_files
import numpy as np
import onnx
import pandas as pd
from fuzz_reader import Reader
from onnx import TensorProto, helper, numpy_helper

from hwnas.bench.tables import read_search_table
from hwnas.bench.transfer import read_latency_table
from hwnas.budget import parse_budget
from hwnas.config import SearchConfig, read_config
from hwnas.data import load_data
from hwnas.evaluation import read_metadata
from hwnas.spaces.catalog import SPACES
from predictors import files
from predictors.files import describe_predictor, load_predictor, save_predictor
from predictors.network_latency import NetworkLatencyPredictor
from profilers.devices import this_device
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.onnx_models import load_model
from profilers.store import MeasurementStore
from profilers.tables import read_measurements, write_measurements
from profilers.targets import make_target
from profilers.timing import LatencySamples


def _read_model(path: Path) -> None:
    read_metadata(load_model(path, batch=1))


def _models() -> list[bytes]:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    weight = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight]
    )
    plain = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    outside = onnx.ModelProto()
    outside.CopyFrom(plain)
    tensor = outside.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    about = onnx.ModelProto()
    about.CopyFrom(plain)
    helper.set_model_props(about, {"hwnas": json.dumps({"preprocessing": {"mean": [0.5]}})})
    return [m.SerializeToString() for m in (plain, outside, about)]


def _read_predictor(path: Path) -> None:
    describe_predictor(path)
    load_predictor(path)


@cache
def _measurements() -> list[NetworkMeasurement]:
    rng = np.random.default_rng(0)
    target = make_target()
    found = []
    for i in range(10):
        kernels = []
        for _ in range(3):
            n = int(rng.integers(8, 64))
            tensors = [Tensor("float", shape) for shape in ((1, n), (n, 2 * n), (1, 2 * n))]
            kernel = Kernel("MatMul", (), tuple(tensors[:2]), tuple(tensors[2:]))
            kernels.append(KernelLatency("m", kernel, 1e-3 * n, 9))
        wall_ms = np.full(16, sum(run.latency_ms for run in kernels))
        zeros = np.zeros(16, np.int64)
        samples = LatencySamples(wall_ms, wall_ms, zeros, zeros, zeros, np.ones(16))
        found.append(NetworkMeasurement(f"n{i}", f"{i}", target, samples, tuple(kernels), 1000))
    return found


@cache
def _predictors() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.npz"
        save_predictor(NetworkLatencyPredictor().fit(_measurements()), path)
        return [path.read_bytes()]


def _read_header(path: Path) -> None:
    """A predictor with that header, signed as the right one: only what is in it can be wrong."""
    with np.load(io.BytesIO(_predictors()[0])) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "header"}
    text = path.read_bytes()
    try:
        header = json.loads(text)
        header.pop("digest", None)
        header["digest"] = files._digest(header, arrays)
        text = json.dumps(header).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass  # not to be signed: its reader must say so
    arrays["header"] = np.frombuffer(text, np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path.write_bytes(buffer.getvalue())
    load_predictor(path)


def _headers() -> list[bytes]:
    with np.load(io.BytesIO(_predictors()[0])) as archive:
        return [archive["header"].tobytes()]


def _read_database(path: Path) -> None:
    with MeasurementStore(path) as store:
        for measurement in store.networks():
            store.isolated(measurement.target)
            store.references_ms(measurement.target)
        store.devices()


def _databases() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.db"
        with MeasurementStore(path) as store:
            store.add(_measurements()[0], this_device())
            store.add_isolated(make_target(), _measurements()[1].kernels)
        return [path.read_bytes()]


def _read_table(path: Path) -> None:
    read_measurements(path)


def _tables() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        write_measurements(_measurements()[:2], Path(folder))
        return [p.read_bytes() for p in sorted(Path(folder).glob("*.parquet"))]


def _read_search_table(path: Path) -> None:
    read_search_table(path, accuracy="accuracy", latency="a_ms")


def _read_latency_table(path: Path) -> None:
    read_latency_table(path, ["a"])


def _search_tables() -> list[bytes]:
    frame = pd.DataFrame(
        {"op_1": [0, 1, 0, 1], "op_2": [0, 0, 1, 1], "accuracy": [0.5, 0.6, 0.7, 0.8],
         "a_ms": [1.0, 2.0, 3.0, 4.0]}
    )  # fmt: skip
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return [buffer.getvalue()]


def _read_config(path: Path) -> None:
    SearchConfig.from_table(read_config(path).get("search", {}))


def _configs() -> list[bytes]:
    return [
        b'[search]\ndata = "digits"\nbudgets = ["latency_ms<=5"]\ntrials = 8\nlevel = 0.9\n',
        b"[search]\nrecipe = [\"learning_rate=0.01\"]\nminutes = 1.5\n[run]\ntarget = 'x'\n",
    ]


def _read_genotype(path: Path) -> None:
    _mobile().from_json(path.read_bytes().decode("utf-8", "replace"))


@cache
def _mobile():
    return SPACES["mobile"]((1, 8, 8), 10)


def _genotypes() -> list[bytes]:
    space = _mobile()
    rows = space.sample(np.random.default_rng(0), 3)
    return [space.to_json(tuple(row)).encode() for row in rows.tolist()]


def _read_budget(path: Path) -> None:
    parse_budget(path.read_bytes().decode("utf-8", "replace"))


def _budgets() -> list[bytes]:
    return [b"latency_ms<=5", b"peak_memory_bytes <= 64e6", b"latency_ms<=40%", b"params<=1e6"]


def _data(kind: str) -> Callable[[Path], object]:
    return lambda path: load_data(f"{kind}:{path}")


def _csv() -> list[bytes]:
    rows = [f"{i},{i % 5},{'ab'[i % 2]}" for i in range(24)]
    return ["\n".join(["x,y,label", *rows]).encode()]


def _npz() -> list[bytes]:
    buffer = io.BytesIO()
    rng = np.random.default_rng(0)
    np.savez_compressed(
        buffer, inputs=rng.integers(0, 255, (24, 4, 4), np.uint8), labels=np.arange(24) % 2
    )
    return [buffer.getvalue()]


def _texts() -> list[bytes]:
    rows = [
        f'"{word} text {i}",{label}' for i in range(12) for word, label in (("good", 1), ("bad", 0))
    ]
    return ["\n".join(["text,label", *rows]).encode()]


READERS: dict[str, Reader] = {
    "model": Reader(_read_model, _models, ".onnx"),
    "predictor": Reader(_read_predictor, _predictors, ".npz"),
    "header": Reader(_read_header, _headers, ".npz"),
    "database": Reader(_read_database, _databases, ".db"),
    "table": Reader(_read_table, _tables, ".parquet"),
    "search_table": Reader(_read_search_table, _search_tables, ".parquet"),
    "latency_table": Reader(_read_latency_table, _search_tables, ".parquet"),
    "config": Reader(_read_config, _configs, ".toml"),
    "genotype": Reader(_read_genotype, _genotypes, ".json"),
    "budget": Reader(_read_budget, _budgets),
    "csv": Reader(_data("csv"), _csv, ".csv"),
    "npz": Reader(_data("npz"), _npz, ".npz"),
    "text": Reader(_data("text"), _texts, ".csv"),
    **fuzz_run_files.READERS,
}
