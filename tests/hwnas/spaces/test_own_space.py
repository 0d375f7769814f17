"""A space of one's own: from a file of fifteen lines to a search."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from hwnas.errors import ConfigError
from hwnas.networks import Network, counts
from hwnas.spaces.base import SpaceError
from hwnas.spaces.catalog import make_space
from hwnas.strategies import Evolution, Problem, Trial
from hwnas.strategies.base import Costs

# The README shows this.
OWN_SPACE = """\
from dataclasses import dataclass
from torch import nn
from hwnas.blocks import ClassifierHead
from hwnas.spaces import Choice, Constraint, SearchSpace

@dataclass(frozen=True)
class Conv:
    width: int
    def build(self, in_shape):
        return nn.Sequential(nn.Conv2d(in_shape[0], self.width, 3, padding=1), nn.ReLU())

def space(input_shape, n_classes):
    choices = [Choice("depth", (1, 2, 3)), *(Choice(f"width_{i}", (8, 16, 32)) for i in (1, 2, 3))]
    convs = [lambda o, i=i: Conv(o[f"width_{i}"]) if i <= o["depth"] else None for i in (1, 2, 3)]
    slots = (*convs, lambda o: ClassifierHead(64, n_classes, "relu"))
    widens = Constraint("widths 1 and 2 ascend", lambda o: o["width_1"] <= o["width_2"])
    return SearchSpace("convs", tuple(choices), lambda o: input_shape, slots, constraints=(widens,))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, with the space of the README in `my_space.py`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_space.py").write_text(OWN_SPACE)
    yield tmp_path
    for module in ("my_space", "blocks_of_mine"):
        sys.modules.pop(module, None)


def test_fifteen_lines_are_a_space():
    assert len([line for line in OWN_SPACE.splitlines() if line]) <= 15


@pytest.mark.parametrize("name", ["my_space.py:space", "./my_space.py:space", "my_space:space"])
def test_the_networks_of_ones_own_space_run(folder, name):
    space = make_space(name, (1, 8, 8), 10)
    # By hand: 3 of one layer; 6 pairs of two; 6 · 3 of three.
    assert (space.size, space.n_architectures) == (81, 3 + 6 + 18)
    for row in space.sample(np.random.default_rng(0), 4):
        network = Network(space.architecture(tuple(row)))
        assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_search_of_ones_own_space_proposes_valid_networks_only(folder):
    space = make_space("my_space.py:space", (1, 8, 8), 10)

    def predict(genotypes):
        found = [counts(space.architecture(tuple(row))) for row in genotypes.tolist()]
        macs = np.array([one.macs for one in found])
        ms, known = macs / 1e6, np.ones(len(macs))
        return Costs(ms, ms, ms, known, macs, macs)

    strategy = Evolution(Problem(space, predict), seed=0, n_initial=6)
    asked = []
    for number in range(20):
        asked.append(strategy.ask())
        latency_ms = float(predict(np.array(asked[-1:])).latency_ms[0])
        strategy.tell(Trial(number, asked[-1], (1 / (1 + latency_ms), latency_ms)))
    assert space.is_valid(np.array(asked)).all() and len(set(asked)) == 20


def fingerprint(folder, old, new):
    """Of the space, after a change of its file."""
    path = folder / "my_space.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return make_space("my_space.py:space", (1, 8, 8), 10).fingerprint


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(8, 16, 32)", "(8, 16, 24)"),  # a choice
        ('o["depth"] else', 'o["depth"] + 1 else'),  # a slot
        ('o["width_1"] <= o', 'o["width_1"] >= o'),  # a constraint
        ("nn.ReLU()", "nn.GELU()"),  # what a block builds of the same fields
        ("ClassifierHead(64", "ClassifierHead(32"),  # a block that is not theirs
        ("lambda o: input_shape", "lambda o: (1, 16, 16)"),
    ],
)
def test_a_changed_file_is_another_space(folder, old, new):
    before = make_space("my_space.py:space", (1, 8, 8), 10).fingerprint
    assert re.fullmatch("[0-9a-f]{16}", before)
    assert fingerprint(folder, old, new) != before


def test_comments_and_layout_do_not_make_another_space(folder):
    before = make_space("my_space.py:space", (1, 8, 8), 10).fingerprint
    assert fingerprint(folder, "class Conv:", "# wide enough\nclass Conv:\n") == before


def test_the_fingerprint_is_the_same_in_every_process_and_another_for_other_data(folder):
    space = make_space("my_space.py:space", (1, 8, 8), 10)
    code = (
        "from hwnas.spaces.catalog import make_space\n"
        "print(make_space('my_space.py:space', (1, 8, 8), 10).fingerprint)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env=environment)  # fmt: skip
    assert told.stdout.strip() == space.fingerprint
    assert make_space("my_space.py:space", (3, 8, 8), 10).fingerprint != space.fingerprint
    assert make_space("my_space.py:space", (1, 8, 8), 9).fingerprint != space.fingerprint


def test_a_space_of_token_ids_is_told_how_many_there_are(folder):
    (folder / "tokens.py").write_text(
        "from hwnas.baselines import Dense, MeanEmbedding\nfrom hwnas.spaces import *\n"
        "def space(input_shape, n_classes, vocabulary):\n"
        "    choices = (Choice('features', (8, vocabulary)),)\n"
        "    embed = lambda o: MeanEmbedding(vocabulary, o['features'])\n"
        "    slots = (embed, lambda o: Dense(2, False))\n"
        "    return SearchSpace('t', choices, lambda o: input_shape, slots, input_type='int64')\n"
    )
    space = make_space("tokens.py:space", (16,), 2, vocabulary=50)
    assert space.choices[0].options == (8, 50) and space.architecture((0,)).input_type == "int64"
    with pytest.raises(ConfigError, match="needs token ids, but these are numbers"):
        make_space("tokens.py:space", (16,), 2)
    (folder / "numbers.py").write_text(OWN_SPACE)
    with pytest.raises(ConfigError, match="needs numbers, but these are token ids"):
        make_space("numbers.py:space", (16,), 2, vocabulary=50)
    with pytest.raises(ConfigError, match="is for images, but these data are token sequences"):
        make_space("mobile", (16,), 2, vocabulary=50)


def test_a_file_may_import_what_lies_beside_it(folder):
    beside = folder / "beside"
    beside.mkdir()
    (beside / "blocks_of_mine.py").write_text(OWN_SPACE)
    (beside / "mine.py").write_text("from blocks_of_mine import space\n")
    assert make_space("beside/mine.py:space", (1, 8, 8), 10).size == 81
    assert str(beside) not in sys.path and str(folder) not in sys.path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def other(): pass", r"file 'wrong.py' has no function 'space'"),
        ("space = 3", r"has no function 'space'"),
        ("def space(a, b): return a", r"must return a SearchSpace, got tuple"),
        ("def space(a, b): return 1 / 0", r"ZeroDivisionError: division by zero \(.*wrong.py:1\)"),
        ("def space(a): pass", r"TypeError: space\(\) takes 1 positional argument but 2 were"),
        ("import nothing_such", r"No module named 'nothing_such'; looked in .* and in the"),
        ("def space(:", r"SyntaxError: .*wrong.py"),
        ("def space(a, b): raise ValueError('no signals')",
         r"'wrong.py:space' does not fit this data: no signals"),
        ("from hwnas.spaces import *\ndef space(a, b):\n"
         "    return SearchSpace('s', (), lambda o: a, (lambda o: 'conv',))",
         r"slot 0 of the space must return a frozen dataclass with build\(in_shape\).*got 'conv'"),
        ("from hwnas.spaces import *\ndef space(a, b):\n    return SearchSpace('s', "
         "(Choice('depth', (1, 2)),), lambda o: a,\n        (lambda o: o['dept'],))",
         r"KeyError: slot 0 reads 'dept', which is no choice of the space \(choices: depth\) "
         r"\(.*wrong.py:4\)"),
        ("from hwnas.spaces import *\ndef space(a, b):\n"
         "    return SearchSpace('s', (Choice('n', (1, 2)),), lambda o: a, (lambda o: [o['n']],))",
         r"TypeError: unhashable type: 'list'"),
        ("from hwnas.spaces import *\ndef space(a, b):\n"
         "    return SearchSpace('s', (Choice('n', (8, 9)),), lambda o: [1, o['n'], o['n']], ())",
         r"TypeError: unhashable type: 'list'"),
        (OWN_SPACE.replace("in_shape[0], self", "3, self"),
         r"Conv\(width=\d+\) does not fit an input of shape \(1, 8, 8\)"),
        (OWN_SPACE.replace("nn.ReLU())", "nn.Relu())"), r"AttributeError: .*'Relu'"),
        (OWN_SPACE.replace("64, n_classes", "64, 1000"),
         r"one number for each of 10 classes, but one of them gives \(1000,\) of an example"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_message(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.py").write_text(text)
    with pytest.raises((ConfigError, SpaceError), match=message):
        make_space("wrong.py:space", (1, 8, 8), 10)


def test_a_space_without_a_valid_network_is_refused_at_once(folder):
    text = OWN_SPACE.replace('o["width_1"] <= o["width_2"]', 'o["depth"] > 3')
    (folder / "empty.py").write_text(text)
    with pytest.raises(ValueError, match="'convs' has no valid genotype.*Loosen 'widths 1"):
        make_space("empty.py:space", (1, 8, 8), 10)


def test_a_file_or_module_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot read nowhere.py: No such file"):
        make_space("nowhere.py:space", (1, 8, 8), 10)
    with pytest.raises(ConfigError, match=r"nowhere:space: No module named 'nowhere'; looked in"):
        make_space("nowhere:space", (1, 8, 8), 10)
    with pytest.raises(ConfigError, match=r"unknown space 'nowhere'.*FILE.py:FUNCTION"):
        make_space("nowhere", (1, 8, 8), 10)
