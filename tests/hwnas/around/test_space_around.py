"""What may be asked of a space around a model, and what is said when it cannot be made."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hwnas.around import space_around
from hwnas.around.choices import options_of
from hwnas.networks import Network
from hwnas.spaces.base import SpaceError


def names(space):
    return [choice.name for choice in space.choices]


def test_widths_are_multiples_of_eight_where_there_are_enough():
    assert options_of(64, (0.25, 0.5, 0.75, 1.0)) == (16, 32, 48, 64)
    assert options_of(24, (0.25, 0.5, 0.75, 1.0)) == (8, 16, 24)  # 6 and 12 and 18, rounded
    assert options_of(12, (0.25, 0.5)) == (3, 6, 12)
    assert options_of(3, (0.1, 0.5)) == (1, 2, 3)
    assert options_of(100, (0.5,)) == (48, 100)


def test_what_is_not_wanted_is_no_choice(make_model):
    model, x = make_model("resnet")
    found = names(space_around(model, x, kernel_sizes=False, depths=False))
    assert found and all(name.endswith(".width") for name in found)
    found = names(space_around(model, x, widths=(1.0,)))
    assert found == ["conv1.kernel_size", "layer1.0.depth", "layer2.1.depth"]


def test_excluded_layers_stay_as_they_are(make_model):
    model, x = make_model("resnet")
    found = names(space_around(model, x, exclude=["conv1", "layer2.*"]))
    assert found == ["layer1.0.depth", "layer1.0.conv1.width", "layer1.1.conv1.width"]
    found = names(space_around(model, x, exclude=["layer1.1"]))  # all within it, and its stream
    assert "layer1.1.conv1.width" not in found and "conv1.width" not in found
    assert "layer1.0.depth" in found


def test_an_excluded_layer_that_is_not_there_is_an_error(make_model):
    model, x = make_model("resnet")
    with pytest.raises(
        SpaceError, match=r"unknown layer in exclude 'layer1.0.conv3'; did you mean"
    ):
        space_around(model, x, exclude=["layer1.0.conv3"])


def test_blocks_and_pairs_of_layers_in_a_loop_can_go_one_by_one(make_case):
    _, _, space = make_case("loops")
    depths = {c.name: c.options for c in space.choices if c.name.endswith(".depth")}
    assert depths == {"blocks.blocks.0.depth": (2, 3, 4), "layers.pairs.0.depth": (1, 2, 3)}


def test_attention_and_mlp_of_a_layer_go_together(make_case):
    for name, depth in (
        ("vision_transformer", "layers.0.depth"),
        ("encoder", "layers.layers.0.depth"),
    ):
        _, _, space = make_case(name)
        found = {c.name: c.options for c in space.choices if c.name.endswith(".depth")}
        assert found == {depth: (1, 2)}


def test_whole_heads_go_of_pytorchs_own_attention(make_case):
    _, _, space = make_case("encoder")
    (heads,) = (c for c in space.choices if c.name == "layers.layers.0.self_attn.heads")
    assert heads.options == (1, 2, 3, 4)


def test_a_model_laid_out_channels_last_is_followed_up_to_rounding(make_model):
    model, x = make_model("resnet")
    model = model.to(memory_format=torch.channels_last)
    space = space_around(model, x.contiguous(memory_format=torch.channels_last))
    assert space.size > 1


def test_batch_norms_that_average_over_all_batches_go_on_doing_so():
    norm = nn.BatchNorm2d(16, momentum=None)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(576, 4))
    space = space_around(model, torch.randn(2, 3, 8, 8))
    module = space.architecture((0,) * len(space.choices)).blocks[0].build((3, 8, 8))
    (own,) = (layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d))
    module.train()(torch.randn(4, 3, 8, 8))
    assert own.momentum is None and own.running_mean.abs().sum() > 0


def test_the_same_gradients_up_to_rounding_make_the_same_space():
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 4))
    batches = [(torch.randn(33, 64), torch.arange(33) % 4)]
    found = set()
    n_threads = torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            taylor = space_around(model, batches[0][0], importance="taylor", batches=batches)
            found.add(taylor.fingerprint)
    finally:
        torch.set_num_threads(n_threads)
    others = [(inputs + 1, labels) for inputs, labels in batches]
    other = space_around(model, batches[0][0], importance="taylor", batches=others)
    assert len(found) == 1 and other.fingerprint not in found


class Reversed(nn.Module):
    """Features are turned round between two layers: nothing that widths are followed through."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x):
        x = torch.flip(functional.relu(self.first(x)), dims=[1])
        return self.last(self.second(x))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.mix = nn.Conv1d(2, 32, 3), nn.Conv1d(32, 16, 1)
        self.memory = nn.LSTM(16, 8, batch_first=True)
        self.classes = nn.Linear(8, 3)

    def forward(self, x):
        y, _ = self.memory(self.mix(self.wide(x).relu()).transpose(1, 2))
        return self.classes(y[:, -1])


@pytest.mark.parametrize(
    ("model", "shape", "message", "exclude", "left"),
    [
        (Reversed(), (4,), r"flip in 'the forward'.*exclude=\['first'\]", ["first"],
         ["second.width"]),
        (Recurrent(), (2, 9), r"lstm in 'memory'.*exclude=\['mix'\]", ["mix"], ["wide.width"]),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_named_with_what_to_exclude(
    model, shape, message, exclude, left
):
    x = torch.randn(3, *shape)
    with pytest.raises(SpaceError, match=message):
        space_around(model, x)
    space = space_around(model, x, exclude=exclude)
    assert names(space) == left
    network = Network(space.architecture((0,))).eval()
    assert network(torch.randn(5, *shape)).shape[0] == 5


class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x) if x.sum() > 0 else x


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 4)

    def forward(self, x):
        y = self.first(x)
        y[:, :8] += 1
        return self.last(y)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (nn.Sequential(Deciding()), torch.ones(2, 4),
         r"torch.export cannot follow '0' \(.*test_space_around.py:\d+\).*decide by values"),
        (InPlace(), torch.ones(2, 4), r"give other outputs than it.*write in place"),
        (nn.Sequential(nn.ReLU(), nn.Linear(4, 4)), torch.ones(2, 4), r"nothing of Sequential"),
        (nn.Linear(4, 4), torch.ones(4), r"must be a batch \(n, ...\) of float32.*got \(4,\)"),
        (nn.Linear(4, 4).double(), torch.ones(2, 4).double(), r"got \(2, 4\) of float64"),
        (nn.Linear(4, 4), torch.ones(2, 5), r"torch.export cannot follow"),
        (nn.LSTM(4, 4), torch.ones(2, 3, 4), r"nothing of LSTM can be smaller"),
    ],
)  # fmt: skip
def test_a_model_that_no_space_can_be_made_around_is_told_in_one_message(model, x, message, capfd):
    with pytest.raises(SpaceError, match=message):
        space_around(model, x)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"widths": (0.5, 1.5)}, r"shares above 0 and at most 1, got \(0.5, 1.5\)"),
        ({"widths": ()}, r"shares above 0"),
        ({"importance": "l3"}, r"unknown importance 'l3'.*l1"),
        ({"importance": "taylor"}, r"'taylor' needs batches"),
    ],
)
def test_arguments_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        space_around(nn.Linear(4, 4), torch.ones(2, 4), **given)


def test_many_widths_of_one_part_share_a_choice():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.branches = nn.ModuleList(nn.Linear(4, 32) for _ in range(6))
            self.last = nn.Linear(6 * 32, 2)

        def forward(self, x):
            return self.last(torch.cat([branch(x) for branch in self.branches], dim=1))

    space = space_around(Wide(), torch.ones(2, 4))  # 4^6 are more than 2048
    assert [(c.name, c.options) for c in space.choices] == [
        ("branches.width_share", (0.25, 0.5, 0.75, 1.0))
    ]
    network = Network(space.architecture((1,)))
    assert network(torch.ones(2, 4)).shape == (2, 2)
    assert sum(p.numel() for p in network.parameters()) == 6 * (16 * 5) + 6 * 16 * 2 + 2


class Joining(nn.Module):
    """Layers that join what they add to all that was there, as in DenseNet."""

    def __init__(self, n_layers=12, growth=16):
        super().__init__()
        inputs = [3 + growth * i for i in range(n_layers)]
        self.layers = nn.ModuleList(nn.Conv2d(n, growth, 3, padding=1) for n in inputs)
        self.head = nn.Linear(3 + growth * n_layers, 5)

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, torch.relu(layer(x))], dim=1)
        return self.head(x.mean((2, 3)))


def test_a_network_that_joins_on_and_on_reads_no_more_combinations_than_can_be_listed():
    model, x = Joining().eval(), torch.randn(1, 3, 8, 8)
    space = space_around(model, x, kernel_sizes=False, depths=False)
    assert 3 < len(space.choices) < 12  # the later layers follow
    rng = np.random.default_rng(0)
    for genotype in map(tuple, space.sample(rng, 5).tolist()):
        network = Network(space.architecture(genotype)).eval()
        assert network(x).shape == (1, 5)
    largest = tuple(n - 1 for n in space.n_options)
    torch.testing.assert_close(Network(space.architecture(largest)).eval()(x), model(x))
    assert len(space.slot_tables) == len(space.slots)


def test_mutation_and_crossover_stay_in_the_space(make_case):
    _, _, space = make_case("resnet")
    rng = np.random.default_rng(0)
    first, second = (space.sample(rng, 1000) for _ in range(2))
    for children in (space.mutate(first, rng), space.crossover(first, second, rng)):
        assert space.is_valid(children).all()
        assert (children < np.array(space.n_options)).all()
    for row in children[:3].tolist():
        Network(space.architecture(tuple(row)))
