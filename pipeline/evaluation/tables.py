"""Caption tables as a stream of pieces that can be scored: whole samples, with their references and both captions.

Pieces hold SCORED columns. Rows without a reference are counted and left out; rows that one of the systems has no
caption for stay in, because their references count for document frequencies, and are not scored.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema, storage
from pipeline.errors import RequestError
from pipeline.evaluation.references import References

PIECE_ROWS = 4096
"""Rows a piece, or a few more: samples are not cut."""

COLUMNS = ("key", "shard", "index", "sample_sha256", "modality", "text", "caption_index", "caption", "status", "language")

SCORED = pa.schema(
    [
        *(schema.CAPTIONS.field(name) for name in ("key", "shard", "index", "caption_index", "modality", "language")),
        pa.field("source", pa.string(), nullable=False),  # where the references are from: text, or the file's name
        pa.field("references", pa.list_(pa.string()), nullable=False),  # one or more
        pa.field("captions", pa.list_(pa.string()), nullable=False),  # of each system; null where it has none
    ]
)


@dataclass(slots=True)
class Coverage:
    """What of the tables was scored, and why the rest was not."""

    rows: int = 0
    without_reference: int = 0
    without_caption: int = 0
    """Rejected or skipped rows with a reference."""
    statuses: Counter[str] = field(default_factory=Counter)
    only_here: int = 0
    """Rows that the other run does not hold."""


@dataclass(frozen=True, slots=True)
class Tables:
    """The caption tables of one run."""

    url: str
    """Of the folder that relative names are below."""
    names: tuple[str, ...]

    def rows(self, name: str) -> Iterator[list[dict[str, Any]]]:
        """Rows of one table, a few thousand at a time. RequestError where it is no caption table."""
        filesystem, path = storage.resolve(f"{self.url}/{name}")
        try:
            with filesystem.open_input_file(path) as file:
                parquet = pq.ParquetFile(file)
                missing = [column for column in COLUMNS if column not in parquet.schema_arrow.names and column != "sample_sha256"]
                if missing:
                    raise RequestError(
                        f"{self.url}/{name} has no column {missing[0]}: evaluate takes the captions of nightcap caption, or its output folder"
                    )
                present = [column for column in COLUMNS if column in parquet.schema_arrow.names]
                for batch in parquet.iter_batches(PIECE_ROWS, columns=present):
                    yield batch.to_pylist()
        except (pa.ArrowException, OSError) as exc:
            raise RequestError(f"{self.url}/{name} cannot be read as Parquet: {str(exc).splitlines()[0]}") from exc


def find(url: str) -> Tables:
    """The caption tables of an output folder, of its `captions` folder, or one file. RequestError where there is none."""
    url = url.rstrip("/")
    if url.endswith(".parquet") and storage.stat(url) is not None:
        folder, _, name = url.rpartition("/")
        return Tables(folder or ".", (name,))
    base = f"{url}/captions" if storage.is_folder(f"{url}/captions") else url
    names = [blob.path for blob in storage.Folder(base).list("") if blob.path.endswith(".parquet")]
    names = [name.lstrip("/") for name in names if storage.TEMPORARY not in name]
    if not names:
        raise RequestError(f"{url} holds no caption tables; name the --output folder of nightcap caption")
    return Tables(base, tuple(sorted(names)))


def paired(ours: Tables, theirs: Tables) -> tuple[str, ...]:
    """Names that both runs have. RequestError where they have none in common."""
    both = tuple(name for name in ours.names if name in set(theirs.names))
    if len(ours.names) == len(theirs.names) == 1:
        return ours.names
    if not both:
        raise RequestError(
            f"{ours.url} and {theirs.url} have no archive in common ({ours.names[0]} against {theirs.names[0]}): "
            "these are captions of different corpora; compare two runs over the same archives"
        )
    return both


def pieces(ours: Tables, theirs: Tables | None, references: References | None, coverage: Coverage) -> Iterator[pa.Table]:
    """SCORED tables in the order of the archives; fills `coverage` while they are read."""
    gathered: list[dict[str, Any]] = []
    for name in ours.names if theirs is None else paired(ours, theirs):
        other = None if theirs is None else _by_place(theirs, name if len(theirs.names) > 1 else theirs.names[0])
        for rows in ours.rows(name):
            for row in rows:
                if len(gathered) >= PIECE_ROWS and row["caption_index"] == 0:
                    yield pa.Table.from_pylist(gathered, SCORED)
                    gathered = []
                ready = _ready(row, other, references, coverage)
                if ready is not None:
                    gathered.append(ready)
    if gathered:
        yield pa.Table.from_pylist(gathered, SCORED)


def _by_place(tables: Tables, name: str) -> dict[tuple[str, int, int], tuple[str | None, str | None]]:
    return {
        (row["shard"], row["index"], row["caption_index"]): (_caption(row), row.get("sample_sha256"))
        for rows in tables.rows(name)
        for row in rows
    }


def _caption(row: Mapping[str, Any]) -> str | None:
    return None if row["status"] in (schema.REJECTED, schema.SKIPPED) else row["caption"] or ""


def _ready(
    row: dict[str, Any],
    other: Mapping[tuple[str, int, int], tuple[str | None, str | None]] | None,
    references: References | None,
    coverage: Coverage,
) -> dict[str, Any] | None:
    coverage.rows += 1
    coverage.statuses[row["status"]] += 1
    texts, source = _references(row, references)
    if not texts:
        coverage.without_reference += 1
        return None
    captions = [_caption(row)]
    if other is not None:
        place = (row["shard"], row["index"], row["caption_index"])
        if place not in other:
            coverage.only_here += 1
            return None
        caption, digest = other[place]
        if digest is not None and row.get("sample_sha256") not in (None, digest):
            raise RequestError(
                f"{row['shard']}:{row['key']} (index {row['index']}) is another sample in the other run: these are captions of different corpora"
            )
        captions.append(caption)
    coverage.without_caption += any(caption is None for caption in captions)
    return {**{name: row.get(name) for name in SCORED.names}, "source": source, "references": texts, "captions": captions}


def _references(row: Mapping[str, Any], references: References | None) -> tuple[Sequence[str], str]:
    if references is not None:
        found = references.of(row["key"], row["shard"], row["index"])
        if found:
            return found, references.path.rpartition("/")[2]
    text = row["text"]
    return ([text], "text") if text and text.strip() else ([], "text")
