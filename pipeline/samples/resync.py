"""After damage: where the next true header stands.

A candidate carries the ustar magic and a checksum that holds, and its member's end is followed by a header, zeros or the
end of the file. Any offset will do: lost bytes shift what follows. What makes it hard is a tar inside a tar, whose
headers are as good as the true ones; so chains of headers are followed, and where they end decides whose they are.
Each byte is searched about once: a chain that is refused is not entered again, and SEARCH_FACTOR bounds the rest.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.samples.entry import EXTENSIONS, Next, Records, Unreadable, header_at, member_at, next_at, pax_records
from pipeline.samples.header import BLOCK, claimed_size, decode_name, padded
from pipeline.samples.spans import Member
from pipeline.samples.window import Window

END_MARK_BYTES = 1024
"""Two zero blocks end an archive."""
RECORD_BYTES = 10_240
"""GNU tar and Python's tarfile fill an archive up to a multiple of it."""
SEARCH_FACTOR = 8
"""How often the bytes of a file may be searched altogether before the rest of a hostile one is given up."""
_SEARCH_FLOOR_BYTES = 64 << 20
_MOST_PIECES = 16
"""Injuries to one payload before it is no longer recognised."""
_MOST_NAMES = 64
"""Members whose names are compared."""

_MAGIC = re.compile(rb"ustar[\0 ]")
_MAGIC_AT = 257


class Chain(NamedTuple):
    """Headers that follow each other without a gap."""

    last: Member
    next: Next
    """What stands at the end of the last one."""


class Found(NamedTuple):
    """The end of a damaged range."""

    at: int | None
    """Where the next believable header stands; None if there is none up to the end of the file."""
    name: str | None
    """Name of the first member in the range, where the headers around it tell."""


def zeros_end(window: Window, at: int) -> int:
    """Where the zeros that stand at `at` end."""
    for offset, piece in window.pieces(at, window.size):
        rest = piece.lstrip(b"\0")
        if rest:
            return offset + len(piece) - len(rest)
        at = offset + len(piece)
    return at


class Resync:
    """The search in one window. `defaults` are the PAX records that hold for all members."""

    def __init__(self, window: Window, defaults: Records) -> None:
        self._window = window
        self._defaults = defaults

    def _member(self, at: int) -> Member | None:
        found = member_at(self._window, at, dict(self._defaults))
        return None if isinstance(found, Unreadable) else found

    def _followed(self, end: int) -> bool:
        """True if a member's end is believable: a header, also a damaged one with its magic, zeros, or the end of the file."""
        after = next_at(self._window, end)
        if after is not Next.BROKEN:
            return after is not Next.BEYOND
        block = self._window.block(end)
        if len(block) < BLOCK:  # cut
            return True
        return block[_MAGIC_AT : _MAGIC_AT + 5] == b"ustar"

    def _candidates(self, start: int, end: int) -> Iterator[Member]:
        """Believable members that start in a range, in order."""
        window = self._window
        for offset, piece in window.pieces(start + _MAGIC_AT, end + _MAGIC_AT + 6, overlap=5):
            if window.searched_bytes > SEARCH_FACTOR * window.size + _SEARCH_FLOOR_BYTES:
                return
            for match in _MAGIC.finditer(piece):
                at = offset + match.start() - _MAGIC_AT
                if at >= end or header_at(window, at) is None or window.block(at)[0] == 0:
                    continue  # without a name: shifted by a lost zero the sum can hold all the same
                member = self._member(at)
                if member is not None:
                    yield member

    def _first(self, start: int, end: int) -> Member | None:
        return next(self._candidates(start, end), None)

    def _after(self, member: Member) -> tuple[Next, Member | None]:
        """What stands at a member's end, and the member there; or the one that a damaged header there claims behind its payload."""
        after = next_at(self._window, member.end)
        if after is Next.HEADER:
            following = self._member(member.end)
            return (Next.BROKEN if following is None else after), following
        claimed = self._claimed(member.end) if after is Next.BROKEN else None
        return after, None if claimed is None else self._member(claimed)

    def _follow(self, member: Member, beyond: int | None = None) -> Chain:
        """The chain from a member to what is no header, over damaged headers that claim a true one behind; or past `beyond`."""
        while beyond is None or member.start <= beyond:
            after, following = self._after(member)
            if following is None:
                return Chain(member, after)
            member = following
        return Chain(member, Next.HEADER)

    def _claimed(self, at: int) -> int | None:
        """Where the payload of a damaged but legible header ends, if a header, zeros to the end or the end stand there."""
        block = self._window.block(at)
        size = claimed_size(block)
        if size is None or block[_MAGIC_AT : _MAGIC_AT + 5] != b"ustar":
            return None
        end = at + BLOCK + (0 if block[156] in b"123456" else padded(size))
        after = next_at(self._window, end)
        if after is Next.ZERO and zeros_end(self._window, end) == self._window.size:
            after = Next.END
        if after not in (Next.HEADER, Next.END):
            return None
        if block[156] in EXTENSIONS:  # the header behind it belongs to the same member
            member = self._member(end) if after is Next.HEADER else None
            return member.end if member is not None and self._followed(member.end) else None
        return end

    def _archive_end(self, member: Member, announced: int = 0) -> int | None:
        """Where an archive that a member is part of ends, if it was a payload whose own header is lost. None if it was not.

        Its end mark shows it, with a header right behind, also where a part of it is lost. But zeros before a header are found
        as well where members are wiped, or archives joined. `announced`: bytes of the payload that a damaged header claims here.
        """
        window = self._window
        piece = member
        for _ in range(_MOST_PIECES):
            chain = self._follow(piece)
            if chain.next is Next.END:
                return None
            if chain.next is Next.ZERO:
                end = zeros_end(window, chain.last.end)
                zeros = end - chain.last.end
                if zeros >= END_MARK_BYTES <= announced - (chain.last.end - member.start) and self._first(end, window.size):
                    return end
                if zeros >= END_MARK_BYTES and zeros % BLOCK == 0 and next_at(window, end) is Next.HEADER:
                    return end if self._is_foreign(member, piece, end) else None
            following = self._first(chain.last.data, window.size)
            if following is None:
                return None
            piece = following
        return None

    def _is_foreign(self, first: Member, last: Member, end: int) -> bool:
        """True if the pieces from `first` to `last` are an archive of their own, and not of the one that goes on at `end`.

        They fill records of their own, or share no field with what is behind; and the last piece is of the same archive.
        """
        mine = self._fields(first, end)
        if last.start != first.start and mine.isdisjoint(self._fields(last, end)):
            return False
        if (end - first.start) % RECORD_BYTES == 0 and end % RECORD_BYTES:
            return True
        theirs = self._fields(self._member(end), self._window.size)
        return bool(mine and theirs) and mine.isdisjoint(theirs)

    def _fields(self, member: Member | None, end: int) -> set[str]:
        """What follows the first dot in the names of a chain of members."""
        fields: set[str] = set()
        for _ in range(_MOST_NAMES):
            if member is None or member.start >= end:
                break
            if member.kind in ("file", "sparse"):
                fields.add(member.name.rpartition("/")[2].partition(".")[2].lower())
            member = self._member(member.end)
        return fields

    def after(self, at: int, broken_at: int, *, more_lost: bool = False) -> Found:
        """The next header behind damage that no intact member claims.

        `broken_at` is the block that is no header, `at` the extension headers that led to it. `more_lost`: other blocks
        before it are lost too, so that it may be the first header of a payload.
        """
        window = self._window
        claimed = self._claimed(broken_at) if header_at(window, broken_at) is None else None
        if claimed is None or (member := self._member(claimed)) is None:
            return self.search(at, broken_at=broken_at)
        name = self._extension_name(broken_at)
        nearer = self._first(broken_at, claimed)
        payload_is_tar = nearer is not None and nearer.start == broken_at + BLOCK
        while nearer is not None:
            last = self._follow(nearer, beyond=claimed).last
            if last.start >= claimed or last.data > claimed:  # the header at `claimed` is one of the chain
                return Found(nearer.start, name)
            nearer = self._first(last.end, claimed)
        if (payload_is_tar or more_lost or claimed == broken_at + BLOCK) and self._archive_end(member) is not None:
            return self.search(at)
        return Found(claimed, name)

    def search(self, at: int, joined: bool = False, broken_at: int | None = None) -> Found:
        """The first believable header from `at` on that belongs to no payload.

        `joined`: zeros as at the end of an archive stand before `at`, so a header there starts another archive. `broken_at`: where a
        damaged header may stand.
        """
        window = self._window
        name: str | None = None
        start = at
        announced = 0 if broken_at is None else claimed_size(window.block(broken_at)) or 0
        while (member := self._first(at, window.size)) is not None:
            inside = (
                None
                if joined and member.start == start
                else self._archive_end(member, announced if member.start - BLOCK == broken_at else 0)
            )
            if inside is not None:
                at = inside
                if self._member(inside) is not None:
                    return Found(inside, name)
                continue
            lost = self._lost_name(start, member)
            if lost is None:
                return Found(member.start, name)
            name = name or lost
            at = member.end
            if (after := next_at(window, at)) is Next.HEADER:
                return Found(at, name)
            if (following := self.inside(member, after)) is not None:
                return Found(following, name)
        return Found(None, name)

    def _extension_name(self, at: int) -> str | None:
        """The name in the payload of a damaged GNU or PAX header."""
        block = self._window.block(at)
        size = claimed_size(block)
        if block[156:157] not in (b"L", b"x") or size is None or size > 1 << 16:
            return None
        text = self._window.read(at + BLOCK, size).rstrip(b"\0")
        if block[156:157] == b"x" or len(text) < size - 1 or b"\0" in text:
            return _name_in(text)
        return decode_name(text)

    def _lost_name(self, start: int, member: Member) -> str | None:
        """The full name of a member, if the blocks before it show that its header has only a part of it.

        Its GNU or PAX header is lost, but not that one's payload, at most 8 blocks of it.
        """
        block = self._window.block(member.start)
        for blocks in range(1, 9):
            at = member.start - blocks * BLOCK
            if at < start:
                return None
            text = self._window.read(at, blocks * BLOCK).rstrip(b"\0")
            if len(text) <= (blocks - 1) * BLOCK or b"\0" in text:
                continue
            if len(text) > 100 and block[99] and text.startswith(block[:100]):
                return decode_name(text)
            if (name := _name_in(text)) is not None:
                return name if name != member.name and _may_stand_for(member.name, name) else None
        return None

    def inside(self, member: Member, after: Next) -> int | None:
        """Where the next true header stands, if bytes are missing in a member's payload; None if its size is to be believed.

        `after` is what stands at its end: anything but a header. A chain that starts with the payload is the payload's, as
        is one that ends like an archive; a chain that runs over the member's end is not.
        """
        window = self._window
        end = member.end
        at = member.data
        first: int | None = None
        inner = self._member(at) if at < end else None
        if inner is not None:
            chain = self._follow(inner, beyond=end)
            runs_over = after is Next.BROKEN and chain.last.end > end and chain.next in (Next.ZERO, Next.END)
            if chain.next is Next.HEADER or runs_over:
                return self._archive_end(inner) or self._entered(inner, end) or at
            at = chain.last.data if chain.next in (Next.BROKEN, Next.BEYOND) else chain.last.end
        while (candidate := self._first(at, min(end, window.size))) is not None:
            chain = self._follow(candidate, beyond=end)
            verdict = self._verdict(member, after, candidate, chain)
            if verdict is not None:
                if verdict and first is None:
                    return self._archive_end(candidate) or candidate.start
                if verdict:
                    return first
                at = zeros_end(window, chain.last.end)
                continue
            first = candidate.start if first is None else first
            at = chain.last.end
        if inner is not None or (after is Next.ZERO and zeros_end(window, end) == window.size and self._is_filled(end)):
            return None
        return first

    def _entered(self, member: Member, end: int) -> int | None:
        """Where a chain that runs over `end` turns into another: inside of a member whose bytes are missing. None if nowhere."""
        here: Member | None = member
        while here is not None and here.start < end:
            following = self._after(here)[1]
            if following is None:
                return None
            at = here.data
            while (candidate := self._first(at, following.start)) is not None:
                chain = self._follow(candidate, beyond=following.start)
                if chain.last.start == following.start or chain.next is Next.HEADER:
                    return candidate.start
                at = max(chain.last.end, candidate.data)
            here = following
        return None

    def _verdict(self, member: Member, after: Next, candidate: Member, chain: Chain) -> bool | None:
        """Whose is a chain that starts inside a claimed payload: the archive's (True), the payload's, or open (None)."""
        window, end, stop = self._window, member.end, chain.last.end
        if chain.next is Next.HEADER:
            return True
        if chain.next is Next.END:
            return end >= window.size
        to_the_end = chain.next is Next.ZERO and zeros_end(window, stop) >= window.size
        if after is Next.ZERO and to_the_end:
            return self._shortened(candidate.start - member.data, stop, end)
        if stop > end:
            return after is not Next.ZERO or chain.next is Next.ZERO or zeros_end(window, end) < window.size
        if chain.next is Next.ZERO:  # no end mark of its own, or the file has none
            return stop + END_MARK_BYTES > member.data + member.size or (to_the_end and end >= window.size)
        return None

    def _shortened(self, distance: int, zeros_at: int, end: int) -> bool:
        """The member's end and the chain's end both lie in the zeros that end the file: did the file lose bytes?"""
        size = self._window.size
        if size % BLOCK:
            return True
        if distance % BLOCK:  # a loss that shifts headers off the blocks would shift the end as well
            return False
        if size - zeros_at < 2 * END_MARK_BYTES or size - end < END_MARK_BYTES:  # no room for an inner and an outer end mark
            return True
        return not self._is_filled(end)

    def _is_filled(self, end: int) -> bool:
        """True if a file whose last member ends at `end` has a length that writers make."""
        size = self._window.size
        return size % RECORD_BYTES == 0 or size - end == END_MARK_BYTES


def _may_stand_for(short: str, name: str) -> bool:
    """True if a plain header says `short` where its PAX header says `name`.

    Writers cut it off, and replace or drop what is not ASCII; libarchive shortens its folders.
    """
    dropped = "".join(char for char in name if char.isascii())
    replaced = "".join(char if char.isascii() else "?" for char in name)
    base = short.rpartition("/")[2]
    return any(full.startswith(short) or full.rpartition("/")[2].startswith(base) for full in (name, dropped, replaced))


def _name_in(payload: bytes) -> str | None:
    records = pax_records(payload)
    if not records or b"path" not in records:
        return None
    return decode_name(records[b"path"])
