"""One member from its first header to its padding: GNU long names, PAX records and sparse maps are read along.

Precedence and tolerance are those of Python's tarfile, so that what it reads is read identically. Nothing is allocated on
the word of a size field: extension headers above EXTENSION_BYTES are not believed.
"""

import re
from enum import Enum, auto
from typing import NamedTuple

from pipeline.samples.header import BLOCK, ZEROS, Header, decode_name, padded, parse
from pipeline.samples.spans import Member
from pipeline.samples.window import Window

EXTENSION_BYTES = 1 << 18
"""Longest believable GNU name or PAX header."""
_GLOBAL = ord("g")
_MOST_EXTENSIONS = 16  # a member has three at most; a chain without end is hostile
_MOST_SPARSE_BLOCKS = 1 << 16

_KINDS = {
    **dict.fromkeys(b"\x0007", "file"),
    **dict.fromkeys(b"12", "link"),
    **dict.fromkeys(b"346", "device"),
    ord("5"): "folder",
    ord("S"): "sparse",
}
_WITHOUT_PAYLOAD = frozenset(b"123456")  # whatever their size field says
EXTENSIONS = frozenset(b"LKxXg")
"""Type flags of headers that speak of the member after them."""

_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]+)=")

Records = dict[bytes, bytes]


class Unreadable(NamedTuple):
    """No member can be read here."""

    at: int
    """Where the block stands that is no header: behind the extension headers that could be read."""
    name: str | None
    """What they say about its name."""


class Next(Enum):
    """What stands where the next header is expected."""

    HEADER = auto()
    ZERO = auto()
    """A zero block, or zeros up to the end of the file."""
    END = auto()
    BEYOND = auto()
    """The file ended before."""
    BROKEN = auto()


def header_at(window: Window, at: int) -> Header | None:
    """The header at any offset, or None."""
    block = window.block(at)
    if len(block) < BLOCK:
        return None
    buffer = bytearray(block)
    return parse(buffer, memoryview(buffer), 0)


def next_at(window: Window, at: int) -> Next:
    """What stands at `at`, where a header, zeros or the end of the file are expected."""
    block = window.block(at)
    if len(block) == BLOCK:
        if block == ZEROS:
            return Next.ZERO
        return Next.BROKEN if header_at(window, at) is None else Next.HEADER
    if at >= window.size:
        return Next.END if at == window.size else Next.BEYOND
    return Next.BROKEN if block.strip(b"\0") else Next.ZERO


def plain_member(header: Header, at: int) -> Member:
    """The member of a header without extensions."""
    name, kind, size, _ = header
    text = decode_name(name)
    word = _KINDS.get(kind, "other")
    if kind == 0 and text.endswith("/"):  # how tars from before 1988 mark folders
        word = "folder"
    if kind in _WITHOUT_PAYLOAD or word == "folder":
        size = 0
    data = at + BLOCK
    return Member(text, word, at, data, size, data + padded(size))


def member_at(window: Window, start: int, defaults: Records, keep: int | None = None) -> Member | Unreadable:
    """The member whose first header stands at `start`.

    `defaults` are the PAX records that hold for all members; global headers met here are added to it. With `keep` the
    window moves along and holds what lies between, if it can; without, it stays.
    """
    at = start
    name: str | None = None
    own: Records = {}
    only_global = True
    seen: set[int] = set()
    for _ in range(_MOST_EXTENSIONS):
        if keep is not None:
            window.slide(keep, max(keep, start - BLOCK), at + BLOCK)
        header = header_at(window, at)
        if header is None:
            if at > start and only_global and next_at(window, at) in (Next.ZERO, Next.END):
                return Member("", "header", start, at, 0, at)
            return Unreadable(at, name)
        kind = header.type
        if kind not in EXTENSIONS:
            return _finish(window, plain_member(header, at), start, name, {**defaults, **own})
        if header.size > EXTENSION_BYTES or kind in seen:  # one twice: the member of the first is lost
            return Unreadable(at, name)
        if keep is not None:
            window.slide(keep, max(keep, start - BLOCK), at + BLOCK + padded(header.size))
        payload = window.read(at + BLOCK, padded(header.size))
        if len(payload) < padded(header.size) or payload[header.size :].strip(b"\0"):
            return Unreadable(at, name)
        payload = payload[: header.size]
        if kind == ord("L"):
            long = payload.rstrip(b"\0")
            if len(long) < header.size - 1 or not long or b"\0" in long:
                return Unreadable(at, name)
            name = name if name is not None else decode_name(long)
        elif kind != ord("K"):
            records = pax_records(payload)
            if records is None or (payload and not records):  # wiped: no writer makes a header to say nothing
                return Unreadable(at, name)
            if kind == _GLOBAL:
                defaults.update((key, value) for key, value in records.items() if _matters(key))
            else:
                own = {**records, **own}
                if name is None and b"path" in records:
                    name = decode_name(records[b"path"].rstrip(b"/"))
        if kind != _GLOBAL:
            only_global = False
            seen.add(kind)
        at += BLOCK + padded(header.size)
    return Unreadable(at, name)


def pax_records(payload: bytes | bytearray) -> Records | None:
    """The records of a PAX header, or None where one is malformed."""
    records: Records = {}
    at = 0
    while at < len(payload) and payload[at]:
        match = _RECORD.match(payload, at)
        if match is None:
            return None
        end = at + int(match[1])
        if end <= match.end() or payload[end - 1 : end] != b"\n":
            return None
        records[match[2]] = bytes(payload[match.end() : end - 1])
        at = end
    return records


def _matters(key: bytes) -> bool:
    return key in (b"path", b"size") or key.startswith(b"GNU.sparse.")


def _finish(window: Window, member: Member, start: int, name: str | None, records: Records) -> Member | Unreadable:
    """The member with what its extension headers say, and the sparse map skipped."""
    word, size, data = member.kind, member.size, member.data
    header_at_offset = data - BLOCK
    if name is None and b"path" in records:
        name = decode_name(records[b"path"].rstrip(b"/"))
    if b"size" in records and word in ("file", "sparse", "other"):
        digits = records[b"size"]
        if not digits.isdigit() or len(digits) > 20:
            return Unreadable(header_at_offset, name)
        size = int(digits)
    if word == "sparse":
        more = window.block(header_at_offset)[482]
        for _ in range(_MOST_SPARSE_BLOCKS):
            if not more:
                break
            block = window.block(data)
            if len(block) < BLOCK:
                return Unreadable(header_at_offset, name or member.name)
            more = block[504]
            data += BLOCK
    elif word == "file" and any(key.startswith(b"GNU.sparse.") for key in records):
        word = "sparse"
        if b"GNU.sparse.name" in records:
            name = decode_name(records[b"GNU.sparse.name"])
    return Member(member.name if name is None else name, word, start, data, size, data + padded(size))
