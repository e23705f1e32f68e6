"""A table divided by a number: one Parquet file in which row group i holds the rows of division i.

What a shuffle needs, without a file for every pair of source and target: whoever wants division i reads one row group of
each file. Files are temporary, and appear whole.
"""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage


def write_divided(store: storage.Folder, path: str, table: pa.Table, division: NDArray[np.int64], count: int) -> None:
    """Writes the rows, those of division 0 first; within one in the order given. 0 <= division < count."""
    order = np.argsort(division, kind="stable")
    edges = np.searchsorted(division[order], np.arange(count + 1))
    table = table.take(pa.array(order))
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", use_dictionary=False, write_statistics=False) as writer:
        for start, end in zip(edges[:-1], edges[1:], strict=True):
            writer.write_table(table.slice(start, end - start), row_group_size=max(1, end - start))
    store.put(path, bytes(sink.getvalue()))


def read_division(store: storage.Folder, paths: list[str], number: int) -> Iterator[pa.Table]:
    """The rows of one division, file by file."""
    for path in paths:
        filesystem, folder = storage.resolve(store.url)
        with closing(filesystem.open_input_file(f"{folder}/{path}")) as file:
            yield pq.ParquetFile(file).read_row_group(number)
