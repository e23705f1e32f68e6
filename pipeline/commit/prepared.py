"""Prepared rows in, one table or WebDataset archive a shard out, in memory that no shard's size changes.

A task appends row groups to a file that nobody sees; at the shard's end quarantine is written, then the file appears: its
existence is the commit. Of a shard that several tasks share, each writes a part; whoever puts the last one joins them, row
group by row group. A part's refused samples stand in a file beside it, written before it.

    prepared/<stem>.parquet or archives/<stem>.tar       _parts/<stem>/<fingerprint>/<lo>-<hi>.l[.end].parquet, .json
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema, storage
from pipeline.commit import redo, tables
from pipeline.commit.archives import SUFFIX, Archive, stats_path
from pipeline.commit.merge import Fetch, Row, quarantine_table
from pipeline.commit.parts import ARCHIVES, FOLDER, PREPARED, Unit, folder_of, part_path, quarantine_path, stem_of, table_path
from pipeline.commit.rowgroups import ROW_GROUP_BYTES, RowGroups, read_row_groups
from pipeline.commit.temporary import without_temporary
from pipeline.samples.chunks import ShardTask, stop_flag
from pipeline.samples.group import EndOfShard
from pipeline.samples.prepare import Done, Preparation, prepare_shard
from pipeline.samples.stretch import Span

TRIAL = "trial"
"""Folder for what `--limit` made of a shard that it did not read to the end: no commit, and made anew by the next run."""
EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteConfig:
    """How prepared rows are written, the same for all tasks of a run."""

    prepare: Preparation
    output: str
    fetch: Fetch
    """Original members of rejected samples."""
    metadata: dict[str, str]
    """Goes into the Parquet files' metadata."""
    tables: str = PREPARED
    """What is made: PREPARED for Parquet, ARCHIVES for WebDataset."""
    group_bytes: int = ROW_GROUP_BYTES
    """Bytes of a row group; of an archive, what is written at once."""


@dataclass(slots=True)
class _Account:
    """What a task knows of its samples apart from the rows."""

    refused: list[Row]
    end: EndOfShard | None = None


def write_shard(task: ShardTask, config: WriteConfig) -> Iterator[pa.Table]:
    """Prepares a shard or a part of one into its table; schema.RECEIPTS, one row a row group and one at the end.

    How many receipts come does not depend on what stands in the output: a replay by Ray gives as many.
    """
    store = storage.Folder(config.output)
    if store.exists(stop_flag(config.prepare.run_id)):
        return
    account = _Account([])
    pending: list[Done] = []
    try:
        with writer(store, _target(task, config), config) as groups:
            for done in prepare_shard(task, config.prepare):
                account.refused += done.refused
                account.end = done.end
                pending.append(done)
                began = time.perf_counter()
                filled = groups.add(done.table)
                done.seconds["write"] = time.perf_counter() - began
                if filled and done.end is None:
                    yield _receipt(task, pending, committed=False)
                    pending = []
            began = time.perf_counter()
            groups.close()
            if task.span is not None:
                store.put(_beside(part_of(task, task.span)), _account_bytes(account))
            elif task.stop_after is None:
                if redo.is_done(store, config.tables, stem_of(task.shard), task.fingerprint):
                    raise _AlreadyThere
                _quarantine(store, task, account, config)
    except _AlreadyThere:
        committed = False
    else:
        committed = task.span is None and task.stop_after is None
        if committed:
            redo.fulfilled(store, stem_of(task.shard), task.fingerprint)
        elif task.span is not None:
            committed = join(store, task, config)
    yield _receipt(task, pending, committed=committed, closing_s=time.perf_counter() - began)


class _AlreadyThere(Exception):
    """Someone else has finished this shard: what was written here is given up."""


def _target(task: ShardTask, config: WriteConfig) -> str:
    if task.span is not None:
        return part_of(task, task.span)
    path = table_path(config.tables, stem_of(task.shard))
    return TRIAL + path.removeprefix(config.tables) if task.stop_after is not None else path


@contextmanager
def writer(store: storage.Folder, path: str, config: WriteConfig) -> Iterator[RowGroups | Archive]:
    """What takes the rows of a table or an archive, by the path's extension; it appears at the end, whole or not at all."""
    with store.create(path, config.prepare.run_id) as draft:
        if not path.endswith(SUFFIX):
            with RowGroups(draft, config.metadata, config.group_bytes) as groups:
                yield groups
            return
        with Archive(draft, config.group_bytes) as archive:
            yield archive
        stats = {"counts": dict(sorted(archive.counts.items())), "bytes": draft.size, "made_by": config.metadata}
        store.put(stats_path(path), json.dumps(stats, indent=1).encode())


def part_of(task: ShardTask, span: Span) -> str:
    """Where the rows of a part stand until all parts do."""
    end = span.end is not None
    hi = Unit(span.hi + 1, 0) if end else Unit(span.hi, 0)
    return part_path(stem_of(task.shard), task.fingerprint, Unit(span.lo, 0), hi, whole=True, transient=False, end=end)


def _beside(path: str) -> str:
    return path.removesuffix(".parquet") + ".json"


def _account_bytes(account: _Account) -> bytes:
    end = None if account.end is None else account.end.to_json()
    return json.dumps({"refused": account.refused, "end": end}).encode()


def _quarantine(store: storage.Store, task: ShardTask, account: _Account, config: WriteConfig) -> None:
    """Rejected samples with their bytes, removed ones without, and damage. Deletes the table of a former version where nothing is left."""
    assert account.end is not None
    path = quarantine_path(stem_of(task.shard))
    if not account.refused and not account.end.damage:
        store.delete(path)
        return
    table = quarantine_table(task.shard, [[row] for row in account.refused], json.loads(account.end.to_json()), config.fetch)
    if table.num_rows:
        store.put(path, tables.encode(table, config.metadata))
    else:
        store.delete(path)


def join(store: storage.Folder, task: ShardTask, config: WriteConfig) -> bool:
    """Makes the final table of a shard from its parts if all are there; True if this call did.

    Two tasks that come here at once write equal tables; one that finds a part gone was overtaken.
    """
    folder, spans = folder_of(stem_of(task.shard), task.fingerprint), task.siblings
    paths = [part_of(task, span) for span in spans]
    there = {blob.path for blob in store.list(folder)}
    if not set(paths) <= there or redo.is_done(store, config.tables, stem_of(task.shard), task.fingerprint):
        return False
    account = _Account([])
    try:
        for path in paths:
            part = json.loads(store.get(_beside(path)))
            account.refused += part["refused"]
            account.end = EndOfShard.from_json(part["end"]) if part["end"] is not None else None
        with writer(store, table_path(config.tables, stem_of(task.shard)), config) as groups:
            for path in paths:
                for rows in read_row_groups(f"{store.url}/{path}"):
                    groups.add(rows)
            groups.close()
            _quarantine(store, task, account, config)
    except FileNotFoundError:
        return False
    redo.fulfilled(store, stem_of(task.shard), task.fingerprint)
    for blob in store.list(folder):
        store.delete(blob.path)
    store.prune(folder)
    return True


def tidy(store: storage.Folder, done: Iterable[str], run_id: str) -> None:
    """At the end of a run: deletes what is left of shards that are done (stems), and temporary files of this run and of dead ones."""
    finished = set(done)
    for blob in store.list(FOLDER):
        if blob.path.rsplit("/", 2)[0][len(FOLDER) + 1 :] in finished:
            store.delete(blob.path)
    for folder in (FOLDER, PREPARED, ARCHIVES, TRIAL, "quarantine"):
        without_temporary(store, store.list(folder), run_id)
    for folder in (FOLDER, redo.FOLDER):
        store.prune(folder)


def _receipt(task: ShardTask, chunks: list[Done], *, committed: bool, closing_s: float = 0.0) -> pa.Table:
    """One row of schema.RECEIPTS for some chunks of a shard. `closing_s`: what it took to end and publish the table."""
    counts, seconds = Counter[str](), {"write": closing_s}
    audio_s, damage = 0.0, 0
    examples: list[list[Any]] = []
    seen: Counter[str] = Counter()
    for done in chunks:
        counts.update(done.counts())
        for step, spent_s in done.seconds.items():
            seconds[step] = seconds.get(step, 0.0) + spent_s
        audio_s += pc.sum(done.table.column("duration_s")).as_py() or 0.0
        damage += done.end.n_damage if done.end is not None else 0
        for row in done.refused:
            seen[row["reason"]] += 1
            if seen[row["reason"]] <= EXAMPLES and row["status"] != schema.SKIPPED:
                examples.append([row["reason"], task.shard, row["key"] or "", row["detail"] or ""])
    row = {
        "shard": task.shard,
        "lo": chunks[0].lo if chunks else 0,
        "hi": chunks[-1].hi if chunks else 0,
        "counts": json.dumps(counts),
        "audio_s": audio_s,
        "committed": committed,
        "damage": damage,
        "seconds": json.dumps(seconds),
        "examples": json.dumps(examples),
        "sums": json.dumps({"bytes": sum(done.table.nbytes for done in chunks)}),
    }
    return pa.Table.from_arrays([pa.array([row.get(name.name)], name.type) for name in schema.RECEIPTS], schema=schema.RECEIPTS)
