"""Weights in files: as they were, or one error."""

import json
import struct

import pytest
import torch
from torch import nn

from hwnas.weight_files import WeightFileError, pack_weights, read_weights, unpack_weights


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_all_kinds_of_tensors_come_back_as_they_were(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    weights = {
        "a.weight": shared,
        "tied": shared,
        "view": shared.T,
        "count": torch.tensor(7),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "none": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.full((2,), torch.nan)),
    }
    about = {"step": 3, "losses": [0.5], "space": "π"}
    (tmp_path / "w").write_bytes(pack_weights(weights, about))
    found, told = read_weights(tmp_path / "w")
    assert told == about and found.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value.detach(), equal_nan=True, rtol=0, atol=0)
    assert unpack_weights(pack_weights(weights))[1] == {}


@pytest.mark.parametrize("value", [{"a": 1}, torch.zeros(2, dtype=torch.complex64)])
def test_what_no_file_can_hold_is_named(value):
    with pytest.raises(WeightFileError, match="'extra' is no tensor of real numbers"):
        pack_weights({"extra": value})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02q\x01.",
        struct.pack("<Q", 2**60),
        file_of(b"[" * 10_000),
        file_of({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, b"abcd"),
        file_of({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"abcd"),
        file_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"abc"),
        file_of({"__metadata__": {"about": "[" * 10_000}}),
        file_of({"__metadata__": {"about": "7"}}),
        file_of({"__metadata__": {"about": "{"}}),
    ],
)
def test_what_is_no_such_file_is_refused(content):
    with pytest.raises(WeightFileError, match="it holds no weights: ."):
        unpack_weights(content)


def test_a_pickle_is_not_executed(tmp_path):
    class Harm:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'harm')!r}, 'w')",)

    torch.save({"a": Harm()}, tmp_path / "w")
    with pytest.raises(WeightFileError):
        read_weights(tmp_path / "w")
    assert not (tmp_path / "harm").exists()
