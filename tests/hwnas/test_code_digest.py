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


@pytest.mark.parametrize(
    "place", [place for place in FILES if place.startswith("mine/") and "other" not in place]
)
def test_a_change_in_what_is_imported_is_a_change(digest, place):
    before = digest()
    assert before and digest() == before
    assert digest(place) != before


def test_what_is_not_imported_and_comments_do_not_count(digest):
    before = digest()
    assert digest("mine/other.py") == before
    assert digest("mine/near.py", "\n# a comment\n") == before


def test_a_file_that_this_python_cannot_read_counts_by_its_bytes(digest):
    before = digest("mine/near.py", "print 1\n")
    assert digest("mine/space.py") != before
    between = digest()
    assert digest("mine/near.py", "print 2\n") != between


def test_a_module_without_source_has_no_digest():
    assert code_digest("no.such.module") == "" == code_digest("sys")


def test_a_package_is_followed_wherever_it_is_installed_but_not_beyond(digest):
    before = digest()
    assert digest("mine/blocks/parts.py") != before
    before = digest()
    assert digest("flat.py") == before  # it lies beside the package, not in it


def test_a_module_among_installed_packages_is_not_followed(monkeypatch):
    read = []
    monkeypatch.setattr("hwnas.code_digest._imported", lambda *a: read.append(a) or ())
    assert code_digest("threadpoolctl") and not read
    assert code_digest("sklearn.base") and read


def test_the_code_of_the_toolkit_has_a_digest():
    assert len(own_digest()) == 8 and own_digest() == own_digest()
