"""References from a file: several a sample, by key or by shard and index.

JSON    {"key": ["a cat", "a small cat"], ...}, a list of rows as below, or COCO's annotations (images, annotations)
CSV, Parquet, JSON lines   rows with `key`, or `shard` and `index`, and `references` (a list) or `text` (rows repeat)

All of the file is kept in memory: about 300 bytes a reference.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import RequestError

TEXTS = ("references", "reference", "text", "caption", "captions")
"""Columns that may hold references, the first that is there."""


@dataclass(slots=True)
class References:
    """Texts by key and by place."""

    path: str
    columns: tuple[str, ...] = TEXTS
    """Columns that the texts may stand in."""
    by_key: dict[str, list[str]] = field(default_factory=dict)
    by_place: dict[tuple[str, int], list[str]] = field(default_factory=dict)

    def of(self, key: str | None, shard: str, index: int) -> list[str]:
        """The references of a sample; none where the file names it neither by place nor by key."""
        return self.by_place.get((shard, index)) or (self.by_key.get(key, []) if key is not None else [])

    @property
    def named(self) -> int:
        """Samples that the file names."""
        return len(self.by_key) + len(self.by_place)

    @property
    def example(self) -> str:
        """One of the names, for a message."""
        return next(iter(self.by_key), None) or str(next(iter(self.by_place), ""))


def load(path: str, *, flag: str = "--references", columns: tuple[str, ...] = TEXTS) -> References:
    """Reads a file of references, or of what other columns hold. RequestError, which names the flag, where it cannot be read as one."""
    found, what = References(path, columns), flag.removeprefix("--")
    try:
        data = storage.Folder(path.rpartition("/")[0] or ("/" if path.startswith("/") else ".")).get(path.rpartition("/")[2])
    except OSError as exc:
        raise RequestError(f"{flag} {path} cannot be read: {exc.strerror or exc}") from exc
    try:
        _fill(found, data, path.lower())
    except (pa.ArrowException, ValueError, KeyError, TypeError) as exc:
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise RequestError(f"{flag} {path} holds no {what} ({reason}); see nightcap evaluate --help for its forms") from exc
    if not found.named:
        raise RequestError(f"{flag} {path} names no sample; each row needs key, or shard and index, and {found.columns[0]}")
    return found


def _fill(found: References, data: bytes, name: str) -> None:
    if name.endswith(".parquet"):
        _add_rows(found, pq.read_table(pa.BufferReader(data)).to_pylist())
    elif name.endswith((".csv", ".tsv")):
        options = pacsv.ParseOptions(delimiter="\t" if name.endswith(".tsv") else ",", newlines_in_values=True)
        texts = pacsv.ConvertOptions(column_types=dict.fromkeys(("key", "shard", *found.columns), pa.string()))
        _add_rows(found, pacsv.read_csv(pa.BufferReader(data), parse_options=options, convert_options=texts).to_pylist())
    elif name.endswith(".jsonl"):
        _add_rows(found, pajson.read_json(pa.BufferReader(data)).to_pylist())
    elif name.endswith(".json"):
        _add_json(found, json.loads(data))
    else:
        raise ValueError("its name ends neither in .json, .jsonl, .csv, .tsv nor .parquet")


def _add_json(found: References, value: Any) -> None:
    if isinstance(value, list):
        _add_rows(found, value)
    elif isinstance(value, dict) and "images" in value and "annotations" in value:
        stems = {image["id"]: PurePosixPath(image["file_name"]).stem for image in value["images"]}
        for note in value["annotations"]:
            found.by_key.setdefault(stems.get(note["image_id"], str(note["image_id"])), []).append(note["caption"])
    elif isinstance(value, dict):
        for key, texts in value.items():
            found.by_key.setdefault(key, []).extend(_texts(texts))
    else:
        raise ValueError("neither an object nor a list")


def _add_rows(found: References, rows: Iterable[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        column = next((name for name in found.columns if name in row), None)
        if column is None:
            raise ValueError(f"row {number + 1} has none of the columns {', '.join(found.columns)}")
        texts = list(_texts(row[column]))
        if row.get("shard") is not None and row.get("index") is not None:
            found.by_place.setdefault((str(row["shard"]), int(row["index"])), []).extend(texts)
        elif row.get("key") is not None:
            found.by_key.setdefault(str(row["key"]), []).extend(texts)
        else:
            raise ValueError(f"row {number + 1} has neither key, nor shard and index")


def _texts(value: Any) -> Iterator[str]:
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and text.strip():
            yield text
        elif text is not None and not isinstance(text, str):
            raise ValueError(f"a text is {type(text).__name__}")
