"""Parquet bytes of a table and back: explicit schema, zstd, deterministic."""

import pyarrow as pa
import pyarrow.parquet as pq


def encode(table: pa.Table, metadata: dict[str, str] | None = None) -> bytes:
    """The table as a Parquet file; `metadata` is the only place for what differs between two identical runs."""
    if metadata:
        table = table.replace_schema_metadata(dict(sorted(metadata.items())))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def decode(data: bytes) -> pa.Table:
    """The table of a Parquet file."""
    return pq.read_table(pa.BufferReader(data)).replace_schema_metadata(None)
