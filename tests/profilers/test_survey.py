import collections
from contextlib import closing

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from profilers.errors import ModelError
from profilers.kernels import macs
from profilers.onnx_models import MAX_IR_VERSION
from profilers.onnx_torch import to_torch
from profilers.profiler import Profiler
from profilers.runtimes.catalog import make_runtime
from profilers.survey import survey_model
from profilers.survey.convolutions import GROUPS as ON_MAPS
from profilers.survey.graph import Graph, Limits, NoRoomError, Style
from profilers.survey.operators import concat, conv, linear
from profilers.survey.sequences import GROUPS as ON_SEQUENCES
from profilers.targets import make_target

N = 25  # networks are looked at


@pytest.fixture(scope="module")
def models():
    return [survey_model(seed) for seed in range(N)]


@pytest.fixture
def make_graph():
    def make(*, seed=0, macs=1e8, elements=8e6, weights=6e6, opset=17):
        limits = Limits(macs, elements, weights, narrow=8, wide=128)
        style = Style(activation=0, multiples_share=0.5, norm_share=0.5)
        return Graph(np.random.default_rng(seed), limits, style, opset=opset, batch=1)

    return make


def session(model):
    return ort.InferenceSession(model.proto.SerializeToString(), providers=["CPUExecutionProvider"])


def test_networks_are_valid_and_say_the_shapes_that_their_tensors_have(models):
    for model in models:
        onnx.checker.check_model(model.proto, full_check=True)
        assert model.proto.ir_version <= MAX_IR_VERSION
        assert (model.batch, model.name[:7]) == (1, "survey-")


def test_networks_run_and_their_values_stay_in_bounds(models):
    for model in models:
        (y,) = session(model).run(None, model.random_inputs(np.random.default_rng(0)))
        assert np.isfinite(y).all(), model.name
        assert np.abs(y).max() < 1e6, model.name


def test_a_network_depends_on_its_seed_alone_weights_included(models):
    assert survey_model(3).proto.SerializeToString() == models[3].proto.SerializeToString()
    assert len({model.digest for model in models}) == N


def test_a_batch_is_the_first_dimension_of_every_input():
    for seed in range(4):
        model = survey_model(seed, batch=3)
        assert {spec.shape[0] for spec in model.inputs} == {3}
        session(model).run(None, model.random_inputs(np.random.default_rng(0)))


def test_kernels_are_of_all_kinds_and_of_sizes_from_tiny_to_large(models):
    profiler = Profiler(make_target())
    counts = collections.Counter()
    of_products, of_networks = [], []
    for model in models:
        kernels = [node.kernel for node in profiler.kernels(model)]
        counts.update(kernel.kind.rsplit(":", 1)[-1] for kernel in kernels)
        found = [macs(kernel) for kernel in kernels]
        of_products += [n for n in found if n]
        of_networks.append(sum(found))
    assert counts.keys() >= {
        "Conv", "FusedConv", "Gemm", "MatMul", "FusedMatMul", "LayerNormalization", "Softmax",
        "Gelu", "Concat", "Split", "Transpose", "Reshape", "MaxPool", "GlobalAveragePool",
        "BatchNormalization", "ReorderInput", "ReorderOutput", "Add", "Mul", "Relu", "ReduceMean",
    }  # fmt: skip
    assert counts.keys() & {"LSTM", "GRU", "RNN"}
    # The layout reorders of ONNX Runtime pad channels to its blocks, so somewhat above the caps.
    assert max(of_networks) < 2e9
    assert max(of_products) < 3e8
    assert min(of_networks) < 1e6 < 1e7 < max(of_networks)
    assert np.percentile(of_products, 10) < 1e4 < 1e6 < np.percentile(of_products, 95)


def test_openvino_runs_them(models):
    pytest.importorskip("openvino")
    runtime = make_runtime(make_target("openvino-cpu"))
    for model in models[:6]:
        feed = model.random_inputs(np.random.default_rng(0))
        with closing(runtime.session(model, feed)) as opened:
            opened.run()


def test_torch_has_all_of_their_operators(models):
    refused = []
    for model in models:
        try:
            to_torch(model)
        except ModelError as error:
            refused.append(str(error))
    assert len(refused) <= 0.05 * N, refused


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize(
    ("group", "shape"),
    [
        *[(group, (16, 12, 12)) for group in sorted(set(ON_MAPS), key=lambda g: g.__name__)],
        *[(group, (16, 40)) for group in sorted(set(ON_MAPS), key=lambda g: g.__name__)],
        *[(group, (20, 24)) for group in sorted(set(ON_SEQUENCES), key=lambda g: g.__name__)],
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_every_group_writes_what_onnx_allows_in_all_its_variants(make_graph, group, shape, opset):
    for seed in range(3):
        g = make_graph(seed=seed, opset=opset)
        y = group(g, g.input(*shape))
        onnx.checker.check_model(g.proto(y), full_check=True)


def test_what_costs_too_much_is_refused_and_leaves_nothing_behind(make_graph):
    g = make_graph(macs=2e4)
    x = linear(g, g.input(10, 16), 100)  # 16,000 of the 20,000
    mark, left = g.mark(), (g.limits.macs, g.limits.elements, g.limits.weights)
    with pytest.raises(NoRoomError):
        linear(g, linear(g, x, 1), 1000)
    g.undo(mark)
    assert (g.limits.macs, g.limits.elements, g.limits.weights) == left
    assert left[0] == 4000
    assert len(g.proto(x).graph.initializer) == 2
    for limits in ({"elements": 100}, {"weights": 100}):
        g = make_graph(**limits)
        with pytest.raises(NoRoomError):
            linear(g, g.input(10, 16), 100)


def test_shapes_and_costs_of_operators_are_counted(make_graph):
    g = make_graph()
    x = g.input(6, 9, 9)
    y = conv(g, x, 12, [3, 3], strides=[2, 2], groups=2)
    assert y.shape == (1, 12, 5, 5)
    assert 1e8 - g.limits.macs == 12 * 5 * 5 * 3 * 9
    assert concat(g, [y, y], 1).shape == (1, 24, 5, 5)
