"""Crash markers: which samples were in flight when a process died.

Ray retries a dead worker's block without end and does not say that it is a retry. So a small file stands in
`_attempts/` while a block's risky work is done. Found at the start of a block, it means that an earlier attempt of
this run died there: the block goes on sample by sample in a child process. A marker that a whole dead run left may
only mean that its driver was killed; the samples are suspects after two such deaths.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from pipeline.storage import Folder

FOLDER = "_attempts"
DEATHS_FOR_SUSPICION = 2
STALE_S = 86_400.0


class Unit(NamedTuple):
    """A run of samples of one shard, both ends inclusive."""

    shard: str
    lo: int
    hi: int


class Attempts:
    """The markers of one stage of one run. One put and one delete a block."""

    def __init__(self, store: Folder | None, run_id: str, stage: str) -> None:
        """Without a store nothing is marked, and nothing died."""
        self._store = store
        self._prefix = f"{FOLDER}/{run_id}/{stage}"

    def died(self, units: Sequence[Unit]) -> bool:
        """True if an earlier attempt of this run ended in the middle of exactly this block."""
        return self._store is not None and self._store.exists(self._path(units))

    @contextmanager
    def marked(self, units: Sequence[Unit], *, keep: bool = False) -> Iterator[None]:
        """Marks the block while the body runs. A Python exception takes the marker away: the process lives.

        With `keep` the marker stays until the run's end: an attempt that comes by again finds it.
        """
        if self._store is None:
            yield
            return
        path = self._path(units)
        # Not durable: what died of a sample is a process, and two syncs a block (2.5 ms and more) would buy nothing.
        self._store.put(path, json.dumps([list(unit) for unit in units]).encode(), durable=False)
        try:
            yield
        finally:
            if not keep:
                self._store.delete(path)

    def _path(self, units: Sequence[Unit]) -> str:
        digest = hashlib.sha256(json.dumps([list(unit) for unit in units]).encode()).hexdigest()[:32]
        return f"{self._prefix}-{digest}.json"


def suspects(store: Folder, run_id: str) -> dict[str, tuple[tuple[int, int], ...]]:
    """Samples that were in flight in two or more earlier runs that died, as inclusive index ranges by shard.

    Runs that still live look dead from here; the price is that a few blocks are decoded in a child process.
    """
    deaths: dict[str, dict[int, set[str]]] = {}
    for blob in store.list(FOLDER):
        run = blob.path.split("/")[1]
        if run == run_id:
            continue
        try:
            units = [Unit(*unit) for unit in json.loads(store.get(blob.path))]
        except (FileNotFoundError, ValueError, TypeError):
            continue
        for unit in units:
            for index in range(unit.lo, min(unit.hi, unit.lo + 100_000) + 1):
                deaths.setdefault(unit.shard, {}).setdefault(index, set()).add(run)
    found = {}
    for shard, by_index in deaths.items():
        ranges = _ranges(sorted(index for index, runs in by_index.items() if len(runs) >= DEATHS_FOR_SUSPICION))
        if ranges:
            found[shard] = ranges
    return found


def _ranges(indexes: list[int]) -> tuple[tuple[int, int], ...]:
    ranges: list[tuple[int, int]] = []
    for index in indexes:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], index)
        else:
            ranges.append((index, index))
    return tuple(ranges)


def sweep(store: Folder, run_id: str, *, all_done: bool) -> None:
    """At the end of a run: deletes its own markers; those of earlier runs once everything is done, or after a day."""
    now = time.time()
    for blob in store.list(FOLDER):
        if blob.path.split("/")[1] == run_id or all_done or now - blob.mtime_s > STALE_S:
            store.delete(blob.path)
    store.prune(FOLDER)
