import pytest
import torch

from hwnas.baselines import MeanEmbedding, baselines, perceptron, plain_cnn, plain_signal_cnn
from hwnas.blocks import ClassifierHead
from hwnas.data import DataSet, Preprocessing, Split, load_data
from hwnas.networks import Network, counts


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


def test_it_takes_images_that_are_not_square():
    *blocks, _ = plain_cnn((1, 8, 30), 2).blocks
    assert [block.stride for block in blocks] == [1, 2, 2, 2]  # 30, 15, 8, 4


def test_a_signal_is_cut_to_a_quarter_until_few_steps_are_left():
    architecture = plain_signal_cnn((2, 512), 8)
    assert [block.out_channels for block in architecture.blocks[:-1]] == [32, 64, 128]  # 128, 32, 8
    assert counts(architecture).out_shape == (8,)
    assert len(plain_signal_cnn((1, 4), 2).blocks) == 2


def test_a_perceptron_without_hidden_layers_is_logistic_regression():
    assert counts(perceptron((30,), 3, n_hidden=0)).params == 30 * 3 + 3
    assert counts(perceptron((30,), 3, n_hidden=2)).params == 31 * 64 + 65 * 64 + 65 * 3


def test_padding_adds_nothing_to_the_mean_of_words():
    embed = MeanEmbedding(vocabulary=9, features=4).build((4,)).eval()
    with torch.no_grad():
        words, padded = embed(torch.tensor([[3, 5], [3, 5]])), embed(torch.tensor([[3, 5, 0, 0]]))
    torch.testing.assert_close(padded[0], words[0] / 2, atol=1e-4, rtol=1e-4)


def tokens():
    split = Split(torch.arange(60).view(12, 5) % 9, torch.arange(12) % 3)
    return DataSet("tokens", split, split, split, ("a", "b", "c"))


@pytest.mark.parametrize("name", ["digits", "wine", "melodies", "tokens"])
def test_every_kind_of_data_has_networks_that_take_it(name):
    data = tokens() if name == "tokens" else load_data(name)
    found = baselines(data)
    assert found
    for architecture in found.values():
        inputs = Preprocessing.of(data, architecture.input_shape).apply(data.train.inputs[:7])
        with torch.no_grad():
            logits = Network(architecture).eval()(inputs)
        assert logits.shape == (7, data.n_classes)
