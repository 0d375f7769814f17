"""Files from strangers: what once broke a reader, and good files with bytes changed."""

from pathlib import Path

import numpy as np
import pytest
from fuzz_reader import check
from fuzz_readers import READERS

KEPT = Path(__file__).parent / "kept"
N_CHANGED = 40
DEEP = 100_000


@pytest.mark.parametrize("name", READERS)
def test_good_files_are_taken(name, tmp_path):
    for content in READERS[name].seeds():
        taken = check(READERS[name], content, tmp_path)
        # Weights outside of the file are not there.
        assert taken or b"weights.bin" in content


@pytest.mark.parametrize(
    "path", sorted(KEPT.glob("*/*")), ids=lambda p: f"{p.parent.name}-{p.name}"
)
def test_what_once_broke_a_reader_is_refused_with_a_message_or_taken(path, tmp_path):
    check(READERS[path.parent.name], path.read_bytes(), tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_files_that_were_cut_or_changed_are_taken_or_refused_with_a_message(name, tmp_path):
    rng = np.random.default_rng(0)
    seeds = READERS[name].seeds()
    for i in range(N_CHANGED):
        content = bytearray(seeds[i % len(seeds)])
        if i % 4 == 0:
            del content[int(rng.integers(len(content))) :]
        for at in rng.integers(0, max(len(content), 1), 1 + i % 5):
            if at < len(content):
                content[at] = int(rng.integers(256))
        check(READERS[name], bytes(content), tmp_path)


# A run that has just begun, and what it verified if that is damaged: nothing.
MAY_BE_NOTHING = {"run", "journal"}


@pytest.mark.parametrize("name", sorted(READERS.keys() - MAY_BE_NOTHING))
@pytest.mark.parametrize("content", [b"", b"\0", b"\xff" * 64], ids=["empty", "zero", "ones"])
def test_nothing_and_nonsense_are_refused(name, content, tmp_path):
    if (name == "database" and len(content) < 2) or (name == "config" and not content):
        return  # that is a new database, and a table with all defaults
    assert not check(READERS[name], content, tmp_path)


@pytest.mark.parametrize("name", ["genotype", "config"])
def test_what_is_nested_without_end_is_refused(name, tmp_path):
    start = b"[search]\nspace = " if name == "config" else b""
    assert not check(READERS[name], start + b"[" * DEEP, tmp_path)
