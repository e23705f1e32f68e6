"""Rows of `schema.PREPARED` as a WebDataset archive, the same bytes for the same rows; and back again.

A sample's members, sorted by name: `jpg` or `flac` or `frame0000.jpg`, ... as they are stored in a row; `txt`; and `json`
with every other column that is not null (`captions` for the row's `references`, as `nightcap shard` calls them). Keys are
those of the source; one that came before in its archive gets its index behind it, so that no two samples run into each
other. Beside each archive stands what a Parquet file has in its footer:

    archives/<stem>.tar      archives/<stem>_stats.json, written before it
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa

from pipeline import schema, storage
from pipeline.commit.rowgroups import ROW_GROUP_BYTES, count_rows
from pipeline.samples.group import Sample, read_samples
from pipeline.samples.rows import Rows
from pipeline.samples.ustar import BLOCK, END, PADS, header

SUFFIX = ".tar"
STATS = "_stats.json"
_MEDIA = ("image", "audio", "frames", "text")
_RENAMED = {"references": "captions"}
_DESCRIBED = tuple(name for name in schema.PREPARED.names if name not in _MEDIA)
_ROWS = 256


def stats_path(path: str) -> str:
    """Where the counts of an archive stand."""
    return path.removesuffix(SUFFIX) + STATS


class Archive:
    """Writes tables of schema.PREPARED to a draft."""

    def __init__(self, draft: storage.Draft, group_bytes: int = ROW_GROUP_BYTES) -> None:
        self._draft = draft
        self._group_bytes = group_bytes
        self._held = bytearray()
        self._last = ""
        self._open = True
        self.counts: Counter[str] = Counter(rows=0)
        """Rows, rows by modality (text: those without a medium), and tokens."""

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()

    def add(self, rows: pa.Table) -> bool:
        """Takes rows; True if that came to as many bytes as a row group, which are then written."""
        if rows.num_rows == 0:
            return False
        count_rows(rows, self.counts)
        for row in rows.to_pylist():
            self._last = key = _name_of(row, self._last)
            for field, data in _members(row):
                self._held += header(f"{key}.{field}".encode(), len(data))
                self._held += data
                self._held += PADS[-len(data) % BLOCK]
        if len(self._held) < self._group_bytes:
            return False
        self._flush()
        return True

    def _flush(self) -> None:
        self._draft.write(self._held)
        self._held = bytearray()

    def close(self) -> None:
        """Writes what is held and the end of the archive; a second call does nothing."""
        if self._open:
            self._open = False
            self._held += END
            self._flush()


def _name_of(row: dict[str, Any], last: str) -> str:
    """The key in the archive. Readers take neighbours with one key for one sample."""
    name: str = row["key"]
    if "key_repeated" in row["flags"]:
        name = f"{name}-{row['index']}"
    return f"{name}-{row['index']}" if name == last else name


def _members(row: dict[str, Any]) -> list[tuple[str, bytes]]:
    described = {_RENAMED.get(name, name): row[name] for name in _DESCRIBED if row[name] is not None}
    members = [(f"frame{at:04d}.jpg", data) for at, data in enumerate(row["frames"] or [])]
    members += [(field, row[name]) for name, field in (("audio", "flac"), ("image", "jpg")) if row[name] is not None]
    members.append(("json", json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()))
    if row["text"] is not None:
        members.append(("txt", row["text"].encode()))
    return sorted(members)


def read_archive(url: str) -> Iterator[pa.Table]:
    """The rows that an archive was written from, some at a time. FileNotFoundError where it is gone; ValueError for another's archive."""
    rows, held = Rows(schema.PREPARED), 0
    with closing(storage.open_reader(url)) as reader:
        for sample in read_samples(reader, packed=False, max_sample_bytes=1 << 40):
            if not isinstance(sample, Sample):
                if sample.n_damage:
                    raise ValueError(f"{url} is damaged: {sample.damage[0].detail}")
                break
            rows.add(_row(sample, url))
            held += sample.size
            if len(rows) >= _ROWS or held >= ROW_GROUP_BYTES:
                yield rows.take()
                held = 0
    if len(rows):
        yield rows.take()


def _row(sample: Sample, url: str) -> dict[str, Any]:
    data = {field.name: field.data for field in sample.fields}
    described = json.loads(data.get("json") or b"null")
    if not isinstance(described, dict) or "index" not in described:
        raise ValueError(f"{url}: sample {sample.key} is none that nightcap prepare wrote")
    row = {name: described.get(_RENAMED.get(name, name)) for name in _DESCRIBED}
    frames = [field.data for field in sample.fields if field.name.startswith("frame")]
    text = data.get("txt")
    return row | {
        "image": data.get("jpg"),
        "audio": data.get("flac"),
        "frames": frames or None,
        "text": None if text is None else text.decode(),
    }
