import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors.features import EXTENT, FEATURES, kernel_features, work
from profilers.kernels import Kernel, Tensor, macs

tensors = st.builds(
    Tensor,
    st.sampled_from(["float", "int64", "string"]),
    st.lists(st.integers(0, 2000), max_size=5).map(tuple),
)
kernels = st.builds(
    Kernel,
    st.sampled_from(["Relu", "Add", "a.domain:Custom", ""]),
    st.sampled_from([(), (("group", 0),), (("strides", ()),), (("kernel_shape", (3, 3)),)]),
    st.lists(tensors, max_size=4).map(tuple),
    st.lists(tensors, max_size=2).map(tuple),
)


def column(kernel, name):
    return kernel_features([kernel])[0, FEATURES.index(name)]


@settings(max_examples=150, deadline=None)
@given(st.lists(kernels, max_size=4))
def test_every_kernel_has_finite_features(found):
    features = kernel_features(found)
    assert features.shape == (len(found), len(FEATURES))
    assert np.isfinite(features).all()
    assert work(found).shape == (len(found), 3)


@pytest.mark.parametrize("rank", range(6))
def test_every_rank_has_finite_features(rank):
    tensor = Tensor("float", (2, 3, 4, 5, 6)[:rank])
    kernel = Kernel("Relu", (), (tensor,), (tensor,))
    assert np.isfinite(kernel_features([kernel])).all()


def test_a_convolution_by_hand(make_conv):
    kernel = make_conv(16, 32, 8, kernel_size=3)
    assert macs(kernel) == 32 * 64 * 16 * 9
    expected = {
        "log_macs": math.log1p(32 * 64 * 16 * 9),
        "log_input_bytes": math.log1p(4 * 16 * 64),
        "log_weight_bytes": math.log1p(4 * 32 * 16 * 9),
        "log_output_bytes": math.log1p(4 * 32 * 64),
        "log_in_channels": math.log1p(16),
        "log_out_channels": math.log1p(32),
        "log_out_positions": math.log1p(64),
        "log_kernel_area": math.log1p(9),
        "stride": 1.0,
        "log_channels_per_group": math.log1p(16),
        "is_depthwise": 0.0,
        "activation": 1.0,
        "n_inputs": 2.0,
    }
    for name, value in expected.items():
        assert column(kernel, name) == pytest.approx(value), name


def test_a_depthwise_convolution_is_told_from_others():
    x, w = Tensor("float", (1, 16, 8, 8)), Tensor("float", (16, 1, 3, 3))
    kernel = Kernel("Conv", (("group", 16), ("strides", (2, 2))), (x, w), (x,))
    assert column(kernel, "is_depthwise") == 1
    assert column(kernel, "stride") == 2
    assert column(kernel, "log_channels_per_group") == math.log1p(1)


def test_activations_rank_by_their_arithmetic(make_conv):
    order = [None, "Relu", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh", "one of tomorrow"]
    ranks = [column(make_conv(8, 8, 4, activation=name), "activation") for name in order]
    assert ranks == sorted(set(ranks))


def test_work_is_launch_macs_and_bytes(make_conv):
    kernel = make_conv(16, 32, 8)
    assert work([kernel]).tolist() == [[1, 32 * 64 * 16, kernel.n_bytes]]


def test_the_extent_is_made_of_sizes():
    assert all(FEATURES[i].startswith("log_") for i in EXTENT)
