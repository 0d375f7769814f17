import copy

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.networks import Network
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.supernet import Supernet, SupernetError
from hwnas.supernet.shared_weights import layouts, take
from hwnas.training import seeded


@pytest.fixture(scope="module")
def made():
    """The supernet of a space, drawn from a seed; made once."""
    known = {}

    def make(space):
        if space.name not in known:
            with seeded(0):
                known[space.name] = Supernet(space)
        return copy.deepcopy(known[space.name])

    return make


def genotypes(space, n=6):
    drawn = space.sample(np.random.default_rng(0), n)
    corners = [tuple(0 for _ in space.n_options), tuple(i - 1 for i in space.n_options)]
    return [*corners, *map(tuple, drawn.tolist())]


def test_an_extracted_subnet_gives_exactly_the_same_outputs(space, made, make_inputs):
    supernet = made(space)
    for genotype in genotypes(space):
        x = make_inputs(space, genotype)
        supernet.recalibrate(genotype, [make_inputs(space, genotype, seed) for seed in (1, 2)])
        network = supernet.extract(genotype)
        assert type(network) is Network and not network.training
        with torch.no_grad():
            y = supernet.eval()(x, genotype)
            assert torch.equal(network(x), y)
        assert y.shape == (8, 3) and y.isfinite().all()


def test_in_train_mode_a_subnet_computes_what_its_network_does(space, made, make_inputs):
    supernet = made(space)
    for genotype in genotypes(space):
        x = make_inputs(space, genotype)
        supernet.recalibrate(genotype, [x])
        network = supernet.extract(genotype).train()
        supernet.train()
        with seeded(3):
            y = supernet(x, genotype)
        with seeded(3):
            assert torch.allclose(network(x), y, atol=1e-6)


def test_every_part_of_every_block_lies_in_its_slots_tensor(space, made):
    supernet = made(space)
    weights = dict(supernet.named_parameters())
    for genotype in genotypes(space):
        supernet.recalibrate(genotype, ())
        network = supernet.extract(genotype)
        for (slot, _), module in zip(supernet.path(genotype), network.blocks, strict=True):
            parameters = dict(module.named_parameters())
            for name, layer, layout in layouts(module):
                key = f"{slot}/{name.replace('.', '/')}:{layer}"
                part = take(weights[key], supernet._layouts[key], layout)
                assert torch.equal(part, parameters[name])


def test_there_is_one_tensor_a_slot_and_name_of_the_largest_shape(made, image_space):
    shapes = {key: tuple(p.shape) for key, p in made(image_space).named_parameters()}
    assert shapes["0/conv/weight:Conv2d"] == (8, 1, 3, 3)
    assert shapes["1/expand/conv/weight:Conv2d"] == (16, 8, 1, 1)  # 8 channels, twice expanded
    assert shapes["1/filter/conv/weight:Conv2d"] == (16, 1, 5, 5)
    assert shapes["1/project/conv/weight:Conv2d"] == (16, 16, 1, 1)
    assert shapes["2/expand/conv/weight:Conv2d"] == (32, 16, 1, 1)
    assert shapes["2/gate/scale/squeeze/weight:Conv2d"] == (8, 32, 1, 1)
    assert shapes["3/classify/weight:Linear"] == (3, 16)


def test_an_lstm_and_a_gru_of_one_slot_share_nothing(made, token_space):
    keys = [key for key, _ in made(token_space).named_parameters() if "weight_ih" in key]
    assert sorted(keys) == ["2/cell/weight_ih_l0:GRU", "2/cell/weight_ih_l0:LSTM"]


def test_first_weights_are_drawn_like_those_of_a_network(made, image_space):
    supernet = made(image_space)
    largest = tuple(n - 1 for n in image_space.n_options)
    supernet.recalibrate(largest, ())
    network = supernet.extract(largest)
    with seeded(1):
        fresh = Network(image_space.architecture(largest))
    for (name, mine), (_, theirs) in zip(
        network.named_parameters(), fresh.named_parameters(), strict=True
    ):
        assert mine.isfinite().all()
        if mine.numel() > 200:
            assert (mine.std() / theirs.std()).item() == pytest.approx(1, abs=0.3), name
        if mine.ndim == 1:  # scales 1, biases 0
            assert torch.equal(mine, theirs), name
    with seeded(0):
        again = Supernet(image_space)
    assert all(
        torch.equal(a, b) for a, b in zip(supernet.parameters(), again.parameters(), strict=True)
    )


def test_gradients_reach_the_parts_of_a_subnet_and_nothing_else(made, image_space, make_inputs):
    supernet = made(image_space)
    smallest = (0, 0, 1, 0, 0, 0, 0, 0)  # depth 1, kernel 3, no expansion
    supernet(make_inputs(image_space, smallest), smallest).square().sum().backward()
    gradients = {key: p.grad for key, p in supernet.named_parameters()}
    filters = gradients["1/filter/conv/weight:Conv2d"]
    assert filters[:8, :, 1:4, 1:4].abs().min() > 0
    filters[:8, :, 1:4, 1:4] = 0
    assert not filters.any()
    assert gradients["1/expand/conv/weight:Conv2d"] is None
    assert gradients["2/filter/conv/weight:Conv2d"] is None


def test_training_a_subnet_changes_those_that_share_its_weights(made, image_space, make_inputs):
    supernet = made(image_space)
    narrow, wide = (0, 0, 1, 0, 1, 1, 0, 0), (0, 1, 1, 0, 1, 1, 0, 0)
    x = make_inputs(image_space, narrow)
    before = supernet(x, wide).detach()
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1)
    supernet(x, narrow).square().sum().backward()
    optimizer.step()
    assert not torch.allclose(supernet(x, wide), before)


def test_statistics_of_batch_norm_are_a_subnets_own(made, image_space, make_inputs):
    supernet = made(image_space)
    first, second = (0, 1, 2, 0, 1, 1, 1, 1), (0, 1, 2, 0, 0, 1, 1, 1)
    x = make_inputs(image_space, first)
    supernet.recalibrate(first, [x])
    with torch.no_grad():
        alone = supernet.eval()(x, first)
        supernet.recalibrate(second, [5 * x + 1])
        assert torch.equal(supernet(x, first), alone)
    assert not any("running" in key for key in supernet.state_dict())


def test_recalibrated_statistics_are_the_plain_mean_over_the_batches(
    made, image_space, make_inputs
):
    supernet = made(image_space)
    genotype = (0, 0, 0, 0, 0, 0, 0, 0)
    batches = [make_inputs(image_space, genotype, seed) for seed in (1, 2, 3)]
    supernet.recalibrate(genotype, batches)
    stem = supernet.extract(genotype).blocks[0]
    maps = [stem.conv(x) for x in batches]
    mean = torch.stack([m.mean(dim=(0, 2, 3)) for m in maps]).mean(dim=0)
    variance = torch.stack([m.var(dim=(0, 2, 3)) for m in maps]).mean(dim=0)
    torch.testing.assert_close(stem.norm.running_mean, mean)
    torch.testing.assert_close(stem.norm.running_var, variance)
    assert stem.norm.momentum == 0.1  # as it was


def test_without_recalibration_neither_outputs_nor_networks_are_given(
    made, image_space, make_inputs
):
    supernet = made(image_space).eval()
    genotype = (0,) * 8
    for ask in (lambda: supernet(make_inputs(image_space, genotype), genotype),
                lambda: supernet.extract(genotype)):  # fmt: skip
        with pytest.raises(SupernetError, match=r"call Supernet\.recalibrate"):
            ask()
    for forget in (
        supernet.train,
        lambda: supernet.load_state_dict(supernet.state_dict()),
        lambda: supernet.to(torch.float64).to(torch.float32),
    ):
        supernet.eval().recalibrate(genotype, [make_inputs(image_space, genotype)])
        supernet.extract(genotype)
        forget()
        with pytest.raises(SupernetError):
            supernet.extract(genotype)


def test_a_space_without_batch_norm_needs_no_recalibration(made, token_space, make_inputs):
    supernet = made(token_space).eval()
    genotype = (1, 1, 1, 1)
    x = make_inputs(token_space, genotype)
    assert torch.equal(supernet(x, genotype), supernet.extract(genotype)(x))


def test_buffers_of_blocks_are_kept(made, token_space):
    network = made(token_space).extract((1, 1, 0, 0))
    assert torch.equal(network.blocks[1].position, torch.linspace(-1, 1, 5)[:, None])


def test_running_a_supernet_leaves_the_random_state_alone(made, image_space, make_inputs):
    supernet = made(image_space)
    before = torch.get_rng_state()
    genotype = (0, 1, 2, 1, 1, 1, 1, 1)
    x = make_inputs(image_space, genotype)
    supernet(x, genotype)
    supernet.recalibrate(genotype, [x])
    supernet.extract(genotype)
    assert torch.equal(torch.get_rng_state(), before)


class Tied(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.there = nn.Linear(4, width, bias=False)
        self.back = nn.Linear(4, width, bias=False)
        self.back.weight = self.there.weight

    def forward(self, x):
        return self.there(x) @ self.back.weight


def _space(name, block_of, options):
    return SearchSpace(
        name, (Choice("option", options),), lambda o: (4,), (lambda o: block_of(o["option"]),)
    )


def test_tied_parameters_stay_tied(make_block):
    supernet = Supernet(_space("tied", make_block(Tied), (2, 3)))
    assert len(list(supernet.parameters())) == 1
    x = torch.randn(5, 4)
    weight = next(supernet.parameters())[:2]
    assert torch.allclose(supernet(x, (0,)), x @ weight.T @ weight)
    network = supernet.extract((0,))
    assert network.blocks[0].there.weight is network.blocks[0].back.weight
    assert torch.equal(network(x), supernet.eval()(x, (0,)))


def test_layers_that_cannot_share_weights_are_named(make_block):
    class Packed(nn.Linear):
        def __init__(self, width):
            super().__init__(4, width)
            if width == 6:
                self.packed_axes = {"weight": {0: 2}}

    with pytest.raises(ValueError, match=r"'weight' of .*cannot share weights.*different names"):
        Supernet(_space("packed", make_block(Packed), (4, 6)))
