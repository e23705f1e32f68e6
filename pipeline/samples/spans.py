"""What a byte range of a tar is: a member, padding, or damage.

`tar.scan` gives these in order of position; their ranges partition the file. They are the words that the reader, `check`
and quarantine share.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class DamageKind(StrEnum):
    """What is wrong with a range. Closed: tables group by it."""

    BAD_HEADER = "bad_header"  # a header whose checksum does not hold, up to the next believable one
    MISSING_BYTES = "missing_bytes"  # bytes were lost from, or added to, the payload of the named member
    CUT = "cut"  # the file ends inside a member
    ZEROS = "zeros"  # zero blocks where none belong: a wiped region, or archives joined with their end marks
    PADDING = "padding"  # the bytes that fill the last block of a payload are not zero; the payload itself is whole
    TRAILING = "trailing"  # bytes after the end of the archive
    END_MISSING = "end_missing"  # no complete end mark; an empty range at the end of the file
    GZIP = "gzip"  # the compressed stream is damaged or ends early; the range is in the compressed file


TAR = "tar"
"""`Damage.space`: offsets in the (unpacked) tar."""
COMPRESSED = "gzip"
"""`Damage.space`: offsets in the compressed file."""


class Member(NamedTuple):
    """A member whose header holds and whose end is confirmed by what follows it. Offsets and sizes in bytes."""

    name: str
    """UTF-8; other bytes stand escaped as \\xNN. Only a name: nothing is ever extracted."""
    kind: str
    """file, or why it is no file: link, folder, device, sparse, header (metadata of no member), other."""
    start: int
    """First byte of its first header, GNU and PAX extension headers included."""
    data: int
    """First byte of the payload."""
    size: int
    """Bytes of the payload as stored."""
    end: int
    """First byte after the padding."""


class Padding(NamedTuple):
    """The zero blocks that end an archive."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Damage:
    """A range that cannot be used, or an empty range where something is missing."""

    kind: DamageKind
    start: int
    end: int
    name: str | None
    """Name of the (first) member that it hits, where it is legible."""
    detail: str
    """One line for a person."""
    space: str = TAR
    """TAR or COMPRESSED: what `start` and `end` count."""
