import pytest

from hwnas.baselines import plain_cnn
from hwnas.blocks import ClassifierHead
from hwnas.networks import counts


@pytest.mark.parametrize(
    ("size", "channels"),
    [
        (4, [32, 64, 128]),  # two strides at least
        (8, [32, 64, 128]),
        (28, [32, 64, 128]),  # 28, 14, 7
        (32, [32, 64, 128, 256]),  # 32, 16, 8, 4
        (224, [32, 64, 128, 256, 256, 256]),  # 224, 112, 56, 28, 14, 7
    ],
)
def test_channels_double_with_each_stride_until_the_map_is_small(size, channels):
    *blocks, head = plain_cnn((3, size, size), 10).blocks
    assert [block.out_channels for block in blocks] == channels
    assert [block.stride for block in blocks] == [1] + [2] * (len(blocks) - 1)
    assert head == ClassifierHead(channels[-1], 10, "relu")


def test_it_takes_the_images_of_the_data():
    architecture = plain_cnn((1, 28, 28), 7)
    assert architecture.input_shape == (1, 28, 28)
    assert counts(architecture).out_shape == (7,)
