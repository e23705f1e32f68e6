"""Rows of `schema.SAMPLES`, collected as Python values and turned into one Arrow table at a time."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline import schema
from pipeline.samples.group import Field
from pipeline.samples.medium import Medium

TEXT_KEYS = ("caption", "text", "transcript", "sentence")
"""Keys of a sample's JSON that hold its reference text where it has no `txt`, in order of preference."""


class Rows:
    """Collects rows; `take` gives them as a table and starts anew. Missing columns are null."""

    def __init__(self, table: pa.Schema = schema.SAMPLES) -> None:
        self._schema = table
        self._columns: dict[str, list[Any]] = {name: [] for name in table.names}
        self.payload_bytes = 0
        """Bytes of pixels and waves held."""

    def __len__(self) -> int:
        return len(self._columns["index"])

    def add(self, row: dict[str, Any], medium: Medium | None = None) -> None:
        """Adds one row; a medium fills its columns."""
        values = row if medium is None else {**row, **_medium_columns(medium)}
        for name, column in self._columns.items():
            column.append(values.get(name))
        if medium is not None:
            for payload in (medium.pixels_hwc, medium.wave_t):
                self.payload_bytes += 0 if payload is None else payload.nbytes

    def take(self) -> pa.Table:
        """The rows so far as a table of the schema; the collector is empty afterwards."""
        arrays = [pa.array(self._columns[field.name], field.type) for field in self._schema]
        self._columns = {name: [] for name in self._schema.names}
        self.payload_bytes = 0
        return pa.Table.from_arrays(arrays, schema=self._schema)


def _medium_columns(medium: Medium) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "modality": medium.modality,
        "width": medium.width,
        "height": medium.height,
        "duration_s": medium.duration_s,
        "start_s": medium.start_s,
        "last": medium.last,
        "sample_rate_hz": medium.sample_rate_hz,
        "frame_times_s": None if medium.times_s is None else list(medium.times_s),
    }
    if medium.pixels_hwc is not None:
        height, width, _ = medium.pixels_hwc.shape
        columns |= {"pixels_hwc": medium.pixels_hwc.tobytes(), "pixels_height": height, "pixels_width": width}
    if medium.wave_t is not None:
        columns["wave_t"] = medium.wave_t.tobytes()
    return columns


def reference_text(fields: Sequence[Field]) -> tuple[str | None, list[str]]:
    """The text that came with a sample, and remarks on why there is none; of several the first."""
    texts, flags = reference_texts(fields)
    return (texts[0] if texts else None), flags


def reference_texts(fields: Sequence[Field]) -> tuple[list[str], list[str]]:
    """All texts that came with a sample, some maybe empty, and remarks on why there are none.

    `txt` first, then the strings under `captions` in `json`; where there is neither, the string under one of `TEXT_KEYS`.
    Unreadable text rejects nothing: what becomes of the medium does not depend on it. Flags: `reference_not_utf8`,
    `json_unparsable`.
    """
    by_name = {field.name: field.data for field in fields if field.data is not None}
    found: list[str] = []
    flags: list[str] = []
    data = by_name.get("txt")
    if data is not None:
        try:
            found.append(data.decode("utf-8-sig").strip())
        except UnicodeDecodeError:
            return [], ["reference_not_utf8"]
    data = by_name.get("json")
    if data is None:
        return found, flags
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        return found, [] if found else ["json_unparsable"]
    if isinstance(parsed, dict):
        several = parsed.get("captions")
        if isinstance(several, list):
            found += [text.strip() for text in several if isinstance(text, str)]
        if not found:
            found += [parsed[key].strip() for key in TEXT_KEYS if isinstance(parsed.get(key), str)][:1]
    return found, flags


def json_columns(fields: Sequence[Field], names: Sequence[str]) -> str | None:
    """Values of a sample's `json` by their paths (`title`, `source.url`), as JSON; what is missing is left out. None for no names."""
    if not names:
        return None
    data = next((field.data for field in fields if field.name == "json" and field.data is not None), b"{}")
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        parsed = {}
    found = {name: _value(parsed, name) for name in names}
    return json.dumps({name: value for name, value in found.items() if value is not None}, ensure_ascii=False)


def _value(parsed: Any, path: str) -> Any:
    """Objects and lists as JSON; None where there is nothing."""
    for name in path.split("."):
        if not isinstance(parsed, dict) or name not in parsed:
            return None
        parsed = parsed[name]
    return json.dumps(parsed, ensure_ascii=False) if isinstance(parsed, dict | list) else parsed
