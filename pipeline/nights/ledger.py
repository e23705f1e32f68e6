"""What the tables of a version hold, without opening them every night: one entry a table, read when the table changes.

The ledger is a memory of what storage says, never the truth: an entry counts only while its table has the size and the
time that it had when it was read. Lost, old or damaged, it is made anew from the tables.
"""

import io
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schema, storage
from pipeline.errors import RequestError
from pipeline.nights.compare import Made
from pipeline.storage import Blob

PATH = "ledger.parquet"
FINGERPRINT = b"nightcap.fingerprint"
READERS = 16
"""Tables that are opened at a time: a store answers in tens of milliseconds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One caption table."""

    stem: str
    table_bytes: int
    written_s: float
    """When storage says that the table was written."""
    fingerprint: str
    """Of the archive it was made from; empty for tables that do not say."""
    counts: Mapping[str, int]
    """Samples by status."""
    night: str
    """Date of the night that first saw the table as it is now."""

    @property
    def samples(self) -> int:
        """All of them, whatever became of them."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Ledger:
    """The tables of a version, by stem."""

    entries: Mapping[str, Entry]

    def made(self) -> dict[str, Made]:
        """For the comparison with a listing."""
        return {stem: Made(entry.fingerprint, entry.written_s) for stem, entry in self.entries.items()}

    def counts(self, stems: Iterable[str] | None = None) -> dict[str, int]:
        """Samples by status, over all tables or those of the given stems."""
        found: dict[str, int] = {}
        for entry in self.entries.values() if stems is None else (self.entries[stem] for stem in stems if stem in self.entries):
            for status, count in entry.counts.items():
                found[status] = found.get(status, 0) + count
        return found


def load(store: storage.Folder) -> Ledger:
    """The ledger as it was saved; an empty one where there is none, or it cannot be read."""
    try:
        rows = pq.read_table(io.BytesIO(store.get(PATH))).cast(schema.LEDGER).to_pylist()
    except (FileNotFoundError, pa.ArrowException, ValueError):
        return Ledger({})
    return Ledger({row["stem"]: Entry(**{**row, "counts": json.loads(row["counts"])}) for row in rows})


def save(store: storage.Folder, ledger: Ledger) -> None:
    """Writes it whole."""
    rows = [
        {
            "stem": entry.stem,
            "table_bytes": entry.table_bytes,
            "written_s": entry.written_s,
            "fingerprint": entry.fingerprint,
            "counts": json.dumps(dict(sorted(entry.counts.items()))),
            "night": entry.night,
        }
        for _, entry in sorted(ledger.entries.items())
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.LEDGER), sink, compression="zstd")
    store.put(PATH, bytes(sink.getvalue()))


def refresh(store: storage.Folder, known: Ledger, night: str, folder: str = "captions") -> Ledger:
    """The ledger as storage is now: entries whose table is as it was stay, the others are read. RequestError for a damaged table."""
    blobs = {
        _stem(blob, folder): blob for blob in store.list(folder) if blob.path.endswith(".parquet") and storage.TEMPORARY not in blob.path
    }
    entries = {stem: known.entries[stem] for stem, blob in blobs.items() if _holds(known.entries.get(stem), blob)}
    with ThreadPoolExecutor(READERS, "ledger") as readers:
        fresh = readers.map(lambda stem: _read(store, stem, blobs[stem], night), [stem for stem in blobs if stem not in entries])
        entries.update((entry.stem, entry) for entry in fresh if entry is not None)
    return Ledger(entries)


def _stem(blob: Blob, folder: str) -> str:
    return blob.path[len(folder) + 1 : -len(".parquet")]


def _holds(entry: Entry | None, blob: Blob) -> bool:
    return entry is not None and (entry.table_bytes, entry.written_s) == (blob.size, blob.mtime_s)


def _read(store: storage.Folder, stem: str, blob: Blob, night: str) -> Entry | None:
    filesystem, path = storage.resolve(f"{store.url}/{blob.path}")
    try:
        with filesystem.open_input_file(path) as file:
            parquet = pq.ParquetFile(file)
            made_from = (parquet.schema_arrow.metadata or {}).get(FINGERPRINT, b"").decode()
            rows = parquet.read(columns=["status", "caption_index"])
    except FileNotFoundError:  # another run replaces it
        return None
    except pa.ArrowException as exc:
        line = str(exc).splitlines()[0]
        raise RequestError(f"{store.url}/{blob.path} cannot be read ({line}); delete it, and it is made anew") from exc
    first = rows.filter(pc.equal(rows.column("caption_index"), 0)).column("status")
    counts = {str(entry["values"]): int(entry["counts"]) for entry in pc.value_counts(first.combine_chunks()).to_pylist()}
    return Entry(stem, blob.size, blob.mtime_s, made_from, counts, night)
