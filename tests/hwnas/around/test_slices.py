"""Which weights a variant begins with, against slices that are made by hand."""

import pytest
import torch
from torch import nn

from hwnas.around import space_around
from hwnas.networks import Network


def variant(space, **options):
    """The network of those options, by what their names end with; of all others the last."""
    chosen = {choice.name: choice.options[-1] for choice in space.choices}
    for end, option in options.items():
        (name,) = [n for n in chosen if n.endswith(end.replace("__", "."))]
        chosen[name] = option
    genotype = [choice.index(chosen[choice.name]) for choice in space.choices]
    assert None not in genotype
    return Network(space.architecture(tuple(genotype))).eval()


def weights_of(network):
    """By their names in the model."""
    return {name.split(".", 2)[2]: value for name, value in network.state_dict().items()}


def make_important(layer, rows):
    """Let those rows of a layer have ten times the weights of the others."""
    with torch.no_grad():
        layer.weight[list(rows)] *= 10


def test_the_most_important_channels_stay_with_all_that_goes_with_them():
    conv, norm, after = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1)
    rows = [1, 2, 5, 6, 9, 11, 13, 14]
    make_important(conv, rows)
    with torch.no_grad():
        norm.running_mean.copy_(torch.arange(16))
        norm.weight.copy_(1 + torch.arange(16) / 100)
    space = space_around(nn.Sequential(conv, norm, nn.ReLU(), after), torch.zeros(1, 3, 6, 6))
    assert [(c.name, c.options) for c in space.choices] == [("0.width", (8, 16))]
    found = weights_of(variant(space, width=8))
    assert torch.equal(found["0.weight"], conv.weight[rows])
    assert torch.equal(found["0.bias"], conv.bias[rows])
    assert torch.equal(found["1.running_mean"], norm.running_mean[rows])
    assert torch.equal(found["1.weight"], norm.weight[rows])
    assert torch.equal(found["3.weight"], after.weight[:, rows])
    assert torch.equal(found["3.bias"], after.bias)


def test_a_flattened_channel_takes_its_positions_with_it():
    conv, linear = nn.Conv2d(1, 4, 1), nn.Linear(4 * 6, 5)
    make_important(conv, [1, 3])
    model = nn.Sequential(conv, nn.Flatten(), linear)
    found = weights_of(variant(space_around(model, torch.zeros(1, 1, 2, 3)), width=2))
    columns = [*range(6, 12), *range(18, 24)]  # channels 1 and 3, six positions each
    assert torch.equal(found["2.weight"], linear.weight[:, columns])


def test_joined_channels_are_counted_from_where_they_begin(make_model):
    model, x = make_model("branches")
    make_important(model.left, [0, 2, 4, 6, 8, 10, 12, 14])
    make_important(model.right, range(16, 24))
    space = space_around(model, x, importance="l1")
    found = weights_of(variant(space, left__width=8, right__width=8))
    channels = [0, 2, 4, 6, 8, 10, 12, 14, *range(16 + 16, 16 + 24)]
    assert torch.equal(found["depthwise.weight"], model.depthwise.weight[channels])
    assert torch.equal(found["mix.weight"], model.mix.weight[:, channels])


def test_groups_stay_or_go_whole(make_model):
    model, x = make_model("branches")
    with torch.no_grad():
        for layer in (model.grouped, model.norm):
            layer.weight[8:16] *= 20
            layer.weight[24:32] *= 20
    network = variant(space_around(model, x), mix__groups=2)
    rows = [*range(8, 16), *range(24, 32)]  # groups 1 and 3 of four
    found = weights_of(network)
    assert torch.equal(found["grouped.weight"], model.grouped.weight[rows])
    assert torch.equal(found["norm.weight"], model.norm.weight[rows])
    assert torch.equal(found["mix.weight"], model.mix.weight[rows])
    assert torch.equal(found["gate.weight"], model.gate.weight[:, rows])
    layers = [m for m in network.modules() if isinstance(m, nn.GroupNorm | nn.Conv2d)]
    assert [m.num_groups for m in layers if isinstance(m, nn.GroupNorm)] == [2]
    assert [m.groups for m in layers if m is not None and getattr(m, "groups", 1) == 2] == [2]


def test_attention_heads_stay_or_go_whole_in_q_k_and_v(make_model):
    model, x = make_model("vision_transformer")
    attention = model.layers[0]
    with torch.no_grad():
        attention.proj.weight[:, 0:8] *= 20
        attention.proj.weight[:, 16:24] *= 20
    found = weights_of(variant(space_around(model, x), layers__0__qkv__heads=2))
    own = [*range(8), *range(16, 24)]  # heads 0 and 2 of four with eight features each
    rows = [32 * part + i for part in range(3) for i in own]
    assert torch.equal(found["layers.0.qkv.weight"], attention.qkv.weight[rows])
    assert torch.equal(found["layers.0.proj.weight"], attention.proj.weight[:, own])
    assert torch.equal(found["layers.1.qkv.weight"], model.layers[1].qkv.weight)


def test_the_residual_stream_has_one_width(make_case):
    _, _, space = make_case("resnet")
    names = [choice.name for choice in space.choices]
    assert "conv1.width" in names  # of the stem and both blocks of the first stage
    assert not {"layer1.0.conv2.width", "layer1.1.conv2.width"}.intersection(names)
    found = weights_of(variant(space, layer2__0__downsample__0__width=8))
    assert len(found["layer2.0.downsample.0.weight"]) == len(found["layer2.1.conv2.weight"]) == 8


def test_a_block_that_is_left_out_hands_on_what_it_was_given(make_case):
    model, x, space = make_case("resnet")
    network = variant(space, layer1__0__depth=1, layer2__1__depth=0)
    model.eval()
    y = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    expected = model.fc(model.layer2[0](model.layer1[0](y)).mean((2, 3)))
    assert torch.equal(network(x), expected)


def test_a_smaller_kernel_is_the_centre_of_the_larger_one_and_needs_less_padding():
    conv = nn.Conv1d(2, 4, 7, padding=6, dilation=2)
    model = nn.Sequential(conv, nn.ReLU(), nn.Conv1d(4, 3, 1))
    space = space_around(model, torch.zeros(1, 2, 20), widths=(1.0,))
    assert [(c.name, c.options) for c in space.choices] == [("0.kernel_size", (3, 5, 7))]
    network = variant(space, kernel_size=3)
    assert torch.equal(weights_of(network)["0.weight"], conv.weight[:, :, 2:5])
    x = torch.randn(2, 2, 20)
    expected = nn.functional.conv1d(x, conv.weight[:, :, 2:5], conv.bias, padding=2, dilation=2)
    assert torch.equal(network(x), model[2](expected.relu()))


@pytest.mark.parametrize("padding", [0, 1])
def test_a_kernel_without_padding_to_spare_stays(padding):
    model = nn.Sequential(nn.Conv2d(1, 4, 5, padding=padding), nn.Flatten(), nn.LazyLinear(2))
    x = torch.zeros(1, 1, 8, 8)
    model(x)
    sizes = [c.options for c in space_around(model, x).choices if c.name == "0.kernel_size"]
    assert sizes == ([(3, 5)] if padding else [])  # a padding of 1 allows for two less


def test_layers_keep_their_names_and_what_is_frozen_stays_frozen(make_model):
    model, x = make_model("resnet")
    model.layer1.requires_grad_(False)
    network = Network(space_around(model, x).architecture((0,) * 9))
    parameters = {name.split(".", 2)[2]: p for name, p in network.named_parameters()}
    assert parameters.keys() < dict(model.named_parameters()).keys()
    frozen = {name for name, p in parameters.items() if not p.requires_grad}
    assert frozen == {name for name in parameters if name.startswith("layer1.")}


def test_what_is_done_to_the_model_later_does_not_change_its_space(make_model):
    model, x = make_model("sequential")
    model.train()
    space = space_around(model, x)
    assert all(module.training for module in model.modules())
    before = variant(space)(x)
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(variant(space)(x), before)


def test_dropout_and_batch_norm_train_as_they_do_in_the_model(make_model):
    model, x = make_model("sequential")
    network = variant(space_around(model, x)).train()
    model.train()
    torch.manual_seed(3)
    expected = model(x)
    torch.manual_seed(3)
    assert torch.equal(network(x), expected)
    assert torch.equal(weights_of(network)["1.running_var"], model[1].running_var)


def test_dropout_of_whole_channels_is_on_in_training():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(8 * 4, 5))
    x = torch.randn(2, 3, 4, 4)
    network = variant(space_around(model, x)).train()
    torch.manual_seed(3)
    expected = model.train()(x)
    torch.manual_seed(3)
    assert torch.equal(network(x), expected)
    assert torch.equal(network.eval()(x), model.eval()(x))
