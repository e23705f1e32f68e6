"""A tar as spans: members, padding and damage, whose ranges partition the file exactly.

`scan` reads on where others stop: at a damaged header, in a cut file, over zeros, behind lost bytes. A member is given out
only once its end is confirmed by what follows it, since that is what tells an intact payload from one that lost bytes.
For the usual file it costs two checksums and one tuple; everything else is a cold path.
"""

from collections.abc import Iterator
from zlib import adler32

from pipeline.samples.entry import EXTENSIONS, Next, Records, Unreadable, member_at, next_at, pax_records, plain_member
from pipeline.samples.header import BLOCK, legible_name, pad_is_zero, parse
from pipeline.samples.resync import END_MARK_BYTES, RECORD_BYTES, Resync
from pipeline.samples.spans import Damage, DamageKind, Member, Padding
from pipeline.samples.window import Window

__all__ = ["Damage", "DamageKind", "Member", "Padding", "Span", "scan"]

Span = Member | Padding | Damage

_LONGEST_RECORD_BYTES = 1 << 20
_REACH = 3 * BLOCK  # a header with a short PAX header before it
_FILE, _SPARSE, _PAX = b"0Sx"
_MOST_PAX_HEADERS = 64
_TIMES = frozenset((b"mtime", b"atime", b"ctime"))


def scan(window: Window) -> Iterator[Span]:
    """All spans of a tar in order; their ranges partition [0, size). Nothing but OSError escapes, whatever the bytes.

    While a member is being handled its payload can be read from the window: it stays there unless it is larger.
    """
    headers = _Headers(window)
    pending: Member | None = None
    at = 0
    while True:
        found = headers.at(at if pending is None else pending.start, at)
        if isinstance(found, Member):
            if pending is not None:
                count = pending.end - pending.data - pending.size
                if count and not pad_is_zero(window.buffer, at - count - window.start, count):
                    recovery = _Recovery(window, headers.defaults)
                    yield from recovery.dirty(pending)
                    if recovery.at is not None:
                        pending, at = None, recovery.at
                        continue
                else:
                    yield pending
            pending = found
            at = found.end
            continue
        recovery = _Recovery(window, headers.defaults)
        yield from recovery.spans(pending, at, found)
        if recovery.at is None:
            return
        pending = None
        at = recovery.at


class _Headers:
    """Reads members in order, moving the window along."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self.defaults: Records = {}
        self._pax_bytes: dict[bytes, int] = {}  # payload sizes of PAX headers found valid: writers repeat theirs byte for byte

    def at(self, keep: int, at: int) -> Member | Unreadable | None:
        """The member whose header stands at `at`, the window holding all from `keep` on if it can; None where there is no header."""
        window = self._window
        if (at + _REACH > window.stop or at - BLOCK < window.start) and not self._slide(keep, at):
            return None
        buffer = window.buffer
        here = at - window.start
        if not self.defaults:
            if buffer[here + 156] != _PAX:
                member = _quick(buffer, window.view, here, at, at)
            elif (size := self._pax_bytes.get(bytes(buffer[here : here + BLOCK]))) and at + _REACH <= window.stop:
                plain = _says_nothing(buffer, here + BLOCK, size)
                member = _quick(buffer, window.view, here + 2 * BLOCK, at, at + 2 * BLOCK) if plain else None
            else:
                member = None
            if member is not None:
                return member
        header = parse(buffer, window.view, here)
        if header is None:
            return None
        kind = header.type
        if kind == _PAX and 0 < header.size <= BLOCK and len(self._pax_bytes) < _MOST_PAX_HEADERS:
            self._pax_bytes[bytes(buffer[here : here + BLOCK])] = header.size
        if kind in EXTENSIONS or kind == _SPARSE or self.defaults:
            return member_at(window, at, self.defaults, keep)
        return plain_member(header, at)

    def _slide(self, keep: int, at: int) -> bool:
        window = self._window
        near = max(keep, at - BLOCK)
        return window.slide(keep, near, at + _REACH) or at + BLOCK <= window.stop


def _quick(buffer: bytearray, view: memoryview, here: int, start: int, at: int) -> Member | None:
    """The member of a regular file with the plainest of headers, 2 us; None for anything that needs a closer look."""
    if buffer[here + 156] != _FILE or buffer[here + 345] or buffer[here + 135]:
        return None
    name_end = buffer.find(0, here, here + 100)
    try:
        stored = int(buffer[here + 148 : here + 154], 8)
        size = int(buffer[here + 124 : here + 135], 8)
    except ValueError:
        return None
    halves = (adler32(view[here : here + 256]) & 0xFFFF) + (adler32(view[here + 256 : here + 512]) & 0xFFFF)
    if halves - (adler32(view[here + 148 : here + 156]) & 0xFFFF) + 255 != stored or size < 0 or name_end < 0:
        return None
    name = buffer[here:name_end].decode("utf-8", "backslashreplace")
    data = at + BLOCK
    return tuple.__new__(Member, (name, "file", start, data, size, data + ((size + 511) & ~511)))


def _says_nothing(buffer: bytearray, at: int, size: int) -> bool:
    """True for a block of well-formed PAX records that change neither name nor size, such as webdataset's and tarfile's times."""
    records = pax_records(buffer[at : at + size])
    if not records:
        return False
    return all(key in _TIMES for key in records) and pad_is_zero(buffer, at + size, BLOCK - size)


class _Recovery:
    """What to make of a place where no member can be read. `at` is where reading goes on; None at the end of the file."""

    def __init__(self, window: Window, defaults: Records) -> None:
        self._window = window
        self._resync = Resync(window, defaults)
        self.at: int | None = None

    def spans(self, member: Member | None, at: int, found: Unreadable | None) -> Iterator[Span]:
        """The spans from `member`, which is not given out yet, to where reading goes on."""
        window = self._window
        after = Next.BROKEN if found is not None else next_at(window, at)
        broken_at = at if found is None else found.at
        name = None if found is None else found.name
        if member is None:
            yield from self._from(at, broken_at, name, after)
            return
        if found is None and (inside := self._lost_in(member, after)) is not None:
            yield _lost(member, inside)
            self.at = inside
            return
        data_end = member.data + member.size
        if data_end > window.size:
            yield Damage(DamageKind.CUT, member.start, window.size, member.name, f"the file ends inside {member.name}")
            return
        pad = window.read(data_end, member.end - data_end)
        if pad.strip(b"\0"):
            if found is None and after in (Next.BROKEN, Next.BEYOND):
                self.at = self._resync.after(at, broken_at).at
                yield _lost(member, window.size if self.at is None else self.at)
                return
            yield from _dirty(member)
        else:
            yield member._replace(end=data_end + len(pad))
        yield from self._from(at, broken_at, name, after)

    def dirty(self, member: Member) -> Iterator[Span]:
        """The spans of a member with a header behind it, but with padding that is not zero. Reading may go on inside of it."""
        self.at = self._resync.inside(member, Next.HEADER)
        if self.at is not None:
            yield _lost(member, self.at)
        else:
            yield from _dirty(member)

    def _lost_in(self, member: Member, after: Next) -> int | None:
        window = self._window
        if after is Next.HEADER or (after is Next.BEYOND and window.cut_short):
            return None
        if after is Next.ZERO and window.packed and member.data < window.start:
            return None  # unpacking once more for a loss that gzip's checksum all but excludes
        return self._resync.inside(member, after)

    def _from(self, at: int, broken_at: int, name: str | None, after: Next) -> Iterator[Span]:
        """The spans from `at`, where neither a member nor a believable header stands."""
        size = self._window.size
        if after is Next.ZERO:
            yield from self._zeros(at)
        elif after in (Next.END, Next.BEYOND):
            detail = "the file is empty" if size == 0 else "the file ends without an end mark, at the end of a member: more may be missing"
            yield Damage(DamageKind.END_MISSING, size, size, None, detail)
        else:
            yield from self._broken(at, broken_at, name)

    def _broken(self, at: int, broken_at: int, name: str | None) -> Iterator[Span]:
        window = self._window
        block = window.block(broken_at)
        found = self._resync.after(at, broken_at)
        self.at = found.at
        end = window.size if found.at is None else found.at
        name = name or found.name or legible_name(block)
        if len(block) < BLOCK:
            yield Damage(DamageKind.CUT, at, end, name, "the file ends inside a header")
        elif at == 0 and found.at is None:
            yield Damage(DamageKind.BAD_HEADER, at, end, name, "there is no believable header in the file: is it a tar?")
        else:
            yield Damage(DamageKind.BAD_HEADER, at, end, name, f"no valid header at byte {broken_at}")

    def _zeros(self, at: int) -> Iterator[Span]:
        window = self._window
        stop = _pass_zeros(window, at)
        length = stop - at
        if stop >= window.size:
            yield from self._end(at, length)
            return
        whole = at + length // BLOCK * BLOCK
        if next_at(window, stop) is Next.HEADER:
            found = self._resync.search(stop, joined=length >= END_MARK_BYTES and length % BLOCK == 0)
            name = found.name
        else:
            found = self._resync.after(whole, whole, more_lost=True)
            name = found.name or legible_name(window.block(whole))
        self.at = found.at
        if found.at is None:
            yield Padding(at, stop)
            yield Damage(DamageKind.TRAILING, stop, window.size, name, "bytes behind the end of the archive")
            return
        detail = f"{length} zero bytes where a header should stand: a wiped region, or archives joined with their end marks"
        yield Damage(DamageKind.ZEROS, at, found.at, name, detail)

    def _end(self, at: int, length: int) -> Iterator[Span]:
        size = self._window.size
        if _implausible(size, length):
            yield Damage(DamageKind.ZEROS, at, size, None, f"{length} zero bytes at the end, more than archives are filled up with")
        else:
            yield Padding(at, size)
        if length < END_MARK_BYTES:
            yield Damage(DamageKind.END_MISSING, size, size, None, "the end mark is cut: bytes may be missing")
        elif length % BLOCK:
            yield Damage(DamageKind.END_MISSING, size, size, None, "the zeros at the end are no whole blocks: bytes are missing or added")


def _dirty(member: Member) -> Iterator[Span]:
    data_end = member.data + member.size
    yield member._replace(end=data_end)
    yield Damage(DamageKind.PADDING, data_end, member.end, member.name, "the padding behind the payload is not zero; the payload is whole")


def _lost(member: Member, end: int) -> Damage:
    detail = f"bytes are missing from the payload of {member.name}, or were added: its header claims {member.size} bytes"
    return Damage(DamageKind.MISSING_BYTES, member.start, end, member.name, detail)


def _pass_zeros(window: Window, at: int) -> int:
    """Where the zeros from `at` end; the window moves along, so that a gzip stream is read only once."""
    while window.slide(at, at, at + BLOCK) or window.stop > at:
        piece = window.view[at - window.start : window.stop - window.start].tobytes()
        rest = piece.lstrip(b"\0")
        if rest:
            return at + len(piece) - len(rest)
        at += len(piece)
    return at


def _implausible(size: int, zeros: int) -> bool:
    """True for more zeros than any common record size explains: 10 KiB, or a power of two up to 1 MiB."""
    if zeros <= END_MARK_BYTES + RECORD_BYTES - BLOCK:
        return False
    record = 1 << 14
    while record <= _LONGEST_RECORD_BYTES:
        if size % record == 0 and zeros < END_MARK_BYTES + record:
            return False
        record *= 2
    return True
