"""Replaces rejected rows of a committed shard by what a replay made of them.

Captions first, then quarantine: after a crash in between the sample stands in both, and a repeat takes it out.
"""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.commit import tables
from pipeline.commit.parts import CAPTIONS, quarantine_path, table_path
from pipeline.storage import Store


def revise(
    store: Store, stem: str, rows: pa.Table, metadata: dict[str, str], about: Callable[[pa.Table], dict[str, str]] = lambda _: {}
) -> None:
    """Takes rows of `schema.CAPTIONS` for samples of one shard; repeating it changes nothing.

    Only rejected rows of the final table are replaced, and only by samples that are not rejected again: of those the
    first verdict stays, with its detail and its bytes. FileNotFoundError where the shard has no final table.
    """
    data = store.get(table_path(CAPTIONS, stem))
    final, made_from = tables.decode(data), tables.fingerprint(data)
    decided = _without(rows.cast(schema.CAPTIONS), _rejected(rows))
    wanted = _rejected(final)
    chosen = decided.filter(pc.is_in(decided.column("index"), value_set=wanted))
    if chosen.num_rows:
        final = pa.concat_tables([_without(final, chosen.column("index").unique()), chosen])
        final = final.sort_by([("index", "ascending"), ("caption_index", "ascending")])
        store.put(
            table_path(CAPTIONS, stem),
            tables.encode(final, {**metadata, **about(final), **({tables.FINGERPRINT: made_from} if made_from else {})}),
        )
    try:
        quarantine = tables.decode(store.get(quarantine_path(stem)))
    except FileNotFoundError:
        return
    still = pc.is_in(quarantine.column("index"), value_set=_rejected(final))
    left = quarantine.filter(pc.or_(pc.is_null(quarantine.column("index")), still))
    if left.num_rows == 0:
        store.delete(quarantine_path(stem))
    elif left.num_rows < quarantine.num_rows:
        store.put(quarantine_path(stem), tables.encode(left, metadata))


def _rejected(rows: pa.Table) -> pa.Array:
    return rows.filter(pc.equal(rows.column("status"), schema.REJECTED)).column("index").unique()


def _without(rows: pa.Table, indexes: pa.Array) -> pa.Table:
    return rows.filter(pc.invert(pc.is_in(rows.column("index"), value_set=indexes)))
