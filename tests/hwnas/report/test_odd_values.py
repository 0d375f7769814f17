"""Values that strangers' files may hold: one message, or nothing shown, but no traceback."""

import pytest

from hwnas.errors import RunFolderError
from hwnas.number_text import as_number
from hwnas.report.data import genotype_of
from hwnas.report.explanation import read_explanation
from hwnas.report.read import read_run


@pytest.mark.parametrize("text", ["x = " + "1" * 5000, "x = " + "[" * 5000, "x = \x01"])
def test_toml_that_cannot_be_read_is_one_message(tmp_path, text):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(RunFolderError, match=r"config\.toml is not TOML"):
        read_run(tmp_path)


@pytest.mark.parametrize("text", ["[Infinity]", "[1e999]", "[" * 5000, "{}x", "7"])
def test_a_genotype_that_cannot_be_read_is_none(text):
    assert genotype_of({"genotype": text}) is None


def test_a_number_of_hundreds_of_digits_is_none():
    assert as_number(10**400) is None and as_number(10**30) == 1e30


@pytest.mark.parametrize("text", ["[]", '{"format": []}', "[" * 5000])
def test_an_explanation_that_cannot_be_read_is_one_message(tmp_path, text):
    (tmp_path / "explanation.json").write_text(text)
    with pytest.raises(RunFolderError, match="cannot be understood"):
        read_explanation(tmp_path)
