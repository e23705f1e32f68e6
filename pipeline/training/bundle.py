"""What a read task holds undecoded: rows of some row groups, once, and any of them by their places.

Row groups stay as they were read; only small ones are put together, `TOGETHER_BYTES` at a time. Joining them all, to take rows from one
table, would copy what is held once more, which is the most that a reading task ever needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.training.corpus import PreparedFile
from pipeline.training.order import Chunk, FeedTask
from pipeline.training.progress import count, rows_of

TOGETHER_BYTES = 1 << 20
"""Row groups are joined up to that: taking a few rows from each of a thousand tables costs more than copying them."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """The rows of all chunks of a task, in their order."""

    parts: tuple[pa.Table, ...]
    firsts: NDArray[np.int64]
    """Place of the first row of each part."""
    files: NDArray[np.int64]
    """Number of each row's file."""
    rows: NDArray[np.int64]
    """Position of each row in its file."""

    def take(self, places: NDArray[np.int64]) -> pa.Table:
        """The rows at these places, in this order; at least one."""
        part_of = np.searchsorted(self.firsts, places, side="right") - 1
        by_part = np.argsort(part_of, kind="stable")
        found = []
        for part in np.unique(part_of):
            mine = by_part[part_of[by_part] == part]
            found.append(self.parts[part].take(places[mine] - self.firsts[part]))
        return pa.concat_tables(found).combine_chunks().take(np.argsort(by_part))


def read_bundle(task: FeedTask, corpus_files: Mapping[int, PreparedFile] | Sequence[PreparedFile], columns: Sequence[str]) -> Bundle:
    """Those of the columns that a file has, of the task's rows."""
    parts: list[pa.Table] = []
    small: list[pa.Table] = []
    size = 0
    for chunk in task.chunks:
        small.append(_read(corpus_files[chunk.file], chunk, columns))
        size += small[-1].nbytes
        if size >= TOGETHER_BYTES:
            parts.append(pa.concat_tables(small).combine_chunks())
            small, size = [], 0
    if small:
        parts.append(pa.concat_tables(small).combine_chunks())
    firsts = np.cumsum([0, *(part.num_rows for part in parts)])[:-1]
    files = np.concatenate([np.full(count(chunk.rows), chunk.file, np.int64) for chunk in task.chunks])
    return Bundle(tuple(parts), firsts, files, np.concatenate([rows_of(chunk.rows) for chunk in task.chunks]))


def _read(file: PreparedFile, chunk: Chunk, columns: Sequence[str]) -> pa.Table:
    """A row group as it is where all its rows are wanted, else a copy of those that are."""
    filesystem, path = storage.resolve(file.url)
    group = file.groups[chunk.group]
    with pq.ParquetFile(path, filesystem=filesystem) as opened:
        present = [name for name in columns if name in opened.schema_arrow.names]
        table = opened.read_row_group(chunk.group, columns=present)
    return table if count(chunk.rows) == group.rows else table.take(rows_of(chunk.rows) - group.first)
