"""Parquet files that may be anyone's, read no further than a limit, whatever they announce."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from profilers.limited import check_size, too_large

__all__ = ["read_parquet"]

_ROWS = 2**14  # that are unpacked at a time
_VALUE_BYTES = 8


def read_parquet(path: Path, limit: int) -> pa.Table:
    """The columns of plain values of a Parquet file, of no more than `limit` bytes in memory.

    A kilobyte may unpack to any number of rows, and a text be repeated in each without taking
    space. So columns are unpacked one by one, in parts that are counted, texts before they are
    written out. Columns of other types, such as lists, are left out.

    Raises:
        OSError, pa.ArrowException: It cannot be read, holds more, or two columns of one name.
    """
    check_size(path, limit)
    whole = pq.read_schema(path)
    schema = pa.schema([field for field in whole if _is_plain(field.type)], whole.metadata)
    if len(set(schema.names)) < len(schema):
        raise pa.ArrowInvalid("several of its columns have the same name")
    texts = [field.name for field in schema if _is_text(field.type)]
    columns, n_bytes = [], 0
    for field in schema:
        parts = []
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches(_ROWS, columns=[field.name]):
                n_bytes += _written_out_bytes(batch.column(0))
                if n_bytes > limit:
                    raise too_large(limit)
                parts.append(batch.column(0).cast(field.type))
        columns.append(pa.chunked_array(parts, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return _is_text(kind) or bool(pa.types.is_primitive(kind) or pa.types.is_null(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind)
    )


def _written_out_bytes(column: pa.Array) -> int:
    """What a column takes in pandas at least, repeated texts each counted."""
    values = max(int(column.nbytes), _VALUE_BYTES * len(column))
    if not pa.types.is_dictionary(column.type) or not _is_text(column.type.value_type):
        return values
    lengths = pc.binary_length(column.dictionary).take(column.indices)
    return int(pc.sum(lengths).as_py() or 0) + _VALUE_BYTES * len(column)
