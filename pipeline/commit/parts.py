"""Names of parts and what they cover.

    _parts/<stem>/<fingerprint>/<lo>-<hi>[.t][.end].parquet

lo and hi are units, `index.piece`; `.end` marks the part that holds the end row and so knows the number of samples;
`.t` marks one with transient rejects, which another attempt may replace.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.storage import Blob

FOLDER = "_parts"
CAPTIONS, PREPARED, ARCHIVES = "captions", "prepared", "archives"
"""Folders of final tables; what a run makes stands in one of them. Those of ARCHIVES are WebDataset archives."""
EXTENSIONS = (".tar.gz", ".tgz", ".tar")
_NAME = re.compile(r"(\d+)\.(\d+)-(\d+)\.(\d+)(\.l)?(\.t)?(\.end)?\.parquet")


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """A sample, or a piece of one."""

    index: int
    piece: int


class Part(NamedTuple):
    """A run of units without a gap, both ends inclusive."""

    path: str
    lo: Unit
    hi: Unit
    whole: bool
    """The last unit is the last piece of its sample, so that the next sample follows without a gap."""
    transient: bool
    end: bool
    """It holds the end row; `hi` is then (n, 0)."""

    @property
    def next(self) -> Unit:
        """The unit that would follow without a gap."""
        return Unit(self.hi.index + 1, 0) if self.whole else Unit(self.hi.index, self.hi.piece + 1)


def stem_of(shard: str) -> str:
    """The shard's name without its extension: names its tables."""
    lower = shard.lower()
    for extension in EXTENSIONS:
        if lower.endswith(extension):
            return shard[: -len(extension)]
    return shard


def table_path(tables: str, stem: str) -> str:
    """Where the final table of a shard lies: its existence is the commit."""
    return f"{tables}/{stem}.tar" if tables == ARCHIVES else f"{tables}/{stem}.parquet"


def quarantine_path(stem: str) -> str:
    """Where the quarantine table of a shard lies."""
    return f"quarantine/{stem}.parquet"


def folder_of(stem: str, fingerprint: str) -> str:
    """Where the parts of one version of a shard lie."""
    return f"{FOLDER}/{stem}/{fingerprint}"


def part_path(stem: str, fingerprint: str, lo: Unit, hi: Unit, *, whole: bool, transient: bool, end: bool) -> str:
    """The name of a part; equal rows get equal names."""
    marks = (".l" if whole else "") + (".t" if transient else "") + (".end" if end else "")
    return f"{folder_of(stem, fingerprint)}/{lo.index:09d}.{lo.piece:05d}-{hi.index:09d}.{hi.piece:05d}{marks}.parquet"


def parse(path: str) -> Part | None:
    """The part that a path names; None for other files."""
    match = _NAME.fullmatch(path.rsplit("/", 1)[-1])
    if match is None:
        return None
    lo, hi = Unit(int(match[1]), int(match[2])), Unit(int(match[3]), int(match[4]))
    return Part(path, lo, hi, match[5] is not None, match[6] is not None, match[7] is not None)


def parts_in(blobs: Iterable[Blob]) -> list[Part]:
    """The parts of a listing, smallest name first."""
    return sorted(part for part in (parse(blob.path) for blob in blobs) if part is not None)


def covers(parts: Iterable[Part]) -> bool:
    """True if the parts hold every unit from the first to the end row."""
    reach = Unit(0, 0)
    for part in sorted(parts, key=lambda part: (part.lo, part.hi)):
        if part.lo > reach:
            return False
        if part.end:
            return True
        reach = max(reach, part.next)
    return False
