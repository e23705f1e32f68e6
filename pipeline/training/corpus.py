"""A prepared folder as training sees it: which files, how many rows, in which row groups.

Only Parquet footers are read, several at a time: 0.3 ms each on a local disk. Which rows are kept for validation is drawn
once and stored beside the checkpoints, so that a corpus that grows does not let them into training.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema, storage
from pipeline.errors import RequestError
from pipeline.training.progress import Ranges, of_rows, union, without

TABLES = "prepared"
"""Folder of the tables below a prepared folder."""
_THREADS = 16
NEEDED = ("shard", "index", "modality", "token_ids")


@dataclass(frozen=True, slots=True)
class Group:
    """A row group: what is read at once."""

    first: int
    """Position of its first row in the file."""
    rows: int
    size: int
    """Bytes of its columns, unpacked."""


@dataclass(frozen=True, slots=True)
class PreparedFile:
    """One table of schema.PREPARED."""

    name: str
    """Path below the prepared folder's tables."""
    url: str
    groups: tuple[Group, ...]

    @property
    def rows(self) -> int:
        """Rows in all groups."""
        return sum(group.rows for group in self.groups)


@dataclass(frozen=True, slots=True)
class Corpus:
    """All tables, sorted by name."""

    files: tuple[PreparedFile, ...]

    @property
    def rows(self) -> int:
        """Samples in all files."""
        return sum(file.rows for file in self.files)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files; their places are the file numbers that rows carry."""
        return tuple(file.name for file in self.files)

    def universe(self, held_out: Mapping[str, Ranges]) -> dict[str, Ranges]:
        """All rows but those kept for validation, by file."""
        full = {file.name: without(((0, file.rows),), held_out.get(file.name, ())) for file in self.files if file.rows}
        return {name: ranges for name, ranges in full.items() if ranges}


def open_corpus(prepared: str) -> Corpus:
    """The tables below `prepared`. RequestError where there are none, or a file is no prepared table."""
    folder = f"{prepared.rstrip('/')}/{TABLES}"
    blobs = [blob for blob in storage.walk(folder) if blob.path.endswith(".parquet") and storage.TEMPORARY not in blob.path]
    if not blobs and storage.is_folder(f"{prepared.rstrip('/')}/archives"):
        raise RequestError(
            f"{prepared} holds WebDataset archives, and training reads Parquet; run nightcap prepare without --format webdataset"
        )
    if not blobs:
        raise RequestError(f"{prepared} holds no {TABLES}/**/*.parquet; give a folder that nightcap prepare wrote")
    at = len(storage.resolve(folder)[1] if storage.is_local(folder) else folder) + 1
    with ThreadPoolExecutor(_THREADS) as pool:
        files = pool.map(lambda blob: _open(blob.path, blob.path[at:]), blobs)
        return Corpus(tuple(sorted(files, key=lambda file: file.name)))


def _open(url: str, name: str) -> PreparedFile:
    filesystem, path = storage.resolve(url)
    try:
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            columns, footer = file.schema_arrow.names, file.metadata
    except (pa.ArrowInvalid, OSError) as exc:
        raise RequestError(
            f"{url} cannot be read as Parquet ({str(exc).splitlines()[0]}); delete it and run nightcap prepare again"
        ) from exc
    missing = [column for column in NEEDED if column not in columns]
    if missing:
        raise RequestError(f"{url} has no column {missing[0]}; give a folder that nightcap prepare wrote")
    first, groups = 0, []
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        groups.append(Group(first, group.num_rows, group.total_byte_size))
        first += group.num_rows
    return PreparedFile(name, url, tuple(groups))


def description(prepared: str) -> dict[str, Any]:
    """`dataset.json` of a prepared folder: what it was made with. RequestError where it is missing or unreadable."""
    try:
        values: Any = json.loads(storage.Folder(prepared).get("dataset.json"))
    except FileNotFoundError as exc:
        raise RequestError(f"{prepared} holds no dataset.json; give a folder that nightcap prepare wrote, whole") from exc
    except ValueError as exc:
        raise RequestError(f"{prepared}/dataset.json cannot be read ({exc}); run nightcap prepare again") from exc
    if not isinstance(values, dict):
        raise RequestError(f"{prepared}/dataset.json holds no object; run nightcap prepare again")
    return values


def draw_held_out(corpus: Corpus, share: float, most: int, seed: int) -> dict[str, Ranges]:
    """Rows for validation: `share` of all, at most `most`, drawn evenly over the corpus; fewer than two are none."""
    wanted = min(most, int(corpus.rows * share))
    if wanted < 2:
        return {}
    rng = np.random.default_rng([seed, 0x7A11DA7E])
    drawn = np.sort(rng.choice(corpus.rows, wanted, replace=False) if corpus.rows < 1 << 24 else rng.integers(0, corpus.rows, wanted))
    found, first = {}, 0
    for file in corpus.files:
        inside = drawn[(drawn >= first) & (drawn < first + file.rows)] - first
        if len(inside):
            found[file.name] = of_rows(inside)
        first += file.rows
    return found


def held_out_once(store: storage.Folder, corpus: Corpus, share: float, most: int, seed: int) -> dict[str, Ranges]:
    """The rows kept for validation: drawn at the first run, read back at later ones."""
    path = "held-out.json"
    try:
        known = json.loads(store.get(path))
    except FileNotFoundError:
        drawn = draw_held_out(corpus, share, most, seed)
        store.put(path, json.dumps(drawn).encode())
        return drawn
    except ValueError as exc:
        raise RequestError(f"{store.url}/{path} cannot be read ({exc}); restore it, or use another --output") from exc
    return {name: union(tuple((int(lo), int(hi)) for lo, hi in ranges)) for name, ranges in known.items()}


def read_rows(file: PreparedFile, ranges: Ranges) -> pa.Table:
    """Rows of schema.PREPARED by position; row groups without any are not read."""
    filesystem, path = storage.resolve(file.url)
    parts = []
    with pq.ParquetFile(path, filesystem=filesystem) as opened:
        for number, group in enumerate(file.groups):
            mine = [(max(lo, group.first), min(hi, group.first + group.rows)) for lo, hi in ranges]
            mine = [(lo, hi) for lo, hi in mine if lo < hi]
            if mine:
                table = opened.read_row_group(number)
                parts += [table.slice(lo - group.first, hi - lo) for lo, hi in mine]
    return pa.concat_tables(parts) if parts else schema.PREPARED.empty_table()
