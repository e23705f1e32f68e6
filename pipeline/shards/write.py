"""Samples -> one tar, the same bytes for the same samples: no times, owners or modes of the source get in.

In: keys, and members by their bytes or by where these stand. Out: a ustar archive that appears whole or not at all, and the
keys of samples that could not be read; of those nothing stands in it. Media bytes are copied as they are. Headers are ustar;
only a name or a size that ustar cannot hold gets a PAX header before it.

Files are read straight into the buffer that is written, which goes to the disk past the page cache in whole buffers. sendfile
and copy_file_range were measured and are no faster.
"""

import errno
import mmap
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from pipeline import storage
from pipeline.errors import Reason, SampleError
from pipeline.samples.group import split_name
from pipeline.samples.ustar import BLOCK, END, PADS, header
from pipeline.shards.item import Place

BUFFER_BYTES = 4 << 20
"""What one write takes; the memory of a writer, whatever its members' sizes. A multiple of what direct writes want."""
REMOTE_BYTES = 8 << 20
"""Piece of a large member that one ranged read of an object store takes: each costs a round trip."""
OPEN_FILES = 32
"""Files kept open from which byte ranges are taken, such as archives whose samples are spread over new ones."""

_FAULTS = {
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP), Reason.MISSING_FILE),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ENXIO, errno.EAGAIN, errno.ESTALE), Reason.MISSING_FILE),
    errno.EIO: Reason.DAMAGED,
}

_META = re.compile(r"__[^/]*__($|/)")  # names that webdataset leaves out

Member = tuple[str, Place | bytes]
"""Field name, and the bytes or where they stand."""


class Ready(NamedTuple):
    """A sample that can be written."""

    key: str
    """Path in the archive up to the first dot of its last part."""
    members: tuple[Member, ...]
    """In any order; they are written sorted by field name."""


class Lost(NamedTuple):
    """A sample that is not in the archive because a member could not be read."""

    key: str
    reason: Reason
    """MISSING_FILE, or DAMAGED where the file is shorter than was promised or its disk fails."""
    detail: str
    """One line: the field, the file, what was found."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one archive."""

    path: str
    """Below the target folder."""
    samples: int
    size_bytes: int
    """Of the whole archive; 1,024 where no sample is in it."""
    lost: tuple[Lost, ...]
    """In order."""


def write_shard(target: storage.Folder, path: str, samples: Iterable[Ready]) -> Written:
    """Writes the samples in the given order to one tar, which appears whole or not at all, replacing an older one.

    ValueError for a key or field that would be read back differently, StoppedError on a full disk; other errors of the
    storage travel. A file that is missing, forbidden or too short costs its sample only.
    """
    lost: list[Lost] = []
    with target.create(path, direct=True) as draft, TarWriter(draft) as tar:
        for key, members in samples:
            try:
                tar.add(key, sorted(members, key=itemgetter(0)))
            except SampleError as error:
                lost.append(Lost(key, error.reason, error.detail))
        size_bytes = tar.finish()
    return Written(path, tar.samples, size_bytes, tuple(lost))


class TarWriter:
    """Appends samples to a draft, each whole or not at all. As a context it releases the files that it reads from."""

    def __init__(self, draft: storage.Draft) -> None:
        self._draft = draft
        self._buffer = mmap.mmap(-1, BUFFER_BYTES)  # aligned, as direct writes want it
        self._view = memoryview(self._buffer)
        self._used = 0
        self._sources = _Sources()
        self._known_fields: set[tuple[str, ...]] = set()
        self._last: tuple[str, tuple[str, ...]] = ("", ())
        self.samples = 0

    def __enter__(self) -> "TarWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._sources.close()

    def add(self, key: str, members: Sequence[Member]) -> None:
        """Appends a sample, its members in the given order.

        SampleError where a member cannot be read: the archive is then as before. ValueError for a sample that would be
        read back as another: a key or a field that does not come back, a field twice, or no end to the sample before.
        """
        fields = tuple([field for field, _ in members])
        self._check(key, fields)
        start = self._draft.size + self._used
        try:
            for field, source in members:
                name = f"{key}.{field}".encode()
                if isinstance(source, bytes):
                    self._copy_bytes(name, source)
                elif source.offset == 0 and "://" not in source.url:
                    self._copy_file(name, source)
                else:
                    self._copy_range(name, source)
        except SampleError as error:
            self._take_back(start)
            raise SampleError(error.reason, f"{field}: {error.detail}") from error
        self.samples += 1
        self._last = (key, fields)

    def finish(self) -> int:
        """Ends the archive; returns its size in bytes."""
        self._append(END)
        self._flush()
        self._sources.close()
        return self._draft.size

    def _check(self, key: str, fields: tuple[str, ...]) -> None:
        if "\0" in key or split_name(f"{key}.x") != (key, "x") or (key.startswith("__") and _META.match(f"{key}.{fields[0]}")):
            raise ValueError(f"key {key!r} would be read back as another: its last part must have no dot and not be empty")
        if fields not in self._known_fields:
            if not fields or len(set(fields)) < len(fields):
                raise ValueError(f"sample {key!r} has no members, or a field twice: {fields}")
            for field in fields:
                if not field or "\0" in field or split_name(f"k.{field}") != ("k", field):
                    raise ValueError(f"field {field!r} of sample {key!r} would be read back as another: lower case, no slash")
            self._known_fields.add(fields)
        if key == self._last[0] and fields[0] not in self._last[1]:
            raise ValueError(f"sample {key!r} follows one with the same key and would be read as a part of it")

    def _copy_bytes(self, name: bytes, data: bytes) -> None:
        self._append(header(name, len(data)))
        self._append(data)
        self._append(PADS[-len(data) % BLOCK])

    def _copy_file(self, name: bytes, place: Place) -> None:
        """A local file from its start: opened once, read into the buffer. O_NONBLOCK: a pipe must not be waited for."""
        try:
            fd = os.open(place.url, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise _fault(error, place) from error
        try:
            found = os.fstat(fd)  # a microsecond, without which a file that grew would be cut in silence
            if not stat.S_ISREG(found.st_mode):
                raise SampleError(Reason.MISSING_FILE, f"{place.url} is no file")
            size = found.st_size
            if 0 <= place.size != size:
                raise _short(place, size, place.size)
            self._append(header(name, size))
            left = size
            while left:
                used = self._used
                if used == BUFFER_BYTES:
                    self._flush()
                    used = 0
                try:
                    count = os.readv(fd, [self._view[used : used + left]])
                except OSError as error:
                    raise _fault(error, place) from error
                if count == 0:
                    raise _short(place, size - left, size)
                self._used = used + count
                left -= count
        finally:
            os.close(fd)
        self._append(PADS[-size % BLOCK])

    def _copy_range(self, name: bytes, place: Place) -> None:
        """A byte range of any file, or a file of a store."""
        try:
            reader = self._sources.get(place.url)
        except OSError as error:
            raise _fault(error, place) from error
        available = max(0, reader.size - place.offset)
        size = available if place.size < 0 else place.size
        if available < size or (place.offset == 0 and available > size):
            raise _short(place, available, size)
        self._append(header(name, size))
        remote = not storage.is_local(place.url)
        done = 0
        while done < size:
            if self._used == BUFFER_BYTES:
                self._flush()
            left, room = size - done, BUFFER_BYTES - self._used
            apart = remote and left > room
            view = memoryview(bytearray(min(left, REMOTE_BYTES))) if apart else self._view[self._used : self._used + min(left, room)]
            try:
                count = reader.read_into(place.offset + done, view)
            except OSError as error:
                raise _fault(error, place) from error
            if count == 0:
                raise _short(place, done, size)
            if apart:
                self._append(view[:count])
            else:
                self._used += count
            done += count
        self._append(PADS[-size % BLOCK])

    def _append(self, data: bytes | memoryview) -> None:
        size = len(data)
        while self._used + size > BUFFER_BYTES:  # whole buffers only: the last piece alone may be of any length
            room = BUFFER_BYTES - self._used
            self._view[self._used :] = data[:room]
            self._used = BUFFER_BYTES
            self._flush()
            data, size = memoryview(data)[room:], size - room
        self._buffer[self._used : self._used + size] = data
        self._used += size

    def _flush(self) -> None:
        self._draft.write(self._view[: self._used])
        self._used = 0

    def _take_back(self, start: int) -> None:
        if start >= self._draft.size:
            self._used = start - self._draft.size
        else:
            self._used = 0
            self._draft.truncate(start)


class _Sources:
    """Readers of the files used last."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, storage.Reader] = OrderedDict()

    def get(self, url: str) -> storage.Reader:
        """An open file. OSError as the storage gives it."""
        reader = self._open.get(url)
        if reader is None:
            reader = self._open[url] = storage.open_reader(url)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(url)
        return reader

    def close(self) -> None:
        """Closes them all."""
        for reader in self._open.values():
            with suppress(OSError):
                reader.close()
        self._open.clear()


def _short(place: Place, found: int, promised: int) -> SampleError:
    where = f" from byte {place.offset}" if place.offset else ""
    return SampleError(Reason.DAMAGED, f"{place.url} has {found} of {promised} bytes{where}: it changed since it was listed")


def _fault(error: OSError, place: Place) -> Exception:
    """What an error of one file means: the loss of its sample, or trouble of the whole storage, which travels."""
    reason = _FAULTS.get(error.errno or 0)
    return error if reason is None else SampleError(reason, f"{place.url}: {os.strerror(error.errno or 0)}")
