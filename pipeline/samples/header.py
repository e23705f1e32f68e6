"""One 512-byte tar header: does its checksum hold, and what does it say.

The checksum is exact and fast: the low half of Adler-32 over 256 bytes is one plus their plain sum, since 256 * 255 is
below its modulus; two halves cost 0.4 us, where `sum()` over 512 bytes costs 3 us. Numbers are read as Python's tarfile
reads them (octal up to a NUL, blanks ignored, or base-256), so that what it writes is read identically.
"""

import re
from typing import NamedTuple
from zlib import adler32

BLOCK = 512
"""Bytes; everything in a tar is a multiple of it."""
ZEROS = bytes(BLOCK)

_PADS = tuple(bytes(n) for n in range(BLOCK))
_CHECKSUM = slice(148, 156)
_CHECKSUM_SHAPE = re.compile(rb"[0-7 ]{5,7}[\0 ]{1,3}")
_EXTENSION_NAMES = (b"././@LongLink", b"././@PaxHeader")  # of GNU and PAX headers: they say nothing about the member
_MAGIC_NEAR = slice(225, 290)  # where "ustar" lies if up to 32 bytes were lost or added before it


class Header(NamedTuple):
    """The fields that a reader needs."""

    name: bytes
    """As stored, the ustar prefix joined to it."""
    type: int
    """The type flag, an ASCII code."""
    size: int
    """What the size field says, bytes, >= 0."""
    ustar: bool
    """It carries the ustar or GNU magic; headers from before 1988 do not."""


def padded(size: int) -> int:
    """Bytes that a payload takes in the tar."""
    return (size + 511) & ~511


def pad_is_zero(buffer: bytearray, at: int, count: int) -> bool:
    """True if `count` < 512 bytes from `at` are zero."""
    return buffer.startswith(_PADS[count], at)


def number(field: bytes | bytearray) -> int | None:
    """A numeric field: octal digits, or base-256 with the top bit set. None where it is neither or is negative."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else None
    digits = field.split(b"\0", 1)[0].strip()
    try:
        value = int(digits or b"0", 8)
    except ValueError:
        return None
    return value if value >= 0 else None


def parse(buffer: bytearray, view: memoryview, at: int) -> Header | None:
    """The header in 512 bytes of a buffer, or None if its checksum does not hold or its size cannot be read.

    `view` is a memoryview of `buffer`; both are taken because slices of a view cost no copy, and only a bytearray can find.
    """
    total = (adler32(view[at : at + 256]) & 0xFFFF) + (adler32(view[at + 256 : at + 512]) & 0xFFFF) - 2
    field = buffer[at + 148 : at + 156]
    try:
        stored = int(field[:6], 8)
    except ValueError:
        stored = -1
    if total - sum(field) + 256 != stored and not _holds_otherwise(buffer, at):
        return None
    try:
        size = int(buffer[at + 124 : at + 135], 8)
    except ValueError:
        size = -1
    if size < 0 or buffer[at + 135] not in b"\0 ":
        odd = number(buffer[at + 124 : at + 136])
        if odd is None:
            return None
        size = odd
    ustar = buffer.startswith(b"ustar", at + 257)
    if not ustar and not buffer.startswith(_PADS[255], at + 257):  # shifted by a lost byte the sum can hold all the same
        return None
    end = buffer.find(0, at, at + 100)
    name = view[at : end if end >= 0 else at + 100].tobytes()
    if ustar and buffer[at + 345] and buffer[at + 262] == 0:  # GNU keeps times where POSIX has the prefix
        name = view[at + 345 : at + 500].tobytes().split(b"\0", 1)[0] + b"/" + name
    return Header(name, buffer[at + 156], size, ustar)


def _holds_otherwise(buffer: bytearray, at: int) -> bool:
    """The checksum by the letter: fields in unusual notation, and old writers that summed signed characters."""
    block = buffer[at : at + BLOCK]
    stored = number(block[_CHECKSUM])
    if stored is None or block == ZEROS:
        return False
    block[_CHECKSUM] = b" " * 8
    unsigned = sum(block)
    return stored in (unsigned, unsigned - 256 * sum(byte > 127 for byte in block))


def decode_name(name: bytes) -> str:
    """UTF-8; bytes that are not stand escaped as \\xNN."""
    return name.decode("utf-8", "backslashreplace")


def legible(block: bytes) -> bool:
    """True if a block whose checksum does not hold still looks like a header: its magic or its checksum field is there."""
    return b"ustar" in block[_MAGIC_NEAR] or bool(_CHECKSUM_SHAPE.fullmatch(block[_CHECKSUM]) and block[_CHECKSUM].strip(b"\0 "))


def legible_name(block: bytes) -> str | None:
    """The member name in a damaged header, or None where no name can be read."""
    name = block[:100].split(b"\0", 1)[0]
    if not name or name.startswith(_EXTENSION_NAMES) or not legible(block):
        return None
    prefix, terminated, _ = block[345:500].partition(b"\0")
    if prefix and terminated and block[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    text = decode_name(name)
    return text if text.isprintable() else None


def claimed_size(block: bytes) -> int | None:
    """Payload bytes that a damaged but legible header claims, or None."""
    field = block[124:136]
    if len(block) < BLOCK or not legible(block) or not field.strip(b"\0 "):
        return None
    return number(field)
