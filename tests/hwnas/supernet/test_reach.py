from dataclasses import dataclass

import pytest
from torch import nn

from hwnas.networks import count
from hwnas.spaces.base import Choice, Constraint, SearchSpace
from hwnas.supernet import reach as module
from hwnas.supernet.reach import reach


def brute_force(space):
    """What stands at each slot in some network, by listing all genotypes."""
    sites = [set() for _ in space.slots]
    for row in space.all_genotypes():
        options = space.options(tuple(row.tolist()))
        shape, input_type = space.input_shape(options), space.input_type
        for found, slot in zip(sites, space.slots, strict=True):
            block = slot(options)
            if block is not None:
                found.add((block, shape, input_type))
                shape, input_type = count(block, shape, input_type).out_shape, "float32"
    return sites


def test_exactly_what_stands_in_some_network_is_met(space):
    found = reach(space)
    assert found.is_complete
    met = [{(s.block, s.in_shape, s.input_type) for s in sites} for sites in found.sites]
    assert met == brute_force(space)


def test_choices_that_change_a_shape_cannot_be_mixed(image_space, token_space):
    def names(space):
        return {space.choices[column].name for column in reach(space).keeping}

    # The first block widens the 8 channels of the stem to 16, or is left out.
    assert names(image_space) == {
        "squeeze_excite", "kernel_1", "expand_1", "kernel_2", "expand_2"
    }  # fmt: skip
    assert names(token_space) == {"attend", "cell"}


@dataclass(frozen=True)
class Wide:
    width: int

    def build(self, in_shape):
        return nn.Linear(in_shape[0], self.width)


@dataclass(frozen=True)
class Same:
    """Fits inputs of one width only."""

    width: int

    def build(self, in_shape):
        return nn.Linear(self.width, self.width)


def two_slots(**given):
    return SearchSpace(
        "two",
        (Choice("width", (4, 8)), Choice("inner", (4, 8))),
        lambda options: (3,),
        (lambda options: Wide(options["width"]), lambda options: Same(options["inner"])),
        **given,
    )


def test_a_block_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"Same\(width=8\) does not fit an input of shape \(4,\)"):
        reach(two_slots())


def test_what_constraints_rule_out_need_not_fit_and_their_choices_cannot_be_mixed():
    agree = Constraint("agree", lambda options: options["width"] == options["inner"])
    found = reach(two_slots(constraints=(agree,)))
    assert [len(sites) for sites in found.sites] == [2, 2]
    assert not found.keeping


def test_of_too_many_blocks_some_with_every_option_are_looked_at(image_space, monkeypatch):
    monkeypatch.setattr(module, "MAX_BLOCKS", 4)
    found = reach(image_space)
    assert not found.is_complete
    assert {site.block.kernel_size for site in found.sites[2]} == {3, 5}
    assert {site.block.expand_ratio for site in found.sites[2]} == {1, 2}


def test_of_too_many_states_some_are_left_out_but_every_pair_of_options_is_met(
    image_space, monkeypatch
):
    monkeypatch.setattr(module, "MAX_STEPS", 1)
    found = reach(image_space)
    assert not found.is_complete
    met = {site.block for site in found.sites[2]}
    assert len({(block.kernel_size, block.expand_ratio) for block in met}) == 4
    assert len({(block.kernel_size, block.out_channels) for block in met}) == 4
    largest = image_space.slots[2](image_space.options(tuple(n - 1 for n in image_space.n_options)))
    assert largest in met
