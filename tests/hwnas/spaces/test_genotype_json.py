import json
import re

import numpy as np
import pytest

from hwnas.spaces.base import Choice, Constraint, SearchSpace, SpaceError


def block(*names):
    def slot(options):
        return tuple(options[name] for name in names)

    return slot


@pytest.fixture
def space():
    """The gate matters in the deeper network only, where it may not be wide and gated."""

    def second(options):
        return (options["width"], options["gate"]) if options["depth"] == 2 else None

    return SearchSpace(
        "small",
        (Choice("depth", (1, 2)), Choice("width", (8, 16)), Choice("gate", (False, True)),
         Choice("scale", (0.5, 1.0))),
        lambda options: (1, 8, 8),
        (block("width", "scale"), second),
        constraints=(
            Constraint("wide is not gated", lambda o: o["width"] == 8 or not o["gate"]),
        ),
    )  # fmt: skip


def test_a_genotype_is_written_by_the_active_options_and_read_again(space):
    written = space.to_json((0, 1, 1, 0))
    assert json.loads(written) == {"depth": 1, "width": 16, "scale": 0.5}
    assert space.from_json(written) == (0, 1, 0, 0)
    genotypes = space.all_genotypes()
    assert len(genotypes) == 4 + 6
    for row in genotypes:
        assert space.from_json(space.to_json(tuple(row))) == tuple(row)


def test_inactive_choices_may_be_missing_or_set_and_numbers_compare_by_value(space):
    for text in ('{"depth": 1, "width": 8, "scale": 1}',
                 '{"scale": 1.0, "gate": true, "width": 8, "depth": 1.0}'):  # fmt: skip
        assert space.from_json(text) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("depth=2", "a genotype must be JSON, an object such as"),
        ("[1, 0, 0, 0]", "must be an object such as {\"depth\": 2, \"width\": 16}, got [1, 0,"),
        ('{"dept": 1}', "unknown choice 'dept'; did you mean 'depth'?"),
        ('{"depth": 3}', "choice 'depth' must be one of [1, 2], got 3"),
        ('{"gate": 1}', "choice 'gate' must be one of [false, true], got 1"),
        ('{"depth": true}', "choice 'depth' must be one of [1, 2], got true"),
        ('{"width": [8]}', "choice 'width' must be one of [8, 16], got [8]"),
        ('{"width": null}', "choice 'width' must be one of [8, 16], got null"),
        ('{"depth": 2, "width": 8}',
         "missing: gate (one of [false, true]), scale (one of [0.5, 1.0])"),
        ('{"depth": 2, "width": 16, "gate": true, "scale": 1}',
         "'small' must meet the constraint 'wide is not gated', got width=16, gate=True"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_message(space, text, message):
    with pytest.raises(SpaceError, match=re.escape(message)):
        space.from_json(text)


def test_an_invalid_genotype_is_not_written(space):
    assert not space.is_valid(np.array([[1, 1, 1, 0]])).any()
    with pytest.raises(SpaceError, match="wide is not gated"):
        space.to_json((1, 1, 1, 0))
