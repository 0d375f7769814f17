import importlib
import sys

import pytest

from hwnas.code_digest import code_digest, own_digest

FILES = {
    "mine/__init__.py": "",
    "mine/space.py": (
        "import json\nimport flat\nfrom . import near\nfrom .blocks import one\n"
        "def later():\n    from mine.deep import down\n"
    ),
    "mine/near.py": "x = 1\n",
    "mine/blocks/__init__.py": "from mine.blocks.parts import one\n",
    "mine/blocks/parts.py": "one = 1\n",
    "mine/deep/down.py": "import mine.space\n",  # in a circle, and in no package
    "mine/other.py": "y = 2\n",
    "flat.py": "z = 3\n",
}


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """Of `mine.space`, after some files were changed."""
    monkeypatch.syspath_prepend(tmp_path)
    for place, text in FILES.items():
        (tmp_path / place).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / place).write_text(text)
    importlib.import_module("mine.space")

    def changed(place=None, text="changed = True\n"):
        if place is not None:
            with (tmp_path / place).open("a") as file:
                file.write(text)
        return code_digest("mine.space")

    yield changed
    for name in [name for name in sys.modules if name.split(".")[0] in {"mine", "flat"}]:
        del sys.modules[name]


@pytest.mark.parametrize("place", [place for place in FILES if place != "mine/other.py"])
def test_a_change_in_what_is_imported_is_a_change(digest, place):
    before = digest()
    assert before and digest() == before
    assert digest(place) != before


def test_what_is_not_imported_and_comments_do_not_count(digest):
    before = digest()
    assert digest("mine/other.py") == before
    assert digest("flat.py", "\n# a comment\n") == before


def test_what_cannot_be_read_has_no_digest(digest, tmp_path):
    assert code_digest("no.such.module") == ""
    assert digest("mine/near.py", "def broken(:\n") == ""


def test_of_an_installed_package_only_the_module_counts(monkeypatch):
    read = []
    monkeypatch.setattr("hwnas.code_digest._imported", lambda *a: read.append(a) or ())
    assert code_digest("sklearn.base") and not read


def test_the_code_of_the_toolkit_has_a_digest():
    assert len(own_digest()) == 8 and own_digest() == own_digest()
