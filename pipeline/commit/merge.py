"""Rows of parts -> the two final tables of a shard. Pure: the same rows give the same tables, whoever merges."""

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa

from pipeline import schema
from pipeline.errors import Reason

Fetch = Callable[[str, Sequence[tuple[int, int]]], list[list[tuple[str, bytes]] | None]]
"""Original members of samples of a shard, by (offset, size) in the unpacked tar; None where they are not to be had."""

SHARD_BYTES = 256 << 20
"""Bytes of members that one quarantine table holds; beyond that offset and size only."""

Row = dict[str, Any]


def is_transient(row: Row) -> bool:
    """True for a reject that another attempt may mend."""
    return row["status"] == schema.REJECTED and row["reason"] is not None and Reason(row["reason"]).transient


def winners(tables: Iterable[pa.Table]) -> dict[tuple[int, int], list[Row]]:
    """Rows by (index, piece), the end row under (n, 0) too. Tables in order of their parts' names.

    For each unit the first table wins, but never with a transient reject over a result.
    """
    found: dict[tuple[int, int], list[Row]] = {}
    for table in tables:
        own: dict[tuple[int, int], dict[int, Row]] = {}
        for row in table.to_pylist():
            own.setdefault((row["index"], row["piece"]), {}).setdefault(row["caption_index"], row)
        for unit, by_number in own.items():
            rows = list(by_number.values())
            known = found.get(unit)
            if known is None or (any(map(is_transient, known)) and not any(map(is_transient, rows))):
                found[unit] = sorted(rows, key=lambda row: row["caption_index"])
    return found


def samples_of(units: dict[tuple[int, int], list[Row]]) -> list[list[Row]]:
    """The caption rows of each sample, pieces joined, in order of index; end rows left out."""
    ordered = sorted((unit, rows) for unit, rows in units.items() if rows[0]["kind"] == schema.KIND_SAMPLE)
    samples = []
    for _, group in groupby(ordered, key=lambda item: item[0][0]):
        pieces: list[list[Row]] = []
        for _, rows in group:
            pieces.append(rows)
            if rows[0]["last"]:
                break
        samples.append(_join(pieces))
    return samples


def verdict_of(rows: Sequence[Row]) -> Row:
    """The row that says what became of a sample with several captions: the first that is no reject, else the first."""
    return next((row for row in rows if row["status"] != schema.REJECTED), rows[0])


def captions_of(table: pa.Table) -> pa.Table:
    """schema.PARTS -> schema.CAPTIONS for samples that are complete in the table."""
    return captions_table(samples_of(winners([table])))


def captions_table(samples: Iterable[list[Row]]) -> pa.Table:
    """Rows of samples as schema.CAPTIONS."""
    rows = [row for sample in samples for row in sample]
    arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema.CAPTIONS]
    return pa.Table.from_arrays(arrays, schema=schema.CAPTIONS)


def _join(pieces: list[list[Row]]) -> list[Row]:
    if len(pieces) == 1:
        return pieces[0]
    last = pieces[-1][0]
    whole = pieces[-1] if last["modality"] == "video" and last["start_s"] == 0 else None  # a clip once more, after its segments
    duration_s = sum(rows[0]["duration_s"] or 0.0 for rows in (pieces if whole is None else pieces[:-1]))
    origin = {name: pieces[0][0][name] for name in ("sample_sha256", "media_sha256", "modality", "text")}
    nothing = {**origin, "duration_s": duration_s, "caption": None, "segments": None}
    lost = next((row for row in map(verdict_of, pieces) if row["status"] in (schema.REJECTED, schema.SKIPPED)), None)
    if lost is not None:
        return [{**lost, **nothing, "caption_index": 0}]
    joined = []
    for number in range(min(map(len, pieces))):
        rows = [one[number] for one in pieces]
        rejected = next((row for row in rows if row["status"] == schema.REJECTED), None)
        joined.append({**rejected, **nothing} if rejected is not None else _join_captions(rows, duration_s) | _said_of_all(whole, number))
    return joined


def _said_of_all(whole: list[Row] | None, number: int) -> Row:
    """What a row takes from the caption of the whole clip; its segments, tokens and flags are those of all."""
    return {} if whole is None else {name: whole[number][name] for name in ("caption", "mean_logprob", "seed", "language")}


def _join_captions(rows: list[Row], duration_s: float) -> Row:
    tokens = [row["n_output_tokens"] or 0 for row in rows]
    scored = [(row["mean_logprob"], count) for row, count in zip(rows, tokens, strict=True) if row["mean_logprob"] is not None and count]
    total = sum(count for _, count in scored)
    truncated = [row for row in rows if row["status"] != schema.SUCCESS]
    return {
        **rows[0],
        "caption": " ".join(text for text in (row["caption"] for row in rows) if text),
        "segments": [segment for row in rows for segment in row["segments"] or []] or None,
        "status": truncated[0]["status"] if truncated else schema.SUCCESS,
        "finish_reason": (truncated or rows)[0]["finish_reason"],
        "flags": list(dict.fromkeys(flag for row in rows for flag in row["flags"])),
        "n_output_tokens": sum(tokens) if any(row["n_output_tokens"] is not None for row in rows) else None,
        "n_prompt_tokens": sum(row["n_prompt_tokens"] or 0 for row in rows) if rows[0]["n_prompt_tokens"] is not None else None,
        "mean_logprob": sum(value * count for value, count in scored) / total if total else None,
        "n_retries": sum(row["n_retries"] or 0 for row in rows) if rows[0]["n_retries"] is not None else None,
        "language": next((row["language"] for row in rows if row["language"]), None),
        "duration_s": duration_s,
    }


def quarantine_table(shard: str, samples: Sequence[list[Row]], end: dict[str, Any], fetch: Fetch) -> pa.Table:
    """Rejected samples with their bytes, removed ones without, then damage, as schema.QUARANTINE.

    What a filter removes may be half of the corpus: its bytes stay in the archive, where offset and size find them.
    """
    rejected = [row for row in map(verdict_of, samples) if row["status"] in (schema.REJECTED, schema.FILTERED)]
    rows = [
        {
            "key": row["key"],
            "shard": shard,
            "index": row["index"],
            "stage": row["stage"] or "read",
            "reason": row["reason"],
            "detail": row["detail"],
            "transient": is_transient(row),
            "offset": row["offset"],
            "size": row["size"],
            "members": members,
            "flags": row.get("flags"),
        }
        for row, members in zip(rejected, _members(shard, rejected, fetch), strict=True)
    ]
    rows += [
        {
            "key": damage["name"],
            "shard": shard,
            "index": None,
            "stage": "read",
            "reason": Reason.DAMAGED.value,
            "detail": f"{damage['kind']}: {damage['detail']}" + ("" if damage["space"] == "tar" else " (bytes of the packed file)"),
            "transient": False,
            "offset": damage["start"],
            "size": damage["end"] - damage["start"],
            "members": None,
            "flags": None,
        }
        for damage in end["damage"]
    ]
    arrays = [pa.array([row[field.name] for row in rows], field.type) for field in schema.QUARANTINE]
    return pa.Table.from_arrays(arrays, schema=schema.QUARANTINE)


def _members(shard: str, rows: list[Row], fetch: Fetch) -> list[list[dict[str, Any]] | None]:
    """Bytes of rejected samples; None for those above the bounds, or when the archive cannot be read any more."""
    wanted: list[tuple[int, int]] = []
    total = 0
    for row in rows:
        offset, size = row["offset"], row["size"]
        if row["status"] != schema.REJECTED or offset is None or size is None or total + size > SHARD_BYTES:
            continue  # a smaller one further on may still fit
        total += size
        wanted.append((offset, size))
    if not wanted:
        return [None] * len(rows)
    try:
        fetched = fetch(shard, wanted)
    except OSError:
        return [None] * len(rows)
    by_span = dict(zip(wanted, fetched, strict=True))
    found = [by_span.get((row["offset"], row["size"])) for row in rows]
    return [None if members is None else [{"name": name, "bytes": data} for name, data in members] for members in found]


def end_of(units: dict[tuple[int, int], list[Row]]) -> dict[str, Any] | None:
    """The end row's account, parsed; None where there is no end row."""
    for rows in units.values():
        if rows[0]["kind"] == schema.KIND_END:
            account: dict[str, Any] = json.loads(rows[0]["end"])
            return account
    return None
