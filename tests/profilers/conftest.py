"""Small ONNX models, a fake device and measurements made by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from profilers.devices import Device
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.onnx_models import MAX_IR_VERSION
from profilers.targets import Target
from profilers.timing import LatencySamples


@pytest.fixture
def make_samples():
    """`LatencySamples` from wall times alone: undisturbed unless said otherwise."""

    def make(wall_ms, **changes):
        wall_ms = np.array(wall_ms, dtype=np.float64)
        zeros = np.zeros(len(wall_ms), dtype=np.int64)
        fields = {
            "cpu_ms": wall_ms,
            "switches": zeros,
            "faults": zeros,
            "chunk": zeros,
            "slowdown": np.ones(len(wall_ms)),
        }
        return LatencySamples(wall_ms, **fields | {k: np.array(v) for k, v in changes.items()})

    return make


@pytest.fixture
def target():
    return Target("onnxruntime-cpu", "1.0", "fp32", 1, 1, "0123456789ab", "Toy CPU (2 cores)")


@pytest.fixture
def device():
    return Device(
        cpu="Toy CPU", architecture="x86_64", cores=2, isa=("avx2",), cache_bytes={"L1": 32768},
        governor="performance", memory_bytes=2**30, gpus=(), os="Linux 6", runtimes={},
        has_rapl=False,
    )  # fmt: skip


@pytest.fixture
def make_measurement(make_samples, target):
    """A measurement whose kernels take `kernel_ms` each and the whole run `latency_ms`."""

    def make(name="net", latency_ms=1.0, kernel_ms=(0.25, 0.5), **changes):
        kernels = tuple(
            KernelLatency(
                f"k{i}",
                Kernel("Relu", (), (Tensor("float", (1, 8 + i)),), (Tensor("float", (1, 8 + i)),)),
                ms,
                7,
            )
            for i, ms in enumerate(kernel_ms)
        )
        fields = {
            "name": name,
            "digest": f"digest of {name}",
            "target": target,
            "samples": make_samples([latency_ms] * 10),
            "kernels": kernels,
            "peak_memory_bytes": None,
            "tags": {},
        }
        return NetworkMeasurement(**fields | changes)

    return make


@pytest.fixture
def make_proto():
    """An ONNX model from nodes, input and output shapes `{name: (type, shape)}`, and weights."""

    def infos(values):
        return [
            helper.make_tensor_value_info(name, kind, shape)
            for name, (kind, shape) in values.items()
        ]

    def make(nodes, inputs, outputs, weights=None):
        initializers = [
            onnx.numpy_helper.from_array(np.asarray(value), name)
            for name, value in (weights or {}).items()
        ]
        graph = helper.make_graph(nodes, "toy", infos(inputs), infos(outputs), initializers)
        return helper.make_model(
            graph, ir_version=MAX_IR_VERSION, opset_imports=[helper.make_opsetid("", 17)]
        )

    return make


@pytest.fixture
def relu_proto(make_proto):
    """Y = Relu(x); `shape` may hold names and None for open dimensions."""

    def make(shape=(1, 4), elem_type=TensorProto.FLOAT):
        return make_proto(
            [helper.make_node("Relu", ["x"], ["y"])],
            {"x": (elem_type, shape)},
            {"y": (elem_type, shape)},
        )

    return make
