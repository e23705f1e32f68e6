"""Index files -> which samples stand in which archive. Memory is bounded by one bucket, however many samples there are.

Without a shuffle the order is the source's. A shuffle is a fixed permutation of positions that a seed chooses: each
chunk of an index is cut into buckets of consecutive new positions (`scatter`), then each bucket is put in order
(`gather`); the gathered files are an index like any other. Media are not moved: archives read them by place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import schema
from pipeline.shards.index import BATCH_BYTES, IndexWriter, batches, open_index, sink_of
from pipeline.storage import Folder

FOLDER = "_order"
_ROUNDS = 6
_END_BYTES = 1024
_POSITION = "position"
_SCATTERED = schema.ITEMS.append(pa.field(_POSITION, pa.int64(), nullable=False))


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive rows of one index file."""

    path: str
    """Below the output."""
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What one archive holds."""

    number: int
    first: int
    """Position of its first sample in the whole output; keys follow from it."""
    samples: int
    spans: tuple[Span, ...]


def assign(store: Folder, paths: Sequence[str], *, max_bytes: int, max_samples: int) -> Iterator[ShardPlan]:
    """Archives in order, each with as many samples as both bounds allow, at least one. Reads only the column of sizes.

    Sizes of what is still to be downloaded are unknown and count as nothing: there `parts` keeps to the bound.
    """
    number = first = samples = 0
    size_bytes = _END_BYTES
    spans: list[Span] = []
    for path in paths:
        start = row = 0
        for batch in batches(f"{store.url}/{path}", ("size",)):
            for size in batch.column(0).to_pylist():
                if samples and (samples >= max_samples or size_bytes + size > max_bytes):
                    if row > start:
                        spans.append(Span(path, start, row))
                    yield ShardPlan(number, first, samples, tuple(spans))
                    number, first, samples, size_bytes, start = number + 1, first + samples, 0, _END_BYTES, row
                    spans = []
                samples += 1
                size_bytes += size
                row += 1
        if row > start:
            spans.append(Span(path, start, row))
    if samples:
        yield ShardPlan(number, first, samples, tuple(spans))


def shuffled(positions: NDArray[np.uint64], total: int, seed: int) -> NDArray[np.uint64]:
    """The new positions of old ones: a permutation of 0..total-1 that needs no table.

    A Feistel network on the next even number of bits; what falls outside walks on until it falls inside.
    """
    half = np.uint64(max(1, ((max(1, total - 1)).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)
    found = positions.astype(np.uint64)
    outside = np.ones(len(found), bool)
    while outside.any():
        left, right = found[outside] >> half, found[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        found[outside] = (left << half) | right
        outside = found >= np.uint64(total)
    return found


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser; overflow wraps."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class Shuffle:
    """One permutation, the same for all tasks."""

    output: str
    total: int
    seed: int
    buckets: int
    memory_bytes: int
    """What a task may hold of the index."""

    @classmethod
    def of(cls, output: str, *, total: int, seed: int, index_bytes: int, memory_bytes: int) -> "Shuffle":
        """As many buckets as keep each well below the memory; at gathering it is held twice, and once more as it is written."""
        held = max(BATCH_BYTES, memory_bytes // 6)
        return cls(output, total, seed, max(1, -(-index_bytes // held)), held)


def bucket_path(number: int) -> str:
    """Of a gathered bucket, below the output."""
    return f"{FOLDER}/{number:06d}.arrow"


def scattered_path(number: int, chunk: int) -> str:
    """Of a chunk of a piece, cut into buckets."""
    return f"{FOLDER}/scattered/{number:06d}-{chunk:04d}.arrow"


def scatter(shuffle: Shuffle, number: int, path: str, first: int) -> int:
    """Cuts an index file, whose first sample has the position `first`, into buckets: one batch a bucket. Returns its chunks."""
    store = Folder(shuffle.output)
    held: list[pa.RecordBatch] = []
    held_bytes = chunk = 0
    for batch in batches(f"{shuffle.output}/{path}"):
        held.append(batch)
        held_bytes += batch.nbytes
        if held_bytes >= shuffle.memory_bytes:
            first = _scatter(shuffle, store, scattered_path(number, chunk), held, first)
            held, held_bytes, chunk = [], 0, chunk + 1
            pa.default_memory_pool().release_unused()  # Arrow keeps what it frees: 170 MiB beside 16 in use, without this
    if held:
        _scatter(shuffle, store, scattered_path(number, chunk), held, first)
        chunk += 1
    del held
    pa.default_memory_pool().release_unused()
    return chunk


def _scatter(shuffle: Shuffle, store: Folder, path: str, held: list[pa.RecordBatch], first: int) -> int:
    table = pa.Table.from_batches(held)
    positions = shuffled(np.arange(first, first + len(table), dtype=np.uint64), shuffle.total, shuffle.seed).astype(np.int64)
    buckets = _bucket_of(shuffle, positions)
    order = np.argsort(buckets, kind="stable")
    ends = np.searchsorted(buckets[order], np.arange(shuffle.buckets + 1))
    table = table.append_column(_SCATTERED.field(_POSITION), pa.array(positions))
    with store.create(path) as draft:
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(sink_of(draft), _SCATTERED, options=options) as writer:
            for bucket in range(shuffle.buckets):
                writer.write_batch(_one(table.take(order[ends[bucket] : ends[bucket + 1]])))
    return first + len(positions)


def _bucket_of(shuffle: Shuffle, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    width = -(-shuffle.total // shuffle.buckets)
    return positions // width


def _one(table: pa.Table) -> pa.RecordBatch:
    combined = table.combine_chunks().to_batches()
    return combined[0] if combined else pa.RecordBatch.from_pylist([], schema=table.schema)


def gather(shuffle: Shuffle, bucket: int, scattered: Sequence[str]) -> None:
    """Puts the samples of one bucket in order: an index file."""
    store = Folder(shuffle.output)
    parts: list[pa.RecordBatch] = []
    for path in scattered:
        with open_index(f"{shuffle.output}/{path}") as reader:
            parts.append(reader.get_batch(bucket))
    table = pa.Table.from_batches(parts, _SCATTERED)
    del parts
    order = np.argsort(table.column(_POSITION).to_numpy(), kind="stable")
    table = table.drop_columns([_POSITION])
    rows = max(1, min(8192, BATCH_BYTES * max(1, len(table)) // max(1, table.nbytes)))
    with store.create(bucket_path(bucket)) as draft:
        index = IndexWriter(draft)
        for start in range(0, len(order), rows):
            index.add_batch(_one(table.take(order[start : start + rows])))
        index.close()
    del table
    pa.default_memory_pool().release_unused()


def repeated_ids(store: Folder, paths: Sequence[str], *, with_id: int, memory_bytes: int) -> dict[str, NDArray[np.int64]]:
    """Rows whose explicit id occurred before in the source, by index file. Several passes over the hashes where they are many."""
    passes = max(1, -(-with_id * 48 // memory_bytes))
    found: dict[str, list[NDArray[np.int64]]] = {}
    for turn in range(passes if with_id else 0):
        hashes: list[NDArray[Any]] = []
        where: list[tuple[NDArray[np.int64], int]] = []
        for at, path in enumerate(paths):
            row = 0
            for batch in batches(f"{store.url}/{path}", ("id_hash",)):
                column = batch.column(0)
                rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
                values = column.drop_null().to_numpy()
                chosen = values % np.uint64(passes) == turn
                hashes.append(values[chosen])
                where.append((rows[chosen] + row, at))
                row += batch.num_rows
        if not hashes:
            break
        values = np.concatenate(hashes)
        order = np.argsort(values, kind="stable")
        again = np.zeros(len(values), bool)
        again[order[1:]] = values[order[1:]] == values[order[:-1]]
        start = 0
        for rows, at in where:
            repeated = rows[again[start : start + len(rows)]]
            if len(repeated):
                found.setdefault(paths[at], []).append(repeated)
            start += len(rows)
    return {path: np.sort(np.concatenate(rows)) for path, rows in found.items()}
