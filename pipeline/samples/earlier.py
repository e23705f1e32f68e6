"""Captions of a former version of an archive, taken over for media that are the same: no model runs for them.

A rewritten archive has most of its samples again. The reader looks up each sample in the table that still stands; one that is
found there is not decoded, travels with its captions in the column `earlier`, and the commit makes them its rows. A folder
holds one recipe, so that equal media have equal captions; where prompts take values of the sample, those have to be equal too.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.storage import Store

TAKEN_OVER = "taken_over"
"""In counts: `success:taken_over`."""
BY_MEDIUM = ("media_sha256",)
READING_FLAGS = frozenset({"reference_not_utf8", "json_unparsable", "key_repeated"})
"""Flags that reading sets anew for the sample as it stands now."""
_OF_THE_SAMPLE = frozenset({"key", "shard", "index", "sample_sha256", "media_sha256", "modality", "text", "flags"})
_OF_THE_MEDIUM = frozenset({"modality", "width", "height", "duration_s"})
_CARRIED = tuple(name for name in schema.CAPTIONS.names if name not in _OF_THE_SAMPLE)
_WHOLE = pa.array([schema.SUCCESS, schema.TRUNCATED])

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EarlierTable:
    """Where captions are taken from, and what has to be equal."""

    path: str
    """Below the output."""
    key: tuple[str, ...] = BY_MEDIUM
    """Columns of schema.CAPTIONS that have to be equal."""


def key_for(columns: Iterable[str]) -> tuple[str, ...]:
    """What has to be equal where prompts are made of these columns (`text`, `key`, `json.title`): the medium and the rendered prompt."""
    found = dict.fromkeys(BY_MEDIUM)
    for column in columns:
        if column not in _OF_THE_MEDIUM:
            found["sample_sha256" if column.startswith("json.") else column] = None
    return tuple(found)


class Earlier:
    """A caption table by the key of its samples."""

    def __init__(self, table: pa.Table | None, key: tuple[str, ...] = BY_MEDIUM) -> None:
        self._key = key
        self._rows: dict[tuple[Any, ...], list[Row]] = {}
        if table is None:
            return
        refused = table.filter(pc.invert(pc.is_in(table.column("status"), value_set=_WHOLE))).column("index").unique()
        usable = table.filter(pc.invert(pc.is_in(table.column("index"), value_set=refused)))
        owners: dict[tuple[Any, ...], int] = {}
        for row in usable.to_pylist():
            name = self._name(row)
            if row["media_sha256"] is not None and owners.setdefault(name, row["index"]) == row["index"]:
                self._rows.setdefault(name, []).append(row)

    def _name(self, row: Row) -> tuple[Any, ...]:
        return tuple(row.get(column) for column in self._key)

    def find(self, row: Row) -> Row | None:
        """Columns for a described sample whose captions are known; None for one that the engine has to see."""
        known = self._rows.get(self._name(row))
        if known is None or known[0]["modality"] != row["modality"]:
            return None
        carried = [
            {**{name: one[name] for name in _CARRIED}, "flags": [flag for flag in one["flags"] if flag not in READING_FLAGS]}
            for one in known
        ]
        return {"status": schema.TAKEN, "earlier": json.dumps(carried)}


def load(store: Store, given: EarlierTable | None) -> Earlier:
    """The table that a task takes over from; an empty one where there is none, or none any more."""
    if given is None:
        return Earlier(None)
    try:
        return Earlier(pq.read_table(pa.BufferReader(store.get(given.path))), given.key)
    except FileNotFoundError:
        return Earlier(None)


def taken_in(table: pa.Table) -> dict[str, dict[int, str]]:
    """By shard, the index and the status of every sample whose captions are taken over. Takes rows before `with_taken`."""
    found: dict[str, dict[int, str]] = {}
    taken = table.filter(pc.equal(table.column("status"), schema.TAKEN))
    for row in taken.select(["shard", "index", "earlier"]).to_pylist():
        found.setdefault(row["shard"], {})[row["index"]] = json.loads(row["earlier"])[0]["status"]
    return found


def with_taken(table: pa.Table) -> pa.Table:
    """Rows of `schema.PARTS`, each one with status taken replaced by the captions that it carries; the same table without any."""
    is_taken = pc.equal(table.column("status"), schema.TAKEN)
    taken = table.filter(is_taken).to_pylist()
    if not taken:
        return table
    rows = [
        {**row, **caption, "flags": [*row["flags"], *caption["flags"]], "earlier": None}
        for row in taken
        for caption in json.loads(row["earlier"])
    ]
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema.PARTS]
    return pa.concat_tables([table.filter(pc.invert(is_taken)), pa.Table.from_arrays(columns, schema=schema.PARTS)])
