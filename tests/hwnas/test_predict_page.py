"""The page of a prediction."""

import numpy as np
import pytest

from hwnas.graph_edits import Edit
from hwnas.predict_page import predict_page, predicted_parts
from hwnas.suggestions import Suggestion
from predictors.explain import Explanation, PredictedKernel, slices
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelNode
from profilers.onnx_models import make_model
from profilers.reference import conv_stack
from profilers.targets import Target

TARGET = Target("onnxruntime-cpu", "1.0", "fp32", 1, 1, "0123456789ab", "Toy <CPU>")


def relu(size):
    return Kernel("Relu", (), (Tensor("float", (1, size)),), (Tensor("float", (1, size)),))


@pytest.fixture
def explanation():
    kernels = tuple(
        PredictedKernel(KernelNode(name, relu(size), (), (name,)), ms, known)
        for name, size, ms, known in (("a", 10, 0.3, True), ("b<i>", 20, 0.1, False))
    )
    return Explanation(0.5, 0.4, 0.6, 0.75, kernels)


def page(explanation, **more):
    blocks = slices(explanation, ["stem", "<script>"])
    kinds = slices(explanation, ["Relu", "Relu"])
    return predict_page("net<b>", TARGET, 0.9, explanation, blocks=blocks, kinds=kinds, **more)


def test_the_parts_are_the_kernels_end_to_end(explanation):
    parts = predicted_parts(explanation)
    assert [p.start_ms for p in parts] == [0.0, 0.3]
    assert [p.share for p in parts] == pytest.approx([0.75, 0.25])


def test_the_page_says_what_is_predicted_and_escapes_names(explanation):
    html = page(explanation, note="of <another> device", peak_memory_bytes=2_000_000)
    body = html.partition("<body>")[2]
    assert "net&lt;b&gt; is predicted to take 0.500 ms" in body
    assert "90% interval 0.400 to 0.600 ms" in body
    assert "75.0 %" in body and "2.00 MB" in body
    assert "of &lt;another&gt; device" in body and "<another>" not in body
    assert "<td class=text>&lt;script&gt;</td>" in body
    assert "What is not known" in body and "Relu 1×20" in body
    assert html == page(explanation, note="of <another> device", peak_memory_bytes=2_000_000)


def test_suggestions_stand_with_what_they_save(explanation):
    proto = conv_stack(np.random.default_rng(0), 1, n_layers=1, channels=8, size=8)
    edit = Edit("depth", "leave out <one>", make_model(proto, name="toy"))
    faster = Explanation(0.25, 0.2, 0.3, 1.0, explanation.kernels[:1])
    body = page(explanation, suggestions=[Suggestion(edit, explanation, faster)])
    assert "leave out &lt;one&gt;" in body and "50.0 %" in body and "train it again" in body
    assert "What would make it faster" not in page(explanation)


def test_a_network_that_was_folded_away_has_a_page_too():
    body = predict_page(
        "nothing", TARGET, 0.9, Explanation(0.01, 0.01, 0.02, 1.0, ()), blocks=[], kinds=[]
    )
    assert "no kernel runs" in body
