import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profilers.kernels import Kernel, Tensor, macs


def floats(*shapes):
    return tuple(Tensor("float", shape) for shape in shapes)


scalars = st.one_of(
    st.integers(-(2**40), 2**40), st.floats(allow_nan=False, width=32), st.text(max_size=8)
)
tensors = st.builds(
    Tensor, st.sampled_from(["float", "int64", "bool"]), st.lists(st.integers(0, 99)).map(tuple)
)
kernels = st.builds(
    Kernel,
    st.text(max_size=12),
    st.dictionaries(st.text(max_size=5), st.one_of(scalars, st.lists(scalars).map(tuple))).map(
        lambda attributes: tuple(sorted(attributes.items()))
    ),
    st.lists(tensors, max_size=4).map(tuple),
    st.lists(tensors, max_size=2).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(kernels)
def test_a_key_gives_the_kernel_back(kernel):
    again = Kernel.from_key(kernel.key)
    assert again == kernel
    assert again.key == kernel.key


def test_anything_that_changes_the_cost_changes_the_key():
    base = Kernel("Conv", (("group", 1),), floats((1, 4, 8, 8), (4, 4, 1, 1)), floats((1, 4, 8, 8)))
    others = [
        Kernel("FusedConv", base.attributes, base.inputs, base.outputs),
        Kernel("Conv", (("group", 2),), base.inputs, base.outputs),
        Kernel("Conv", base.attributes, floats((2, 4, 8, 8), (4, 4, 1, 1)), base.outputs),
        Kernel("Conv", base.attributes, base.inputs, (Tensor("float16", (1, 4, 8, 8)),)),
    ]
    assert len({kernel.key for kernel in (base, *others)}) == 5


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        # every one of 1·32·8·8 outputs needs 16·3·3 products
        (
            Kernel("Conv", (), floats((1, 16, 8, 8), (32, 16, 3, 3), (32,)), floats((1, 32, 8, 8))),
            32 * 64 * 16 * 9,
        ),
        # 4 groups: each output sees 16 / 4 channels
        (
            Kernel(
                "Conv", (("group", 4),), floats((1, 16, 8, 8), (32, 4, 3, 3)), floats((1, 32, 8, 8))
            ),
            32 * 64 * 4 * 9,
        ),
        # depthwise
        (
            Kernel(
                "com.microsoft.nchwc:Conv",
                (("group", 16),),
                floats((2, 16, 8, 8), (16, 1, 3, 3)),
                floats((2, 16, 4, 4)),
            ),
            2 * 16 * 16 * 9,
        ),
        # every one of 1·4·5·5 inputs is spread over 6·2·2 outputs
        (
            Kernel("ConvTranspose", (), floats((1, 4, 5, 5), (4, 6, 2, 2)), floats((1, 6, 10, 10))),
            4 * 25 * 6 * 4,
        ),
        (Kernel("Gemm", (("transB", 1),), floats((2, 5), (7, 5)), floats((2, 7))), 2 * 5 * 7),
        (Kernel("Gemm", (("transA", 1),), floats((5, 2), (5, 7)), floats((2, 7))), 2 * 5 * 7),
        (Kernel("MatMul", (), floats((3, 2, 5), (3, 5, 7)), floats((3, 2, 7))), 3 * 2 * 5 * 7),
        (Kernel("MatMul", (), floats((5,), (5, 7)), floats((7,))), 5 * 7),
        (
            Kernel(
                "com.microsoft:FusedMatMul",
                (("transA", 1),),
                floats((3, 5, 2), (3, 5, 7)),
                floats((3, 2, 7)),
            ),
            3 * 2 * 5 * 7,
        ),
        # 6 steps, batch 2, input 3, hidden 4: four gates of (3 + 4) · 4 products
        (
            Kernel("LSTM", (), floats((6, 2, 3), (1, 16, 3), (1, 16, 4)), floats((6, 1, 2, 4))),
            6 * 2 * 4 * (3 + 4) * 4,
        ),
        # weights behind the input, its scale and its zero point; channels last changes nothing
        (
            Kernel(
                "com.microsoft:QLinearConv",
                (("channels_last", 1),),
                floats((1, 8, 8, 16), (), (), (32, 16, 3, 3), (32,), (32,), (), ()),
                floats((1, 8, 8, 32)),
            ),
            32 * 64 * 16 * 9,
        ),
        (
            Kernel("QLinearMatMul", (), floats((3, 2, 5), (), (), (3, 5, 7)), floats((3, 2, 7))),
            3 * 2 * 5 * 7,
        ),
        (
            Kernel(
                "com.microsoft:QGemm",
                (("transB", 1),),
                floats((2, 5), (), (), (7, 5)),
                floats((2, 7)),
            ),
            2 * 5 * 7,
        ),
        (
            Kernel(
                "com.microsoft:DynamicQuantizeMatMul", (), floats((2, 5), (5, 7)), floats((2, 7))
            ),
            2 * 5 * 7,
        ),
        # 2 examples, 6 queries of 8 numbers meet 9 keys; 6 outputs of 4 numbers from 9 values
        (
            Kernel(
                "com.microsoft:MultiHeadAttention",
                (("num_heads", 2),),
                floats((2, 6, 8), (2, 9, 8), (2, 9, 4)),
                floats((2, 6, 4)),
            ),
            2 * (6 * 8 * 9 + 6 * 4 * 9),
        ),
        # the same with two heads before the length: 4 and 2 numbers a head
        (
            Kernel(
                "Attention",
                (),
                floats((2, 2, 6, 4), (2, 2, 9, 4), (2, 2, 9, 2)),
                floats((2, 2, 6, 2)),
            ),
            2 * (6 * 8 * 9 + 6 * 4 * 9),
        ),
        # 2 examples of 6 rows of 5: projected to 3·4, then 6·6 products of 4 numbers, twice
        (
            Kernel("com.microsoft:Attention", (), floats((2, 6, 5), (5, 12)), floats((2, 6, 4))),
            2 * 6 * 5 * 12 + 2 * (2 * 6 * 6 * 4),
        ),
        # OpenVINO: 4 groups of 8 outputs that each see 4 channels
        (
            Kernel(
                "Convolution", (), floats((1, 16, 8, 8), (4, 8, 4, 3, 3)), floats((1, 32, 8, 8))
            ),
            32 * 64 * 4 * 9,
        ),
        (
            Kernel("Convolution", (), floats((1, 16, 8, 8), (32, 16, 3, 3)), floats((1, 32, 8, 8))),
            32 * 64 * 16 * 9,
        ),
        (Kernel("FullyConnected", (), floats((2, 5), (7, 5), (7,)), floats((2, 7))), 2 * 5 * 7),
        (
            Kernel(
                "Deconvolution", (), floats((1, 4, 5, 5), (2, 2, 3, 2, 2)), floats((1, 6, 10, 10))
            ),
            4 * 25 * 3 * 4,
        ),
        # batch 2, 6 steps, input 3, hidden 4: state, cell state and lengths before the weights
        (
            Kernel(
                "RNNSeq",
                (),
                floats((2, 6, 3), (2, 1, 4), (2, 1, 4), (2,), (1, 16, 3), (1, 16, 4), (1, 16)),
                floats((2, 6, 4)),
            ),
            6 * 2 * 4 * (3 + 4) * 4,
        ),
        # a loop with attention in it: 6 queries of 4, 6 keys; one without a product
        (
            Kernel(
                "Subgraph",
                (("inner", 6), ("operators", ("Multiply", "Softmax", "MatMul"))),
                floats((1, 2, 6, 4), (1, 2, 6, 4), (1, 2, 6, 4)),
                floats((1, 2, 6, 4)),
            ),
            2 * (2 * 6 * 6 * 4),
        ),
        (Kernel("Subgraph", (("operators", ("Add",)),), floats((1, 8)), floats((1, 8))), 0),
        # 2 heads, 6 queries of 4, 5 keys
        (
            Kernel(
                "Einsum",
                (("equation", "bhqd, bhkd -> bhqk"),),
                floats((1, 2, 6, 4), (1, 2, 5, 4)),
                floats((1, 2, 6, 5)),
            ),
            2 * 6 * 5 * 4,
        ),
        (
            Kernel(
                "Einsum",
                (("equation", "...ij,jk->...ik"),),
                floats((3, 2, 6, 4), (4, 5)),
                floats((3, 2, 6, 5)),
            ),
            3 * 2 * 6 * 4 * 5,
        ),
        (Kernel("Einsum", (("equation", "ij->ji"),), floats((6, 4)), floats((4, 6))), 0),
        (
            Kernel(
                "com.microsoft:MatMulNBits",
                (("K", 64), ("N", 32)),
                floats((1, 7, 64), (32, 2, 16)),
                floats((1, 7, 32)),
            ),
            7 * 64 * 32,
        ),
        (Kernel("Relu", (), floats((1, 8)), floats((1, 8))), 0),
        (Kernel("SequenceEmpty", (), (), ()), 0),
    ],
)
def test_macs_by_hand(kernel, expected):
    assert macs(kernel) == expected


def test_bytes_follow_the_element_type():
    kernel = Kernel("Cast", (), (Tensor("int64", (2, 3)),), (Tensor("bool", (2, 3)),))
    assert kernel.n_bytes == 6 * 8 + 6 * 1
    assert Tensor("float", ()).n_bytes == 4  # a scalar
    assert Tensor("float", (0, 7)).n_bytes == 0
    assert Tensor("a type of tomorrow", (2,)).n_bytes == 8


def test_attributes_and_the_fused_activation():
    kernel = Kernel("Conv", (("activation", "Relu"), ("group", 2)), (), ())
    assert kernel.activation == "Relu"
    assert kernel.attribute("group") == 2
    assert kernel.attribute("pads", ()) == ()
    assert Kernel("Conv", (), (), ()).activation is None


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (
            Kernel("com.microsoft:FusedMatMul", (), floats((2, 3), (3, 4)), floats((2, 4))),
            "FusedMatMul 2×3, 3×4 → 2×4",
        ),
        (
            Kernel("Gemm", (), floats((2, 3), (3, 4), (4,)), floats((2, 4))),
            "Gemm 2×3, 3×4 → 2×4",  # a bias says nothing
        ),
        (Kernel("Relu", (), floats((8,)), floats((8,))), "Relu 8 → 8"),
        (Kernel("Sqrt", (), floats(()), floats(())), "Sqrt scalar → scalar"),
        (Kernel("RandomNormal", (), (), floats((2, 2))), "RandomNormal → 2×2"),
    ],
)
def test_description_for_people(kernel, expected):
    assert kernel.describe() == expected


def test_elements_are_the_product_of_the_dimensions():
    assert Tensor("float", (2, 3, 4)).n_elements == math.prod((2, 3, 4))
