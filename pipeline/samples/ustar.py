"""Headers of tars that are written here: the same bytes for the same name and size, no times, owners or modes.

Headers are ustar; only a name or a size that ustar cannot hold gets a PAX header before it. `header.py` reads them.
"""

from zlib import adler32

BLOCK = 512
END = bytes(2 * BLOCK)
"""What ends an archive."""
PADS = tuple(bytes(n) for n in range(BLOCK))
"""Zeros by their number: `PADS[-size % BLOCK]` follows a payload of `size` bytes."""

_NAME_BYTES = 100
_PREFIX_BYTES = 155
_MAX_OCTAL = 8**11 - 1  # what the size field of a ustar header holds: 8 GiB - 1
_MODE_OWNER = b"0000644\0" + b"0000000\0" * 2
_MTIME = b"00000000000\0"
_MAGIC = bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2  # link name, magic, no names of owners, no device
_UNCHECKED = b" " * 8
_FILE, _PAX = b"0", b"x"


def header(name: bytes, size: int) -> bytes:
    """The header blocks of a file of `size` bytes: 512 bytes of ustar, after PAX records where ustar cannot say it."""
    if len(name) <= _NAME_BYTES and size <= _MAX_OCTAL:
        return _block(name, size, _FILE, b"")
    split = _split(name)
    if split is not None and size <= _MAX_OCTAL:
        return _block(split[1], size, _FILE, split[0])
    records = b""
    if split is None:
        records += _record(b"path", name)
        split = b"", name[:_NAME_BYTES].decode("utf-8", "ignore").encode()  # readers that know no PAX want whole characters
    if size > _MAX_OCTAL:
        records += _record(b"size", b"%d" % size)
        size = 0
    pax = _block(b"././@PaxHeader", len(records), _PAX, b"") + records + PADS[-len(records) % BLOCK]
    return pax + _block(split[1], size, _FILE, split[0])


def _block(name: bytes, size: int, kind: bytes, prefix: bytes) -> bytes:
    digits = b"%011o" % size
    # The low half of Adler-32 is one plus the sum of the bytes, as long as that is below 65,521; sum() takes longer.
    checksum = _BASE_SUM + (adler32(name) & 0xFFFF) + sum(digits) + kind[0] + (adler32(prefix) & 0xFFFF) - 2
    return b"".join(
        (name.ljust(_NAME_BYTES, b"\0"), _MODE_OWNER, digits, b"\0", _MTIME)
        + (b"%06o\0 " % checksum, kind, _MAGIC, prefix.ljust(_PREFIX_BYTES + 12, b"\0"))
    )


_BASE_SUM = sum(_MODE_OWNER + _MTIME + _UNCHECKED + _MAGIC)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Prefix and name at a slash such that both fit their fields; None where there is no such slash."""
    if len(name) <= _NAME_BYTES:
        return b"", name
    at = name.find(b"/", max(1, len(name) - _NAME_BYTES - 1))
    return None if at < 0 or at > _PREFIX_BYTES or at == len(name) - 1 else (name[:at], name[at + 1 :])


def _record(key: bytes, value: bytes) -> bytes:
    """One PAX record, whose length counts its own digits (POSIX.1-2001, pax interchange format)."""
    rest = len(key) + len(value) + 3
    size = rest + len(str(rest))
    size = rest + len(str(size))
    return b"%d %s=%s\n" % (size, key, value)
