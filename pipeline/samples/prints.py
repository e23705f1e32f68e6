"""Which contents, media and keys occur more than once in a corpus: exactly, in bounded memory.

Every sample leaves prints of 16 bytes (a key 8), with its place. They gather in memory; beyond a bound they go to 256 files by
their first byte, each of which is then sorted alone: 24 bytes a sample and kind on the disk, 1/256 of that in memory.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

MEMORY_BYTES = 64 << 20
"""What gathers before it goes to the disk: 2.8 million prints of a kind."""
EXAMPLES = 3
"""Groups of equals that are named, and members of each."""
_FILES = 256
_RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("shard", "<u4"), ("index", "<u4")])

Numbers: TypeAlias = NDArray[np.uint64]
Records: TypeAlias = NDArray[Any]


class Place(NamedTuple):
    """A sample of the corpus."""

    shard: int
    """Number of its archive."""
    position: int
    """0-based, in its archive."""


@dataclass(frozen=True, slots=True)
class Prints:
    """Those of one shard: rows of (high, low), and the index of each row's sample."""

    content: Numbers
    content_at: Numbers
    media: Numbers
    media_at: Numbers
    keys: Numbers
    """One number a sample, in order."""

    @classmethod
    def of(cls, content: bytearray, content_at: Sequence[int], media: bytearray, media_at: Sequence[int], keys: Numbers) -> "Prints":
        """From digests of 16 bytes each, one after the other."""
        pairs = [np.frombuffer(bytes(digests), "<u8").reshape(-1, 2) for digests in (content, media)]
        return cls(pairs[0], np.asarray(content_at, "<u8"), pairs[1], np.asarray(media_at, "<u8"), keys)


def text_prints(texts: Sequence[str]) -> Numbers:
    """64-bit hashes, the same in every process. Two of a billion texts share one by chance with a probability of 3 %."""
    if not texts:
        return np.empty(0, np.uint64)
    from pandas.util import hash_array

    hashes: Numbers = hash_array(np.array(texts, dtype=object), categorize=False)
    return hashes


@dataclass(slots=True)
class Repeats:
    """What occurs more than once."""

    repeats: int = 0
    """Samples that have an equal one before them, in the order of archives and places."""
    within: int = 0
    """Of these, such whose equal stands in the same archive."""
    examples: list[list[Place]] = field(default_factory=list)
    """Some groups of equals, some members of each."""


class Gathered:
    """The prints of one kind over the corpus. A context: its files are removed at the end."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._held: list[Records] = []
        self._held_bytes = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> "Gathered":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def add(self, shard: int, prints: Numbers, index: Numbers | None = None) -> None:
        """Adds those of one archive: rows of (high, low), or single numbers; without `index` one for each sample in order."""
        records = np.zeros(len(prints), _RECORD)
        records["high"] = prints if prints.ndim == 1 else prints[:, 0]
        if prints.ndim == 2:
            records["low"] = prints[:, 1]
        records["shard"] = shard
        records["index"] = np.arange(len(prints)) if index is None else index
        self._held.append(records)
        self._held_bytes += records.nbytes
        if self._held_bytes > self._memory_bytes:
            self._spill()

    def _spill(self) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="nightcap-check-")
        for at, records in self._split():
            with open(Path(self._folder.name, f"{at:03d}"), "ab") as file:
                file.write(records.tobytes())
        self._held, self._held_bytes = [], 0

    def _split(self) -> Iterator[tuple[int, Records]]:
        """What is in memory, by its first byte."""
        records = np.concatenate(self._held) if self._held else np.empty(0, _RECORD)
        first = (records["high"] >> np.uint64(56)).astype(np.int64)
        order = np.argsort(first, kind="stable")
        edges = np.searchsorted(first[order], np.arange(_FILES + 1))
        for at in range(_FILES):
            if edges[at] < edges[at + 1]:
                yield at, records[order[edges[at] : edges[at + 1]]]

    def _piles(self) -> Iterator[Records]:
        if self._folder is None:
            yield np.concatenate(self._held) if self._held else np.empty(0, _RECORD)
            return
        self._spill()
        for path in sorted(Path(self._folder.name).iterdir()):
            yield np.fromfile(path, _RECORD)

    def repeats(self, *, across: bool = False) -> Repeats:
        """Counts equals; with `across` only such as have their equal in another archive."""
        result = Repeats()
        for pile in self._piles():
            ordered = pile[np.lexsort((pile["index"], pile["shard"], pile["low"], pile["high"]))]
            high, low, shard = ordered["high"], ordered["low"], ordered["shard"]
            equal = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
            same = equal & (shard[1:] == shard[:-1])
            counted = equal & ~same if across else equal
            result.repeats += int(counted.sum())
            result.within += 0 if across else int(same.sum())
            for at in np.flatnonzero(counted):
                if len(result.examples) >= EXAMPLES:
                    break
                self._name(result, ordered, int(at), equal)
        return result

    @staticmethod
    def _name(result: Repeats, ordered: Records, at: int, equal: NDArray[np.bool_]) -> None:
        start = at
        while start > 0 and equal[start - 1]:
            start -= 1
        stop = at + 2
        while stop < len(ordered) and equal[stop - 1] and stop - start < EXAMPLES:
            stop += 1
        group = [Place(int(row["shard"]), int(row["index"])) for row in ordered[start:stop][:EXAMPLES]]
        if group not in result.examples:
            result.examples.append(group)
