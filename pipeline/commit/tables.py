"""Parquet bytes of a table and back: explicit schema, zstd, deterministic."""

import pyarrow as pa
import pyarrow.parquet as pq

FINGERPRINT = "nightcap.fingerprint"
"""Key in a caption table's metadata: the version of the archive that it was made from."""


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


def fingerprint(data: bytes) -> str | None:
    """Which version of its archive a caption table was made from; None for tables of old."""
    found = (pq.read_schema(pa.BufferReader(data)).metadata or {}).get(FINGERPRINT.encode())
    return None if found is None else str(found.decode())
