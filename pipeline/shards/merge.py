"""Captions back into an archive: the same samples with a new text member, media bytes as they were.

In: an archive and its caption table (schema.CAPTIONS), joined by index and verified by `sample_sha256`; every medium is hashed
while it is copied, and compared with `media_sha256`. Out: a plain tar that appears whole or not at all, the same bytes every
time, and after it a record of what it was made from: where both stand, a second run does nothing. Memory: one sample, and the
captions of one archive.
"""

import json
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import Reason, RequestError, SampleError, StoppedError
from pipeline.samples.group import EndOfShard, Sample, hashes_of, read_samples, split_name
from pipeline.samples.medium import modality_of
from pipeline.shards.write import Member, TarWriter

RECORDS = "merged"
"""Folder of the records, below the output."""
COLUMNS = ("shard", "index", "caption_index", "prompt_id", "sample_sha256", "media_sha256", "caption", "status", "reason")
EXAMPLES = 3
MERGED, KEPT, DROPPED = "merged", "kept", "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How captions are put into samples."""

    member: str = "caption.txt"
    """Field name of a text member with the first caption, replacing one of that name; empty for none."""
    json_field: str = ""
    """Name in the sample's json: the caption, or the list of all if there are several a sample; empty for none."""
    keep_rejected: bool = True
    """Samples without a caption are copied as they are; otherwise they are left out."""
    max_sample_bytes: int = 512 << 20
    """A larger sample stops the merge: it is held in memory."""

    def __post_init__(self) -> None:
        if not self.member and not self.json_field:
            raise ValueError("captions need a member or a json field to go to")
        if self.member and split_name(f"k.{self.member}") != ("k", self.member):
            raise ValueError(f"{self.member!r} is no field name: lower case, no slash, such as caption.txt or txt")


@dataclass(frozen=True, slots=True)
class Job:
    """One archive to merge."""

    url: str
    shard: str
    """Path below the root, as the caption table names it."""
    stem: str
    fingerprint: str
    """Names the version of the archive and of its table."""
    table: str
    """URL of the caption table."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of one archive."""

    shard: str
    path: str
    """Below the output folder."""
    fingerprint: str
    size_bytes: int
    counts: dict[str, int] = field(default_factory=dict)
    """Samples by outcome: merged, kept:REASON (without a caption), dropped:REASON."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """A few keys of each outcome but merged."""

    @property
    def samples(self) -> int:
        """That stand in the archive."""
        return sum(count for what, count in self.counts.items() if not what.startswith(DROPPED))


class Captions(list["_Row"]):
    """The rows of a table, one a sample, in order."""

    several = False
    """It holds more than one caption a sample."""


@dataclass(slots=True)
class _Row:
    sample_sha256: str | None
    media_sha256: str | None
    status: str
    reason: str | None
    captions: list[str]


def read_captions(url: str, shard: str) -> Captions:
    """A caption table. RequestError where it is none, or one of another archive."""
    try:
        with closing(storage.open_reader(url)) as reader:
            data = bytearray(reader.size)
            reader.read_into(0, memoryview(data))
        table = pq.read_table(pa.BufferReader(data), columns=list(COLUMNS))
    except FileNotFoundError as exc:
        raise RequestError(f"{shard} has no caption table {url}; finish nightcap caption first") from exc
    except (pa.ArrowInvalid, KeyError) as exc:
        raise RequestError(f"{url} is no caption table: {str(exc).splitlines()[0]}") from exc
    names = table.column("shard").unique().to_pylist()
    if any(name != shard for name in names):
        other = next(name for name in names if name != shard)
        raise RequestError(f"{url} holds captions of {other}, not of {shard}: a caption table of other shards; name those it was made from")
    return _rows(table, url)


def _rows(table: pa.Table, url: str) -> Captions:
    order = table.sort_by([("index", "ascending"), ("prompt_id", "ascending"), ("caption_index", "ascending")])
    columns = [order.column(name).to_pylist() for name in COLUMNS if name != "shard"]
    rows = Captions()
    for index, _, _, sample, media, caption, status, reason in zip(*columns, strict=True):
        if index == len(rows):
            rows.append(_Row(sample, media, status, reason, []))
        elif index == len(rows) - 1:
            rows.several = True
        else:
            raise RequestError(f"{url} has no row of sample {len(rows)}: it is no whole caption table")
        if caption is not None:
            rows[-1].captions.append(caption)
    return rows


def merge(job: Job, form: Form, target: storage.Folder, tag: str = "") -> Merged:
    """Writes `<stem>.tar` below the target, unless it stands there already. `tag` stands in the name of its temporary file.

    StoppedError where archive and table do not belong together, naming shard:key, and on a full disk.
    """
    path, record = f"{job.stem}.tar", f"{RECORDS}/{job.stem}.json"
    known = load_record(target, record)
    if known is not None and known.fingerprint == job.fingerprint and target.exists(path):
        return known
    rows = read_captions(job.table, job.shard)
    outcome = _Outcome()
    with closing(storage.open_reader(job.url)) as reader, target.create(path, tag, direct=True) as draft, TarWriter(draft) as tar:
        last_key = ""
        for item in read_samples(reader, max_sample_bytes=form.max_sample_bytes):
            if isinstance(item, EndOfShard):
                if item.n_samples != len(rows):
                    raise StoppedError(f"{job.shard} has {item.n_samples:,} samples, its caption table {len(rows):,}: {_CHANGED}")
                break
            if item.index >= len(rows):
                raise StoppedError(f"{job.shard}:{item.key} has no row in its caption table: {_CHANGED}")
            members = _members(item, rows[item.index], rows.several, form, job.shard, outcome)
            if members is not None:
                _add(tar, item.key, members, last_key, job.shard)
                last_key = item.key
        size_bytes = tar.finish()
    result = Merged(job.shard, path, job.fingerprint, size_bytes, dict(sorted(outcome.counts.items())), outcome.examples)
    target.put(record, json.dumps(asdict(result), ensure_ascii=False, indent=1).encode())
    return result


_CHANGED = "the archive is not the one that was captioned, or it changed since; caption it again"


def verify_first(job: Job, max_sample_bytes: int) -> None:
    """Compares the first sample with its row, before anything is started. RequestError where they do not belong together."""
    rows = read_captions(job.table, job.shard)
    with closing(storage.open_reader(job.url)) as reader:
        for item in read_samples(reader, max_sample_bytes=max_sample_bytes, stop_after=1):
            if isinstance(item, Sample) and item.problem is None:
                try:
                    _verify(item, rows[0] if rows else _Row("", None, "", None, []), job.shard)
                except StoppedError as exc:
                    raise RequestError(str(exc)) from exc


def load_record(target: storage.Folder, record: str) -> Merged | None:
    """What an earlier run says of an archive; None where it says nothing."""
    try:
        return Merged(**json.loads(target.get(record)))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


@dataclass(slots=True)
class _Outcome:
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, key: str) -> None:
        self.counts[what] += 1
        if what != MERGED:
            named = self.examples.setdefault(what, [])
            if len(named) < EXAMPLES:
                named.append(key)


def _members(sample: Sample, row: _Row, several: bool, form: Form, shard: str, outcome: _Outcome) -> list[Member] | None:
    """What is written of a sample; None where it is left out."""
    if sample.problem is not None:
        if sample.problem.reason is Reason.TOO_LARGE and form.keep_rejected:
            raise StoppedError(f"{shard}:{sample.key} is above --max-sample-bytes; raise it, or use --rejected drop")
        outcome.add(f"{DROPPED}:{sample.problem.reason.value}", sample.key)
        return None
    _verify(sample, row, shard)
    members: list[Member] = [(part.name, part.data or b"") for part in sample.fields]
    if not row.captions:
        why = row.reason or row.status
        outcome.add(f"{KEPT if form.keep_rejected else DROPPED}:{why}", sample.key)
        return members if form.keep_rejected else None
    try:
        merged = _with_captions(members, row.captions, several, form)
    except SampleError as exc:
        outcome.add(f"{KEPT}:{exc.detail}", sample.key)
        return members
    outcome.add(MERGED, sample.key)
    return merged


def _verify(sample: Sample, row: _Row, shard: str) -> None:
    if row.sample_sha256 is None and not row.captions:  # it was too large then, or could not be read
        return
    where = f"{shard}:{sample.key}"
    hashes = hashes_of(sample.fields)
    if row.sample_sha256 != hashes.sample:
        raise StoppedError(
            f"{where} is not the sample that row {sample.index} of the caption table was made from (sample_sha256 differs): {_CHANGED}"
        )
    if row.media_sha256 is not None and row.media_sha256 not in (digest for name, digest in hashes.members.items() if modality_of(name)):
        raise StoppedError(f"{where} has no medium with the media_sha256 of its caption: {_CHANGED}")


def _with_captions(members: list[Member], captions: list[str], several: bool, form: Form) -> list[Member]:
    new = dict(members)
    if form.member:
        new[form.member] = captions[0].encode()
    if form.json_field:
        new["json"] = _json(new.get("json"), form.json_field, captions if several else captions[0])
    names = [name for name, _ in members]
    ordered = [*names, *(name for name in new if name not in names)]
    if names == sorted(names):
        ordered.sort()
    return [(name, new[name]) for name in ordered]


def _json(data: Any, name: str, value: str | list[str]) -> bytes:
    """The sample's json with one more entry; the others keep their order."""
    try:
        known = {} if data is None else json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise SampleError(Reason.BAD_ROW, "json_unreadable") from exc
    if not isinstance(known, dict):
        raise SampleError(Reason.BAD_ROW, "json_no_object")
    return json.dumps({**known, name: value}, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _add(tar: TarWriter, key: str, members: list[Member], last_key: str, shard: str) -> None:
    try:
        tar.add(key, members)
    except ValueError as exc:
        if key == last_key:
            hint = "what stood between it and the sample before it with the same key was left out; use --rejected keep, or nightcap check --fix first"
        else:
            hint = "nightcap check --fix writes an archive without it"
        raise StoppedError(f"{shard}:{key} would be read back as another sample: {hint}") from exc
