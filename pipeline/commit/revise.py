"""Replaces rejected rows of a committed shard by what a replay made of them.

Captions first, then quarantine: after a crash in between the sample stands in both, and a repeat takes it out.
"""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.commit import tables
from pipeline.commit.parts import captions_path, quarantine_path
from pipeline.storage import Store


def revise(store: Store, stem: str, rows: pa.Table, metadata: dict[str, str]) -> None:
    """Takes rows of `schema.CAPTIONS` for samples of one shard; repeating it changes nothing."""
    final = tables.decode(store.get(captions_path(stem)))
    indexes = rows.column("index").unique()
    kept = final.filter(pc.invert(pc.is_in(final.column("index"), indexes)))
    merged = pa.concat_tables([kept, rows.cast(schema.CAPTIONS)]).sort_by([("index", "ascending"), ("caption_index", "ascending")])
    store.put(captions_path(stem), tables.encode(merged, metadata))
    solved = rows.filter(pc.invert(pc.is_in(rows.column("status"), pa.array([schema.REJECTED])))).column("index").unique()
    try:
        quarantine = tables.decode(store.get(quarantine_path(stem)))
    except FileNotFoundError:
        return
    left = quarantine.filter(pc.invert(pc.is_in(quarantine.column("index"), solved)))
    if left.num_rows == 0:
        store.delete(quarantine_path(stem))
    elif left.num_rows < quarantine.num_rows:
        store.put(quarantine_path(stem), tables.encode(left, metadata))
