"""Signatures -> pairs of samples that are alike, by way of buckets, with bounded memory.

    spread        some shards' signatures -> rows (bucket, position, proof), divided by bucket
    find_matches  one division -> pairs (later, earlier) that are alike, divided by window of the later one

A position is a sample's number in the order (shard, index) of the whole corpus. In a bucket a sample is compared with the
first LOOKS before it at most, until MATCHES of them are alike: a million copies of one picture cost what ten cost. Both bounds
depend only on what comes earlier. Memory is one division, at least the largest bucket: 24 to 144 bytes a member.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.dedup.divided import read_division, write_divided
from pipeline.dedup.likeness import Likeness, LikenessConfig, Proof, likenesses

LOOKS = 256
MATCHES = 8
FLUSH_BYTES = 64 << 20
"""Rows held before they are written."""
BATCH_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class Signed:
    """One shard's signatures in the order of the corpus."""

    path: str
    """Of its table below the output."""
    shard: str
    fingerprint: str
    samples: int
    offset: int
    """Position of its first sample."""


def row_bytes(likeness: Likeness) -> int:
    """Bytes that one sample takes in buckets, for planning."""
    return likeness.tables * (16 + {"media": 16, "picture": 8}.get(likeness.name, 128))


def spread(output: str, config: LikenessConfig, name: str, shards: list[Signed], divisions: int, target: str) -> list[str]:
    """Divides the buckets of some shards; returns the files written, `target`-0.parquet and so on."""
    likeness = next(one for one in likenesses(config) if one.name == name)
    store, written, held, held_bytes = storage.Folder(output), list[str](), list[pa.Table](), 0

    def flush() -> None:
        nonlocal held, held_bytes
        if not held:
            return
        table = pa.concat_tables(held)
        path = f"{target}-{len(written)}.parquet"
        division = (table.column("bucket").to_numpy() % np.uint64(divisions)).astype(np.int64)
        write_divided(store, path, table, division, divisions)
        written.append(path)
        held, held_bytes = [], 0

    for shard in shards:
        for positions, column in _columns(store, shard, likeness.column):
            held.append(_bucket_rows(likeness, positions, column))
            held_bytes += held[-1].nbytes
            if held_bytes >= FLUSH_BYTES:
                flush()
    flush()
    return written


def _columns(store: storage.Folder, shard: Signed, name: str) -> Iterator[tuple[NDArray[np.int64], pa.Array]]:
    """Positions and values of one column, without the samples that have none."""
    filesystem, folder = storage.resolve(store.url)
    start = shard.offset
    with closing(filesystem.open_input_file(f"{folder}/{shard.path}")) as file:
        for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=[name]):
            values = batch.column(0)
            there = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
            if len(there):
                yield start + there, values.take(pa.array(there))
            start += len(batch)


def _bucket_rows(likeness: Likeness, positions: NDArray[np.int64], column: pa.Array) -> pa.Table:
    tables = likeness.buckets(column)
    proof = np.tile(np.ascontiguousarray(likeness.proof(column)), (len(tables), 1))
    width = proof.shape[1]
    packed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(proof), [None, pa.py_buffer(proof.tobytes())])
    return pa.table({"bucket": np.concatenate(tables), "position": np.tile(positions, len(tables)), "proof": packed})


def find_matches(
    output: str, config: LikenessConfig, name: str, sources: list[str], division: int, windows: list[int], target: str
) -> tuple[str, int]:
    """Writes the pairs of one division, divided by the window of the later sample; returns the file and how many pairs.

    `windows`: first position of each window, ascending from 0.
    """
    likeness = next(one for one in likenesses(config) if one.name == name)
    store = storage.Folder(output)
    table = pa.concat_tables(read_division(store, sources, division)).combine_chunks()
    later, earlier = pairs_of(likeness, *_arrays(table))
    pairs = np.unique(np.stack([later, earlier], axis=1), axis=0)  # found in several buckets
    rows = pa.table({"later": pairs[:, 0], "earlier": pairs[:, 1]})
    write_divided(store, target, rows, np.searchsorted(windows, pairs[:, 0], "right").astype(np.int64) - 1, len(windows))
    return target, len(pairs)


def _arrays(table: pa.Table) -> tuple[NDArray[np.uint64], NDArray[np.int64], Proof]:
    proof = table.column("proof").combine_chunks()
    proof = proof if isinstance(proof, pa.Array) else proof.chunk(0)
    width = proof.type.byte_width
    data = (
        np.frombuffer(proof.buffers()[1], np.uint8, count=len(proof) * width, offset=proof.offset * width)
        if len(proof)
        else np.zeros(0, np.uint8)
    )
    return table.column("bucket").to_numpy(), table.column("position").to_numpy(), data.reshape(-1, width)


def pairs_of(
    likeness: Likeness, bucket: NDArray[np.uint64], position: NDArray[np.int64], proof: Proof
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(later, earlier) of members of one bucket that are alike, as bounded by LOOKS and MATCHES."""
    order = np.lexsort((position, bucket))
    bucket, position, proof = bucket[order], position[order], proof[order]
    starts = np.flatnonzero(np.r_[True, bucket[1:] != bucket[:-1]]) if len(bucket) else np.zeros(0, np.int64)
    start = np.repeat(starts, np.diff(np.r_[starts, len(bucket)]))
    left = np.flatnonzero(np.arange(len(bucket)) > start)  # members that have one before them to be compared with
    found = np.zeros(len(bucket), np.int64)
    later, earlier = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for look in range(LOOKS):
        left = left[(left - start[left] > look) & (found[left] < MATCHES)]
        if not len(left):
            break
        other = start[left] + look
        alike = likeness.alike(proof[left], proof[other])
        found[left[alike]] += 1
        later.append(position[left[alike]])
        earlier.append(position[other[alike]])
    return np.concatenate(later), np.concatenate(earlier)
