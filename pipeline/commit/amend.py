"""Quarantined samples of a prepared shard run again: what is kept now goes to its place in the table or archive.

The result is what a run would have made that never failed. The table is written anew and put in the place of the old one,
then quarantine: after a crash in between the sample stands in both, and a repeat takes it out.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema, storage
from pipeline.commit import tables
from pipeline.commit.archives import SUFFIX, read_archive
from pipeline.commit.merge import Row
from pipeline.commit.parts import quarantine_path, stem_of, table_path
from pipeline.commit.prepared import WriteConfig, writer
from pipeline.commit.quarantined import sample_of
from pipeline.commit.rowgroups import read_row_groups
from pipeline.errors import Reason
from pipeline.samples.chunks import ShardTask
from pipeline.samples.group import Sample
from pipeline.samples.prepare import CHOSEN, CHUNK_BYTES, CHUNK_SAMPLES, prepare_again

_DEADLY = frozenset({Reason.CRASHED, Reason.HUNG, Reason.OUT_OF_BOUNDS_MEMORY})
"""Samples that go to a child process from the start."""


@dataclass(frozen=True, slots=True)
class Amended:
    """What became of the quarantined samples of one shard."""

    waiting: int
    """Rejected samples that stood in quarantine; those that a filter removed are none."""
    kept: int = 0
    """Have a row now."""
    removed: int = 0
    """Can be read now, and a filter does not want them."""
    open: bool = False
    """The shard has no table yet: `nightcap prepare` has to finish it first."""


def amend(shard_quarantine: str, config: WriteConfig) -> Amended:
    """Runs the samples of one quarantine file (path below the output) again. Storage errors travel; a repeat changes nothing."""
    store = storage.Folder(config.output)
    quarantine = tables.decode(store.get(shard_quarantine))
    rows = [row for row in quarantine.to_pylist() if row["index"] is not None and Reason(row["reason"]) not in CHOSEN]
    if not rows:
        return Amended(0)
    shard = rows[0]["shard"]
    if not store.exists(table_path(config.tables, stem_of(shard))):
        return Amended(len(rows), open=True)
    suspects = tuple((row["index"], row["index"]) for row in rows if Reason(row["reason"]) in _DEADLY)
    task = ShardTask("", shard, "", suspects=suspects)
    done = list(prepare_again(task, _chunks(rows), config.prepare))
    kept = pa.concat_tables([one.table for one in done])
    removed = {row["index"]: row for one in done for row in one.refused if row["status"] != schema.REJECTED}
    if kept.num_rows:
        _insert(store, shard, kept, config)
    _amend_quarantine(store, shard, quarantine, kept.column("index"), removed, config)
    return Amended(len(rows), kept.num_rows, len(removed))


def _chunks(rows: Sequence[Row]) -> Iterator[list[Sample]]:
    chunk: list[Sample] = []
    for row in rows:
        chunk.append(sample_of(row))
        if len(chunk) == CHUNK_SAMPLES or sum(sample.size for sample in chunk) >= CHUNK_BYTES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _insert(store: storage.Folder, shard: str, new: pa.Table, config: WriteConfig) -> None:
    path = table_path(config.tables, stem_of(shard))
    url = f"{store.url}/{path}"
    old = read_archive(url) if path.endswith(SUFFIX) else read_row_groups(url)
    with writer(store, path, config) as sink:
        for rows in merged(old, new):
            sink.add(rows)


def merged(old: Iterable[pa.Table], new: pa.Table) -> Iterator[pa.Table]:
    """Both by index, as tables that `old` comes in; where both have a row, that of `new`."""
    new = new.sort_by("index")
    indexes, at = new.column("index").to_pylist(), 0
    for rows in old:
        last, end = rows.column("index")[-1].as_py(), at
        while end < len(indexes) and indexes[end] <= last:
            end += 1
        if end > at:
            coming, at = new.slice(at, end - at), end
            staying = rows.filter(pc.invert(pc.is_in(rows.column("index"), value_set=coming.column("index").combine_chunks())))
            rows = pa.concat_tables([staying, coming]).sort_by("index")
        yield rows
    if at < len(indexes):
        yield new.slice(at)


def _amend_quarantine(
    store: storage.Folder, shard: str, quarantine: pa.Table, kept: pa.ChunkedArray, removed: dict[int, Row], config: WriteConfig
) -> None:
    """Those that are kept leave it; of those that a filter removed the verdict changes; of the others the first one stays, with its bytes."""
    gone = set(kept.to_pylist()) | {index for index, row in removed.items() if row["status"] == schema.SKIPPED}
    left: list[dict[str, Any]] = []
    for row in quarantine.to_pylist():
        if row["index"] is None or row["index"] not in gone:
            change = removed.get(row["index"], {})
            verdict = {name: change[name] for name in ("stage", "reason", "detail", "flags")} | {"members": None} if change else {}
            left.append({**row, **verdict})
    if not left:
        store.delete(quarantine_path(stem_of(shard)))
    elif gone or removed:
        store.put(quarantine_path(stem_of(shard)), tables.encode(pa.Table.from_pylist(left, schema.QUARANTINE), config.metadata))
