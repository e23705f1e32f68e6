"""Pairs that are alike -> what is dropped: in the order of the corpus, a sample goes if an earlier one that stays is alike.

One byte a sample of memory. What comes later changes no earlier decision, and every sample that goes has a twin that stays
and is alike itself, however long the chain of likenesses between samples that go.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import schema, storage
from pipeline.dedup.matches import Signed
from pipeline.samples.drops import FINGERPRINT, Decision, drop_path


@dataclass(frozen=True, slots=True)
class Dropped:
    """What goes of one window of shards."""

    position: NDArray[np.int64]
    """Of samples that go, ascending."""
    twin: NDArray[np.int64]
    """Position of the earlier sample that stays, one each."""
    why: NDArray[np.int64]
    """Number of the likeness."""


class Decisions:
    """Decides window after window."""

    def __init__(self, samples: int) -> None:
        self._gone = bytearray(samples)

    def decide(self, pairs: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Dropped:
        """`pairs`: (later, earlier) by likeness, the preferred one first; all pairs whose later one is in this window.

        The twin is the earliest that stays, of the first likeness for which there is one.
        """
        later = np.concatenate([one for one, _ in pairs])
        earlier = np.concatenate([other for _, other in pairs])
        why = np.repeat(np.arange(len(pairs)), [len(one) for one, _ in pairs])
        order = np.lexsort((earlier, why, later))
        gone = self._gone
        taken = []
        for at, one, other in zip(order.tolist(), later[order].tolist(), earlier[order].tolist(), strict=True):
            if not gone[one] and not gone[other]:
                gone[one] = 1
                taken.append(at)
        return Dropped(later[taken], earlier[taken], why[taken])


def write_drops(output: str, shards: list[Signed], dropped: Dropped, names: tuple[str, ...], twins: list[Signed]) -> list[Decision]:
    """Writes schema.DROPS of each shard, also empty ones; returns what was decided on each.

    `twins`: the shards that twins stand in, ascending; `names`: of likenesses, by number.
    """
    store = storage.Folder(output)
    twin_key, twin_at = _keys(store, dropped.twin, twins)
    decisions = []
    for shard in shards:
        low, high = np.searchsorted(dropped.position, [shard.offset, shard.offset + shard.samples])
        rows = [
            {
                "index": int(dropped.position[at]) - shard.offset,
                "reason": names[dropped.why[at]],
                "twin_shard": twins[twin_at[at]].shard,
                "twin_index": int(dropped.twin[at]) - twins[twin_at[at]].offset,
                "twin_key": twin_key[at],
            }
            for at in range(low, high)
        ]
        table = pa.Table.from_pylist(rows, schema.DROPS.with_metadata({FINGERPRINT: shard.fingerprint.encode()}))
        store.put(drop_path(shard.shard), encoded(table))
        decisions.append(Decision(shard.shard, shard.fingerprint, hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]))
    return decisions


def _keys(store: storage.Folder, positions: NDArray[np.int64], twins: list[Signed]) -> tuple[list[str | None], NDArray[np.int64]]:
    """Key and number in `twins` of samples by position; each shard is read once."""
    at = np.searchsorted([twin.offset for twin in twins], positions, "right") - 1
    keys: list[str | None] = [None] * len(positions)
    for number in np.unique(at).tolist():
        column = pq.read_table(pa.BufferReader(store.get(twins[number].path)), columns=["key"]).column("key")
        for place in np.flatnonzero(at == number).tolist():
            keys[place] = column[int(positions[place]) - twins[number].offset].as_py()
    return keys, at


def encoded(table: pa.Table) -> bytes:
    """The table as Parquet."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())
