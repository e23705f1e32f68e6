"""The commit as a Ray stage: rows of `schema.PARTS` in, one receipt a shard and run out.

Nothing is remembered between blocks: what is committed is a fact in storage. The original bytes of rejected samples
are fetched from the archive when their shard is merged, by offset and size, so that they never travel with the rows.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema, storage
from pipeline.commit.commit import Commit, Receipt
from pipeline.samples.earlier import TAKEN_OVER, taken_in, with_taken
from pipeline.samples.group import fetch_members

EXAMPLES = 3
_STEPS = {"decode_s": "read and decode", "collate_s": "collate", "engine_s": "engine"}


def nothing_about(_: pa.Table) -> dict[str, str]:
    """No metadata from the rows."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitConfig:
    """How results are committed, the same for all blocks of a run."""

    output: str
    root: str
    """The folder that shard names are relative to."""
    captions_per_sample: int
    metadata: dict[str, str]
    """Goes into the Parquet files' metadata: run id and versions, the only place for what differs between runs."""
    about: Callable[[pa.Table], dict[str, str]] = field(default=nothing_about)
    """More of it, from the rows of a caption table; a function of a module."""


def commit_of(config: CommitConfig, fetch: Any) -> Commit:
    """The state machine over the output folder."""
    return Commit(storage.Folder(config.output), fetch, config.captions_per_sample, config.metadata, config.about)


def commit_block(table: pa.Table, config: CommitConfig, fetch: Any) -> pa.Table:
    """schema.PARTS -> schema.RECEIPTS."""
    if table.num_rows == 0:
        return schema.RECEIPTS.empty_table()
    whole = {"seconds": json.dumps(_seconds(table)), "sums": json.dumps(_sums(table)), "actors": _actors(table)}
    taken, table = taken_in(table), with_taken(table)
    receipts = [told(receipt, taken) for receipt in commit_of(config, fetch).write(table)]
    rows = [_row(receipt, table) | (whole if number == 0 else {"seconds": "{}"}) for number, receipt in enumerate(receipts)]
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema.RECEIPTS]
    return pa.Table.from_arrays(columns, schema=schema.RECEIPTS)


def told(receipt: Receipt, taken: dict[str, dict[int, str]]) -> Receipt:
    """The receipt with samples whose captions were taken over counted apart: `success:taken_over`."""
    counts = Counter(receipt.counts)
    for index, status in taken.get(receipt.shard, {}).items():
        if receipt.lo <= index <= receipt.hi and counts[status]:
            counts[status] -= 1
            counts[f"{status}:{TAKEN_OVER}"] += 1
    return receipt._replace(counts=dict(+counts))


def _row(receipt: Receipt, table: pa.Table) -> dict[str, Any]:
    return {
        "shard": receipt.shard,
        "lo": receipt.lo,
        "hi": receipt.hi,
        "counts": json.dumps(receipt.counts),
        "audio_s": receipt.audio_s,
        "committed": receipt.committed,
        "damage": receipt.damage,
        "examples": json.dumps(_examples(table, receipt)) if any(name.startswith(schema.REJECTED) for name in receipt.counts) else "[]",
    }


def _seconds(table: pa.Table) -> dict[str, float]:
    first = table.filter(
        pc.equal(table.column("caption_index"), 0)
    )  # reading and decoding is told once a sample, the engine's work with each caption
    return {step: pc.sum((first if column == "decode_s" else table).column(column)).as_py() or 0.0 for column, step in _STEPS.items()}


def _sums(table: pa.Table) -> dict[str, float]:
    """Captions, and what can be added up over them."""
    captions = table.filter(pc.is_valid(table.column("caption")))
    sums: dict[str, float] = {"captions": captions.num_rows}
    for name, column in (("retries", "n_retries"), ("prompt_tokens", "n_prompt_tokens"), ("output_tokens", "n_output_tokens")):
        sums[name] = pc.sum(table.column(column)).as_py() or 0
    for entry in pc.value_counts(pc.list_flatten(table.column("flags").combine_chunks())).to_pylist():
        sums[f"flag:{entry['values']}"] = entry["counts"]
    return sums


def _actors(table: pa.Table) -> str:
    """The accounts of the engine's actors, as a JSON list."""
    return "[" + ",".join(table.column("account").drop_null().to_pylist()) + "]"


def _examples(table: pa.Table, receipt: Receipt) -> list[Sequence[str]]:
    rejected = table.filter(pc.and_(pc.equal(table.column("status"), schema.REJECTED), pc.equal(table.column("shard"), receipt.shard)))
    rows = rejected.select(["reason", "shard", "key", "detail"]).to_pylist()
    seen: Counter[str] = Counter()
    examples: list[Sequence[str]] = []
    for row in rows:
        seen[row["reason"]] += 1
        if seen[row["reason"]] <= EXAMPLES:
            examples.append([row["reason"], row["shard"], row["key"] or "", row["detail"] or ""])
    return examples


@dataclass(frozen=True, slots=True)
class Fetch:
    """Original members by shard and span, from the archive itself."""

    root: str
    max_bytes: int
    """Bytes a sample; larger ones stay in the archive, quarantine keeps offset and size."""

    def __call__(self, shard: str, spans: Sequence[tuple[int, int]]) -> list[list[tuple[str, bytes]] | None]:
        with closing(storage.open_reader(f"{self.root}/{shard}")) as reader:
            return fetch_members(reader, spans=spans, max_bytes=self.max_bytes)
