"""Row groups of `schema.PREPARED` into one Parquet file that grows, a group at a time.

Media are compressed already, so they are stored as they are; packing or indexing them again costs time and saves nothing.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schema, storage
from pipeline.draft import DraftFile

ROW_GROUP_BYTES = 32 << 20
"""What a writer holds before it writes, and what a reader reads at once."""
ROW_GROUP_ROWS = 50_000
"""For texts, whose rows are small."""
COUNTS = "nightcap.counts"
"""Key in the metadata of a file: JSON of rows, rows by modality (text: those without a medium), and tokens."""
_MEDIA = ("image", "audio", "frames.list.element")
_REPEATED = ["shard", "modality", "width", "height", "sample_rate_hz", "flags.list.element"]
"""Columns that a dictionary makes smaller."""


def count_rows(rows: pa.Table, counts: Counter[str]) -> None:
    """Adds rows, rows by modality and tokens."""
    counts["rows"] += rows.num_rows
    for pair in pc.value_counts(rows.column("modality")).to_pylist():
        counts[pair["values"] or "text"] += pair["counts"]
    counts["tokens"] += pc.sum(pc.list_value_length(rows.column("token_ids"))).as_py() or 0


class RowGroups:
    """Writes tables of schema.PREPARED to a draft."""

    def __init__(self, draft: storage.Draft, metadata: dict[str, str], group_bytes: int = ROW_GROUP_BYTES) -> None:
        table = schema.PREPARED.with_metadata(dict(sorted(metadata.items())))
        columns = _leaves(table)
        self._sink = DraftFile(draft)
        self._writer: Any = pq.ParquetWriter(
            pa.PythonFile(self._sink, "w"),
            table,
            compression={name: "NONE" if name in _MEDIA else "ZSTD" for name in columns},
            use_dictionary=_REPEATED,
            write_statistics=["index"],
        )
        self._schema = table
        self._group_bytes = group_bytes
        self._counts: Counter[str] = Counter(rows=0)
        self._held: list[pa.Table] = []
        self._bytes = self._rows = 0

    def add(self, rows: pa.Table) -> bool:
        """Takes rows; True if that filled a row group, which is then written."""
        if rows.num_rows:
            count_rows(rows, self._counts)
            self._held.append(rows)
            self._bytes += rows.nbytes
            self._rows += rows.num_rows
        if self._bytes < self._group_bytes and self._rows < ROW_GROUP_ROWS:
            return False
        self._flush()
        return True

    def _flush(self) -> None:
        if self._held:
            table = pa.concat_tables(self._held).replace_schema_metadata(self._schema.metadata)
            self._writer.write_table(table, row_group_size=table.num_rows)
            self._held, self._bytes, self._rows = [], 0, 0

    def __enter__(self) -> "RowGroups":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """After an exception nothing more reaches the draft, whose file may be closed: Arrow would write a footer to it later."""
        if kind is not None:
            self._sink.dead = True
            self._held = []
        self.close()

    def close(self) -> None:
        """Writes what is held, the counts and the footer; a second call does nothing."""
        if self._writer is not None:
            self._flush()
            self._writer.add_key_value_metadata({COUNTS: json.dumps(dict(sorted(self._counts.items())))})
            self._writer.close()
            self._writer = None


def _leaves(table: pa.Schema) -> list[str]:
    """Parquet's names of the columns."""
    return [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in table]


def read_row_groups(url: str) -> Iterator[pa.Table]:
    """The rows of a file, a row group at a time. FileNotFoundError where it is gone."""
    filesystem, path = storage.resolve(url)
    with pq.ParquetFile(path, filesystem=filesystem) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number).replace_schema_metadata(None)
