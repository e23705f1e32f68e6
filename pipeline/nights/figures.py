"""Figures of the captions that a night made, from its tables: length, duplicates. Bounded: a fixed sample of a night's tables."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage

TABLES, CAPTIONS = 200, 50_000
"""Tables that are opened, those with the smallest hash of their name, and captions taken of them in all."""


@dataclass(frozen=True, slots=True)
class CaptionFigures:
    """What a sample of captions looks like."""

    captions: int
    length: float | None
    """Mean characters; None without captions."""
    length_error: float
    """Standard error of the mean."""
    duplicates: float | None
    """Share of captions that occur more than once in the sample."""


def figures_of(lengths: Sequence[int], hashes: Sequence[int]) -> CaptionFigures:
    """Of the captions' lengths in characters and their hashes. Pure."""
    count = len(lengths)
    if not count:
        return CaptionFigures(0, None, 0.0, None)
    mean = sum(lengths) / count
    spread = math.sqrt(sum((length - mean) ** 2 for length in lengths) / max(1, count - 1))
    repeated = sum(times for times in Counter(hashes).values() if times > 1)
    return CaptionFigures(count, mean, spread / math.sqrt(count), repeated / count)


def measure(store: storage.Folder, stems: Sequence[str], folder: str = "captions") -> CaptionFigures:
    """Reads captions of the tables with these stems."""
    chosen = sorted(stems, key=lambda stem: hashlib.blake2b(stem.encode(errors="surrogatepass")).digest())[:TABLES]
    lengths: list[int] = []
    hashes: list[int] = []
    for stem in chosen:
        if len(lengths) >= CAPTIONS:
            break
        column = _captions(store, f"{folder}/{stem}.parquet")[: CAPTIONS - len(lengths)]
        lengths += pc.utf8_length(column).to_pylist()
        hashes += [hash(caption) for caption in column.to_pylist()]
    return figures_of(lengths, hashes)


def _captions(store: storage.Folder, path: str) -> pa.ChunkedArray:
    filesystem, name = storage.resolve(f"{store.url}/{path}")
    with filesystem.open_input_file(name) as file:
        return pq.ParquetFile(file).read(columns=["caption"]).column("caption").drop_null()
