"""n-grams of many sentences at once, as 64-bit numbers in numpy; and how often each occurs in a corpus, in bounded memory.

A word is a 64-bit hash, an n-gram a mix of its words' hashes: two different ones meet with a probability of 1e-4 among 50
million. Counts of a corpus go to files split by the first bits, each of which fits in memory; a table of one number an
n-gram in a Python dictionary takes about 10 GB for a million captions.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

ORDERS = 4
_PARTITION_BITS = 5
_STEP = np.uint64(0x9E3779B97F4A7C15)


def mixed(values: np.ndarray) -> np.ndarray:
    """uint64 in, uint64 out: each bit of the input moves half of the bits (the finaliser of splitmix64)."""
    out = values + _STEP
    out = (out ^ (out >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    out = (out ^ (out >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return out ^ (out >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class Grams:
    """n-grams of sentences, one entry an occurrence."""

    sentence: np.ndarray
    """int64: which sentence."""
    gram: np.ndarray
    """uint64."""
    order: np.ndarray
    """int8, 1 to 4."""


def grams_of(sentences: Sequence[np.ndarray], orders: int = ORDERS) -> Grams:
    """All n-grams of order 1 to `orders` of sentences that are given as uint64 words."""
    lengths = np.fromiter((len(sentence) for sentence in sentences), np.int64, len(sentences))
    owner = np.repeat(np.arange(len(sentences)), lengths)
    flat = np.concatenate(sentences) if len(sentences) else np.empty(0, np.uint64)
    owners, grams, sizes = [owner], [mixed(flat)], [np.full(len(flat), 1, np.int8)]
    rolled = flat
    for order in range(2, orders + 1):
        if len(flat) < order:
            break
        rolled = mixed(rolled[:-1]) + flat[order - 1 :] * _STEP
        whole = owner[: len(flat) - order + 1] == owner[order - 1 :]
        owners.append(owner[: len(whole)][whole])
        grams.append(mixed(rolled[whole] ^ np.uint64(order)))
        sizes.append(np.full(int(whole.sum()), order, np.int8))
    return Grams(np.concatenate(owners), np.concatenate(grams), np.concatenate(sizes))


@dataclass(frozen=True, slots=True)
class Frequencies:
    """How many samples an n-gram occurs in. Those of one sample are left out: they weigh as much as unknown ones."""

    grams: np.ndarray
    """uint64, sorted."""
    counts: np.ndarray
    """uint32, 2 or more."""
    samples: int
    """Samples that were counted."""

    def log_of(self, grams: np.ndarray) -> np.ndarray:
        """Natural logarithm of max(1, samples with the n-gram), float64."""
        if not len(self.grams):
            return np.zeros(len(grams))
        at = np.minimum(np.searchsorted(self.grams, grams), len(self.grams) - 1)
        return np.log(np.where(self.grams[at] == grams, self.counts[at], 1).astype(np.float64))


def save(frequencies: Frequencies, folder: Path) -> "Stored":
    """Writes them so that processes share one copy in the file cache."""
    np.save(folder / "grams.npy", frequencies.grams)
    np.save(folder / "counts.npy", frequencies.counts)
    return Stored(str(folder), frequencies.samples)


@dataclass(frozen=True, slots=True)
class Stored:
    """Frequencies in a folder; small to send to another process."""

    folder: str
    samples: int

    def load(self) -> Frequencies:
        """Maps the files; once a process."""
        return _mapped(self.folder, self.samples)


@functools.lru_cache(maxsize=2)
def _mapped(folder: str, samples: int) -> Frequencies:
    grams, counts = (np.load(Path(folder, f"{name}.npy"), mmap_mode="r") for name in ("grams", "counts"))
    return Frequencies(grams, counts, samples)


class Spill:
    """Counts 64-bit values through files in a folder. Memory is one file's share of the values."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = [folder / f"{name}-{number:02d}.u64" for number in range(1 << _PARTITION_BITS)]
        self._files: list[IO[bytes]] = [path.open("wb") for path in self._paths]
        self.total = 0

    def __enter__(self) -> "Spill":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def add(self, values: np.ndarray) -> None:
        """Takes uint64 values, each as one occurrence."""
        self.total += len(values)
        ordered = np.sort(values)
        edges = np.searchsorted(ordered, np.arange(1 << _PARTITION_BITS, dtype=np.uint64) << np.uint64(64 - _PARTITION_BITS))
        for file, piece in zip(self._files, np.split(ordered, edges[1:]), strict=True):
            file.write(piece.tobytes())

    def counted(self, at_least: int) -> tuple[np.ndarray, np.ndarray, int]:
        """(values sorted, counts uint32) of those that occurred `at_least` times, and how many different ones there were."""
        values, counts, distinct = [], [], 0
        for file, path in zip(self._files, self._paths, strict=True):
            file.flush()
            found, times = np.unique(np.fromfile(path, np.uint64), return_counts=True)
            distinct += len(found)
            often = times >= at_least
            values.append(found[often])
            counts.append(times[often].astype(np.uint32))
        return np.concatenate(values), np.concatenate(counts), distinct

    def close(self) -> None:
        """Deletes the files."""
        for file, path in zip(self._files, self._paths, strict=True):
            file.close()
            path.unlink(missing_ok=True)
