"""Archives of plain numbers, read without trust: nothing is executed, and nothing grows unbounded.

An archive is an NPZ as `numpy.load` reads it, of little-endian numbers only.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_FILE_BYTES = 64 * 2**20
MAX_BYTES = 256 * 2**20  # of all arrays together
MAX_ARRAYS = 512
MAX_NUMBER = 1e18  # no predictor has larger ones, and products of two are still finite

_DTYPES = ("<f8", "<f4", "<i8", "<i4", "<i2", "|i1", "|u1", "<u2", "<u4", "|b1")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}")
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '([<|][a-z]\d)', 'fortran_order': (False|True), "
    rb"'shape': \(((?:\d{1,15},? ?){0,8})\), \} *\n"
)
_END = struct.Struct("<4s4H2LH")  # the end of a ZIP's directory
_END_MAGIC, _MEMBER_MAGIC, _ZIP64_MAGIC = b"PK\x05\x06", b"PK\x03\x04", b"PK\x06\x07"
_ZIP64_BYTES = 20
_DIRECTORY_BYTES_PER_ARRAY = 256
_ENCRYPTED = 0x1


def plain_array(values: ArrayLike) -> NDArray[Any]:
    """The same numbers in the order of C and little-endian, as archives keep them."""
    array = np.asarray(values, order="C")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def write_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The archive of those arrays (`plain_array`), compressed.

    Raises:
        ValueError: One is not of plain finite numbers, or it has a name that `read_arrays` refuses.
    """
    for name, array in arrays.items():
        if array.dtype.str not in _DTYPES or not _NAME.fullmatch(name):
            raise ValueError(f"array {name!r} of {array.dtype} cannot be kept")
        _check_finite(name, array)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # (by name)
    return buffer.getvalue()


def read_arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an archive, none with numbers beyond `MAX_NUMBER`.

    Memory is bounded by `MAX_BYTES` besides the content, whatever the archive declares.

    Raises:
        ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError: It is no such archive.
    """
    _check_directory(content)
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if len(members) > MAX_ARRAYS:
            raise ValueError(f"it holds {len(members)} arrays, more than {MAX_ARRAYS}")
        if sum(member.file_size for member in members) > MAX_BYTES:  # refuse a bomb unopened
            raise ValueError(f"it unpacks to more than {MAX_BYTES:,} bytes")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename or not _NAME.fullmatch(name) or name in arrays:
                raise ValueError(f"it holds {member.filename[:50]!r}, which is no array's name")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"array {name!r} is compressed in another way")
            if member.flag_bits & _ENCRYPTED:
                raise ValueError(f"array {name!r} is encrypted")
            with archive.open(member) as file:
                # With a size, or zlib would unpack all that is there before it is counted.
                data = file.read(member.file_size)
            arrays[name] = _read_array(name, data)
    return arrays


def _check_directory(content: bytes) -> None:
    """Refuse what is not exactly one archive, or has a directory too long to be listed."""
    if len(content) < _END.size or not content.startswith(_MEMBER_MAGIC):
        raise ValueError("it is no NPZ archive")
    magic, _, _, _, _, size, start, _ = _END.unpack(content[-_END.size :])
    zip64 = content[-_END.size - _ZIP64_BYTES :][: len(_ZIP64_MAGIC)] == _ZIP64_MAGIC
    if magic != _END_MAGIC or zip64 or start + size + _END.size != len(content):
        raise ValueError("its end is missing, or other data stands around it")
    if size > MAX_ARRAYS * _DIRECTORY_BYTES_PER_ARRAY:
        raise ValueError(f"it holds more than {MAX_ARRAYS} arrays")


def _read_array(name: str, data: bytes) -> NDArray[Any]:
    """One NPY. Our own reader, because NumPy's allocates whatever shape the header declares."""
    start = len(_MAGIC) + 2
    if not data.startswith(_MAGIC) or len(data) < start:
        raise ValueError(f"array {name!r} has no NPY header of version 1")
    end = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    header = _HEADER.fullmatch(data[start:end])
    if header is None or header[1].decode() not in _DTYPES:
        raise ValueError(f"array {name!r} is not of plain numbers")
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(size) for size in header[3].replace(b",", b" ").split())
    if prod(shape) * dtype.itemsize != len(data) - end:
        raise ValueError(f"array {name!r} does not have the size that it declares")
    if dtype.kind == "b":
        flags = np.frombuffer(data, np.uint8, offset=end)
        if (flags > 1).any():
            raise ValueError(f"array {name!r} is not of plain numbers")
    order: Any = "F" if header[2] == b"True" else "C"
    array = np.frombuffer(data, dtype, offset=end).reshape(shape, order=order).copy()
    _check_finite(name, array)
    return array


def _check_finite(name: str, array: NDArray[Any]) -> None:
    if array.dtype.kind == "f" and not (np.abs(array) <= MAX_NUMBER).all():
        raise ValueError(f"array {name!r} holds numbers that are not finite, or too large")
