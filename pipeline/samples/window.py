"""A sliding view over a file: one reused buffer, filled by `read_into`, that every other part of the reader looks into.

Memory is the buffer, whatever the file holds. In order it reads each byte once; what lies outside of the buffer (the
search after damage, a payload larger than the buffer) is read where it stands, without disturbing the view.
"""

import io
from collections.abc import Iterator

from pipeline.samples.header import BLOCK
from pipeline.samples.unpack import Unpacked
from pipeline.storage import Reader

WINDOW_BYTES = 1 << 20
"""1 MiB stays in a core's L2 cache; a smaller one moves more tails."""
_GLANCE_BYTES = 4096  # what is read at a time while payloads are jumped over
_SEARCH_BYTES = 1 << 18


class Window:
    """`buffer[: stop - start]` holds the file's bytes `start` to `stop`; `view` is a memoryview of it."""

    def __init__(self, reader: Reader, capacity: int = WINDOW_BYTES) -> None:
        self._reader = reader
        self._capacity = capacity
        self.buffer = bytearray(capacity)
        self.view = memoryview(self.buffer)
        self.start = 0
        self.stop = 0
        self.jumps = False
        """Read no payload that nobody asks for. Not for gzip, which would have to be unpacked again for one that is."""
        self.reads_all = False
        """Read every byte, also payloads larger than the buffer that nobody asks for."""
        self.searched_bytes = 0
        """What `pieces` handed out so far: the search after damage is bounded by it."""
        self._passed = b""  # what the buffer held of a larger payload when it moved on
        self._passed_from = 0

    @property
    def size(self) -> int:
        """Bytes of the file; larger than any offset while the end of a gzip stream was not seen."""
        return self._reader.size

    @property
    def packed(self) -> bool:
        """A read far back costs unpacking once more."""
        return isinstance(self._reader, Unpacked)

    @property
    def cut_short(self) -> bool:
        """The file goes on, but gzip damage ends what can be read of it."""
        return isinstance(self._reader, Unpacked) and self._reader.damage is not None

    def slide(self, keep: int, near: int, upto: int) -> bool:
        """Moves so that `near` to `upto` lie in the buffer, and if it is large enough all from `keep` on.

        False where the file ends before `upto`; then the buffer ends there too.
        """
        if near < self.start:
            self.start = self.stop = keep if upto - keep <= self._capacity and not self.jumps else near
        if upto <= self.stop:
            return True
        if not self.jumps and upto - keep <= self._capacity:
            self._drop_before(keep)
        elif self.reads_all and not self.jumps:
            while self.stop < near:
                self._drop_before(self.stop)
                if not self._fill(self._capacity):
                    return False
            self._drop_before(near)
        else:
            if not self.jumps and self.start <= keep < self.stop:
                self._passed = self.view[keep - self.start : self.stop - self.start].tobytes()
                self._passed_from = keep
            self._drop_before(near)
        while upto > self.stop:
            if not self._fill(max(_GLANCE_BYTES, upto - self.start) if self.jumps else self._capacity):
                return False
        return True

    def _drop_before(self, offset: int) -> None:
        """Moves the view to start at `offset`, keeping what it holds from there on."""
        if offset <= self.start:
            return
        kept = max(0, self.stop - offset)
        if kept:
            at = offset - self.start
            self.view[:kept] = self.view[at : at + kept]
        self.start = offset
        self.stop = offset + kept

    def _fill(self, upto: int) -> int:
        held = self.stop - self.start
        if self.stop >= self._reader.size or upto <= held:
            return 0
        count = self._reader.read_into(self.stop, self.view[held:upto])
        self.stop += count
        return count

    def block(self, offset: int) -> bytes:
        """Up to 512 bytes from anywhere; fewer only at the end of the file, none behind it."""
        return self.read(offset, BLOCK)

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from anywhere, fewer only at the end of the file. Takes that much memory."""
        at = offset - self.start
        if at >= 0 and offset + count <= self.stop:
            return self.view[at : at + count].tobytes()
        count = min(count, self._reader.size - offset)
        if count <= 0:
            return b""
        target = io.BytesIO()  # its getvalue() hands over the buffer itself: no copy
        target.seek(count - 1)
        target.write(b"\0")
        with target.getbuffer() as view:
            got = self._copy(offset, view)
        target.truncate(got)
        return target.getvalue()

    def _copy(self, offset: int, target: memoryview) -> int:
        """Fills `target`: from what was kept of a passed payload, from the buffer, and from the file in between."""
        done = 0
        while done < len(target):
            at = offset + done
            left = len(target) - done
            passed = at - self._passed_from
            if 0 <= passed < len(self._passed):
                piece = memoryview(self._passed)[passed : passed + left]
            elif self.start <= at < self.stop:
                piece = self.view[at - self.start : min(self.stop, at + left) - self.start]
            else:
                upto = min(left, self.start - at) if at < self.start < self.stop else left
                got = self._reader.read_into(at, target[done : done + upto])
                done += got
                if got < upto:
                    break
                continue
            target[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def pieces(self, start: int, end: int, overlap: int = 0) -> Iterator[tuple[int, bytes]]:
        """The bytes `start` to `end` in pieces with their offsets; each repeats the last `overlap` bytes of the one before."""
        at = start
        while at < end:
            piece = self.read(at, min(_SEARCH_BYTES, end - at))
            if not piece:
                return
            self.searched_bytes += len(piece)
            yield at, piece
            if len(piece) <= overlap or at + len(piece) >= end:
                return
            at += len(piece) - overlap
