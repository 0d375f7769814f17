"""The catalog: every space by its name, and what each of them promises to a search."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from hwnas.drawing import architecture_svg
from hwnas.errors import ConfigError
from hwnas.spaces.catalog import SPACES, describe_spaces, make_space

N_CLASSES = 10
# Small examples: an image, a signal, a row of a table; and 50 token ids.
EXAMPLES = [((1, 16, 16), None), ((2, 64), None), ((12,), None), ((16,), 50)]


@pytest.fixture(params=SPACES)
def name(request):
    return request.param


@pytest.fixture
def space(name):
    """Made for the first of the examples that it is for."""
    refused = []
    for shape, vocabulary in EXAMPLES:
        try:
            return make_space(name, shape, N_CLASSES, vocabulary=vocabulary)
        except ConfigError as error:
            refused.append(str(error))
    raise AssertionError(refused)


def test_a_space_has_the_name_that_it_is_found_by(name, space):
    assert space.name == name


def test_a_thousand_draws_mutants_and_children_are_valid_networks(space):
    rng = np.random.default_rng(0)
    drawn = space.sample(rng, 1000)
    mutants = space.mutate(drawn, rng)
    for rows in (drawn, mutants, space.crossover(drawn, mutants, rng)):
        assert rows.shape == (1000, len(space.choices))
        assert ((rows >= 0) & (rows < space.n_options)).all() and space.is_valid(rows).all()
        canonical = space.canonical(rows)
        assert (space.canonical(canonical) == canonical).all()
        assert space.is_valid(canonical).all()
    for row in mutants[:20].tolist():
        architecture = space.architecture(tuple(row))
        own = tuple(space.canonical(np.array([row]))[0].tolist())
        assert space.architecture(own) == architecture
        assert space.from_json(space.to_json(tuple(row))) == own


def test_neighbours_are_other_networks_one_option_away(space):
    own = space.canonical(space.sample(np.random.default_rng(1), 1))[0]
    around = space.neighbours(tuple(own.tolist()))
    assert len(around) > 0 and len(np.unique(around, axis=0)) == len(around)
    assert space.is_valid(around).all() and (space.canonical(around) == around).all()
    # A change may also make others active, or inactive; it is one of the choices that were active.
    is_active = space.active(own[None])[0]
    assert ((around != own) & is_active).any(axis=1).all()


def test_a_network_of_a_space_can_be_drawn(space):
    genotype = tuple(space.sample(np.random.default_rng(2), 1)[0].tolist())
    svg = architecture_svg(space.architecture(genotype), title=space.name)
    assert ElementTree.fromstring(svg).get("viewBox").startswith("0 0 760 ")


def test_spaces_have_fingerprints_of_their_own(space):
    assert re.fullmatch("[0-9a-f]{16}", space.fingerprint)
    others = {s.fingerprint for n in ("mobile", "resnet") if (s := make_space(n, (1, 8, 8), 10))}
    assert space.fingerprint not in others


def test_every_space_says_what_it_is_in_one_line():
    described = describe_spaces()
    assert described.keys() == SPACES.keys()
    assert all(20 < len(line) < 100 and line.endswith(".") for line in described.values())
    assert not any("`" in line for line in described.values())


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"'mobile' does not fit.*square.*got 28×32"):
        make_space("mobile", (1, 28, 32), 10)
    with pytest.raises(ConfigError, match=r"at least 8×8, got 7×7"):
        make_space("mobile", (1, 7, 7), 10)


def test_the_nearest_name_is_told():
    with pytest.raises(ConfigError, match=r"unknown space 'mobil'; did you mean 'mobile'\?"):
        make_space("mobil", (1, 8, 8), 10)


@pytest.mark.parametrize(
    ("name", "example", "told"),
    [
        ("mobile", EXAMPLES[2], "'mobile' is for images, .* rows, for which there is mlp"),
        ("mlp", EXAMPLES[1], "for rows, .* signals, for which there is wavenet and recurrent"),
        ("vit", EXAMPLES[3], "token sequences, for which there is text_transformer and gpt"),
    ],
)
def test_data_of_another_kind_are_refused_with_the_spaces_that_are_for_them(name, example, told):
    with pytest.raises(ConfigError, match=told):
        make_space(name, example[0], N_CLASSES, vocabulary=example[1])
