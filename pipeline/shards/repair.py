"""A damaged or unsorted archive -> a clean one with what could be saved: media bytes as they are, sorted, the same bytes every time.

Partners that stand apart are joined by their key; a key that is used twice gets a number behind it. Samples with damaged
bytes are left out, and so are texts whose medium was lost. The archive appears whole or not at all; its record, which says
what it was made from, is written after it: where both stand, a second run does nothing. Memory: some 300 bytes a member.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field

from pipeline import storage
from pipeline.samples.group import EndOfShard, Sample, read_samples, split_name
from pipeline.samples.medium import modality_of
from pipeline.samples.spans import DamageKind
from pipeline.samples.unpack import Unpacked, has_gzip_magic
from pipeline.shards.item import Place
from pipeline.shards.write import Ready, write_shard

RECORDS = "repairs"
"""Folder of the records, below the target."""
UNBOUNDED_BYTES = 1 << 62
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Repaired:
    """What became of one archive."""

    url: str
    """The original."""
    path: str
    """The clean one, below the target folder."""
    fingerprint: str
    """Names the version of the original."""
    samples: int
    """Saved."""
    size_bytes: int
    joined: int = 0
    """Runs of members that were put back to the sample they belong to."""
    renamed: int = 0
    """Samples whose key was taken."""
    lost: dict[str, int] = field(default_factory=dict)
    """Samples that are not in it, by reason."""


def repair(url: str, stem: str, fingerprint: str, target: storage.Folder) -> Repaired:
    """Writes `<stem>.tar` below the target, unless it stands there already. OSError of the storage travels, StoppedError on a full disk."""
    path, record = f"{stem}.tar", f"{RECORDS}/{stem}.json"
    known = _known(target, record)
    if known is not None and known.fingerprint == fingerprint and target.exists(path):
        return known
    with _plain(url) as source:
        saved = _Saved(source)
        with closing(storage.open_reader(source)) as reader:
            for item in read_samples(reader, packed=False, max_sample_bytes=UNBOUNDED_BYTES, load=False):
                if isinstance(item, EndOfShard):
                    saved.end(item)
                else:
                    saved.add(item)
        written = write_shard(target, path, saved.samples())
    lost = saved.lost + Counter(gone.reason.value for gone in written.lost)
    result = Repaired(url, path, fingerprint, written.samples, written.size_bytes, saved.joined, saved.renamed, dict(sorted(lost.items())))
    target.put(record, json.dumps(asdict(result), ensure_ascii=False, indent=1).encode())
    return result


def _known(target: storage.Folder, record: str) -> Repaired | None:
    try:
        return Repaired(**json.loads(target.get(record)))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


@contextmanager
def _plain(url: str) -> Iterator[str]:
    """A plain tar with the archive's bytes: itself, or a temporary file with what can be unpacked of it."""
    with closing(storage.open_reader(url)) as reader:
        if not has_gzip_magic(reader):
            yield url
            return
        with tempfile.NamedTemporaryFile(prefix="nightcap-fix-") as file, closing(Unpacked(reader)) as unpacked:
            view = memoryview(bytearray(_PIECE_BYTES))
            at = 0
            while count := unpacked.read_into(at, view):
                file.write(view[:count])
                at += count
            file.flush()
            yield file.name


class _Saved:
    """The samples of an archive that can be saved, as they come together."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._by_key: dict[str, list[dict[str, Place]]] = {}
        self._broken: set[str] = set()
        self._starts: dict[int, str] = {}  # samples without a medium, by where they begin
        self.lost: Counter[str] = Counter()
        self.joined = 0
        self.renamed = 0

    def add(self, sample: Sample) -> None:
        """Takes one run of members."""
        fields = {part.name: Place(self._source, part.offset, part.size) for part in sample.fields}
        if sample.problem is not None:
            self._broken.add(sample.key)
            self.lost[sample.problem.reason.value] += 1
            return
        if "\0" in sample.key or any(split_name(f"{sample.key}.{name}") != (sample.key, name) for name in fields):
            self.lost["unwritable_name"] += 1
            return
        if not _has_medium(fields):
            self._starts[sample.offset] = sample.key
        runs = self._by_key.setdefault(sample.key, [])
        if runs and not runs[-1].keys() & fields.keys():
            runs[-1].update(fields)
            self.joined += 1
        else:
            runs.append(fields)

    def end(self, end: EndOfShard) -> None:
        """Takes the account: what begins behind a damaged range may be the rest of a sample that is gone, whatever name can be read there."""
        for damage in end.damage:
            if damage.end in self._starts and damage.start < damage.end and damage.kind is not DamageKind.PADDING:
                self._broken.add(self._starts[damage.end])

    def samples(self) -> Iterator[Ready]:
        """What is written, sorted by key."""
        ready: dict[str, dict[str, Place]] = {}
        for key, runs in self._by_key.items():
            for fields in runs:
                if key in self._broken and not _has_medium(fields):
                    self.lost["medium_lost"] += 1
                    continue
                name, number = key, 2
                while name in ready or (name != key and name in self._by_key):
                    name, number = f"{key}_{number}", number + 1
                self.renamed += name != key
                ready[name] = fields
        for key in sorted(ready):
            yield Ready(key, tuple(ready[key].items()))


def _has_medium(fields: dict[str, Place]) -> bool:
    return any(modality_of(name) is not None for name in fields)
