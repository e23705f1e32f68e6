"""Members in, samples out: consecutive members with the same path up to the first dot of the base name.

The rules are webdataset's, so that both read the same samples; where webdataset stops (a field twice in a run), a new
sample begins, so that nothing is lost. Payloads are copied once, out of the window, and only those that are asked for.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from pipeline.errors import Reason, SampleError
from pipeline.samples.fetch import fetch_members
from pipeline.samples.hashes import hashes_of
from pipeline.samples.spans import TAR, Damage, DamageKind, Member, Padding
from pipeline.samples.tar import scan
from pipeline.samples.unpack import Unpacked, has_gzip_magic, is_packed
from pipeline.samples.window import Window
from pipeline.storage import Reader

__all__ = [
    "EndOfShard",
    "Field",
    "Sample",
    "count_samples",
    "fetch_members",
    "hashes_of",
    "is_packed",
    "read_samples",
    "split_name",
]

MAX_DAMAGE_RECORDS = 10_000
"""Records kept of one shard; what comes behind is only counted."""

UNBOUNDED_BYTES = 1 << 62

_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # webdataset.tariterators.base_plus_ext
_META = re.compile(r"__[^/]*__($|/)")  # webdataset.tariterators.tar_file_iterator, skip_meta


@dataclass(slots=True)
class Field:
    """One member of a sample."""

    name: str
    """What follows the first dot of the base name, lower-cased: jpg, left.png."""
    size: int
    """Bytes."""
    data: bytes | None
    """None where it was not read: headers only, or the sample is above the limit."""
    offset: int = -1
    """Bytes: where the payload starts in the (unpacked) tar."""


@dataclass(slots=True)
class Sample:
    """Consecutive members of one key."""

    index: int
    """0-based position among the samples of the shard."""
    key: str
    offset: int
    """Bytes: where its first header starts in the (unpacked) tar."""
    size: int
    """Bytes from there to the end of its last member: headers and padding included, and what lies between."""
    fields: tuple[Field, ...]
    """In the order of the archive."""
    problem: SampleError | None
    """DAMAGED, TOO_LARGE or UNSUPPORTED_MEMBER; None for a sample that is whole."""
    repeated: bool
    """Its key occurred earlier in the shard, with other samples in between, or with the same field."""


@dataclass(frozen=True, slots=True)
class EndOfShard:
    """The account of a whole shard. `bytes_members + bytes_padding + bytes_damage == size_bytes`."""

    n_samples: int
    damage: tuple[Damage, ...]
    """In order, the first MAX_DAMAGE_RECORDS."""
    n_damage: int
    bytes_members: int
    bytes_padding: int
    """Zeros that end the archive."""
    bytes_damage: int
    """In the (unpacked) tar."""
    size_bytes: int
    """Of the tar; of what could be unpacked of it where it is packed."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Members that belong to no sample: link, folder, device, other, header, meta (`__like__`), no_extension."""
    repeated_keys: int = 0
    """Samples whose `repeated` is set."""

    def to_json(self) -> str:
        """All of it as one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "EndOfShard":
        """The inverse of `to_json`."""
        values = json.loads(text)
        values["damage"] = tuple(Damage(**{**record, "kind": DamageKind(record["kind"])}) for record in values["damage"])
        return cls(**values)


def split_name(name: str) -> tuple[str, str] | None:
    """Key and field of a member name as webdataset splits it, the field lower-cased; None without an extension."""
    base = name.rfind("/") + 1
    dot = name.find(".", base)
    if dot > base and "\n" not in name:
        return name[:dot], name[dot + 1 :].lower()
    match = _NAME.match(name)  # hidden files and line breaks: by the letter of the original
    return (match[1], match[2].lower()) if match else None


class _Account:
    """What the spans of a shard add up to."""

    def __init__(self) -> None:
        self.members = 0
        self.padding = 0
        self.damaged = 0
        self.n_damage = 0
        self.damage: list[Damage] = []
        self.ignored: dict[str, int] = {}

    def ignore(self, why: str) -> None:
        self.ignored[why] = self.ignored.get(why, 0) + 1

    def hit(self, damage: Damage) -> None:
        self.n_damage += 1
        if len(self.damage) < MAX_DAMAGE_RECORDS:
            self.damage.append(damage)
        if damage.space == TAR:
            self.damaged += damage.end - damage.start


class _Run:
    """The samples of one shard as they form, one open at a time."""

    def __init__(
        self,
        window: Window,
        todo: Sequence[tuple[int, int]] | None,
        max_sample_bytes: int,
        load: bool,
        only: frozenset[str] | None = None,
    ) -> None:
        self._window = window
        self._only = only
        self._todo = None if todo is None else sorted(todo)
        self._next_todo = 0
        self._max_bytes = max_sample_bytes
        self._load = load
        self._seen: set[int] = set()  # hashes of keys: 1 M samples take 60 MB, their keys twice that
        self._fields: list[Field] = []
        self._names: set[str] = set()
        self._sample: Sample | None = None
        self._prefix = ""
        self._wanted = True
        self._read = True
        self._bytes = 0
        self._gap = False
        self._damaged_key: str | None = None
        self.count = 0
        self.repeated = 0
        self.account = _Account()

    def add(self, member: Member) -> Sample | None:
        """Takes a member; returns the sample before it if this one opens another."""
        account = self.account
        account.members += member.end - member.start
        name, kind, _, _, size, _ = member
        if kind != "file" and kind != "sparse":
            account.ignore(kind)
            return None
        closed: Sample | None = None
        sample = self._sample
        prefix = self._prefix
        if sample is not None and name.startswith(prefix) and "/" not in (rest := name[len(prefix) :]):
            word = rest.lower()
            if word in self._names:
                closed = self.close()
                sample = self._open(sample.key, member)
        else:
            split = split_name(name)
            if split is None or (name.startswith("__") and _META.match(name)):
                account.ignore("no_extension" if split is None else "meta")
                return None
            key, word = split
            closed = self.close()
            sample = self._open(key, member)
        if self._gap:
            self._gap = False
            _reject(sample, Reason.DAMAGED, "bytes between its members are damaged")
        sample.size = member.end - sample.offset
        self._names.add(word)
        self._bytes += size
        if self._bytes > self._max_bytes:
            self._too_large(sample)
        if kind == "sparse":
            _reject(sample, Reason.UNSUPPORTED_MEMBER, f"{name} is stored as a sparse file")
            self._read = False
        data = self._window.read(member.data, size) if self._read and (self._only is None or word in self._only) else None
        self._fields.append(Field(word, size, data, member.data))
        return closed

    def _open(self, key: str, member: Member) -> Sample:
        known = hash(key)
        repeated = known in self._seen
        self._seen.add(known)
        self.repeated += repeated
        self._wanted = self._is_wanted(self.count)
        self._read = self._wanted and self._load
        if self._todo is not None and not self._window.packed:
            self._window.jumps = not self._wanted
        self._fields = []
        self._names = set()
        self._bytes = 0
        self._gap = False
        self._prefix = key + "."
        self._sample = Sample(self.count, key, member.start, 0, (), None, repeated)
        if key == self._damaged_key:
            _reject(self._sample, Reason.DAMAGED, "another member of it is damaged")
        self._damaged_key = None
        return self._sample

    def _too_large(self, sample: Sample) -> None:
        _reject(sample, Reason.TOO_LARGE, f"more than {self._max_bytes} bytes")
        self._read = False
        for part in self._fields:
            part.data = None

    def _is_wanted(self, index: int) -> bool:
        todo = self._todo
        if todo is None:
            return True
        while self._next_todo < len(todo) and todo[self._next_todo][1] < index:
            self._next_todo += 1
        return self._next_todo < len(todo) and todo[self._next_todo][0] <= index

    def hit(self, damage: Damage) -> None:
        """Takes damage, which may be a part of the open sample or of the next one."""
        self.account.hit(damage)
        if damage.space != TAR or damage.start == damage.end or damage.kind is DamageKind.PADDING:
            return
        if damage.name is None:
            self._gap = self._sample is not None
            return
        split = split_name(damage.name)
        if split is None:
            return
        if self._sample is not None and split[0] == self._sample.key:
            _reject(self._sample, Reason.DAMAGED, f"{damage.name}: {damage.detail}")
        else:
            self._damaged_key = split[0]
            self._prefix = "\0"  # what follows is another sample, also under the same key

    def close(self) -> Sample | None:
        """Ends the open sample; returns it if it is wanted."""
        sample = self._sample
        if sample is None:
            return None
        sample.fields = tuple(self._fields)
        self._sample = None
        self.count += 1
        return sample if self._wanted else None

    def end(self) -> EndOfShard:
        """The account, once all spans were taken."""
        account = self.account
        size = account.members + account.padding + account.damaged
        return EndOfShard(
            n_samples=self.count,
            damage=tuple(account.damage),
            n_damage=account.n_damage,
            bytes_members=account.members,
            bytes_padding=account.padding,
            bytes_damage=account.damaged,
            size_bytes=size,
            ignored=account.ignored,
            repeated_keys=self.repeated,
        )


def _reject(sample: Sample, reason: Reason, detail: str) -> None:
    if sample.problem is None:
        sample.problem = SampleError(reason, detail)


def read_samples(
    reader: Reader,
    *,
    packed: bool | None = None,
    max_sample_bytes: int,
    todo: Sequence[tuple[int, int]] | None = None,
    stop_after: int | None = None,
    load: bool = True,
    only: frozenset[str] | None = None,
) -> Iterator[Sample | EndOfShard]:
    """The samples of a shard in order, then its account. OSError of the storage travels; no bytes raise anything.

    `packed`: gzip; None looks at the first bytes. `todo`: inclusive ranges of indices to give out, all where it is None;
    the others are counted, and jumped over where the tar is plain. `stop_after`: ends once so many samples have passed,
    given out or not, without an account. `load=False`: every byte is read, no payload is kept. `only`: fields whose payload
    is wanted; the others' are jumped over where the tar is plain.
    """
    unpacked = Unpacked(reader, max_sample_bytes if load else 0) if (has_gzip_magic(reader) if packed is None else packed) else None
    window = Window(reader if unpacked is None else unpacked)
    window.reads_all = not load
    window.jumps = only is not None and unpacked is None
    run = _Run(window, todo, max_sample_bytes, load, only)
    try:
        yield from _samples(window, run, stop_after)
        if run.count == stop_after:
            return
        if unpacked is not None and unpacked.damage is not None:
            run.hit(unpacked.damage)
        yield run.end()
    finally:
        if unpacked is not None:
            unpacked.close()


def _samples(window: Window, run: _Run, stop_after: int | None) -> Iterator[Sample]:
    if stop_after is not None and stop_after <= 0:
        return
    for span in scan(window):
        if isinstance(span, Member):
            sample = run.add(span)
            if sample is not None:
                yield sample
            if run.count == stop_after:
                return
        elif isinstance(span, Padding):
            run.account.padding += span.end - span.start
        elif not (window.cut_short and span.kind is DamageKind.END_MISSING):
            run.hit(span)
    sample = run.close()
    if sample is not None:
        yield sample


def count_samples(reader: Reader, packed: bool | None = None, limit: int | None = None) -> int:
    """How many samples a shard has, at most `limit`. Jumps from header to header where the tar is plain."""
    unpacked = Unpacked(reader) if (has_gzip_magic(reader) if packed is None else packed) else None
    window = Window(reader if unpacked is None else unpacked)
    window.jumps = unpacked is None
    run = _Run(window, None, UNBOUNDED_BYTES, load=False)
    for _ in _samples(window, run, limit):
        pass
    if unpacked is not None:
        unpacked.close()
    return run.count
