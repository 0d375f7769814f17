import io
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from predictors import archives
from predictors.archives import plain_array, read_arrays, write_arrays

REFUSED = (ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def npz(**members):
    """An archive of those members as they are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy(values):
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def header_only(text):
    """An NPY of that header and nothing else."""
    text = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@contextmanager
def less_memory_than(n_bytes):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < n_bytes
    finally:
        tracemalloc.stop()


plain = st.sampled_from(["<f8", "<f4", "<i8", "<i4", "|i1", "|u1", "|b1", ">f8", ">i4"]).flatmap(
    lambda dtype: arrays(
        dtype,
        array_shapes(min_dims=0, min_side=0, max_side=4),
        elements={"min_value": -(2.0**50), "max_value": 2.0**50} if "f" in dtype else None,
    )
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b_2", "c.d:e"]), plain))
def test_what_was_written_is_read(values):
    kept = {name: plain_array(array) for name, array in values.items()}
    if not kept:
        return
    found = read_arrays(write_arrays(kept))
    assert found.keys() == values.keys()
    for name, array in values.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape
        assert found[name].flags.writeable


def test_arrays_in_the_order_of_fortran_are_read():
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(read_arrays(npz(a=npy(array)))["a"], array)


@pytest.mark.parametrize(
    "values",
    [
        np.array([1 + 2j]), np.array(["text"]), np.array([b"bytes"]), np.array([None]),
        np.array(["2020"], dtype="M8[Y]"), np.zeros(2, dtype=[("a", "<f8")]), np.float16([1]),
        np.array([np.nan]), np.array([1.0, np.inf]), np.array([-np.inf], np.float32),
        np.array([1e200]),
    ],
)  # fmt: skip
def test_what_is_no_plain_finite_number_is_neither_written_nor_read(values):
    with pytest.raises(ValueError, match="cannot be kept|not finite"):
        write_arrays({"a": values})
    with pytest.raises(ValueError, match="not of plain numbers|not finite"):
        read_arrays(npz(a=npy(values)))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a", "a/b", "a\\b", ".hidden", "", "a b", "é", "x" * 200]
)
def test_names_that_are_no_array_s_are_refused(name):
    with pytest.raises(ValueError, match="cannot be kept"):
        write_arrays({name: np.ones(1)})
    with pytest.raises(ValueError, match="which is no array's name|more than"):
        read_arrays(npz(**{name: npy(np.ones(1))}))


def test_members_that_are_no_arrays_are_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", npy(np.ones(1)))
    with pytest.raises(ValueError, match="no array's name"):
        read_arrays(buffer.getvalue())


def test_a_name_that_occurs_twice_is_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for value in (1.0, 2.0):
            archive.writestr("a.npy", npy(np.array(value)))
    with pytest.raises(ValueError, match="'a.npy', which is no array's name"):
        read_arrays(buffer.getvalue())


@pytest.mark.parametrize(
    "shape", ["(1152921504606846976,)", "(2,)", "(999999999999999, 999999999999999)", "(0, 5, 9)"]
)
def test_a_shape_larger_than_its_data_is_refused_before_memory_is_taken(shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
    content = npz(a=header_only(header) + bytes(8))
    with (
        less_memory_than(200_000),
        pytest.raises(ValueError, match="the size that it declares|not of plain numbers"),
    ):
        read_arrays(content)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<f8', 'fortran_order': 0, 'shape': (1,), }",
        "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f8', 'shape': (1,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1L,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1, 1, 1, 1, 1, 1, 1, 1), }",
        "(" * 5000,
        "__import__('os').abort()",
        "",
    ],
)
def test_headers_other_than_numpy_s_own_are_refused(header):
    with pytest.raises(ValueError, match="not of plain numbers|size that it declares"):
        read_arrays(npz(a=header_only(header) + bytes(8)))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x02\x00\x00\x00\x00\x00", b"x"])
def test_members_without_a_header_are_refused(content):
    with pytest.raises(ValueError, match="NPY header|plain numbers"):
        read_arrays(npz(a=content))


def test_booleans_that_are_neither_are_refused():
    header = "{'descr': '|b1', 'fortran_order': False, 'shape': (2,), }"
    with pytest.raises(ValueError, match="plain numbers"):
        read_arrays(npz(a=header_only(header) + b"\x01\x07"))


def test_an_archive_that_unpacks_to_more_than_it_may_is_not_unpacked(monkeypatch):
    content = npz(a=npy(np.zeros(2**20)))
    assert len(content) < 2**15
    monkeypatch.setattr(archives, "MAX_BYTES", 2**20)
    with less_memory_than(2**20), pytest.raises(ValueError, match="unpacks to more than"):
        read_arrays(content)


def test_a_member_that_unpacks_to_more_than_it_declares_is_cut_short():
    content = bytearray(npz(a=npy(np.zeros(2**20))))
    start = content.index(b"PK\x01\x02")
    content[start + 24 : start + 28] = struct.pack("<I", 200)  # of 8 MiB
    with less_memory_than(2**20), pytest.raises(REFUSED):
        read_arrays(bytes(content))


def test_a_directory_of_many_members_is_not_listed(monkeypatch):
    content = npz(**{f"a{i}": b"" for i in range(600)})
    with pytest.raises(ValueError, match="600 arrays, more than 512"):
        read_arrays(content)
    monkeypatch.setattr(archives, "MAX_ARRAYS", 20)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match="more than 20 arrays"):
        read_arrays(content)


def test_other_ways_to_compress_and_encryption_are_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", npy(np.ones(3)))
    with pytest.raises(ValueError, match="compressed in another way"):
        read_arrays(buffer.getvalue())
    encrypted = bytearray(npz(a=npy(np.ones(3))))
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ValueError, match="encrypted"):
        read_arrays(bytes(encrypted))


def test_data_around_an_archive_is_refused():
    content = npz(a=npy(np.ones(3)))
    for whole in (b"PK\x03\x04" + content, content + b"more", b"#!/bin/sh\n" + content):
        with pytest.raises(ValueError, match="no NPZ archive|other data stands around it"):
            read_arrays(whole)
