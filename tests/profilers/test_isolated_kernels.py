from dataclasses import replace

import numpy as np
import pytest

from profilers import isolated_kernels
from profilers.errors import ModelError
from profilers.isolated_kernels import (
    MAX_COPIES,
    MIN_COPIES,
    can_isolate,
    isolated_model,
    measure_isolated,
)
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.onnx_models import make_model
from profilers.profiler import Profiler
from profilers.reference import conv_stack
from profilers.targets import make_target


class Formula(Profiler):
    """The runtime's true kernels, each the dearer the later it runs: nothing is timed."""

    n_models = 0

    def profile(self, model, *, seconds=2.0, tags=None):
        self.n_models += 1
        runs = [
            KernelLatency(node.name, node.kernel, float(i + 1), 9)
            for i, node in enumerate(self.kernels(model))
        ]
        return NetworkMeasurement(
            model.name, model.digest, self.target, self.samples, tuple(runs), None
        )


@pytest.fixture
def profiler(make_samples):
    profiler = Formula(make_target())
    profiler.samples = make_samples([1.0])
    return profiler


@pytest.fixture(scope="module")
def network_kernels():
    """Of a small network: convolutions in the runtime's own layout, a matrix product, pooling."""
    proto = conv_stack(np.random.default_rng(0), 1, n_layers=4, channels=16, size=8)
    nodes = Profiler(make_target()).kernels(make_model(proto, name="stack"))
    return list(dict.fromkeys(node.kernel for node in nodes))


def relu(*shape):
    return Kernel("Relu", (), (Tensor("float", shape),), (Tensor("float", shape),))


UNKNOWN_POSITIONS = Kernel(
    "Gather",
    (("axis", 0),),
    (Tensor("float", (10, 4)), Tensor("int64", (3,))),
    (Tensor("float", (3, 4)),),
)
NO_OPERATOR = Kernel("com.nowhere:Nothing", (), (Tensor("float", (1, 4)),), relu(1, 4).outputs)


def test_every_kernel_of_a_network_runs_alone_as_exactly_itself(profiler, network_kernels):
    kinds = {kernel.kind for kernel in network_kernels}
    assert {"Gemm", "Flatten"} < kinds
    assert len(kinds) > 3
    found = measure_isolated(network_kernels, profiler)
    assert [answer and answer.kernel for answer in found] == network_kernels


def test_the_latency_is_the_median_over_the_copies(profiler):
    (found,) = measure_isolated([relu(1, 8)], profiler)
    # A copy is four nodes, input, kernel, slice, reshape: the kernel runs 2nd, 6th, 10th, …
    assert found.latency_ms == np.median([2 + 4 * i for i in range(MAX_COPIES)])
    assert found.n_samples == 9


def test_every_copy_waits_for_the_one_before_and_its_input_is_written_just_before(profiler):
    kernels = [relu(1, 8), relu(1, 16)]
    nodes = profiler.kernels(isolated_model(kernels))
    kinds = [node.kernel.kind for node in nodes]
    assert kinds == ["Sub", "Relu", "Slice", "Reshape"] * (2 * MAX_COPIES)
    ran = [node.kernel for node in nodes if node.kernel.kind == "Relu"]
    assert ran == kernels * MAX_COPIES


def test_weights_are_more_than_the_second_level_cache_holds(monkeypatch):
    monkeypatch.setattr(isolated_kernels, "this_device", lambda: _DEVICE)
    n_bytes = 4 * 64 * 64

    def n_copies(l2_bytes):
        _DEVICE.cache_bytes = {"L2": l2_bytes}
        x, w = Tensor("float", (1, 64)), Tensor("float", (64, 64))
        model = isolated_model([Kernel("MatMul", (), (x, w), (x,))])
        weights = [t for t in model.proto.graph.initializer if list(t.dims) == [64, 64]]
        assert len({t.SerializeToString() for t in weights}) == len(weights)
        return len(weights)

    assert n_copies(8 * n_bytes - 1) == 8
    assert n_copies(1) == MIN_COPIES
    assert n_copies(2**30) == MAX_COPIES


class _DEVICE:
    cache_bytes: dict


def test_what_cannot_be_built_is_none_and_the_others_are_measured(profiler):
    empty = Kernel("Relu", (("list", ()),), *(relu(1, 4).inputs,) * 2)
    half = Kernel("Relu", (), (Tensor("float16", (1, 4)),), (Tensor("float16", (1, 4)),))
    found = measure_isolated([UNKNOWN_POSITIONS, relu(1, 8), empty, half], profiler)
    assert [answer is not None for answer in found] == [False, True, False, False]
    assert measure_isolated([UNKNOWN_POSITIONS], profiler) == [None]
    assert measure_isolated([], profiler) == []


def test_one_kernel_that_the_runtime_refuses_does_not_take_the_others_with_it(profiler):
    found = measure_isolated([relu(1, 8), NO_OPERATOR, relu(1, 16)], profiler)
    assert [answer is not None for answer in found] == [True, False, True]
    assert profiler.n_models == 4  # together, and each alone


@pytest.mark.parametrize(
    "change", [{"runtime": "torch-cuda"}, {"runtime": "onnxruntime-cuda"}, {"precision": "int8"}]
)
def test_nothing_is_tried_on_a_target_that_cannot_show_a_kernel_alone(profiler, change):
    assert can_isolate(profiler.target)
    profiler.target = replace(profiler.target, **change)
    assert not can_isolate(profiler.target)
    assert measure_isolated([relu(1, 8), relu(1, 9)], profiler) == [None, None]
    assert profiler.n_models == 0


def test_a_kernel_of_which_the_runtime_makes_something_else_is_not_guessed(profiler):
    x = Tensor("float", (1, 8))
    removed = Kernel("Identity", (), (x,), (x,))  # by the optimizer
    found = measure_isolated([removed, relu(1, 8)], profiler)
    assert [answer is not None for answer in found] == [False, True]


def test_kernels_that_all_fail_are_all_none(profiler, monkeypatch):
    def fail(model, **options):
        raise ModelError("no")

    monkeypatch.setattr(profiler, "profile", fail)
    assert measure_isolated([relu(1, 8), relu(1, 9)], profiler) == [None, None]


def test_a_shape_is_the_one_input_whose_values_are_known(profiler):
    reshape = Kernel(
        "Reshape",
        (("allowzero", 0),),
        (Tensor("float", (2, 6)), Tensor("int64", (2,))),
        (Tensor("float", (3, 4)),),
    )
    model = isolated_model([reshape])
    shapes = [t for t in model.proto.graph.initializer if t.name.startswith("in")]
    assert all(np.frombuffer(t.raw_data, np.int64).tolist() == [3, 4] for t in shapes)
    assert len(shapes) == MAX_COPIES
    assert isolated_model([UNKNOWN_POSITIONS]) is None
