"""What a shard holds, read to its last byte: samples, fields, sizes, media, damage, order. Pure, no Ray.

With hashes every payload is hashed once, which gives the prints of samples and of media. Without, plain archives take the short
way of `skim`, and media and texts are looked at in the first samples only. Memory: 60 bytes a sample, and one sample.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from pipeline import storage
from pipeline.samples.account import Hit, Survey, drop_long_names
from pipeline.samples.group import EndOfShard, Field, Sample, hashes_of, read_samples
from pipeline.samples.measure import HEAD_BYTES, Measure, full_measure, quick_measure
from pipeline.samples.medium import modality_of
from pipeline.samples.prints import Numbers, Prints, text_prints
from pipeline.samples.rows import reference_text
from pipeline.samples.skim import skim
from pipeline.samples.spread import Spread
from pipeline.samples.unpack import has_gzip_magic

LOOKED_AT = 250
"""Samples of an archive whose texts and media are looked at when nothing is hashed: their bytes are not at hand then."""
PROBED = 200
"""Media of an archive that Pillow or FFmpeg open, which takes up to a millisecond each."""
PROBED_BYTES = 64 << 20
"""Largest medium that is read for that."""
TEXT_BYTES = 1 << 20
"""Largest text or json whose length is taken."""
_BUFFERED = 4096
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How closely archives are looked at."""

    hashes: bool = True
    """Hash every payload: finds duplicates."""
    media: bool = True
    """Read the headers of media, and the texts."""
    max_sample_bytes: int = 512 << 20
    """Larger samples are a problem, and are not hashed."""


@dataclass(frozen=True, slots=True)
class Found:
    """One shard's account, and what compares it with others."""

    url: str
    survey: Survey
    prints: Prints

    @property
    def faulty(self) -> bool:
        """It is not as a clean archive should be: `shards.repair` can help."""
        survey = self.survey
        return bool(survey.n_damage or survey.repeated_keys or survey.problems)


def survey(url: str, look: Look) -> Found:
    """Reads every byte of a shard. OSError where the file cannot be read."""
    with closing(storage.open_reader(url)) as reader:
        packed = has_gzip_magic(reader)
        observer = Observer(url, reader, look, packed)
        if not look.hashes and not packed and skim(reader, observer):
            return observer.found()
        observer = Observer(url, reader, look, packed)
        for item in read_samples(reader, packed=packed, max_sample_bytes=look.max_sample_bytes, load=look.hashes):
            if isinstance(item, EndOfShard):
                observer.end(item)
            else:
                observer.take(item)
        return observer.found()


@dataclass(slots=True)
class _Columns:
    """Numbers of one archive until they are added up, some thousand at a time."""

    sizes: dict[str, list[int]] = field(default_factory=dict)
    chars: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)


class Observer:
    """Adds up the samples of one shard."""

    def __init__(self, url: str, reader: storage.Reader, look: Look, packed: bool) -> None:
        self._reader = reader
        self._look = look
        self._packed = packed
        self._survey = Survey(archives=1)
        self._url = url
        self._columns = _Columns()
        self._waiting = 0
        self._last_key = ""
        self._probed = 0
        self.looked_at = LOOKED_AT if look.media else 0
        self.max_sample_bytes = look.max_sample_bytes
        self._keys: list[str] = []
        self._key_prints: list[Numbers] = []
        self._contents = bytearray()
        self._media = bytearray()
        self._content_at: list[int] = []
        self._media_at: list[int] = []

    def take(self, sample: Sample) -> None:
        """Adds one sample."""
        survey = self._survey
        self._keys.append(sample.key)
        if len(self._keys) >= _BUFFERED:
            self._print_keys()
        if sample.key < self._last_key:
            survey.out_of_order += 1
        self._last_key = sample.key
        for part in sample.fields:
            self.add_sizes(part.name, (part.size,))
        if sample.problem is not None:
            survey.problems[sample.problem.reason.value] += 1
        hashed = self._look.hashes
        if hashed and all(part.data is not None for part in sample.fields):
            self._hash(sample)
        elif hashed:
            self._read_through(sample)
        if self._look.media and sample.problem is None and (hashed or sample.index < LOOKED_AT):
            self.measure(sample.fields)

    def add_sizes(self, name: str, sizes: Sequence[int]) -> None:
        """Adds members of one field by their sizes in bytes."""
        held = self._columns.sizes.get(name)
        if held is None:
            held = self._columns.sizes[name] = []
        held.extend(sizes)
        self._waiting += len(sizes)
        if self._waiting >= _BUFFERED:
            self._flush()

    def add_keys(self, keys: Sequence[str], out_of_order: int) -> None:
        """Adds samples by their keys alone."""
        self._keys.extend(keys)
        self._print_keys()
        self._survey.out_of_order += out_of_order

    def keys_differ(self) -> bool:
        """True if no key was added twice, and no two by chance have one print."""
        self._print_keys()
        prints = np.concatenate(self._key_prints)
        return len(np.unique(prints)) == len(prints)

    def _print_keys(self) -> None:
        self._key_prints.append(text_prints(self._keys))
        self._keys = []

    def measure(self, fields: Sequence[Field]) -> None:
        """Adds the text and the media of one sample."""
        remarks, columns = self._survey.remarks, self._columns
        texts = [
            Field(part.name, part.size, self._bytes(part, part.size))
            for part in fields
            if part.name in ("txt", "json") and part.size <= TEXT_BYTES
        ]
        if texts:
            text, flags = reference_text(texts)
            remarks.update(flags)
            if text is not None:
                columns.chars.append(len(text))
                remarks["empty_text"] += not text
        for part in fields:
            modality = modality_of(part.name)
            if modality is None:
                continue
            found = quick_measure(self._bytes(part, HEAD_BYTES) or b"", part.name, part.size)
            if found is None:
                found = self._probe(part, modality)
            if found is None:
                continue
            if found.width is not None and found.height is not None:
                columns.widths.append(found.width)
                columns.heights.append(found.height)
            if found.duration_s is not None:
                columns.durations.append(max(0, round(found.duration_s * 1000)))

    def _probe(self, part: Field, modality: str) -> Measure | None:
        """What the whole medium says, if it is one of the first that its first bytes say nothing of."""
        data = self._bytes(part, part.size) if self._probed < PROBED and part.size <= PROBED_BYTES else None
        if data is None:
            self._survey.remarks[f"unmeasured_{modality}"] += 1
            return None
        self._probed += 1
        found = quick_measure(data, part.name, part.size) or full_measure(data, part.name)
        if found is None:
            self._survey.remarks[f"unreadable_{modality}"] += 1
        return found

    def _bytes(self, part: Field, count: int) -> bytes | None:
        """Up to `count` bytes of a member, read again where they are not at hand; None where that would mean unpacking again."""
        if part.data is not None:
            return part.data
        if self._packed or part.offset < 0:
            return None
        data = bytearray(min(count, part.size))
        got = self._reader.read_into(part.offset, memoryview(data))
        return bytes(data) if got == len(data) else None

    def _hash(self, sample: Sample) -> None:
        if sample.problem is not None:
            return
        hashes = hashes_of(sample.fields)
        media = [part.name for part in sample.fields if modality_of(part.name) is not None and part.size]
        self._survey.hashed += 1
        self._contents += bytes.fromhex(hashes.sample)[:16]
        self._content_at.append(sample.index)
        if media:
            first = min(media, key=lambda name: ("." in name, name))
            self._media += bytes.fromhex(hashes.members[first])[:16]
            self._media_at.append(sample.index)

    def _read_through(self, sample: Sample) -> None:
        """Reads what the reader left out of a sample that is too large: a disk that fails there must be noticed."""
        if self._packed:
            return
        scratch = memoryview(bytearray(_PIECE_BYTES))
        for at in range(sample.offset, sample.offset + sample.size, _PIECE_BYTES):
            self._reader.read_into(at, scratch[: min(_PIECE_BYTES, sample.offset + sample.size - at)])

    def end(self, end: EndOfShard) -> None:
        """Adds the reader's account."""
        survey = self._survey
        survey.samples = end.n_samples
        survey.size_bytes = end.size_bytes
        survey.ignored.update(end.ignored)
        survey.n_damage = end.n_damage
        survey.damage = [Hit(self._url, damage) for damage in end.damage]
        survey.repeated_keys = end.repeated_keys

    def _flush(self) -> None:
        survey, columns = self._survey, self._columns
        for name, sizes in columns.sizes.items():
            survey.fields.setdefault(name, Spread()).add(sizes)
        survey.other_fields += drop_long_names(survey.fields)
        survey.text_chars.add(columns.chars)
        survey.width_px.add(columns.widths)
        survey.height_px.add(columns.heights)
        survey.duration_ms.add(columns.durations)
        self._columns, self._waiting = _Columns(), 0

    def found(self) -> Found:
        """The account, once all was added."""
        self._flush()
        survey = self._survey
        for name, count in (("damaged", survey.n_damage), ("repeating", survey.repeated_keys), ("unsorted", survey.out_of_order)):
            setattr(survey, name, [self._url] if count else [])
            setattr(survey, f"n_{name}", int(count > 0))
        whole = Survey()
        whole.merge(survey)  # bounds the list of damage
        self._print_keys()
        prints = Prints.of(self._contents, self._content_at, self._media, self._media_at, np.concatenate(self._key_prints))
        return Found(self._url, whole, prints)
