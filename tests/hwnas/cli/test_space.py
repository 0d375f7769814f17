import json
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner

from hwnas.cli.space import space
from hwnas.errors import HwnasError
from hwnas.networks import counts
from hwnas.spaces.catalog import SPACES, make_space

MOBILE = ("mobile", "--input", "1x8x8", "--classes", "10")


@pytest.fixture
def show(tmp_path, monkeypatch):
    """Run the command in an empty folder: what it prints, or the error it ends with."""
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(space)

    def run(*arguments):
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
        if isinstance(result.exception, HwnasError):
            return str(result.exception)
        return result.output

    return run


def test_without_a_name_every_space_is_one_line(show):
    listed = json.loads(show("--json"))["spaces"]
    assert listed.keys() == SPACES.keys()
    text = show()
    for name, line in listed.items():
        assert any(name in row and line in row for row in text.splitlines())


def test_a_space_is_told_as_data(show):
    record = json.loads(show(*MOBILE, "--json", "--seed", "3"))
    made = make_space("mobile", (1, 8, 8), 10)
    assert record["n_genotypes"] == made.size and record["n_networks"] is None
    assert record["choices"] == {c.name: list(c.options) for c in made.choices}
    assert record["fingerprint"] == made.fingerprint
    genotype = made.from_json(json.dumps(record["genotype"]))
    total = counts(made.architecture(genotype))
    assert (record["params"], record["macs"]) == (total.params, total.macs)
    assert sum(block["macs"] for block in record["blocks"]) == total.macs
    assert record["blocks"][-1]["block"] == "ClassifierHead"
    assert record["blocks"][-1]["out_shape"] == [10]
    # The corners of the space are in the sample: nothing is larger than every last option.
    smallest, largest = (
        counts(made.architecture(tuple(corner)))
        for corner in ([0] * len(made.choices), [n - 1 for n in made.n_options])
    )
    for metric in ("params", "macs"):
        found = record["sample"][metric]
        assert found["min"] == getattr(smallest, metric) < found["median"]
        assert found["median"] < found["max"] == getattr(largest, metric)


def test_the_seed_and_the_genotype_say_which_network_is_shown(show):
    first, again, other = (
        json.loads(show(*MOBILE, "--json", "--seed", seed))["genotype"] for seed in "001"
    )
    assert first == again != other
    given = json.dumps(other)
    assert json.loads(show(*MOBILE, "--json", "--genotype", given))["genotype"] == other


def test_the_text_has_the_choices_the_ranges_and_the_network(show):
    text = show(*MOBILE)
    record = json.loads(show(*MOBILE, "--json"))
    for part in (
        "resolution", "4, 8, 16, 24", f"genotypes: {record['n_genotypes']:,}",
        f"macs of 32 networks: {record['sample']['macs']['min']:,} to",
        f"a network: {record['params']:,} params, {record['macs']:,} MACs",
        "ClassifierHead", f"--genotype '{json.dumps(record['genotype'])}'",
    ):  # fmt: skip
        assert part in text.replace("\n", "")


def test_the_network_is_drawn_to_a_file(show, tmp_path):
    record = json.loads(show(*MOBILE, "--json", "--draw", "pictures/one.svg"))
    assert record["drawing"] == "pictures/one.svg"
    root = ElementTree.parse(tmp_path / "pictures" / "one.svg").getroot()
    words = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words[0] == "a network of mobile"
    assert words.count("InvertedResidual") == [b["block"] for b in record["blocks"]].count(
        "InvertedResidual"
    )
    assert show(*MOBILE, "--draw", "again.svg").endswith("again.svg\n")
    assert (tmp_path / "again.svg").read_text() == (tmp_path / "pictures/one.svg").read_text()


def test_the_data_say_what_the_space_is_made_for(show):
    record = json.loads(show("mobile", "--json"))  # digits
    assert record["fingerprint"] == make_space("mobile", (1, 8, 8), 10).fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mobil",), "unknown space 'mobil'; did you mean 'mobile'?"),
        (("mobile", "--input", "1x8x8"), "needs --classes, and no --data"),
        (("mobile", "--input", "1x8x8", "--classes", "2", "--data", "digits"), "needs --classes"),
        (("mobile", "--classes", "2"), "goes with --input; --data knows it"),
        (("mobile", "--vocabulary", "9"), "goes with --input; --data knows it"),
        (("mobile", "--input", "16", "--classes", "2", "--vocabulary", "9"), "is for images, but"),
        (("mobile", "--input", "large", "--classes", "2"), "'large' is not like 3x224x224"),
        (("mobile", "--input", "1x0x8", "--classes", "2"), "'1x0x8' is not like 3x224x224"),
        (("mobile", "--input", "1x8x9", "--classes", "2"), "does not fit this data"),
        ((*MOBILE, "--genotype", '{"depth": 1}'), "unknown choice 'depth'; did you mean 'depth_"),
        ((*MOBILE, "--genotype", '{"depth_1": 9}'), "'depth_1' must be one of [0, 1, 2, 3, 4]"),
    ],
)
def test_a_mistake_is_one_message(show, arguments, message):
    assert message in show(*arguments)
