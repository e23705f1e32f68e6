"""Parts of one plain tar that several tasks read at a time: byte ranges that hold whole samples.

They are found in a pass over the headers, which jumps from one to the next. What a sample becomes must not depend on
whether its shard was divided, so what only the whole shard knows travels with the parts: positions, repeated keys, the
account. A shard with damage is not divided: where a sample ends is a guess there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.samples.group import UNBOUNDED_BYTES, EndOfShard, Sample, read_samples
from pipeline.samples.unpack import has_gzip_magic
from pipeline.storage import Reader

MAX_REPEATED = 10_000
"""Repeated keys that travel inside the tasks; a shard with more is not divided."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a shard."""

    start: int
    """Bytes: where the first header of its first sample stands."""
    stop: int
    """Bytes: where its last sample ends; the last part goes on to the end of the shard."""
    lo: int
    """Index of its first sample in the shard."""
    hi: int
    """Index of its last sample."""
    repeated: tuple[int, ...] = ()
    """Indices whose key occurred earlier in the shard."""
    end: str | None = None
    """JSON of the shard's `EndOfShard`; None in all parts but the last."""


class Stretch:
    """The bytes of a part as a file."""

    def __init__(self, reader: Reader, span: Span) -> None:
        self._reader = reader
        self._start = span.start
        self.size = span.stop - span.start

    def read_into(self, offset: int, view: memoryview) -> int:
        """As `storage.Reader` does."""
        left = max(0, min(len(view), self.size - offset))
        return self._reader.read_into(self._start + offset, view[:left])

    def close(self) -> None:
        """Nothing: whoever opened the file closes it."""


def divide(reader: Reader, part_bytes: int) -> tuple[Span, ...]:
    """Parts of at least `part_bytes` each, in order; one or none where the shard is packed, damaged, small or odd."""
    if has_gzip_magic(reader):
        return ()
    spans: list[Span] = []
    first: Sample | None = None
    repeated: list[int] = []
    total = 0
    previous: Sample | None = None
    for item in read_samples(reader, packed=False, max_sample_bytes=UNBOUNDED_BYTES, only=frozenset()):
        if isinstance(item, EndOfShard):
            if item.n_damage or previous is None or first is None:
                return ()
            spans.append(Span(first.offset, reader.size, first.index, previous.index, tuple(repeated), item.to_json()))
            return tuple(spans)
        if item.repeated:
            total += 1
            if total > MAX_REPEATED:
                return ()
        if first is not None and previous is not None and item.offset - first.offset >= part_bytes:
            spans.append(Span(first.offset, item.offset, first.index, previous.index, tuple(repeated)))
            first, repeated = item, []
        first = first or item
        previous = item
        if item.repeated:
            repeated.append(item.index)
    return ()


def read_span(reader: Reader, span: Span, max_sample_bytes: int) -> Iterator[Sample | EndOfShard]:
    """The samples of a part as the whole shard would give them; the last part gives the shard's account too."""
    repeated = set(span.repeated)
    for item in read_samples(reader, packed=False, max_sample_bytes=max_sample_bytes):
        if isinstance(item, EndOfShard):
            break
        item.index += span.lo
        item.offset += span.start
        item.repeated = item.index in repeated
        yield item
    if span.end is not None:
        yield EndOfShard.from_json(span.end)
