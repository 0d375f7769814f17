"""Which edits are suggested: those that the predictor says save most, and that can be run."""

from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas import suggestions
from hwnas.graph_edits import Edit
from hwnas.suggestions import best, suggest
from predictors.explain import explain
from profilers.errors import ModelError
from profilers.onnx_models import make_model
from profilers.profiler import Profiler
from profilers.reference import conv_stack
from profilers.targets import make_target


@pytest.fixture(scope="module")
def profiler():
    return Profiler(make_target())


@pytest.fixture(scope="module")
def stack():
    proto = conv_stack(np.random.default_rng(0), 1, n_layers=4, channels=24, size=16)
    return make_model(proto, name="stack")


def test_the_best_edits_are_of_the_real_kernels_of_the_edited_models(
    stack, profiler, tiny_predictor
):
    before = explain(tiny_predictor, profiler.kernels(stack))
    seen = []
    found = suggest(
        stack, before, tiny_predictor, profiler, n=3,
        on_edit=lambda done, of: seen.append((done, of)),
    )  # fmt: skip
    assert 1 <= len(found) <= 3
    assert [s.saving_ms for s in found] == sorted((s.saving_ms for s in found), reverse=True)
    for s in found:
        again = explain(tiny_predictor, profiler.kernels(s.edit.model))
        assert s.after == again
        assert s.saving == pytest.approx(1 - again.latency_ms / before.latency_ms)
        assert s.saving >= suggestions.MIN_SAVING
    assert seen[-1] == (len(suggestions.EDITS), len(suggestions.EDITS))
    assert len({s.edit.kind for s in found}) == len(found)


def test_an_edit_that_the_runtime_cannot_run_is_no_suggestion(
    stack, profiler, tiny_predictor, monkeypatch
):
    def broken(model, costs):
        return Edit("broken", "break it", model)

    class Refusing:
        def kernels(self, model):
            raise ModelError("cannot run it")

    before = explain(tiny_predictor, profiler.kernels(stack))
    monkeypatch.setattr(suggestions, "EDITS", (broken,))
    assert suggest(stack, before, tiny_predictor, Refusing()) == []


def test_what_saves_next_to_nothing_is_not_suggested():
    found = [SimpleNamespace(saving=s, saving_ms=s) for s in (0.01, 0.3, -0.5, 0.02, 0.1)]
    assert [s.saving for s in best(found, 2)] == [0.3, 0.1]
    assert [s.saving for s in best(found, 9)] == [0.3, 0.1, 0.02]


@pytest.mark.parametrize(("isa", "block"), [(("avx2", "avx512f"), 16), (("avx2",), 8), ((), 8)])
def test_the_block_of_channels_is_that_of_the_cpu(monkeypatch, isa, block):
    monkeypatch.setattr(suggestions, "this_device", lambda: SimpleNamespace(isa=isa))
    assert suggestions.channel_block() == block


INPUT_OPTIONAL, INPUT_COMPUTED = "an axis that is left out", "a bias that is computed"


@pytest.mark.parametrize("case", [INPUT_OPTIONAL, INPUT_COMPUTED])
def test_edits_pass_over_inputs_that_are_no_weights(profiler, tiny_predictor, case):
    rng = np.random.default_rng(0)
    weights = {"w": rng.random((24, 3, 3, 3), np.float32), "b": rng.random(24, np.float32)}
    if case == INPUT_OPTIONAL:
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("ReduceMean", ["c", ""], ["y"], keepdims=1),
        ]
        shape = (1, 1, 1, 1)
    else:
        nodes = [
            helper.make_node("Neg", ["b"], ["computed"]),
            helper.make_node("Conv", ["x", "w", "computed"], ["y"]),
        ]
        shape = (1, 24, 6, 6)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "odd", [x], [y], stored)
    proto = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])
    model = make_model(proto, name="odd")
    before = explain(tiny_predictor, profiler.kernels(model))
    assert isinstance(suggest(model, before, tiny_predictor, profiler), list)
