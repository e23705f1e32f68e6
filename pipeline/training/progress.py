"""Which rows of which epoch a run has stepped on: compact, mergeable, and independent of the number of workers.

A row is known by its prepared file and its position there, 0..n-1 without gaps, so that what was stepped on is a few
half-open ranges a file. Prefetched rows do not count: a rank marks rows when the optimiser has stepped on them. At a
checkpoint the ranks' marks are added to one `Progress`, which is stored; what is left of an epoch is the complement.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ranges = tuple[tuple[int, int], ...]
"""Half-open, sorted, disjoint, not touching: ((0, 5), (7, 9)) is 0..4 and 7..8."""


def union(*parts: Iterable[tuple[int, int]]) -> Ranges:
    """Ranges in any order, overlapping or not -> what they cover together."""
    merged: list[list[int]] = []
    for lo, hi in sorted(pair for part in parts for pair in part if pair[0] < pair[1]):
        if merged and lo <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], hi)
        else:
            merged.append([lo, hi])
    return tuple((lo, hi) for lo, hi in merged)


def without(ranges: Ranges, taken: Ranges) -> Ranges:
    """What `ranges` covers and `taken` does not."""
    left: list[tuple[int, int]] = []
    at = 0
    for lo, hi in ranges:
        while at < len(taken) and taken[at][1] <= lo:
            at += 1
        cut = at
        while cut < len(taken) and taken[cut][0] < hi:
            if lo < taken[cut][0]:
                left.append((lo, taken[cut][0]))
            lo = max(lo, taken[cut][1])
            cut += 1
        if lo < hi:
            left.append((lo, hi))
    return tuple(left)


def within(ranges: Ranges, lo: int, hi: int) -> Ranges:
    """The part of `ranges` between `lo` and `hi`."""
    return tuple((max(lo, first), min(hi, last)) for first, last in ranges if first < hi and lo < last)


def count(ranges: Ranges) -> int:
    """Rows covered."""
    return sum(hi - lo for lo, hi in ranges)


def of_rows(rows: NDArray[np.int64]) -> Ranges:
    """Positions in any order, repeated or not -> ranges."""
    if not len(rows):
        return ()
    unique = np.unique(rows)
    breaks = np.flatnonzero(np.diff(unique) > 1)
    starts, ends = np.r_[unique[0], unique[breaks + 1]], np.r_[unique[breaks], unique[-1]] + 1
    return tuple((int(lo), int(hi)) for lo, hi in zip(starts, ends, strict=True))


def rows_of(ranges: Ranges) -> NDArray[np.int64]:
    """The positions, ascending."""
    return np.concatenate([np.arange(lo, hi) for lo, hi in ranges]) if ranges else np.empty(0, np.int64)


Marks = dict[int, dict[str, Ranges]]
"""Epoch -> prepared file -> ranges."""


@dataclass(slots=True)
class Progress:
    """Rows stepped on. Epochs below `finished` are complete; later ones, of which several may be begun, stand in `begun`."""

    finished: int = 0
    begun: Marks = field(default_factory=dict)

    def add(self, marks: Marks) -> None:
        """Adds rows; those that are marked already change nothing."""
        for epoch, files in marks.items():
            if epoch >= self.finished:
                known = self.begun.setdefault(epoch, {})
                for file, ranges in files.items():
                    known[file] = union(known.get(file, ()), ranges)

    def left(self, epoch: int, universe: Mapping[str, Ranges]) -> dict[str, Ranges]:
        """What of the universe this epoch has not seen, by file; files that are done are not named."""
        if epoch < self.finished:
            return {}
        known = self.begun.get(epoch, {})
        rest = {file: without(ranges, known.get(file, ())) for file, ranges in universe.items()}
        return {file: ranges for file, ranges in rest.items() if ranges}

    def settle(self, universe: Mapping[str, Ranges]) -> None:
        """Forgets the ranges of epochs that are complete, from the first unfinished one on."""
        while universe and not self.left(self.finished, universe):
            self.begun.pop(self.finished, None)
            self.finished += 1

    def samples(self, universe: Mapping[str, Ranges]) -> int:
        """Samples stepped on so far, over all epochs."""
        partial = sum(count(ranges) for files in self.begun.values() for ranges in files.values())
        return self.finished * sum(count(ranges) for ranges in universe.values()) + partial

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"finished": self.finished, "begun": {str(epoch): files for epoch, files in self.begun.items()}}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Progress":
        """What `to_json` gave. KeyError, TypeError or ValueError for anything else."""
        begun = {
            int(epoch): {file: union(tuple((int(lo), int(hi)) for lo, hi in ranges)) for file, ranges in files.items()}
            for epoch, files in values["begun"].items()
        }
        return cls(int(values["finished"]), begun)


class Marker:
    """Collects the rows that one rank steps on, until a checkpoint takes them."""

    def __init__(self, files: tuple[str, ...]) -> None:
        self._files = files
        self._seen: list[NDArray[np.int64]] = []

    def mark(self, epoch_b: NDArray[np.int64], file_b: NDArray[np.int64], row_b: NDArray[np.int64]) -> None:
        """Rows of one step: epoch, number of the file in `files`, position in it."""
        self._seen.append(np.stack([epoch_b, file_b, row_b]).astype(np.int64))

    def take(self) -> Marks:
        """What was marked since the last call."""
        if not self._seen:
            return {}
        epochs, files, rows = np.concatenate(self._seen, axis=1)
        self._seen = []
        marks: Marks = {}
        for epoch in np.unique(epochs):
            for file in np.unique(files[epochs == epoch]):
                ranges = of_rows(rows[(epochs == epoch) & (files == file)])
                marks.setdefault(int(epoch), {})[self._files[int(file)]] = ranges
        return marks
