import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors.features import (
    FEATURES,
    N_SCALED,
    group,
    kernel_features,
    moved_bytes,
    read_bytes,
    scaled_features,
    weight_bytes,
    work,
)
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
    scaled = scaled_features(found)
    assert scaled.shape == (len(found), N_SCALED)
    assert np.isfinite(scaled).all()
    assert all(group(kernel).startswith(kernel.kind) for kernel in found)


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
        "log_macs_per_byte": math.log1p(32 * 64 * 16 * 9 / kernel.n_bytes),
        "log_out_width": math.log1p(8),
        "log_in_padding": 0.0,  # only blocked layouts pad
        "log_out_padding": 0.0,
        "log_set_padding": 0.0,
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


def test_blocked_convolutions_do_the_work_of_whole_blocks(make_conv):
    plain = make_conv(20, 40, 8)
    blocked = replace(plain, kind="com.microsoft.nchwc:Conv")
    n_macs = 40 * 64 * 20
    assert macs(blocked) == n_macs
    assert work([plain])[0, 1] == n_macs
    assert work([blocked])[0, 1] == pytest.approx(48 * 64 * 32)
    for name, padding in (("in", 32 / 20), ("out", 48 / 40), ("set", 64 / 48)):
        assert column(blocked, f"log_{name}_padding") == pytest.approx(math.log(padding)), name
    assert group(blocked) == "com.microsoft.nchwc:Conv/pointwise"
    image = replace(make_conv(3, 32, 8, kernel_size=3), kind="com.microsoft.nchwc:Conv")
    assert group(image) == "com.microsoft.nchwc:Conv/thin"
    assert work([image])[0, 1] == macs(image)


def test_a_distance_of_one_is_much_and_the_last_column_is_the_activation(make_conv):
    one, other = make_conv(16, 32, 8), make_conv(16, 32, 8, activation="HardSwish")
    wider = make_conv(32, 32, 8)
    scaled = scaled_features([one, other, wider])
    assert (scaled[0, :-1] != scaled[1, :-1]).sum() == 1  # the activation, also as a rank
    assert scaled[:, -1].tolist() == [1, 3, 1]
    assert 0.1 < np.linalg.norm(scaled[2] - scaled[0]) < 1  # twice the channels are still alike


def test_weights_are_what_is_multiplied_with(make_conv, make_elementwise):
    assert weight_bytes(make_conv(16, 32, 8, kernel_size=3)) == 4 * 16 * 32 * 9
    assert weight_bytes(make_elementwise(16, 8)) == 0
    x, w, one = Tensor("uint8", (1, 16, 8, 8)), Tensor("int8", (32, 16, 3, 3)), Tensor("float", ())
    y = Tensor("uint8", (1, 32, 8, 8))
    zero = Tensor("uint8", ())
    quantized = Kernel("QLinearConv", (), (x, one, zero, w, one, zero, one, zero), (y,))
    assert weight_bytes(quantized) == 16 * 32 * 9
    assert column(quantized, "log_weight_bytes") == math.log1p(16 * 32 * 9)
    assert column(quantized, "log_kernel_area") == math.log1p(9)


def tensors_of(*shapes):
    return tuple(Tensor("float", shape) for shape in shapes)


def test_weights_of_recurrent_kernels_are_those_of_inputs_and_of_states():
    inputs = tensors_of((9, 1, 8), (1, 64, 8), (1, 64, 16), (1, 128))
    lstm = Kernel("LSTM", (), inputs, tensors_of((9, 1, 1, 16)))
    assert weight_bytes(lstm) == 4 * 64 * (8 + 16)


def test_keys_and_values_are_no_weights():
    queries, keys, scores = tensors_of((1, 4, 10, 16), (1, 4, 16, 10), (1, 4, 10, 10))
    product = Kernel("MatMul", (), (queries, keys), (scores,))
    assert weight_bytes(product) == 0
    assert column(product, "log_input_bytes") == math.log1p(queries.n_bytes + keys.n_bytes)
    whole = Kernel("MultiHeadAttention", (), tensors_of(*[(1, 10, 64)] * 3), (queries,))
    assert macs(whole)
    assert weight_bytes(whole) == 0
    packed = tensors_of((1, 10, 64), (64, 192), (192,))
    assert weight_bytes(Kernel("com.microsoft:Attention", (), packed, packed[:1])) == 4 * 64 * 192


@pytest.mark.parametrize("kind", ["Gather", "Slice"])
def test_of_a_table_only_the_rows_taken_are_read(kind):
    table, at, rows = (
        Tensor("float", (50_000, 64)),
        Tensor("int64", (10,)),
        Tensor("float", (10, 64)),
    )
    assert read_bytes(Kernel(kind, (), (table, at), (rows,))) == rows.n_bytes + at.n_bytes
    whole = Kernel("Add", (), (table, table), (table,))
    assert moved_bytes(whole) == whole.n_bytes


def test_onnx_runtime_lays_out_windows_as_columns_and_goes_from_group_to_group():
    x, y = Tensor("float", (1, 16, 10, 10)), Tensor("float", (1, 32, 8, 8))

    def terms(kind, n_groups, window):
        weight = Tensor("float", (32, 16 // n_groups, window, window))
        kernel = Kernel(kind, (("group", n_groups),), (x, weight), (y,))
        launches, _, moved = work([kernel])[0]
        return launches, moved - kernel.n_bytes

    columns = 2 * 16 * 9 * 64 * 4
    assert terms("Conv", 1, 3) == (1, columns)
    assert terms("com.microsoft:FusedConv", 4, 3) == (4, columns)
    assert terms("Conv", 4, 1) == (4, 0)  # windows of one position are columns already
    assert terms("Conv", 16, 3) == (1, 0)  # depthwise: code of its own
    for kind in ("com.microsoft.nchwc:Conv", "Convolution"):
        assert terms(kind, 4, 3) == (1, 0)


X, DEPTHWISE = Tensor("float", (1, 16, 8, 8)), Tensor("float", (16, 1, 3, 3))
GROUPED = Tensor("float", (16, 4, 3, 3))


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (Kernel("Relu", (), (X,), (X,)), "Relu"),
        (Kernel("Conv", (), (X, Tensor("float", (8, 16, 1, 1))), (X,)), "Conv/pointwise"),
        (Kernel("Conv", (), (X, Tensor("float", (8, 16, 3, 3))), (X,)), "Conv/spatial"),
        (Kernel("Conv", (("group", 16),), (X, DEPTHWISE), (X,)), "Conv/depthwise"),
        (Kernel("Conv", (("group", 4),), (X, GROUPED), (X,)), "Conv/grouped"),
        (  # in blocks, groups are computed as any channels
            Kernel("com.microsoft.nchwc:Conv", (("group", 4),), (X, GROUPED), (X,)),
            "com.microsoft.nchwc:Conv/spatial",
        ),
        (
            Kernel("com.microsoft.nchwc:Conv", (("group", 16),), (X, DEPTHWISE), (X,)),
            "com.microsoft.nchwc:Conv/depthwise",
        ),
        (
            Kernel("QLinearConv", (("group", 4),), (X, X, X, GROUPED), (X,)),
            "QLinearConv/grouped",
        ),
        (
            Kernel("a.domain:Conv", (("kernel_shape", (1, 3)),), (X, DEPTHWISE), (X,)),
            "a.domain:Conv/spatial",
        ),
        (  # (group, out, in, h, w) says of itself that it is grouped
            Kernel("GroupConvolution", (), (X, Tensor("float", (16, 1, 1, 3, 3))), (X,)),
            "GroupConvolution/depthwise",
        ),
        (
            Kernel("GroupConvolution", (), (X, Tensor("float", (4, 4, 4, 3, 3))), (X,)),
            "GroupConvolution/grouped",
        ),
        (
            Kernel("QLinearConv", (), (X, X, X, Tensor("int8", (8, 16, 1, 1))), (X,)),
            "QLinearConv/pointwise",
        ),
        (Kernel("Conv", (), (X,), (X,)), "Conv"),  # of no weights nothing is known
        (Kernel("MatMul", (), tensors_of((1, 10, 64), (64, 32)), (X,)), "MatMul"),
        (Kernel("MatMul", (), tensors_of((4, 10, 64), (4, 64, 10)), (X,)), "MatMul/batched"),
        (Kernel("Transpose", (("perm", (0, 2, 1, 3)),), (X,), (X,)), "Transpose/rows"),
        (Kernel("Transpose", (("perm", (0, 2, 3, 1)),), (X,), (X,)), "Transpose"),
        (Kernel("Transpose", (), (X,), (X,)), "Transpose"),
    ],
)
def test_kernels_of_a_group_run_the_same_code(kernel, expected):
    assert group(kernel) == expected
