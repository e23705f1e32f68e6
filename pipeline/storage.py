"""Files, wherever they lie: list, ranged read, atomic write.

A URL is a local path, or a scheme of pyarrow.fs (`s3://`, `gs://`, `file://`), or any that fsspec knows
(`http://`). Local files are read with `preadv` into the caller's buffer: one copy, none in pyarrow.
A write appears whole or not at all: temporary file, fsync, rename on a disk; one PUT on an object store."""

import contextlib
import errno
import functools
import os
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.draft import TEMPORARY as TEMPORARY
from pipeline.draft import Draft as Draft
from pipeline.draft import local_draft, read_at, unlink_abandoned
from pipeline.errors import StoppedError
from pipeline.gcs import GcsSource, gcs_filesystem
from pipeline.remote import ArrowSource, HttpSource, ResumingReader, explained, s3_filesystem

SEND_BYTES = 16 << 20
"""Piece in which a large file goes to an object store; a store takes at most 10,000 of at least 5 MiB each."""
PUT_ATTEMPTS = 10
"""How often a file is written anew whose temporary file vanished: where a file system has no locks, two runs at once clean that up too."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A file as a listing shows it."""

    path: str
    """The full URL, or for a `Store` the path below its root."""
    size: int
    """Bytes."""
    mtime_s: float
    """Seconds since the epoch; 0.0 where the store does not tell."""
    etag: str = ""
    """Of web servers that give one: names this version better than a time. pyarrow's listings of object stores have none; there the
    time is that of the write, which every write changes."""


class Store(Protocol):
    """The operations that a commit needs. Paths are relative, with forward slashes."""

    def put(self, path: str, data: bytes) -> None:
        """Writes the file whole or not at all, replacing an older one."""

    def get(self, path: str) -> bytes:
        """Reads a whole file. FileNotFoundError where there is none."""

    def list(self, folder: str) -> list[Blob]:
        """All files below a folder, at any depth, sorted by path; none where the folder is missing."""

    def exists(self, path: str) -> bool:
        """True if there is such a file now."""

    def delete(self, path: str) -> None:
        """Deletes the file; a missing one is no error."""

    def prune(self, folder: str) -> None:
        """Deletes folders that became empty, from this one down, where the store has folders."""


class Reader(Protocol):
    """Random access to the bytes of one file."""

    size: int

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fills `view` from `offset`; returns the count, short only at the end of the file."""

    def close(self) -> None:
        """Releases the handle."""


@functools.lru_cache(maxsize=64)
def _filesystem(scheme_and_host: str) -> pafs.FileSystem:
    scheme, host = scheme_and_host.split("://", 1)
    if scheme == "s3":
        return s3_filesystem(host)
    if scheme in ("gs", "gcs"):
        return gcs_filesystem()
    if scheme in ("abfs", "abfss", "hdfs"):
        return pafs.FileSystem.from_uri(scheme_and_host)[0]
    import fsspec

    return pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem(scheme)))


def resolve(url: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a URL and the path in it. Local paths become absolute."""
    if "://" not in url:
        return _LOCAL, os.path.abspath(url)
    scheme, rest = url.split("://", 1)
    if scheme == "file":
        return _LOCAL, os.path.abspath("/" + rest.lstrip("/"))
    path = url if scheme in ("http", "https") else rest
    return _filesystem(f"{scheme}://{rest.split('/', 1)[0]}"), path


_LOCAL = pafs.LocalFileSystem()


def is_local(url: str) -> bool:
    """True for paths and `file://` URLs."""
    return "://" not in url or url.startswith("file://")


def open_reader(url: str) -> Reader:
    """Opens a file for ranged reads. FileNotFoundError, PermissionError and other OSErrors as the store gives them."""
    filesystem, path = resolve(url)
    if filesystem is _LOCAL:
        return _LocalReader(path)
    if "://" in path:
        return ResumingReader(HttpSource(url), url)
    return ResumingReader(GcsSource(path) if filesystem.type_name == "gcs" else ArrowSource(filesystem, path), url)


class _LocalReader:
    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size

    def read_into(self, offset: int, view: memoryview) -> int:
        return read_at(self._fd, offset, view)

    def close(self) -> None:
        os.close(self._fd)


class BytesReader:
    """A `Reader` over bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._view = memoryview(data)
        self.size = len(data)

    def read_into(self, offset: int, view: memoryview) -> int:
        piece = self._view[offset : offset + len(view)]
        view[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._view.release()


class Folder:
    """A folder of a disk or an object store as a `Store`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") or "/"
        self._filesystem, self._root = resolve(self.url)

    def __reduce__(self) -> tuple[type["Folder"], tuple[str]]:
        return Folder, (self.url,)

    def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Writes the file whole or not at all, replacing an older one. A full disk is a `StoppedError`.

        Without `durable` a disk need not have it yet: it outlives processes, but maybe not its machine.
        """
        target = f"{self._root}/{path}"
        with _full_disk_stops(target):
            if self._filesystem is _LOCAL:
                _put_local(target, data, durable)
            else:
                with self._filesystem.open_output_stream(target, compression=None) as stream:
                    stream.write(data)

    @contextlib.contextmanager
    def create(self, path: str, tag: str = "", *, direct: bool = False) -> Iterator[Draft]:
        """A file to write piece by piece: it appears whole when the block ends, or never if that raises; a full disk is a `StoppedError`.

        `tag` stands in the temporary file's name, so that its owner can tell it. `direct`: past the page cache, as `Draft` says.
        For an object store the file grows in a local temporary one: a stream there cannot be given up, closing it publishes a part.
        """
        target = f"{self._root}/{path}"
        if self._filesystem is _LOCAL:
            with _full_disk_stops(target), local_draft(target, tag, direct=direct) as draft:
                yield draft
            return
        with _full_disk_stops(f"a copy of {target} in {tempfile.gettempdir()}"), tempfile.TemporaryFile(buffering=0) as file:
            draft = Draft(file.fileno())
            yield draft
            _send(draft, self._filesystem, target)

    def get(self, path: str) -> bytes:
        """Reads a whole file. FileNotFoundError where there is none."""
        target = f"{self._root}/{path}"
        if self._filesystem is _LOCAL:
            return Path(target).read_bytes()
        with self._filesystem.open_input_stream(target, compression=None) as stream:
            return bytes(stream.read())

    def exists(self, path: str) -> bool:
        """True if there is such a file now."""
        target = f"{self._root}/{path}"
        if self._filesystem is _LOCAL:
            return os.path.isfile(target)
        return bool(self._filesystem.get_file_info(target).type == pafs.FileType.File)

    def list(self, folder: str) -> list[Blob]:
        """All files below a folder, at any depth, sorted by path; none where the folder is missing."""
        base = f"{self._root}/{folder}".rstrip("/")
        skip = len(self._root) + 1
        if self._filesystem is _LOCAL:
            blobs = [Blob(blob.path[skip:], blob.size, blob.mtime_s) for blob in _walk(base)]
        else:
            blobs = [Blob(blob.path[skip:], blob.size, blob.mtime_s) for blob in _select(self._filesystem, base)]
        return sorted(blobs, key=lambda blob: blob.path)

    def delete(self, path: str) -> None:
        """Deletes the file; a missing one is no error. A temporary one on a disk stays while whoever writes it lives."""
        target = f"{self._root}/{path}"
        with contextlib.suppress(FileNotFoundError):
            if self._filesystem is _LOCAL:
                (unlink_abandoned if os.path.basename(path).startswith(TEMPORARY) else os.unlink)(target)
            else:
                self._filesystem.delete_file(target)

    def prune(self, folder: str) -> None:
        """Deletes folders that became empty, from this one down; files in them stay. Object stores have none."""
        if self._filesystem is not _LOCAL:
            return
        for path, _, _ in os.walk(f"{self._root}/{folder}", topdown=False):
            with contextlib.suppress(OSError):  # not empty: another run writes there
                os.rmdir(path)


def _put_local(target: str, data: bytes, durable: bool) -> None:
    for attempt in range(PUT_ATTEMPTS):
        try:
            with local_draft(target, durable=durable) as draft:
                draft.write(data)
            return
        except FileNotFoundError:
            if attempt == PUT_ATTEMPTS - 1:
                raise


@contextlib.contextmanager
def _full_disk_stops(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoppedError(f"no room left while writing {what}; free some space and run the same command again") from exc
        if (told := explained(exc, what)) is not None:
            raise told from exc
        raise


def _send(draft: Draft, filesystem: pafs.FileSystem, target: str) -> None:
    chunk = memoryview(bytearray(SEND_BYTES))
    sent = 0
    try:
        with filesystem.open_output_stream(target, compression=None) as stream:
            while count := draft.read_into(sent, chunk):
                stream.write(chunk[:count])
                sent += count
            if sent < draft.size:
                raise OSError(errno.EIO, "a temporary file lost bytes before it was sent", target)
    except BaseException:
        with contextlib.suppress(OSError):
            if filesystem.get_file_info(target).size == sent < draft.size:  # closing the stream has published a part
                filesystem.delete_file(target)
        raise


def _walk(base: str) -> Iterator[Blob]:
    """Files below a local folder. scandir knows the type without a stat; sizes cost one stat a file."""
    folders = [base]
    while folders:
        try:
            entries = os.scandir(folders.pop())
        except (FileNotFoundError, NotADirectoryError):
            continue
        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=True):
                    folders.append(entry.path)
                    continue
                try:
                    stat = entry.stat()
                except FileNotFoundError:  # deleted by another run since the listing
                    continue
                yield Blob(entry.path, stat.st_size, stat.st_mtime)


def _select(filesystem: pafs.FileSystem, base: str) -> Iterator[Blob]:
    selector = pafs.FileSelector(base, recursive=True, allow_not_found=True)
    for info in filesystem.get_file_info(selector):
        if info.type == pafs.FileType.File:
            yield Blob(info.path, info.size, info.mtime_ns / 1e9 if info.mtime_ns else 0.0)


def walk(url: str) -> list[Blob]:
    """All files below a folder at any depth, with full URLs, sorted; none where the folder is missing."""
    filesystem, path = resolve(url)
    found = _walk(path) if filesystem is _LOCAL else _select(filesystem, path.rstrip("/"))
    prefix = "" if filesystem is _LOCAL or "://" in path else url.split("://", 1)[0] + "://"
    return sorted((Blob(prefix + blob.path, blob.size, blob.mtime_s) for blob in found), key=lambda blob: blob.path)


def stat(url: str) -> Blob | None:
    """The file as a listing would show it, or None where there is no such file."""
    filesystem, path = resolve(url)
    if filesystem is _LOCAL:
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return None if os.path.isdir(path) else Blob(path, found.st_size, found.st_mtime)
    if "://" in path:
        return _web_file(url)
    info = filesystem.get_file_info(path)
    if info.type != pafs.FileType.File:
        return None
    return Blob(url, info.size, info.mtime_ns / 1e9 if info.mtime_ns else 0.0)


def _web_file(url: str) -> Blob | None:
    source = HttpSource(url)
    try:
        size, etag = ResumingReader(source, url).identity
    except FileNotFoundError:
        return None
    return Blob(url, size, source.modified_s, etag)


def folders_in(url: str) -> list[str]:
    """Names of the folders right below a folder, sorted; none where it is missing."""
    filesystem, path = resolve(url)
    found = filesystem.get_file_info(pafs.FileSelector(path.rstrip("/") or "/", allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)


def is_folder(url: str) -> bool:
    """True if the URL names a folder (a prefix with something below it on an object store). A web server shows none."""
    filesystem, path = resolve(url)
    if filesystem is _LOCAL:
        return os.path.isdir(path)
    if "://" in path:
        return False
    return bool(filesystem.get_file_info(path.rstrip("/")).type == pafs.FileType.Directory)


def writable(url: str) -> str | None:
    """Tries to write below the URL; returns None, or why it is impossible in one line."""
    folder = Folder(url)
    name = f"{TEMPORARY}{secrets.token_hex(6)}"
    try:
        folder.put(name, b"x")
        folder.delete(name)
    except (OSError, StoppedError, pa.ArrowException) as exc:
        return str(exc).splitlines()[0] if str(exc) else type(exc).__name__
    return None
