"""The commit of a shard as a state machine over put, get, list and delete. Pure, no Ray.

Rows come in any order, from any process, some of them twice. Runs of rows become parts; whoever puts the part that
completes a shard merges. Quarantine is written first, captions last: the caption table's existence is the commit.
A crash at any point leaves what the next run repairs: `sweep` merges complete sets and deletes what is left over.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from pipeline import schema
from pipeline.commit import redo, tables
from pipeline.commit.merge import Fetch, Row, captions_table, end_of, is_transient, quarantine_table, samples_of, verdict_of, winners
from pipeline.commit.parts import CAPTIONS, FOLDER, Part, Unit, covers, folder_of, part_path, parts_in, quarantine_path, stem_of, table_path
from pipeline.commit.temporary import without_temporary
from pipeline.storage import Store

ATTEMPTS = 5
"""How often a merge lists again because parts vanished under it."""


class Receipt(NamedTuple):
    """What became of one run of rows of a shard."""

    shard: str
    lo: int
    hi: int
    counts: dict[str, int]
    """Samples by status, rejected and skipped ones as `status:reason`; a sample counts with its last piece."""
    audio_s: float
    committed: bool
    """This run of rows completed its shard."""
    damage: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Commits rows below one output folder."""

    store: Store
    fetch: Fetch
    captions_per_sample: int = 0
    """That every captioned sample has; 0 does not look."""
    metadata: dict[str, str] = field(default_factory=dict)
    about: Callable[[pa.Table], dict[str, str]] = lambda _: {}
    """More metadata of a caption table, from its rows."""

    def write(self, rows: pa.Table) -> list[Receipt]:
        """Commits rows of `schema.PARTS`: any shards, any order. One receipt a run without a gap."""
        receipts = []
        for shard, fingerprint, run in _runs(rows):
            receipts.append(self._write_run(shard, fingerprint, run))
        return receipts

    def _write_run(self, shard: str, fingerprint: str, run: pa.Table) -> Receipt:
        units = winners([run])
        self._check_whole(shard, units)
        first, last = min(units), max(units)
        end = end_of(units)
        transient = any(is_transient(row) for rows in units.values() for row in rows)
        stem = stem_of(shard)
        if end is not None and first == (0, 0) and not transient:
            committed = not self._is_done(stem, fingerprint)  # a zombie does not write over what stands, which a replay may have revised
            if committed:
                self._publish(shard, stem, fingerprint, units)
        else:
            whole = units[last][0]["last"]
            path = part_path(stem, fingerprint, Unit(*first), Unit(*last), whole=whole, transient=transient, end=end is not None)
            self.store.put(path, tables.encode(run))
            committed = self.merge(shard, fingerprint)
        samples = [verdict_of(rows) for rows in units.values() if rows[0]["kind"] == schema.KIND_SAMPLE]
        audio_s = sum(row["duration_s"] or 0.0 for row in samples if row["modality"] != "image" and row["caption"] is not None)
        damage = len(end["damage"]) if end else 0
        counts = Counter(_outcome(row) for row in samples if row["last"])
        return Receipt(shard, first[0], last[0], dict(counts), audio_s, committed, damage)

    def _check_whole(self, shard: str, units: dict[tuple[int, int], list[Row]]) -> None:
        """RuntimeError where only some captions of a sample came: the block was divided, and the others would be lost."""
        for (index, _), rows in units.items():
            if self.captions_per_sample and verdict_of(rows)["caption"] is not None and len(rows) != self.captions_per_sample:
                raise RuntimeError(f"{shard}: {len(rows)} of {self.captions_per_sample} captions of sample {index} came in one block")

    def merge(self, shard: str, fingerprint: str) -> bool:
        """Writes the final tables if the parts are complete; True if this call wrote them.

        A shard with transient rejects that no other part replaces stays open.
        """
        stem = stem_of(shard)
        folder = folder_of(stem, fingerprint)
        for _ in range(ATTEMPTS):
            if self._is_done(stem, fingerprint):
                self._clean(folder)
                return False
            parts = parts_in(self.store.list(folder))
            if not covers(parts):
                return False
            try:
                units = winners(tables.decode(self.store.get(part.path)) for part in parts)
            except FileNotFoundError:  # someone else merged, or replaced a part
                continue
            if any(is_transient(row) for rows in units.values() for row in rows):
                return False
            self._publish(shard, stem, fingerprint, units)
            self._clean(folder)
            return True
        return False

    def sweep(self) -> list[str]:
        """Merges complete sets, deletes parts of finished shards and old temporary files; returns shards merged.

        For the start and the end of a run only. Parts of a former version of an archive are the planner's to delete:
        it alone knows the present one.
        """
        merged = []
        folders: dict[str, list[Part]] = {}
        for part in parts_in(without_temporary(self.store, self.store.list(FOLDER))):
            folders.setdefault(part.path.rsplit("/", 1)[0], []).append(part)
        for folder in (CAPTIONS, "quarantine"):
            without_temporary(self.store, self.store.list(folder))
        for folder, parts in folders.items():
            stem, _, fingerprint = folder[len(FOLDER) + 1 :].rpartition("/")
            if not stem:  # not of our making
                continue
            if self._is_done(stem, fingerprint):
                self._clean(folder)
            elif covers(parts) and (shard := self._shard_in(parts)) is not None and self.merge(shard, fingerprint):
                merged.append(shard)
        for folder in (FOLDER, redo.FOLDER):
            self.store.prune(folder)
        return merged

    def _shard_in(self, parts: list[Part]) -> str | None:
        for part in parts:
            with contextlib.suppress(FileNotFoundError):
                return str(tables.decode(self.store.get(part.path)).column("shard")[0].as_py())
        return None

    def _is_done(self, stem: str, fingerprint: str) -> bool:
        return redo.is_done(self.store, CAPTIONS, stem, fingerprint)

    def _publish(self, shard: str, stem: str, fingerprint: str, units: dict[tuple[int, int], list[Row]]) -> None:
        end = end_of(units)
        assert end is not None
        samples = samples_of(units)
        quarantine = quarantine_table(shard, samples, end, self.fetch)
        if quarantine.num_rows:
            self.store.put(quarantine_path(stem), tables.encode(quarantine, self.metadata))
        else:
            self.store.delete(quarantine_path(stem))
        captions = captions_table(samples)
        metadata = {**self.metadata, **self.about(captions), tables.FINGERPRINT: fingerprint}
        self.store.put(table_path(CAPTIONS, stem), tables.encode(captions, metadata))
        redo.fulfilled(self.store, stem, fingerprint)

    def _clean(self, folder: str) -> None:
        for blob in self.store.list(folder):
            self.store.delete(blob.path)
        self.store.prune(folder)


def _outcome(row: Row) -> str:
    return f"{row['status']}:{row['reason']}" if row["reason"] is not None else str(row["status"])


def _runs(rows: pa.Table) -> Iterator[tuple[str, str, pa.Table]]:
    """(shard, fingerprint, rows) for each maximal run of units without a gap."""
    ordered = rows.sort_by([(name, "ascending") for name in ("shard", "fingerprint", "index", "piece", "caption_index")])
    names = zip(*(ordered.column(name).to_pylist() for name in ("shard", "fingerprint", "index", "piece", "last", "kind")), strict=True)
    start, before = 0, None
    for at, (shard, fingerprint, index, piece, last, _) in enumerate(names):
        follows = before is not None and before[:2] == (shard, fingerprint) and (index, piece) in (before[2], before[3])
        if before is not None and not follows:
            yield before[0], before[1], ordered.slice(start, at - start)
            start = at
        before = (shard, fingerprint, (index, piece), (index + 1, 0) if last else (index, piece + 1))
    if before is not None:
        yield before[0], before[1], ordered.slice(start)
