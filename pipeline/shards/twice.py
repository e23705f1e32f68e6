"""Samples whose id occurred before leave the index and become rejects. The first one stays."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.errors import Reason
from pipeline.shards import rejects as tables
from pipeline.shards.index import IndexWriter, batches, rows_of
from pipeline.shards.item import Bad
from pipeline.shards.rejects import Rejects
from pipeline.storage import Folder


def without_repeats(output: str, path: str, rows: Sequence[int]) -> list[str]:
    """Rewrites one index file without these rows, their rejects first. Returns an example of schema.REFUSED's main columns.

    Run again after a crash it finds either the old index, and does the same, or the new one, which has no repeats.
    """
    store = Folder(output)
    wanted = np.asarray(rows, dtype=np.int64)
    stem = path.rsplit("/", 1)[-1].split(".")[0]
    at = 0
    with Rejects(store, f"{tables.FOLDER}/repeated-{stem}.parquet") as rejects:
        for batch in batches(f"{output}/{path}"):
            inside = wanted[(wanted >= at) & (wanted < at + batch.num_rows)] - at
            for row in rows_of(batch.take(pa.array(inside))):
                rejects.add(Bad(row.name, row.source, row.row, Reason.DUPLICATE_NAME, "its id occurred before; the first one is kept"))
            at += batch.num_rows
    at = 0
    with store.create(path) as draft:
        index = IndexWriter(draft)
        for batch in batches(f"{output}/{path}"):
            keep = np.ones(batch.num_rows, bool)
            keep[wanted[(wanted >= at) & (wanted < at + batch.num_rows)] - at] = False
            if keep.any():
                index.add_batch(batch.filter(pa.array(keep)))
            at += batch.num_rows
        index.close()
    return rejects.examples[0]
