"""The texts of a corpus without its media, and a sample of them that is the same whoever draws it.

Every text has a priority, a hash of where it stands. The sample is all texts below a bound; the bound is halved until they
fit. So it depends on the texts alone: not on the order in which archives come, nor on how many workers there are.
"""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import pyarrow.parquet as pq

from pipeline import storage
from pipeline.samples.group import EndOfShard, read_samples
from pipeline.samples.rows import reference_texts
from pipeline.samples.text import TextConfig, normalise_text

FIELDS = frozenset({"txt", "json"})
EVERYTHING = 1 << 64
"""A bound that every priority is below."""


class Text(NamedTuple):
    """One text and its priority, 0 to 2**64 - 1."""

    priority: int
    text: str


class TextSample:
    """Keeps texts up to a number of bytes."""

    def __init__(self, max_bytes: int, bound: int = EVERYTHING) -> None:
        self._max_bytes = max_bytes
        self._held: list[Text] = []
        self._held_bytes = 0
        self.bound = bound
        """Texts from here on are left out. Never grows."""
        self.seen = 0
        """Texts that were offered."""

    def add(self, text: Text) -> None:
        """Offers one text."""
        self.seen += 1
        if text.priority >= self.bound:
            return
        self._held.append(text)
        self._held_bytes += len(text.text.encode())
        while self._held_bytes > self._max_bytes:
            self.bound >>= 1
            self._held = [one for one in self._held if one.priority < self.bound]
            self._held_bytes = sum(len(one.text.encode()) for one in self._held)

    def texts(self) -> list[Text]:
        """What is kept, by priority."""
        return sorted(self._held)


def texts_of(url: str, shard: str, config: TextConfig, max_sample_bytes: int) -> Iterator[Text]:
    """All texts of an archive, or of a prepared table (`.parquet`), normalised; media are jumped over. OSError travels."""
    found = _prepared(url) if url.endswith(".parquet") else _archived(url, config, max_sample_bytes)
    for index, number, text in found:
        digest = hashlib.blake2b(f"{shard}\0{index}\0{number}".encode(), digest_size=8)
        yield Text(int.from_bytes(digest.digest(), "big"), text)


def _archived(url: str, config: TextConfig, max_sample_bytes: int) -> Iterator[tuple[int, int, str]]:
    with closing(storage.open_reader(url)) as reader:
        for sample in read_samples(reader, max_sample_bytes=max_sample_bytes, only=FIELDS):
            if isinstance(sample, EndOfShard) or sample.problem is not None:
                continue
            texts = (normalise_text(text, config) for text in reference_texts(sample.fields)[0])
            for number, text in enumerate(dict.fromkeys(text for text in texts if text)):
                yield sample.index, number, text


def _prepared(url: str) -> Iterator[tuple[int, int, str]]:
    filesystem, path = storage.resolve(url)
    with closing(filesystem.open_input_file(path)) as file:
        for batch in pq.ParquetFile(file).iter_batches(4_096, columns=["index", "text", "references"]):
            for row in batch.to_pylist():
                for number, text in enumerate(row["references"] or [row["text"] or ""]):
                    if text:
                        yield row["index"], number, text


def sample_texts(url: str, shard: str, config: TextConfig, max_sample_bytes: int, max_bytes: int, bound: int) -> tuple[int, list[Text]]:
    """(texts seen, those below the bound that fit into `max_bytes`) of one archive or table."""
    sample = TextSample(max_bytes, bound)
    for text in texts_of(url, shard, config, max_sample_bytes):
        sample.add(text)
    return sample.seen, sample.texts()
