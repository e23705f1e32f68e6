"""The tar reader against any archive that Python's tarfile or webdataset writes, and any damage to it.

- Undamaged: the same samples as webdataset reads, no damage, whatever the format, the names, and the payloads; also packed,
  and through a small window.
- Damaged, by one or two of flip, cut, zeros, removal, insertion: no exception; the spans partition the file. By one: every
  sample whose bytes stand untouched comes out identical; nothing comes out of a payload; damage carries a legible name.
"""

import gzip
import io
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import webdataset
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_expander

from pipeline.samples.group import EndOfShard, Sample, read_samples
from pipeline.samples.header import claimed_size, padded
from pipeline.samples.tar import Damage, Member, Span, scan
from pipeline.samples.window import Window
from pipeline.storage import BytesReader

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
INNER = "inner"
"""How the keys inside tars that are payloads start."""
LIMIT = 1 << 20

quick = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@dataclass(frozen=True)
class Archive:
    """A tar and how it was made."""

    writer: str
    members: tuple[tuple[str, bytes], ...]

    def pack(self) -> bytes:
        return pack(self.writer, self.members)

    def __repr__(self) -> str:
        return f"{self.writer}: " + ", ".join(f"{name} {len(data)}" for name, data in self.members)


def pack(writer: str, members: Sequence[tuple[str, bytes]]) -> bytes:
    target = io.BytesIO()
    if writer == "webdataset":
        with webdataset.TarWriter(target, mtime=1_700_000_000.25) as tar:
            for name, data in members:
                key, field = name.split(".", 1)
                tar.write({"__key__": key, field: data})
        return target.getvalue()
    with tarfile.open(fileobj=target, mode="w", format=FORMATS[writer]) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target.getvalue()


noise = st.builds(lambda seed, size: np.random.default_rng(seed).bytes(size), st.integers(0, 1 << 20), st.integers(0, 5000))
zeros = st.integers(0, 4000).map(bytes)
sizes = st.sampled_from([0, 1, 511, 512, 513, 1024])


@st.composite
def inner_tars(draw: st.DrawFn) -> bytes:
    count = draw(st.integers(0, 4))
    members = [(f"{INNER}{n}.bin", draw(noise)) for n in range(count)]
    return pack(draw(st.sampled_from(sorted(FORMATS))), members)


plain_payloads = st.one_of(noise, noise, st.builds(lambda size: b"\x5a" * size, sizes), zeros)
payloads = st.one_of(plain_payloads, plain_payloads, inner_tars())
stems = st.one_of(
    st.just("k"),
    st.just("folder/sub/k"),
    st.just("été/键"),
    st.just("../k"),
    st.just("/abs/k"),
    st.just("l" * 90 + "/k"),
    st.just("n" * 190),
)


@st.composite
def archives(draw: st.DrawFn, contents: st.SearchStrategy[bytes] = payloads) -> Archive:
    writer = draw(st.sampled_from(["ustar", "gnu", "pax", "webdataset"]))
    members = []
    for number in range(draw(st.integers(1, 6))):
        stem = draw(stems)
        if writer == "ustar" and len(stem) > 100:
            stem = "k"
        for field in draw(st.sampled_from([("jpg",), ("jpg", "txt"), ("a.PNG", "cls", "json")])):
            members.append((f"{stem}{number:04d}.{field}", draw(contents)))
    return Archive(writer, tuple(members))


@dataclass(frozen=True)
class Injury:
    """One damage to a file: where as a fraction of it, how long, and with what."""

    kind: str
    where: float
    length: int
    seed: int

    def apply(self, data: bytes, origin: np.ndarray[Any, Any]) -> tuple[bytes, np.ndarray[Any, Any]]:
        """The damaged file, and for each of its bytes the position in the original, or -1 where it is another."""
        at = min(int(self.where * len(data)), len(data) - 1)
        end = min(at + self.length, len(data))
        alien = np.random.default_rng(self.seed).bytes(self.length)
        if self.kind == "cut":
            return data[:at], origin[:at]
        if self.kind == "remove":
            return data[:at] + data[end:], np.concatenate([origin[:at], origin[end:]])
        if self.kind == "insert":
            return data[:at] + alien + data[at:], np.concatenate([origin[:at], np.full(self.length, -1), origin[at:]])
        if self.kind == "zero":
            middle = bytes(end - at)
        else:
            middle = bytes(byte ^ (mask or 1) for byte, mask in zip(data[at:end], alien, strict=False))
        changed = np.frombuffer(data[at:end], np.uint8) != np.frombuffer(middle, np.uint8)
        origin = origin.copy()
        origin[at:end][changed] = -1
        return data[:at] + middle + data[end:], origin


lengths = st.one_of(st.just(1), st.integers(1, 600), st.sampled_from([512, 1024, 1536, 4096]), st.integers(1, 9000))
injuries = st.builds(
    Injury, st.sampled_from(["flip", "cut", "zero", "remove", "insert"]), st.floats(0, 1, exclude_max=True), lengths, st.integers(0, 1000)
)


def read(data: bytes, **options: Any) -> tuple[list[Sample], EndOfShard]:
    *samples, end = read_samples(BytesReader(data), max_sample_bytes=LIMIT, **options)
    assert isinstance(end, EndOfShard)
    return samples, end  # type: ignore[return-value]


def content(sample: Sample) -> tuple[str, tuple[tuple[str, bytes | None], ...]]:
    return sample.key, tuple((field.name, field.data) for field in sample.fields)


def spans_of(data: bytes, capacity: int) -> list[Span]:
    spans = list(scan(Window(BytesReader(data), capacity)))
    at = 0
    for span in spans:
        assert span.start == at and span.end >= at, (span, at)
        at = span.end
    assert at == len(data)
    return spans


@quick
@given(archives(), st.sampled_from([4096, 1 << 20]))
def test_an_undamaged_archive_is_read_as_webdataset_reads_it(archive: Archive, capacity: int) -> None:
    data = archive.pack()
    samples, end = read(data)
    files = tar_file_expander([{"url": "x", "stream": io.BytesIO(data)}])
    theirs = [{key: value for key, value in sample.items() if key != "__url__"} for sample in group_by_keys(files)]
    assert [{"__key__": key, **dict(fields)} for key, fields in map(content, samples)] == theirs
    assert end.damage == () and end.bytes_members + end.bytes_padding == end.size_bytes == len(data)
    assert [span for span in spans_of(data, capacity) if isinstance(span, Damage)] == []
    assert read(gzip.compress(data, 1)) == (samples, end)
    assert [sample.problem for sample in samples] == [None] * len(samples)


def untouched(samples: list[Sample], origin: np.ndarray[Any, Any]) -> dict[int, int]:
    """Where samples of the original stand in the damaged file, by index, if all their bytes do, padding included."""
    places = {}
    for sample in samples:
        place = place_of(sample.offset, sample.size, origin)
        if place is not None:
            places[sample.index] = place
    return places


def place_of(offset: int, size: int, origin: np.ndarray[Any, Any]) -> int | None:
    """Where the original bytes `offset` to `offset + size` stand whole in the damaged file."""
    found = np.flatnonzero(origin == offset)
    if len(found) == 0:
        return None
    here = origin[found[0] : found[0] + size]
    return int(found[0]) if len(here) == size and (here == np.arange(offset, offset + size)).all() else None


def with_inner(data: bytes, members: list[Member]) -> list[Member]:
    """The members of an archive, and those of the tars that are their payloads."""
    found = list(members)
    for member in members:
        for span in scan(Window(BytesReader(data[member.data : member.data + member.size]))):
            if isinstance(span, Member):
                at = member.data
                found.append(span._replace(start=at + span.start, data=at + span.data, end=at + span.end))
    return found


def is_header(data: bytes, at: int) -> bool:
    try:
        return bool(tarfile.TarInfo.frombuf(data[at : at + 512], "utf-8", "surrogateescape"))
    except tarfile.HeaderError:
        return False


def swallowed(original: bytes, members: list[Member], data: bytes, origin: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """Ranges of the damaged file that read as one undamaged member, although bytes are missing in them.

    A payload has no checksum, so a loss cannot be seen where the member's header is whole and at its end stands (1) another
    header, or (2) the zeros that end the file, exactly 1024 of them as after the last member of most archives, or where (3) a
    header stands right at the start of the payload, as if it were a tar. Nor (4) where exactly the
    second header of a member is lost, so that its long name now speaks of the member behind.
    """
    ranges = []
    for member in members:
        found = np.flatnonzero(origin == member.start)
        place = int(found[0]) if len(found) else 0
        if not len(found):
            continue
        end = place + member.end - member.start
        second = place + member.data - 512 - member.start
        if data[place:].startswith(original[member.start : member.data]):
            if (origin[place:end] == np.arange(member.start, member.start + len(origin[place:end]))).all():
                continue
            rest = data[end:]
            ends = len(rest) == 1024 and not rest.strip(b"\0")
            if is_header(data, end) or ends or is_header(data, second + 512):
                ranges.append((place, end))
        elif second > place and data[place:second] == original[member.start : member.data - 512] and is_header(data, second):
            size = tarfile.TarInfo.frombuf(data[second : second + 512], "utf-8", "surrogateescape").size
            ranges.append((place, second + 512 + (size + 511) // 512 * 512))
    return ranges


def may_leak(leak: Sample, spans: Sequence[Span], members: list[Member], data: bytes, origin: np.ndarray[Any, Any]) -> bool:
    """True where a tar that is a payload cannot be told from a part of the archive itself.

    Its own member must be damaged, and (1) no later header of the archive stands, so that nothing shows whose end mark follows; or
    (2) a whole end mark of zeros stands before it, as between joined archives; or (3) bytes are lost from within a header on, so that
    what reads as a damaged header claims a payload that ends right where an inner header stands.
    """
    known = origin[leak.offset : leak.offset + leak.size]
    known = known[known >= 0]
    outer = next(member for member in members if member.start <= known[0] < member.end)
    if place_of(outer.start, outer.end - outer.start, origin) is not None:
        return False
    later = [
        member for member in members if member.start >= outer.end and place_of(member.start, member.data - member.start, origin) is not None
    ]
    return not later or not data[max(0, leak.offset - 1024) : leak.offset].strip(b"\0") or misled(leak, spans, data)


def misled(leak: Sample, spans: Sequence[Span], data: bytes) -> bool:
    """True where a damaged header before a leak claims a payload that ends right there, or where the leaked member ends."""
    damage = next((span for span in spans if isinstance(span, Damage) and span.end == leak.offset), None)
    if damage is None:
        return False
    blocks = range(damage.start, damage.end - 511, 512)
    ends = (leak.offset, leak.offset + leak.size)
    return any(at + 512 + padded(claimed_size(data[at : at + 512]) or 0) in ends for at in blocks)


def believable(sample: Sample, place: int, members: list[Member], data: bytes, origin: np.ndarray[Any, Any]) -> bool:
    """False for a sample behind damage with damage behind it: a header counts only if a header, zeros or the end follow its member."""
    before = next((member for member in members if member.end == sample.offset), None)
    if before is None or place_of(before.start, before.end - before.start, origin) == place - (before.end - before.start):
        return True
    block = data[place + sample.size :][:512]
    return len(block) < 512 or not block.strip(b"\0") or block[257:262] == b"ustar"


def looks_joined(data: bytes) -> bool:
    return any(is_header(data, run.end()) for run in re.finditer(rb"\0{1024,}", data))


def check_damaged(archive: Archive, wounds: list[Injury]) -> None:
    original = archive.pack()
    samples, _ = read(original)
    data, origin = original, np.arange(len(original))
    for wound in wounds:
        if not data:
            break
        data, origin = wound.apply(data, origin)
    spans = spans_of(data, 1 << 20)
    assert spans_of(data, 4096) == spans
    found, end = read(data)
    assert end.bytes_members + end.bytes_padding + end.bytes_damage == end.size_bytes == len(data)
    note(f"spans: {spans}")
    by_offset = {sample.offset: sample for sample in found}
    members = [span for span in spans_of(original, 1 << 20) if isinstance(span, Member)]
    hidden = swallowed(original, with_inner(original, members), data, origin)
    end_mark_inside = len(wounds) > 1 and looks_joined(data)
    for index, place in untouched(samples, origin).items():
        if (
            end_mark_inside
            or any(start < place < end for start, end in hidden)
            or not believable(samples[index], place, members, data, origin)
        ):
            continue
        note(f"untouched: sample {index} {samples[index].key} at {place}")
        assert place in by_offset, "lost"
        assert content(by_offset[place]) == content(samples[index])
        assert by_offset[place].problem is None
    leaked_up_to = -1
    for sample in found:
        if sample.key.startswith(INNER) and not any(is_header(data, end) for _, end in hidden):
            assert sample.offset == leaked_up_to or may_leak(sample, spans, members, data, origin), f"{sample.key} out of a payload"
            leaked_up_to = sample.offset + sample.size
    second_headers = {member.data - 512 for member in members if member.data - 512 > member.start}
    for sample in found:
        here = origin[sample.offset : sample.offset + sample.size]
        intact = (here >= 0).all() and (np.diff(here) == 1).all()
        if intact and here[0] not in second_headers:  # else its long name is lost, and it goes by what its plain header says
            if sample.key.startswith(INNER):
                continue
            original_sample = next(one for one in samples if one.key == sample.key)
            assert set(content(sample)[1]) <= set(content(original_sample)[1])


@settings(quick, max_examples=300)
@given(archives(), injuries)
def test_one_injury_costs_only_what_it_touches(archive: Archive, wound: Injury) -> None:
    check_damaged(archive, [wound])


@settings(quick, max_examples=300)
@given(archives(plain_payloads), injuries, injuries)
def test_two_injuries_cost_only_what_they_touch(archive: Archive, first: Injury, second: Injury) -> None:
    """As for one, on archives without tars in them, unless zeros that end one member's place look like the end of an archive.

    A wiped or inserted run of 1024 zeros or more, in whole blocks and with a header right behind, reads as an end mark: behind
    damage, what stands before it reads as a tar that was a payload, whose own header is lost. It is reported as damage.
    """
    check_damaged(archive, [first, second])
