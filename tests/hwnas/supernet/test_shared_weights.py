"""Every part against one that is built by hand."""

import pytest
import torch
from torch import nn

from hwnas.supernet.shared_weights import Layout, layouts, take


def parts(large: nn.Module, small: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters of `large` that `small` would run on."""
    whole = {name: layout for name, _, layout in layouts(large)}
    parameters = dict(large.named_parameters())
    return {name: take(parameters[name], whole[name], part) for name, _, part in layouts(small)}


def run(small: nn.Module, tensors, *inputs):
    small.load_state_dict(tensors)
    y = small.eval()(*inputs)
    return y[0] if isinstance(y, tuple) else y


def test_the_whole_is_taken_without_a_copy_and_a_plain_part_as_a_view():
    linear = nn.Linear(6, 8)
    whole = {name: layout for name, _, layout in layouts(linear)}["weight"]
    assert take(linear.weight, whole, whole) is linear.weight
    part = take(linear.weight, whole, Layout(((3,), (2,))))
    assert torch.equal(part, linear.weight[:3, :2])
    assert part.data_ptr() == linear.weight.data_ptr()


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(("size", "start"), [(1, 3), (3, 2), (5, 1), (7, 0), (2, 2), (4, 1)])
def test_kernels_are_cropped_at_the_centre(dims, size, start):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    large = conv(8, 6, 7)
    found = parts(large, conv(5, 4, size))["weight"]
    centre = (slice(start, start + size),) * dims
    assert torch.equal(found, large.weight[(slice(4), slice(5), *centre)])


def test_a_small_kernel_computes_what_the_large_one_does_with_its_border_set_to_zero():
    large, small = nn.Conv2d(3, 4, 5, padding=2), nn.Conv2d(3, 4, 3, padding=1)
    x = torch.randn(2, 3, 9, 9)
    y = run(small, parts(large, small), x)
    with torch.no_grad():
        border = torch.ones(5, 5, dtype=torch.bool)
        border[1:4, 1:4] = False
        large.weight[..., border] = 0
    torch.testing.assert_close(y, large(x))


def test_depthwise_filters_are_the_leading_channels():
    large, small = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(4, 4, 3, groups=4)
    found = parts(large, small)
    assert torch.equal(found["weight"], large.weight[:4])


@pytest.mark.parametrize(("layer", "n_gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gates_of_recurrent_layers_are_taken_gate_by_gate(layer, n_gates, bidirectional):
    large = layer(6, 8, num_layers=2, batch_first=True, bidirectional=bidirectional)
    small = layer(4, 5, num_layers=2, batch_first=True, bidirectional=bidirectional)
    found = parts(large, small)
    own = dict(large.named_parameters())
    assert found.keys() == own.keys()
    n_directions = 1 + bidirectional
    for name, part in found.items():
        rows = torch.cat([torch.arange(5) + 8 * gate for gate in range(n_gates)])
        expected = own[name][rows]
        if "weight_ih_l0" in name:
            expected = expected[:, :4]
        elif "weight_ih" in name:  # it reads the directions of the layer before side by side
            columns = torch.cat([torch.arange(5) + 8 * d for d in range(n_directions)])
            expected = expected[:, columns]
        elif "weight_hh" in name:
            expected = expected[:, :5]
        assert torch.equal(part, expected), name


def test_a_smaller_lstm_computes_what_the_large_one_does_with_its_other_units_cut_off():
    large, small = nn.LSTM(3, 6, batch_first=True), nn.LSTM(3, 4, batch_first=True)
    x = torch.randn(2, 7, 3)
    y = run(small, parts(large, small), x)
    with torch.no_grad():
        large.weight_hh_l0[:, 4:] = 0  # the kept units do not hear the others
        torch.testing.assert_close(y, large(x)[0][..., :4])


def test_q_k_and_v_of_attention_are_taken_apart_and_heads_lead():
    large = nn.MultiheadAttention(12, 3, batch_first=True)
    small = nn.MultiheadAttention(8, 2, batch_first=True)  # two heads of the same 4 channels
    found = parts(large, small)
    for group in range(3):
        mine = found["in_proj_weight"][8 * group : 8 * (group + 1)]
        assert torch.equal(mine, large.in_proj_weight[12 * group : 12 * group + 8, :8])
        bias = found["in_proj_bias"][8 * group : 8 * (group + 1)]
        assert torch.equal(bias, large.in_proj_bias[12 * group : 12 * group + 8])
    assert torch.equal(found["out_proj.weight"], large.out_proj.weight[:8, :8])


def test_narrower_heads_are_the_leading_channels_of_each_head():
    large = nn.MultiheadAttention(12, 3)
    found = parts(large, nn.MultiheadAttention(6, 3))  # three heads of 2 channels instead of 4
    rows = torch.tensor([0, 1, 4, 5, 8, 9])
    assert torch.equal(found["in_proj_weight"][:6], large.in_proj_weight[rows][:, :6])
    assert torch.equal(found["in_proj_weight"][6:12], large.in_proj_weight[12 + rows][:, :6])
    assert torch.equal(found["out_proj.weight"], large.out_proj.weight[:6][:, rows])


class Joined(nn.Module):
    """Reads two inputs side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Linear(2 * channels, 4)
        self.packed_axes = {"mix.weight": {1: 2}}


def test_other_layers_say_which_axes_are_packed():
    large, small = Joined(5), Joined(3)
    found = parts(large, small)["mix.weight"]
    assert torch.equal(found, large.mix.weight[:, [0, 1, 2, 5, 6, 7]])


def test_packed_axes_that_a_parameter_does_not_have_are_an_error():
    layer = nn.Linear(5, 4)
    layer.packed_axes = {"weight": {1: 2}}
    with pytest.raises(ValueError, match=r"axis 1 of 'weight' holds \(2,\) groups.*size is 5"):
        list(layouts(layer))


def test_of_tied_parameters_the_first_name_counts():
    module = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    module["b"].weight = module["a"].weight
    assert [name for name, _, _ in layouts(module)] == ["a.weight"]


def test_gradients_of_a_packed_part_reach_the_shared_tensor_and_nothing_beside_it():
    large, small = nn.GRU(3, 4), nn.GRU(3, 2)
    parts(large, small)["weight_ih_l0"].sum().backward()
    expected = torch.zeros(12, 3)
    expected[[0, 1, 4, 5, 8, 9]] = 1
    assert torch.equal(large.weight_ih_l0.grad, expected)


def test_layouts_join_to_the_smallest_that_has_both_as_parts():
    a, b = Layout(((4, 8), (3,))), Layout(((4, 2), (5,)))
    joined = a.joined(b)
    assert joined == Layout(((4, 8), (5,)))
    assert joined.has_part(a) and joined.has_part(b)
    assert not a.has_part(b) and not b.has_part(a)
    assert not a.is_like(Layout(((32,), (3,))))
