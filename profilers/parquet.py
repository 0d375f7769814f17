"""Parquet files that may be anyone's, read no further than a limit, whatever they announce."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from profilers.limited import check_size, too_large

__all__ = ["read_parquet"]

_ROWS = 2**14  # that are unpacked at a time


def read_parquet(path: Path, limit: int) -> pa.Table:
    """The flat columns of a Parquet file, of no more than `limit` bytes in memory.

    A kilobyte may unpack to any number of rows, and a text be repeated in each without taking
    space. So rows are unpacked by parts and counted, texts before they are written out.

    Raises:
        OSError, pa.ArrowException: It cannot be read, holds more, or two columns of one name.
    """
    check_size(path, limit)
    whole = pq.read_schema(path)
    flat = [field for field in whole if not pa.types.is_nested(field.type)]
    schema = pa.schema(flat, whole.metadata)
    if len(set(schema.names)) < len(flat):
        raise pa.ArrowInvalid("several of its columns have the same name")
    texts = [field.name for field in schema if _is_text(field.type)]
    batches, n_bytes = [], 0
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        for batch in file.iter_batches(_ROWS, columns=schema.names):
            n_bytes += sum(_written_out_bytes(column) for column in batch.columns)
            if n_bytes > limit:
                raise too_large(limit)
            batches.append(batch.cast(schema))
    return pa.Table.from_batches(batches, schema=schema)


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind)
    )


def _written_out_bytes(column: pa.Array) -> int:
    """What a column takes; of texts that share what they repeat, if they did not."""
    if not pa.types.is_dictionary(column.type) or not _is_text(column.type.value_type):
        return int(column.nbytes)
    lengths = pc.binary_length(column.dictionary).take(column.indices)
    return int(pc.sum(lengths).as_py() or 0) + int(column.indices.nbytes)
