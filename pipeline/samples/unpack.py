"""A gzip file as a `storage.Reader` over its unpacked bytes.

Forward reads unpack as they go, with bounded output whatever the compression ratio. Bytes that a reader jumps over are
kept up to a bound, so that a payload larger than a window can still be taken. A read further back, which only damage
inside an intact gzip stream needs, unpacks once into an unlinked temporary file, up to SPILL_BYTES.
Raw deflate, with the frame read here: on an error the output up to the faulty symbol is kept, which zlib's own gzip
mode throws away.
"""

import struct
import tempfile
import zlib
from typing import IO

from pipeline.samples.spans import COMPRESSED, Damage, DamageKind
from pipeline.storage import Reader

SPILL_BYTES = 8 << 30
"""Most that is unpacked into a temporary file; what lies behind that is not read, and `damage` says so."""
UNKNOWN_SIZE = 1 << 100
"""`size` until the end of the stream was seen; more than any tar header can claim."""
_INPUT_BYTES = 1 << 16
_OUTPUT_BYTES = 1 << 18
_MAGIC = b"\x1f\x8b"
_ALTERED = "samples before this point in the same gzip member may be altered"


class Unpacked:
    """The unpacked bytes; a damaged stream ends where it can no longer be read, and `damage` says where and why."""

    def __init__(self, reader: Reader, keep_bytes: int = 0) -> None:
        self._reader = reader
        self._keep_bytes = keep_bytes
        self._stream = _Stream(reader)
        self._kept_from = 0
        self._kept = bytearray()
        self._spill: IO[bytes] | None = None
        self._spill_from = 0
        self._limit: Damage | None = None
        self.size = UNKNOWN_SIZE

    @property
    def damage(self) -> Damage | None:
        """Why the stream ended early; None if it did not, or its end was not reached yet."""
        return self._limit or self._stream.damage

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fills `view` from `offset` of the unpacked bytes; short only at the end of what can be read."""
        stream = self._stream
        if offset < stream.position:
            return self._read_back(offset, view)
        if offset > stream.position:
            self._skip_to(offset)
        count = stream.read_into(view) if stream.position == offset else 0
        if count < len(view):
            self.size = stream.position
        return count

    def close(self) -> None:
        """Removes the temporary file; the reader underneath stays open."""
        if self._spill is not None:
            self._spill.close()

    def _skip_to(self, offset: int) -> None:
        stream = self._stream
        self._kept_from = stream.position
        self._kept = bytearray()
        keep = offset - stream.position <= self._keep_bytes
        scratch = memoryview(bytearray(_OUTPUT_BYTES))
        while stream.position < offset:
            piece = scratch[: min(len(scratch), offset - stream.position)]
            count = stream.read_into(piece)
            if keep:
                self._kept += piece[:count]
            if count < len(piece):
                return

    def _read_back(self, offset: int, view: memoryview) -> int:
        kept = offset - self._kept_from
        if kept >= 0 and kept + len(view) <= len(self._kept):
            view[:] = memoryview(self._kept)[kept : kept + len(view)]
            return len(view)
        if self._spill is None or offset < self._spill_from:
            self.close()
            self._spill = self._unpack_from(offset)
        self._spill.seek(offset - self._spill_from)
        return self._spill.readinto(view)  # type: ignore[attr-defined, no-any-return]

    def _unpack_from(self, offset: int) -> IO[bytes]:
        """Unpacks once more, from the start, and stores what follows `offset`."""
        spill = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close(), and unlinked from the start
        self._spill_from = offset
        again = _Stream(self._reader)
        scratch = memoryview(bytearray(_OUTPUT_BYTES))
        while again.position < offset + SPILL_BYTES:
            before = again.position
            count = again.read_into(scratch)
            spill.write(scratch[max(0, offset - before) : count])
            if count < len(scratch):
                self._stream = again  # it has seen the end, and why
                break
        else:
            self._limit = again.damage_here(f"more than {SPILL_BYTES} bytes follow damage in the unpacked tar; the rest is not read")
        self.size = again.position
        return spill


def is_packed(name: str, first: bytes) -> bool:
    """True if a file is gzip, by its first bytes; by its name only where there are none."""
    return first.startswith(_MAGIC) if first else name.lower().endswith((".gz", ".tgz"))


def has_gzip_magic(reader: Reader) -> bool:
    """True if a file starts as gzip does, whatever its name."""
    first = bytearray(2)
    return reader.read_into(0, memoryview(first)) == 2 and first == _MAGIC


class _Stream:
    """Unpacks from the start, forward only."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._taken = 0  # compressed bytes read from the file
        self._input = b""
        self._inflate = zlib.decompressobj(-15)
        self._open = False  # inside a gzip member
        self._done = False
        self._crc = 0
        self._length = 0
        self._output = b""
        self._output_at = 0
        self.position = 0
        self.damage: Damage | None = None

    def read_into(self, view: memoryview) -> int:
        """The next bytes of the stream; short only at its end."""
        done = 0
        while done < len(view):
            if self._output_at == len(self._output):
                self._output, self._output_at = self._more(), 0
                if not self._output:
                    break
            count = min(len(view) - done, len(self._output) - self._output_at)
            view[done : done + count] = memoryview(self._output)[self._output_at : self._output_at + count]
            self._output_at += count
            done += count
        self.position += done
        return done

    def _more(self) -> bytes:
        while not self._done:
            if not self._open and not self._start_member():
                break
            if not self._input:
                self._fill(1)
            before = self._inflate.copy()  # 8 us a quarter MiB: lets an error cost nothing but the faulty symbol
            try:
                output = self._inflate.decompress(self._input, _OUTPUT_BYTES)
            except zlib.error as exc:
                output = _salvage(before, self._input)
                self._fail(f"{exc}; {_ALTERED}")
                return output
            self._crc = zlib.crc32(output, self._crc)
            self._length += len(output)
            if self._inflate.eof:
                self._input = self._inflate.unused_data
                self._end_member()
            else:
                self._input = self._inflate.unconsumed_tail
                if not output and not self._input and self._taken >= self._reader.size:
                    self._fail("the compressed file ends early")
            if output:
                return output
        return b""

    def _fill(self, count: int) -> bool:
        """Makes at least `count` compressed bytes available, if the file has them."""
        while len(self._input) < count:
            buffer = bytearray(_INPUT_BYTES)
            got = self._reader.read_into(self._taken, memoryview(buffer)) if self._taken < self._reader.size else 0
            if got == 0:
                return False
            self._taken += got
            self._input += bytes(memoryview(buffer)[:got])
        return True

    def damage_here(self, detail: str) -> Damage:
        """A record for everything from the current compressed byte on."""
        return Damage(DamageKind.GZIP, self._taken - len(self._input), self._reader.size, None, detail, COMPRESSED)

    def _fail(self, detail: str) -> None:
        self.damage = self.damage_here(detail)
        self._done = True

    def _start_member(self) -> bool:
        first = self._taken == 0
        self._fill(1)
        while not first and self._input and not self._input.strip(b"\0"):  # zeros may follow a member
            self._input = b""
            self._fill(1)
        if not first:
            self._input = self._input.lstrip(b"\0")
        if not self._input and not first:
            self._done = True
            return False
        length = self._frame_length()
        if length is None:
            self._fail("not a gzip member" if first else "bytes after the end of the gzip stream")
            return False
        self._input = self._input[length:]
        self._inflate = zlib.decompressobj(-15)
        self._crc = self._length = 0
        self._open = True
        return True

    def _frame_length(self) -> int | None:
        """Bytes of the gzip member header that starts here, or None if there is none."""
        if not self._fill(10) or self._input[:2] != _MAGIC or self._input[2] != 8 or self._input[3] & 0xE0:
            return None
        flags = self._input[3]
        at = 10
        if flags & 4:
            if not self._fill(at + 2):
                return None
            at += 2 + int(struct.unpack_from("<H", self._input, at)[0])
        for flag in (8, 16):
            if not flags & flag:
                continue
            while (end := self._input.find(b"\0", at)) < 0:
                if len(self._input) > 1 << 20 or not self._fill(len(self._input) + 1):
                    return None
            at = end + 1
        at += 2 if flags & 2 else 0
        return at if self._fill(at) else None

    def _end_member(self) -> None:
        self._open = False
        if not self._fill(8):
            self._fail("the compressed file ends inside its checksum")
            return
        crc, length = struct.unpack_from("<II", self._input)
        if crc != self._crc or length != self._length & 0xFFFFFFFF:
            self._fail(f"the checksum of the gzip member does not hold; {_ALTERED}")
            return
        self._input = self._input[8:]


def _salvage(inflate: "zlib._Decompress", data: bytes) -> bytes:
    """The output before the faulty symbol: ever smaller steps, each tried on a copy."""
    output = bytearray()
    step = _OUTPUT_BYTES
    while step:
        attempt = inflate.copy()
        try:
            piece = attempt.decompress(data, step)
        except zlib.error:
            step //= 2
            continue
        if not piece:
            break
        output += piece
        inflate, data = attempt, attempt.unconsumed_tail
    return bytes(output)
